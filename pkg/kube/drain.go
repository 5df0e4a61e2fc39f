package kube

import (
	"context"
	"fmt"
	"io"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubectl/pkg/drain"
)

// Drain cordons a node and evicts its pods, as kubectl drain does: disruption
// budgets are obeyed, DaemonSet pods stay, emptyDir data is lost. It gives up
// after timeout; the node stays cordoned then.
func (c *Client) Drain(ctx context.Context, name string, timeout time.Duration) error {
	n, err := c.Node(ctx, name)
	if err != nil || n == nil {
		return err
	}
	h := &drain.Helper{
		Ctx: ctx, Client: c.Typed, Force: true, GracePeriodSeconds: -1, IgnoreAllDaemonSets: true, DeleteEmptyDirData: true,
		Timeout: timeout, Out: io.Discard, ErrOut: io.Discard,
	}
	if err := drain.RunCordonOrUncordon(h, n, true); err != nil {
		return fmt.Errorf("cordon %s: %w", name, err)
	}
	if err := drain.RunNodeDrain(h, name); err != nil {
		return fmt.Errorf("drain %s: %w", name, err)
	}
	return nil
}

// DeleteNode takes a node out of the cluster.
func (c *Client) DeleteNode(ctx context.Context, name string) error {
	err := c.Typed.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
