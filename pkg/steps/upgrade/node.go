package upgrade

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/plan"
)

// Drain moves the pods of a node away before work that disturbs them, and only then:
// where none of the steps of work has anything to do, or the node is empty already,
// neither has this one. The node is marked as taken by kocli in the same write.
func Drain(o Options, work []plan.Step) plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		if o.Alone {
			return nil, nil
		}
		todo, err := anything(ctx, r, work)
		if err != nil || !todo {
			return nil, err
		}
		c, err := o.API.Look(ctx)
		if err != nil {
			return nil, err
		}
		done, err := c.Drained(ctx, o.Node.Name)
		if err != nil || done {
			return nil, err
		}
		return []plan.Change{{Object: "node " + o.Node.Name, To: "drain", Disruptive: true}}, nil
	}
	return converge.Func{Name: "upgrade/drain", CheckFn: check, ApplyFn: func(ctx context.Context, h host.Host) error {
		if todo, err := check(ctx, h); err != nil || len(todo) == 0 {
			return err
		}
		if err := called(ctx, h, o.Before); err != nil {
			return err
		}
		c, err := o.API.Dial(ctx)
		if err != nil {
			return err
		}
		if err := o.heard(ctx, c); err != nil {
			return err
		}
		if err := c.CordonFor(ctx, o.Node.Name, "upgrade to "+o.to()); err != nil {
			return err
		}
		d := o.Drain
		d.Say = func(s string) { plan.Say(ctx, o.Node.Name+": "+s) }
		if err = c.Drain(ctx, o.Node.Name, d); err == nil {
			return o.detached(ctx, c)
		}
		if unreachable(err) {
			return err
		}
		// Also where the run was interrupted: nobody else would.
		back := c.UncordonOurs(context.WithoutCancel(ctx), o.Node.Name)
		return fault.New(fault.Failure, "make room for its pods (kubectl get pdb -A shows the budgets), then run the same command again; --force-after DURATION goes past budgets",
			errors.Join(err, back))
	}}
}

// heard waits, before pods of a worker move, until every node hears of it: where the
// virtual IP has moved, a watch that was open through it is silent, and its client
// notices only when it asks whether anybody is there.
func (o Options) heard(ctx context.Context, c *kube.Client) error {
	if o.Node.ControlPlane || o.Inventory.Spec.ControlPlane.Endpoint.Mode != v1alpha1.EndpointVIP {
		return nil
	}
	said := false
	return o.within(ctx, o.limit(), func(ctx context.Context) error {
		last, err := c.StaticStarted(ctx)
		if err != nil {
			return err
		}
		if left := o.deaf() - time.Since(last); left > 0 {
			if !said {
				plan.Say(ctx, fmt.Sprintf("%s: static pods of the control plane were started %s ago; its pods are moved %s later, once every node has noticed", o.Node.Name, time.Since(last).Round(time.Second), left.Round(time.Second)))
				said = true
			}
			return fmt.Errorf("the control plane's static pods were started at %s", last.Format(time.RFC3339))
		}
		return nil
	})
}

// detached gives the volumes of pods that have left time to be detached. Those that stay
// belong to pods that go with the node, or to nobody: an upgrade does them no harm.
func (o Options) detached(ctx context.Context, c *kube.Client) error {
	err := c.Detached(ctx, o.Node.Name, min(o.limit(), detachTime))
	if err == nil || lost(ctx, err) {
		return err
	}
	plan.Say(ctx, fmt.Sprintf("%s: it is drained, and goes on with volumes: %v", o.Node.Name, err))
	return nil
}

// detachTime is how long volumes are given to be detached from a node that is empty.
const detachTime = time.Minute

// called calls what may not be there.
func called(ctx context.Context, h host.Host, f func(context.Context, host.Host) error) error {
	if f == nil {
		return nil
	}
	return f(ctx, h)
}

// anything reports whether one of the steps has something to do.
func anything(ctx context.Context, r host.Reader, work []plan.Step) (bool, error) {
	found, errs := make([]bool, len(work)), make([]error, len(work))
	var wg sync.WaitGroup
	for i, s := range work {
		wg.Go(func() {
			changes, err := s.Check(ctx, r)
			found[i], errs[i] = len(changes) > 0, err
		})
	}
	wg.Wait()
	for i := range work {
		if found[i] && errs[i] == nil {
			return true, nil
		}
	}
	return false, errors.Join(errs...)
}

// infrastructure are the namespaces whose pods on a node have to be back before it
// takes other pods again.
func infrastructure() []string { return []string{"kube-system", "kube-flannel"} }

// Begin has it stand on the host that work on its kubelet has begun before a step begins
// it: one that comes to the version because its host was restarted is not finished.
func Begin(o Options, step plan.Step) plan.Step {
	return converge.Func{Name: step.ID(), CheckFn: step.Check, ApplyFn: func(ctx context.Context, h host.Host) error {
		todo, err := step.Check(ctx, h)
		if err != nil || len(todo) == 0 {
			return err
		}
		c, err := o.API.Dial(ctx)
		if err != nil {
			return err
		}
		n, err := c.Node(ctx, o.Node.Name)
		if err != nil {
			return err
		}
		if n != nil && !o.reached(n.Status.NodeInfo.KubeletVersion) {
			if err := o.putConfig(ctx, h, kubeadm.UpgradeKubeletConfigPath); err != nil {
				return err
			}
		}
		return step.Apply(ctx, h)
	}}
}

// Kubelet has the kubelet of a node run at the version, with the configuration that
// its kubeadm writes. Its programs are there. One that does not become healthy within
// its limit gets back what it had, and takes pods again.
func Kubelet(o Options) plan.Step {
	k := kubelet{Options: o}
	return converge.Func{Name: "upgrade/kubelet", CheckFn: k.check, ApplyFn: k.apply}
}

type kubelet struct {
	Options
	// sick are pods that go with the node and were not ready before its kubelet was
	// touched, by name, with the reason: it is not to blame for them.
	sick map[string]string
}

func (k kubelet) check(ctx context.Context, r host.Reader) ([]plan.Change, error) {
	c, err := k.API.Look(ctx)
	if err != nil {
		return nil, err
	}
	left, err := exists(ctx, r, kubeadm.UpgradeKubeletConfigPath)
	if err != nil {
		return nil, err
	}
	n, err := c.Node(ctx, k.Node.Name)
	if err != nil {
		return nil, err
	}
	if n == nil {
		return nil, fault.New(fault.Preflight, "kocli scale joins it first", fmt.Errorf("node %s is not in the cluster", k.Node.Name))
	}
	have := n.Status.NodeInfo.KubeletVersion
	if !k.reached(have) {
		return []plan.Change{{Object: "kubelet of " + k.Node.Name, From: have, To: k.to(), Disruptive: true}}, nil
	}
	if ok, why := kube.NodeCondition(n); !ok {
		return []plan.Change{{Object: "kubelet of " + k.Node.Name, From: "at " + have + ", not ready: " + why, To: "ready"}}, nil
	}
	if left {
		return []plan.Change{{Object: "kubelet of " + k.Node.Name, From: "at " + have + ", not finished", To: "finished"}}, nil
	}
	return nil, nil
}

func (k kubelet) apply(ctx context.Context, h host.Host) error {
	todo, err := k.check(ctx, h)
	if err != nil || len(todo) == 0 {
		return err
	}
	if k.sick, err = k.sickBefore(ctx); err != nil {
		return err
	}
	if k.Alone { // nothing was drained
		if err := called(ctx, h, k.Before); err != nil {
			return err
		}
	}
	argv := []string{"upgrade", "node", "--config", kubeadm.UpgradeKubeletConfigPath}
	if k.Node.ControlPlane { // its static pods are at the version already
		argv = []string{"upgrade", "node", "phase", "kubelet-config", "--config", kubeadm.UpgradeKubeletConfigPath}
		// A new kubelet may start all static pods anew, and the member of etcd with them.
		s := controlPlane{k.Options}
		if err := k.within(ctx, k.limit(), func(ctx context.Context) error { return s.spare(ctx, h) }); err != nil {
			return fault.New(fault.Failure, logsHint(h.Name()), fmt.Errorf("before the kubelet of %s is restarted: %w", k.Node.Name, err))
		}
	}
	if err := k.putConfig(ctx, h, kubeadm.UpgradeKubeletConfigPath); err != nil {
		return err
	}
	if err := kubeadmrun.Detached(ctx, h, "to "+k.to(), argv...); err != nil {
		return k.failed(ctx, h, err)
	}
	if err := k.restart(ctx, h, k.limit(), k.reached); err != nil {
		return k.failed(ctx, h, err)
	}
	if err := called(ctx, h, k.After); err != nil {
		return err
	}
	return h.Remove(ctx, kubeadm.UpgradeKubeletConfigPath)
}

// restart restarts the kubelet and waits until it is back.
func (k kubelet) restart(ctx context.Context, h host.Host, limit time.Duration, wanted func(version string) bool) error {
	if _, err := h.Run(ctx, host.Command("systemctl", "daemon-reload")); err != nil {
		return err
	}
	if _, err := h.Run(ctx, host.Command("systemctl", "restart", "kubelet.service")); err != nil {
		return err
	}
	var before *time.Time // when the one before it reported last
	var since time.Time   // it is back
	err := k.within(ctx, limit, func(ctx context.Context) error {
		c, err := k.API.Dial(ctx)
		if err != nil {
			return err
		}
		all, err := c.Renewals(ctx)
		if err != nil {
			return err
		}
		last := all[k.Node.Name]
		if before == nil {
			before = &last
		}
		if last.Equal(*before) {
			return fmt.Errorf("the kubelet of %s has not reported since it was restarted", k.Node.Name)
		}
		if err := k.back(ctx, h, c, wanted); err != nil {
			since = time.Time{}
			return err
		}
		if since.IsZero() {
			since = time.Now()
		}
		// A kubelet of another minor starts all static pods anew, and not at once.
		if k.Node.ControlPlane && time.Since(since) < k.calm() {
			return errors.New("its static pods may still be started anew")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("not healthy within %s: %w", limit, err)
	}
	return nil
}

// back returns nil when the node is ready, its kubelet has a version that is wanted,
// the pods that go with it are ready, and a control plane serves.
func (k kubelet) back(ctx context.Context, h host.Host, c *kube.Client, wanted func(version string) bool) error {
	n, err := c.Node(ctx, k.Node.Name)
	if err != nil {
		return err
	}
	if n == nil {
		return fmt.Errorf("node %s is not in the cluster", k.Node.Name)
	}
	if v := n.Status.NodeInfo.KubeletVersion; !wanted(v) {
		return fmt.Errorf("the kubelet of %s says it is %s", k.Node.Name, v)
	}
	if ok, why := kube.NodeCondition(n); !ok {
		return fmt.Errorf("node %s is not ready: %s", k.Node.Name, why)
	}
	if k.Node.ControlPlane {
		if err := (controlPlane{k.Options}).serves(ctx, h); err != nil {
			return err
		}
	}
	unready, err := c.PinnedUnready(ctx, k.Node.Name, infrastructure()...)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(unready)) {
		if _, before := k.sick[name]; !before {
			errs = append(errs, fmt.Errorf("pod %s: %s", name, unready[name]))
		}
	}
	return errors.Join(errs...)
}

// sickBefore finds and tells of the pods that are not ready before the kubelet is
// touched. None are excused where it has come to the version already.
func (k kubelet) sickBefore(ctx context.Context) (map[string]string, error) {
	c, err := k.API.Dial(ctx)
	if err != nil {
		return nil, err
	}
	n, err := c.Node(ctx, k.Node.Name)
	if err != nil || n == nil || k.reached(n.Status.NodeInfo.KubeletVersion) {
		return nil, err
	}
	sick, err := c.PinnedUnready(ctx, k.Node.Name, infrastructure()...)
	for _, name := range slices.Sorted(maps.Keys(sick)) {
		plan.Say(ctx, fmt.Sprintf("%s: pod %s is not ready (%s) before its kubelet is upgraded, and is not waited for", k.Node.Name, name, sick[name]))
	}
	return sick, err
}

// failed puts the kubelet back that the node had, gives the node back, and returns an
// error that says so.
func (k kubelet) failed(ctx context.Context, h host.Host, cause error) error {
	if lost(ctx, cause) {
		return cause
	}
	hint := fmt.Sprintf("see why: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager; then run the same command again", h.Name())
	plan.Say(ctx, fmt.Sprintf("%s: %v; putting back the kubelet that it had", k.Node.Name, cause))
	old, err := k.putKubeletBack(ctx, h)
	switch {
	case err != nil && lost(ctx, err):
		return errors.Join(cause, err)
	case err != nil:
		return fault.New(fault.Failure, hint, fmt.Errorf("kubelet of %s at %s: %w; and its old one does not come back, so that the node stays out of service: %w", k.Node.Name, k.to(), cause, err))
	case !old:
		return fault.New(fault.Failure, hint, cause)
	}
	return fault.New(fault.Failure, hint, fmt.Errorf("kubelet of %s does not get to %s: its old one is back, and the node takes pods: %w", k.Node.Name, k.to(), cause))
}

// putKubeletBack restores what was kept of the kubelet and waits until the node is
// ready. It reports whether anything was kept.
func (k kubelet) putKubeletBack(ctx context.Context, h host.Host) (bool, error) {
	there, err := exists(ctx, h, k.saved(kubeletBinary))
	if err != nil || !there {
		return false, err
	}
	for _, f := range []string{kubeletBinary, kubeletUnit, kubeletDropIn, kubeadm.KubeletConfigPath, kubeadm.KubeletFlagsPath, kubeadmBinary} {
		if f == kubeadmBinary && k.Node.ControlPlane {
			continue // the static pods are at its version
		}
		if err := putBack(ctx, h, k.saved(f), f); err != nil {
			return true, err
		}
	}
	if err := k.restart(ctx, h, k.settle(), func(v string) bool { return !k.reached(v) }); err != nil {
		return true, err
	}
	c, err := k.API.Dial(ctx)
	if err != nil {
		return true, err
	}
	if err := c.UncordonOurs(ctx, k.Node.Name); err != nil {
		return true, err
	}
	return true, h.Remove(ctx, kubeadm.UpgradeKubeletConfigPath)
}

// Uncordon has a node take pods again that Drain took out of service. What an operator
// cordoned stays so.
func Uncordon(o Options) plan.Step {
	check := func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
		c, err := o.API.Look(ctx)
		if err != nil {
			return nil, err
		}
		n, err := c.Node(ctx, o.Node.Name)
		if err != nil || n == nil || !kube.CordonedByUs(n) {
			return nil, err
		}
		return []plan.Change{{Object: "node " + o.Node.Name, From: "cordoned by kocli", To: "takes pods"}}, nil
	}
	return converge.Func{Name: "upgrade/uncordon", CheckFn: check, ApplyFn: func(ctx context.Context, h host.Host) error {
		if todo, err := check(ctx, h); err != nil || len(todo) == 0 {
			return err
		}
		c, err := o.API.Dial(ctx)
		if err != nil {
			return err
		}
		return c.UncordonOurs(ctx, o.Node.Name)
	}}
}
