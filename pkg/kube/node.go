package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
)

// Nodes returns all nodes.
func (c *Client) Nodes(ctx context.Context) ([]corev1.Node, error) {
	l, err := c.Typed.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	return l.Items, nil
}

// NodeReady reports whether the kubelet says that the node is ready.
func NodeReady(n *corev1.Node) bool {
	ok, _ := NodeCondition(n)
	return ok
}

// NodeCondition reports whether a node is ready, and why not.
func NodeCondition(n *corev1.Node) (bool, string) {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue, c.Message
		}
	}
	return false, "the kubelet has not reported yet"
}

// NodePressure says what a node is short of, in the words of its kubelet, which
// evicts pods until it is not; "" where it has enough.
func NodePressure(n *corev1.Node) string {
	var out []string
	for _, c := range n.Status.Conditions {
		switch c.Type {
		case corev1.NodeDiskPressure, corev1.NodeMemoryPressure, corev1.NodePIDPressure:
			if c.Status == corev1.ConditionTrue {
				out = append(out, fmt.Sprintf("%s (%s)", c.Type, c.Message))
			}
		}
	}
	return strings.Join(out, ", ")
}

// Owned is the annotation that lists the labels and taints that kocli set on a
// node, so that those which leave the YAML can be taken away again.
const Owned = "kocli.io/owned"

// Marks are the labels and taints that a YAML asks for.
type Marks struct {
	Labels map[string]string `json:"labels,omitempty"`
	Taints []corev1.Taint    `json:"taints,omitempty"`
}

// MarkChanges lists in words what SetMarks would change on a node.
func MarkChanges(n *corev1.Node, want Marks) []string {
	var out []string
	for _, k := range sorted(want.Labels) {
		if have, ok := n.Labels[k]; !ok || have != want.Labels[k] {
			out = append(out, fmt.Sprintf("label %s=%s", k, want.Labels[k]))
		}
	}
	for _, t := range want.Taints {
		if !hasTaint(n.Spec.Taints, t) {
			out = append(out, "taint "+t.ToString())
		}
	}
	owned := ownedMarks(n)
	for _, k := range sorted(owned.Labels) {
		if _, ok := want.Labels[k]; !ok {
			out = append(out, "remove label "+k)
		}
	}
	for _, t := range owned.Taints {
		if !slices.ContainsFunc(want.Taints, func(w corev1.Taint) bool { return sameTaint(w, t) }) {
			out = append(out, "remove taint "+t.ToString())
		}
	}
	return out
}

// SetMarks sets labels and taints, and removes those that kocli set earlier.
func (c *Client) SetMarks(ctx context.Context, name string, want Marks) error {
	mark, err := json.Marshal(want)
	if err != nil {
		return err
	}
	return c.changeNode(ctx, name, "label and taint", func(n *corev1.Node) map[string]any {
		labels := map[string]any{}
		owned := ownedMarks(n)
		for k := range owned.Labels {
			labels[k] = nil
		}
		for k, v := range want.Labels {
			labels[k] = v
		}
		taints := slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(t corev1.Taint) bool {
			return slices.ContainsFunc(slices.Concat(owned.Taints, want.Taints), func(o corev1.Taint) bool { return sameTaint(o, t) })
		})
		return map[string]any{
			"metadata": map[string]any{"labels": labels, "annotations": map[string]any{Owned: string(mark)}},
			"spec":     map[string]any{"taints": append(taints, want.Taints...)},
		}
	})
}

// changeNode merges what change makes of a node into it; nil is nothing to do. The
// patch carries the version it was made from, so that a change that came in between
// is a conflict, not a loss, and then change is asked again: a node's kubelet and the
// controllers write all the time.
func (c *Client) changeNode(ctx context.Context, name, verb string, change func(*corev1.Node) map[string]any) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		n, err := c.Node(ctx, name)
		if err != nil {
			return err
		}
		if n == nil {
			return fmt.Errorf("node %s is not in the cluster", name)
		}
		patch := change(n)
		if patch == nil {
			return nil
		}
		if err := unstructured.SetNestedField(patch, n.ResourceVersion, "metadata", "resourceVersion"); err != nil {
			return err
		}
		body, err := json.Marshal(patch)
		if err != nil {
			return err
		}
		if _, err := c.Typed.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: FieldManager}); err != nil {
			return fmt.Errorf("%s node %s: %w", verb, name, err)
		}
		return nil
	})
}

func ownedMarks(n *corev1.Node) Marks {
	var m Marks
	_ = json.Unmarshal([]byte(n.Annotations[Owned]), &m) // absent or foreign: nothing is owned
	return m
}

func sameTaint(a, b corev1.Taint) bool { return a.Key == b.Key && a.Effect == b.Effect }

func hasTaint(have []corev1.Taint, want corev1.Taint) bool {
	return slices.ContainsFunc(have, func(t corev1.Taint) bool { return sameTaint(t, want) && t.Value == want.Value })
}

func sorted(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.SortFunc(out, strings.Compare)
	return out
}
