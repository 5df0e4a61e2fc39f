package kube

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
)

// Applied is the annotation that says which manifest an object was made from.
const Applied = "kocli.io/applied-sha256"

// Decode reads a YAML stream into objects, marks each as managed by kocli and
// with the digest of its own content.
func Decode(manifest []byte) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096)
	for {
		o := &unstructured.Unstructured{}
		err := d.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		if len(o.Object) == 0 {
			continue
		}
		if o.GetKind() == "" || o.GetName() == "" {
			return nil, fmt.Errorf("read manifest: object %d has no kind or name", len(out)+1)
		}
		labels := o.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels["app.kubernetes.io/managed-by"] = FieldManager
		o.SetLabels(labels)
		raw, err := json.Marshal(o.Object)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(raw)
		notes := o.GetAnnotations()
		if notes == nil {
			notes = map[string]string{}
		}
		notes[Applied] = hex.EncodeToString(sum[:])
		o.SetAnnotations(notes)
		out = append(out, o)
	}
}

// Title names an object: "DaemonSet kube-flannel/kube-flannel-ds".
func Title(o *unstructured.Unstructured) string {
	if ns := o.GetNamespace(); ns != "" {
		return o.GetKind() + " " + ns + "/" + o.GetName()
	}
	return o.GetKind() + " " + o.GetName()
}

// Outdated returns those objects that are not in the cluster, or were made from
// another manifest.
func (c *Client) Outdated(ctx context.Context, objs []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	type answer struct {
		i    int
		diff bool
		err  error
	}
	ch := make(chan answer)
	for i, o := range objs {
		go func() {
			r, err := c.resource(o)
			if err != nil {
				ch <- answer{i, false, err}
				return
			}
			live, err := r.Get(ctx, o.GetName(), metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				ch <- answer{i, true, nil}
				return
			}
			if err != nil {
				ch <- answer{i, false, fmt.Errorf("get %s: %w", Title(o), err)}
				return
			}
			ch <- answer{i, live.GetAnnotations()[Applied] != o.GetAnnotations()[Applied], nil}
		}()
	}
	diff := make([]bool, len(objs))
	var errs []error
	for range objs {
		a := <-ch
		diff[a.i] = a.diff
		errs = append(errs, a.err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	for i, o := range objs {
		if diff[i] {
			out = append(out, o)
		}
	}
	return out, nil
}

// Apply makes objects be as described, by server-side apply.
func (c *Client) Apply(ctx context.Context, objs []*unstructured.Unstructured) error {
	force := true
	for _, o := range objs {
		r, err := c.resource(o)
		if err != nil {
			return err
		}
		body, err := json.Marshal(o.Object)
		if err != nil {
			return err
		}
		if _, err := r.Patch(ctx, o.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: FieldManager, Force: &force}); err != nil {
			return fmt.Errorf("apply %s: %w", Title(o), err)
		}
	}
	return nil
}

// Delete removes objects. Those that are not there are passed over.
func (c *Client) Delete(ctx context.Context, objs []*unstructured.Unstructured) error {
	for _, o := range objs {
		r, err := c.resource(o)
		if err != nil {
			return err
		}
		background := metav1.DeletePropagationBackground
		if err := r.Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &background}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s: %w", Title(o), err)
		}
	}
	return nil
}

func (c *Client) resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := o.GroupVersionKind()
	m, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Title(o), err)
	}
	r := c.dynamic.Resource(m.Resource)
	if m.Scope.Name() == "namespace" {
		return r.Namespace(o.GetNamespace()), nil
	}
	return r, nil
}
