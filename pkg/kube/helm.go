package kube

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// HelmObject is an object in the manifest of a Helm release that is deployed.
type HelmObject struct {
	Release      string // "namespace/name"
	GroupVersion string // "policy/v1"
	Resource     string // plural, in lower case: "poddisruptionbudgets"
	Name         string
}

// helmRelease is the type of the Secrets in which Helm keeps releases.
const helmRelease = "helm.sh/release.v1"

// maxRelease is the largest release that is read, in bytes: a Secret holds a megabyte,
// and manifests pack well.
const maxRelease = 64 << 20

// HelmObjects lists what the releases of Helm in the cluster were made of. Helm sends
// the same again when a release is upgraded or rolled back, and fails where an API is
// gone. Releases that cannot be read are passed over: they are somebody else's.
func (c *Client) HelmObjects(ctx context.Context) ([]HelmObject, error) {
	l, err := c.Typed.CoreV1().Secrets("").List(ctx, metav1.ListOptions{LabelSelector: "owner=helm,status=deployed", FieldSelector: "type=" + helmRelease})
	if err != nil {
		return nil, fmt.Errorf("list the releases of Helm: %w", err)
	}
	var out []HelmObject
	for i := range l.Items {
		s := &l.Items[i]
		manifest, err := helmManifest(s.Data["release"])
		if err != nil {
			continue
		}
		for _, o := range objectsOf(manifest) {
			o.Release = s.Namespace + "/" + s.Labels["name"]
			out = append(out, o)
		}
	}
	return out, nil
}

// helmManifest unpacks a release: base64 of gzip of JSON.
func helmManifest(data []byte) (string, error) {
	packed, err := base64.StdEncoding.DecodeString(string(data))
	if err != nil {
		return "", err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return "", err
	}
	var r struct {
		Manifest string `json:"manifest"`
	}
	err = json.NewDecoder(io.LimitReader(z, maxRelease)).Decode(&r)
	return r.Manifest, err
}

func objectsOf(manifest string) []HelmObject {
	var out []HelmObject
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(manifest)), 4096)
	for {
		var o struct {
			metav1.TypeMeta   `json:",inline"`
			metav1.ObjectMeta `json:"metadata"`
		}
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			return out // what follows cannot be told apart
		}
		gv, err := schema.ParseGroupVersion(o.APIVersion)
		if err != nil || o.Kind == "" {
			continue
		}
		plural, _ := apimeta.UnsafeGuessKindToResource(gv.WithKind(o.Kind))
		h := HelmObject{GroupVersion: gv.String(), Resource: plural.Resource, Name: o.Name}
		if !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
}
