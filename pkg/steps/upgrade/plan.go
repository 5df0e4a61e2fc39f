package upgrade

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync/atomic"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/plan"
)

// KubeadmPlan asks kubeadm of the version, which is on the host by now, whether the
// cluster may go there: kubeadm upgrade plan. It changes nothing but for a Job that
// kubeadm makes to see whether pods are started, and that goes by itself. Where kubeadm
// says no, the hop ends with nothing of the cluster changed: the host gets back the
// kubeadm that it had. It is asked once in a run, where nothing has been begun.
func KubeadmPlan(o Options) plan.Step {
	var asked atomic.Bool
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		if _, err := exists(ctx, r, kubeadmBinary); err != nil || asked.Load() {
			return nil, err
		}
		return []plan.Change{{Object: "kubeadm upgrade plan", To: "asked whether the cluster may go to " + o.to()}}, nil
	}
	return converge.Func{Name: "upgrade/plan", CheckFn: check, ApplyFn: func(ctx context.Context, h host.Host) error {
		if asked.Load() {
			return nil
		}
		err := o.askPlan(ctx, h)
		asked.Store(err == nil)
		return err
	}}
}

func (o Options) askPlan(ctx context.Context, h host.Host) error {
	argv := []string{"upgrade", "plan", o.to()}
	if list := o.Inventory.Spec.Kubernetes.IgnorePreflightErrors; len(list) > 0 {
		argv = append(argv, "--ignore-preflight-errors="+strings.Join(list, ","))
	}
	s := controlPlane{o}
	if err := s.waitCalm(ctx, h); err != nil {
		return fault.New(fault.Failure, logsHint(h.Name()), err)
	}
	err := s.kubeadm(ctx, h, func() error {
		out, err := kubeadmrun.Output(ctx, h, argv...)
		for l := range strings.Lines(string(out)) {
			plan.Output(ctx, strings.TrimSpace(l))
		}
		return err
	})
	var x *host.ExitError
	if !errors.As(err, &x) || lost(ctx, err) {
		return err
	}
	said := cmp.Or(kubeadmrun.Said(err), err.Error())
	if o.PlanSaid != nil {
		if err = o.PlanSaid(said); err == nil {
			return nil
		}
	}
	return errors.Join(err, putBack(ctx, h, o.saved(kubeadmBinary), kubeadmBinary))
}
