package kube

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Cordoned is the annotation of a node that kocli took out of service itself, and
// why. Only such a node is given back: what an operator cordoned stays so.
const Cordoned = "kocli.io/cordoned"

// CordonFor has no new pods placed on a node, and notes in the same write why. A node
// that is cordoned already is left as it is, by whomever.
func (c *Client) CordonFor(ctx context.Context, name, why string) error {
	return c.changeNode(ctx, name, "cordon", func(n *corev1.Node) map[string]any {
		if n.Spec.Unschedulable {
			return nil
		}
		return cordon(true, why)
	})
}

// UncordonOurs gives a node back that CordonFor took. One that is not there is not
// given back.
func (c *Client) UncordonOurs(ctx context.Context, name string) error {
	n, err := c.Node(ctx, name)
	if err != nil || n == nil {
		return err
	}
	return c.changeNode(ctx, name, "uncordon", func(n *corev1.Node) map[string]any {
		if !CordonedByUs(n) {
			return nil
		}
		return cordon(false, nil)
	})
}

// Cordon has no new pods placed on a node, or takes that back, because an operator
// says so: whoever took the node out of service before, it is not kocli's any more to
// give it back. It reports whether there was anything to do.
func (c *Client) Cordon(ctx context.Context, name string, out bool) (changed bool, err error) {
	verb := "cordon"
	if !out {
		verb = "uncordon"
	}
	err = c.changeNode(ctx, name, verb, func(n *corev1.Node) map[string]any {
		changed = n.Spec.Unschedulable != out || n.Annotations[Cordoned] != ""
		if !changed {
			return nil
		}
		return cordon(out, nil)
	})
	return changed && err == nil, err
}

// CordonedByUs reports whether kocli took a node out of service itself, and nobody has
// given it back and taken it again since.
func CordonedByUs(n *corev1.Node) bool {
	return n.Annotations[Cordoned] != "" && n.Spec.Unschedulable && cordonOurs(n)
}

// cordonOurs reports whether kocli was the last to say that a node takes no pods, by
// what the API server remembers of who wrote what. Where it remembers nothing of that,
// the mark is believed.
func cordonOurs(n *corev1.Node) bool {
	known := false
	for _, m := range n.ManagedFields {
		var f struct {
			Spec struct {
				Unschedulable *struct{} `json:"f:unschedulable"`
			} `json:"f:spec"`
		}
		if m.FieldsV1 == nil || json.Unmarshal(m.FieldsV1.GetRawBytes(), &f) != nil || f.Spec.Unschedulable == nil {
			continue
		}
		if m.Manager == FieldManager {
			return true
		}
		known = true
	}
	return !known
}

// cordon sets both in one write: whether a node takes no pods, and the mark that kocli
// wants it so; nil removes the mark.
func cordon(out bool, mark any) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{Cordoned: mark}},
		"spec":     map[string]any{"unschedulable": out},
	}
}

// PinnedUnready returns the pods that go with a node, in namespaces, and are not ready
// on it, by namespace and name, with the reason: static ones and those of DaemonSets.
func (c *Client) PinnedUnready(ctx context.Context, node string, namespaces ...string) (map[string]string, error) {
	out := map[string]string{}
	for _, ns := range namespaces {
		l, err := c.Typed.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		if err != nil {
			return nil, fmt.Errorf("list the pods of %s: %w", node, err)
		}
		for i := range l.Items {
			p := &l.Items[i]
			if !pinned(p) {
				continue
			}
			if ok, why := PodReady(p); !ok {
				out[p.Namespace+"/"+p.Name] = why
			}
		}
	}
	return out, nil
}
