package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/klog/v2"
	"k8s.io/kubectl/pkg/drain"
)

// DrainOptions say how long pods are waited for.
type DrainOptions struct {
	// Timeout is how long the pods are given to leave.
	Timeout time.Duration
	// ForceAfter is when pods that are held by a disruption budget are deleted all
	// the same; zero means never.
	ForceAfter time.Duration
	// Retry is how long a pod that may not be evicted yet is left alone; zero means
	// two seconds.
	Retry time.Duration
	// Say is told what is waited for, each thing once; nil where nobody listens.
	Say func(string)
}

// Drain cordons a node and evicts its pods, as kubectl drain does: disruption
// budgets are obeyed, DaemonSet pods stay, emptyDir data is lost. It gives up
// after the time-out, names what holds the pods, and uncordons the node where it
// was Drain that cordoned it. A node that is not there is empty.
func (c *Client) Drain(ctx context.Context, name string, o DrainOptions) error {
	n, err := c.Node(ctx, name)
	if err != nil || n == nil {
		return err
	}
	cordoned := !n.Spec.Unschedulable
	if cordoned { // what is so already keeps the mark of whoever did it
		if _, err := c.Cordon(ctx, name, true); err != nil {
			return err
		}
	}
	if err := c.evict(ctx, name, o); err != nil {
		if cordoned {
			// Also where the run was interrupted: nobody else would.
			_, back := c.Cordon(context.WithoutCancel(ctx), name, false)
			err = errors.Join(err, back)
		}
		return fmt.Errorf("drain %s: %w", name, err)
	}
	return nil
}

// evict empties a node, and forces it where that was asked for.
func (c *Client) evict(ctx context.Context, name string, o DrainOptions) error {
	if o.Retry == 0 {
		o.Retry = 2 * time.Second
	}
	h := &drain.Helper{
		Ctx: ctx, Client: c.Typed, Force: true, GracePeriodSeconds: -1, IgnoreAllDaemonSets: true, DeleteEmptyDirData: true,
		Timeout: o.Timeout, EvictErrorRetryDelay: o.Retry, Out: io.Discard, ErrOut: io.Discard,
	}
	stop := c.tellHeld(ctx, name, o)
	defer stop()
	forced := o.ForceAfter > 0 && o.ForceAfter < o.Timeout
	if forced {
		h.Timeout = o.ForceAfter
	}
	err := drain.RunNodeDrain(h, name)
	if err == nil {
		return nil
	}
	held, herr := c.Held(context.WithoutCancel(ctx), name)
	if herr == nil && len(held) > 0 {
		err = fmt.Errorf("%s", strings.Join(held, "; "))
	}
	if !forced || ctx.Err() != nil {
		return err
	}
	if o.Say != nil {
		o.Say(fmt.Sprintf("FORCED after %s, past disruption budgets: %v", o.ForceAfter, err))
	}
	h.Timeout, h.DisableEviction = o.Timeout-o.ForceAfter, true
	return drain.RunNodeDrain(h, name)
}

// Drained reports whether a node takes no new pods and has none but those that go
// with it, and those that are placed on it all the same: they come back when they are
// evicted. One that is not in the cluster has none.
func (c *Client) Drained(ctx context.Context, name string) (bool, error) {
	n, err := c.Node(ctx, name)
	if err != nil || n == nil {
		return err == nil, err
	}
	if !n.Spec.Unschedulable {
		return false, nil
	}
	left, err := c.movable(ctx, name, undeterred)
	return len(left) == 0, err
}

// undeterred reports whether a pod is placed on nodes that take no pods: it tolerates
// their taint, as those do that tolerate everything.
func undeterred(p *corev1.Pod) bool {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool {
		return t.ToleratesTaint(klog.Background(), &taint, false)
	})
}

// movable lists the pods of a node that do not go with it, but those that except is
// true of.
func (c *Client) movable(ctx context.Context, node string, except func(*corev1.Pod) bool) ([]string, error) {
	l, err := c.Typed.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return nil, fmt.Errorf("list the pods of %s: %w", node, err)
	}
	var out []string
	for i := range l.Items {
		if p := &l.Items[i]; !pinned(p) && !except(p) {
			out = append(out, p.Namespace+"/"+p.Name)
		}
	}
	return out, nil
}

// tellHeld says what holds pods, as it changes, until stop is called.
func (c *Client) tellHeld(ctx context.Context, name string, o DrainOptions) (stop func()) {
	if o.Say == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		last := ""
		t := time.NewTicker(3 * o.Retry)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			held, err := c.Held(ctx, name)
			if text := strings.Join(held, "; "); err == nil && text != last && text != "" {
				o.Say("waiting: " + text)
				last = text
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// Held says, a line each, which pods of a node are held by which disruption
// budget, with its numbers.
func (c *Client) Held(ctx context.Context, node string) ([]string, error) {
	by, err := c.held(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	return by[node], err
}

// HeldBy is Held for all nodes, by name.
func (c *Client) HeldBy(ctx context.Context) (map[string][]string, error) {
	return c.held(ctx, metav1.ListOptions{})
}

func (c *Client) held(ctx context.Context, which metav1.ListOptions) (map[string][]string, error) {
	budgets, err := c.Typed.PolicyV1().PodDisruptionBudgets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list disruption budgets: %w", err)
	}
	out := map[string][]string{}
	if len(budgets.Items) == 0 {
		return out, nil
	}
	list, err := c.Typed.CoreV1().Pods("").List(ctx, which)
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	for i := range list.Items {
		p := &list.Items[i]
		if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || pinned(p) {
			continue
		}
		for _, b := range budgets.Items {
			sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if err != nil || b.Namespace != p.Namespace || !sel.Matches(labels.Set(p.Labels)) || b.Status.DisruptionsAllowed > 0 {
				continue
			}
			out[p.Spec.NodeName] = append(out[p.Spec.NodeName], fmt.Sprintf("pod %s/%s is held by PodDisruptionBudget %s (%d of %d healthy, %d wanted, no disruption allowed)",
				p.Namespace, p.Name, b.Name, b.Status.CurrentHealthy, b.Status.ExpectedPods, b.Status.DesiredHealthy))
		}
	}
	return out, nil
}

// Bare lists the pods that a drain deletes and nobody makes again, by node: those that
// run and that no controller owns.
func (c *Client) Bare(ctx context.Context) (map[string][]string, error) {
	l, err := c.Typed.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	out := map[string][]string{}
	for i := range l.Items {
		p := &l.Items[i]
		ended := p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		if p.Spec.NodeName == "" || ended || pinned(p) || metav1.GetControllerOf(p) != nil {
			continue
		}
		out[p.Spec.NodeName] = append(out[p.Spec.NodeName], p.Namespace+"/"+p.Name)
	}
	return out, nil
}

// Attached lists the volumes that are still attached to a node.
func (c *Client) Attached(ctx context.Context, node string) ([]string, error) {
	l, err := c.Typed.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list volume attachments: %w", err)
	}
	var out []string
	for _, a := range l.Items {
		if a.Spec.NodeName != node {
			continue
		}
		name := a.Name
		if v := a.Spec.Source.PersistentVolumeName; v != nil {
			name = *v
		}
		out = append(out, name)
	}
	return out, nil
}

// Detached waits until no volume is attached to a node.
func (c *Client) Detached(ctx context.Context, node string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return Poll(ctx, time.Second, func(ctx context.Context) error {
		left, err := c.Attached(ctx, node)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("still attached to %s: %s", node, strings.Join(left, ", "))
		}
		return err
	})
}

// OutOfService tells the cluster that a node is down and will not come back as it
// was: its pods are deleted and its volumes detached without waiting for its
// kubelet.
func OutOfService() corev1.Taint {
	return corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute}
}

// Abandon marks a node as out of service, and waits until the cluster has freed
// its pods, those of DaemonSets apart, and its volumes.
func (c *Client) Abandon(ctx context.Context, name string, timeout time.Duration) error {
	n, err := c.Node(ctx, name)
	if err != nil || n == nil {
		return err
	}
	err = c.changeNode(ctx, name, "taint as out of service", func(n *corev1.Node) map[string]any {
		if hasTaint(n.Spec.Taints, OutOfService()) {
			return nil
		}
		return map[string]any{
			"metadata": map[string]any{},
			"spec":     map[string]any{"taints": append(n.Spec.Taints, OutOfService())},
		}
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = Poll(ctx, time.Second, func(ctx context.Context) error {
		left, err := c.movable(ctx, name, func(*corev1.Pod) bool { return false })
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("pods that the cluster has not freed yet: %s", strings.Join(left, ", "))
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.Detached(ctx, name, timeout)
}

// pinned pods go with their node: static ones and those of DaemonSets.
func pinned(p *corev1.Pod) bool {
	if _, ok := p.Annotations[corev1.MirrorPodAnnotationKey]; ok {
		return true
	}
	o := metav1.GetControllerOf(p)
	return o != nil && o.Kind == "DaemonSet"
}

// DropPods deletes the pods of a node that is no more, as the cluster does by itself a
// minute later: nobody is there to end them.
func (c *Client) DropPods(ctx context.Context, node string) error {
	l, err := c.Typed.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return fmt.Errorf("list the pods of %s: %w", node, err)
	}
	var errs []error
	atOnce := int64(0)
	for _, p := range l.Items {
		err := c.Typed.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &atOnce})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete pod %s/%s of %s: %w", p.Namespace, p.Name, node, err))
		}
	}
	return errors.Join(errs...)
}

// DeleteNode takes a node out of the cluster.
func (c *Client) DeleteNode(ctx context.Context, name string) error {
	err := c.Typed.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
