package closure

import (
	"maps"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/steps/loadbalancer"
	"github.com/kocli/kocli/pkg/steps/network"
)

// manifest is a rendered file of manifests/.
type manifest struct {
	name string
	data []byte
}

// staticPodsOf renders the static pods of kocli's own that a host gets.
func (in Input) staticPodsOf(h Host, find network.Images) ([]manifest, error) {
	mode := in.Inventory.Spec.ControlPlane.Endpoint.Mode
	if mode != v1alpha1.EndpointLocal && (mode != v1alpha1.EndpointVIP || !h.ControlPlane) {
		return nil, nil
	}
	haproxy, err := loadbalancer.HAProxyManifest(in.Inventory, find)
	if err != nil {
		return nil, err
	}
	out := []manifest{{"static pod of haproxy", haproxy}}
	if mode != v1alpha1.EndpointVIP {
		return out, nil
	}
	keepalived, err := loadbalancer.KeepalivedManifest(find, "")
	return append(out, manifest{"static pod of keepalived", keepalived}), err
}

// manifestsOf renders all manifests that the cluster gets.
func (in Input) manifestsOf(find network.Images) ([]manifest, error) {
	if in.Inventory.Spec.Network.CNI.Name != v1alpha1.CNIFlannel {
		return nil, nil // nothing of ours: the network is the user's, and cannot be verified
	}
	flannel, err := network.FlannelManifest(in.Inventory, find)
	if err != nil {
		return nil, err
	}
	netcheck, err := network.NetcheckManifest(find)
	return []manifest{{"flannel.yaml", flannel}, {"netcheck.yaml", netcheck}}, err
}

// workloadImages returns the images of every pod that a manifest makes, in
// whatever kind of object it stands.
func workloadImages(data []byte) ([]reference, error) {
	objects, err := kube.Decode(data)
	if err != nil {
		return nil, err
	}
	var out []reference
	for _, o := range objects {
		for _, ref := range append(imagesIn(o.Object), imagesInTexts(o.Object)...) {
			out = append(out, reference{kind: archive.KindImage, name: canonical(ref), by: kube.Title(o)})
		}
	}
	return out, nil
}

// imagesIn walks any value for what has the form of a pod: lists of containers
// with images, and volumes that are images.
func imagesIn(v any) []string {
	var out []string
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			switch key {
			case "containers", "initContainers", "ephemeralContainers":
				out = append(out, fieldOf(v[key], "image")...)
			case "volumes":
				for _, vol := range listOf(v[key]) {
					out = append(out, fieldOf([]any{vol["image"]}, "reference")...)
				}
			}
			out = append(out, imagesIn(v[key])...)
		}
	case []any:
		for _, e := range v {
			out = append(out, imagesIn(e)...)
		}
	}
	return out
}

// imagesInTexts finds the images of pods that stand as text in a ConfigMap, from which
// a controller makes them.
func imagesInTexts(o map[string]any) []string {
	data, _ := o["data"].(map[string]any)
	if o["kind"] != "ConfigMap" {
		return nil
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(data)) {
		text, _ := data[key].(string)
		var pod map[string]any
		if yaml.Unmarshal([]byte(text), &pod) == nil && pod["kind"] == "Pod" {
			out = append(out, imagesIn(pod)...)
		}
	}
	return out
}

// fieldOf returns a text field of each object in a list.
func fieldOf(list any, name string) []string {
	var out []string
	for _, o := range listOf(list) {
		if s, ok := o[name].(string); ok && s != "" {
			out = append(out, s)
		}
	}
	return out
}

func listOf(v any) []map[string]any {
	all, _ := v.([]any)
	var out []map[string]any
	for _, e := range all {
		if o, ok := e.(map[string]any); ok {
			out = append(out, o)
		}
	}
	return out
}
