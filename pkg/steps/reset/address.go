package reset

import (
	"context"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/staticpod"
)

// Address gives the virtual IP up, before kubeadm kills the pod that holds it: an
// address that stayed on the interface would be answered for by two hosts.
func Address() plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		v, err := staticpod.LookVirtualIP(ctx, r)
		if err != nil || !v.Pod && !v.Held {
			return nil, err
		}
		from := ""
		if v.Held {
			from = v.Address.Addr().String() + " on " + v.Interface
		}
		return []plan.Change{{Object: "virtual IP", From: from, To: "given up"}}, nil
	}
	return converge.Func{Name: "reset/address", CheckFn: check, ApplyFn: staticpod.Release}
}
