package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
)

// Cordoned is the annotation of a node that kocli took out of service itself, and
// why. Only such a node is given back: what an operator cordoned stays so.
const Cordoned = "kocli.io/cordoned"

// CordonFor has no new pods placed on a node, and notes in the same write why. A node
// that is cordoned already is left as it is, by whomever.
func (c *Client) CordonFor(ctx context.Context, name, why string) error {
	return c.changeCordon(ctx, name, why, func(n *corev1.Node) bool { return !n.Spec.Unschedulable })
}

// UncordonOurs gives a node back that CordonFor took. One that is not there is not
// given back.
func (c *Client) UncordonOurs(ctx context.Context, name string) error {
	n, err := c.Node(ctx, name)
	if err != nil || n == nil {
		return err
	}
	return c.changeCordon(ctx, name, "", CordonedByUs)
}

// changeCordon looks again where the node changed in between: its kubelet reports all
// the time.
func (c *Client) changeCordon(ctx context.Context, name, why string, todo func(*corev1.Node) bool) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		n, err := c.Node(ctx, name)
		if err == nil && n == nil {
			err = fmt.Errorf("node %s is not in the cluster", name)
		}
		if err != nil || !todo(n) {
			return err
		}
		return c.patchCordon(ctx, n, why)
	})
}

// CordonedByUs reports whether kocli took a node out of service itself.
func CordonedByUs(n *corev1.Node) bool { return n.Annotations[Cordoned] != "" }

// patchCordon sets or removes both, the mark and the cordon, in one write.
func (c *Client) patchCordon(ctx context.Context, n *corev1.Node, why string) error {
	var mark any
	if why != "" {
		mark = why
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": n.ResourceVersion, "annotations": map[string]any{Cordoned: mark}},
		"spec":     map[string]any{"unschedulable": why != ""},
	})
	if err != nil {
		return err
	}
	if _, err := c.Typed.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager}); err != nil {
		verb := "cordon"
		if why == "" {
			verb = "uncordon"
		}
		return fmt.Errorf("%s %s: %w", verb, n.Name, err)
	}
	return nil
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
