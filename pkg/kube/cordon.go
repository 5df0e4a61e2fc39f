package kube

import (
	"context"
	"errors"
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
		return cordon(why)
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
		return cordon(nil)
	})
}

// CordonedByUs reports whether kocli took a node out of service itself.
func CordonedByUs(n *corev1.Node) bool { return n.Annotations[Cordoned] != "" }

// cordon sets or, with a nil mark, removes both, the mark and the cordon, in one write.
func cordon(mark any) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{Cordoned: mark}},
		"spec":     map[string]any{"unschedulable": mark != nil},
	}
}

// PinnedReady returns nil when the pods that go with a node, in namespaces, are ready
// on it: static ones and those of DaemonSets.
func (c *Client) PinnedReady(ctx context.Context, node string, namespaces ...string) error {
	var errs []error
	for _, ns := range namespaces {
		l, err := c.Typed.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		if err != nil {
			return fmt.Errorf("list the pods of %s: %w", node, err)
		}
		for i := range l.Items {
			p := &l.Items[i]
			if !pinned(p) {
				continue
			}
			if ok, why := PodReady(p); !ok {
				errs = append(errs, fmt.Errorf("pod %s/%s: %s", p.Namespace, p.Name, why))
			}
		}
	}
	return errors.Join(errs...)
}
