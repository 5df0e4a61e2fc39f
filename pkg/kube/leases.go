package kube

import (
	"context"
	"fmt"
	"time"

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
