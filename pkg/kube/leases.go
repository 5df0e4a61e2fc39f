package kube

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Renewals says when each kubelet reported last, by node: every ten seconds, where it
// can. The condition of a node outlives its kubelet by a minute, and for as long as
// the API was away.
func (c *Client) Renewals(ctx context.Context) (map[string]time.Time, error) {
	l, err := c.Typed.CoordinationV1().Leases("kube-node-lease").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the leases of the nodes: %w", err)
	}
	out := map[string]time.Time{}
	for _, x := range l.Items {
		if x.Spec.RenewTime != nil {
			out[x.Name] = x.Spec.RenewTime.Time
		}
	}
	return out, nil
}

// StaticStarted says when a container of a static pod in kube-system was started last;
// the zero time where there is none.
func (c *Client) StaticStarted(ctx context.Context) (time.Time, error) {
	l, err := c.Typed.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		return time.Time{}, fmt.Errorf("list the pods of kube-system: %w", err)
	}
	var last time.Time
	for i := range l.Items {
		p := &l.Items[i]
		if _, static := p.Annotations[corev1.MirrorPodAnnotationKey]; !static {
			continue
		}
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Running != nil && s.State.Running.StartedAt.After(last) {
				last = s.State.Running.StartedAt.Time
			}
		}
	}
	return last, nil
}
