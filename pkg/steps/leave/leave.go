// Package leave takes nodes out of a cluster that lives on: their pods move, their
// member of etcd goes while the others keep their quorum, and the cluster forgets
// them. What is done on the host itself is package reset's. The steps run on a
// node that stays, and reach the cluster through it.
package leave

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/plan"
)

// Options say how nodes leave.
type Options struct {
	API   kube.API
	Drain kube.DrainOptions
}

// How long the cluster is given, beyond what the operator says of pods.
const (
	detachTimeout = 5 * time.Minute // for volumes to be detached
	deadTimeout   = 2 * time.Minute // for the cluster to see that a node is down
	freeTimeout   = 5 * time.Minute // for it to free the pods of one
	settleTimeout = time.Minute     // for etcd to be healthy without a member
)

// Drain moves the pods of a node away and waits for its volumes.
func Drain(node string, o Options) plan.Step {
	check := func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
		c, err := o.API.Look(ctx)
		if err != nil {
			return nil, err
		}
		done, err := c.Drained(ctx, node)
		if err != nil || done {
			return nil, err
		}
		return []plan.Change{{Object: "node " + node, To: "drain", Disruptive: true}}, nil
	}
	return converge.Func{
		Name:    "leave/drain-" + node,
		CheckFn: check,
		ApplyFn: func(ctx context.Context, h host.Host) error {
			if todo, err := check(ctx, h); err != nil || len(todo) == 0 {
				return err
			}
			c, err := o.API.Dial(ctx)
			if err != nil {
				return err
			}
			d := o.Drain
			d.Say = func(s string) { plan.Say(ctx, node+": "+s) }
			if err := c.Drain(ctx, node, d); err != nil {
				return fault.New(fault.Failure, "make room for its pods (kubectl get pdb -A shows the budgets), then run the same command again; --force-after DURATION goes past budgets", err)
			}
			if err := c.Detached(ctx, node, detachTimeout); err != nil {
				return fault.New(fault.Failure, "see why: kubectl get volumeattachments; then run the same command again", err)
			}
			return nil
		},
	}
}

// Etcd takes the member of a node out of etcd, and proves before and after that
// the others have their quorum.
func Etcd(n inventory.Node) plan.Step {
	ours := func(m etcd.Member) bool { return m.At(n.Name, n.IP) }
	// find returns the members, and the one that is to go.
	find := func(ctx context.Context, v *etcd.View) (int, *etcd.Member, error) {
		members, err := v.Members(ctx)
		if err != nil {
			return 0, nil, fault.New(fault.Failure, "bring back enough control planes for a quorum, then run the same command again", err)
		}
		for _, m := range members {
			if ours(m) {
				return len(members), &m, nil
			}
		}
		return len(members), nil, nil
	}
	return converge.Func{
		Name: "leave/etcd-" + n.Name,
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			v, err := etcd.Look(ctx, r)
			if errors.Is(err, etcd.ErrNone) {
				return nil, nil // it is elsewhere, and has no member here
			}
			if err != nil {
				return nil, err
			}
			count, m, err := find(ctx, v)
			if err != nil || m == nil {
				return nil, err
			}
			return []plan.Change{{Object: "etcd", From: fmt.Sprintf("%d members", count), To: fmt.Sprintf("remove member %x (%s)", m.ID, n.Name), Disruptive: true}}, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			c, err := etcd.Dial(ctx, h)
			if errors.Is(err, etcd.ErrNone) {
				return nil
			}
			if err != nil {
				return err
			}
			_, m, err := find(ctx, c.View)
			if err != nil || m == nil {
				return err
			}
			before, err := c.Health(ctx)
			if err != nil {
				return err
			}
			if err := etcd.Removable(before, ours); err != nil {
				return fault.New(fault.Preflight, "bring the other members back first: kocli status, then: kocli exec NODE --root -- journalctl -u kubelet -n 50 --no-pager", err)
			}
			if err := c.Remove(ctx, m.ID); err != nil {
				return err
			}
			return settled(ctx, c.View)
		},
	}
}

// settled waits until the members that are left have a quorum of healthy ones.
func settled(ctx context.Context, v *etcd.View) error {
	wait, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	return kube.Poll(wait, time.Second, func(ctx context.Context) error {
		all, err := v.Health(ctx)
		if err != nil {
			return err
		}
		return etcd.HasQuorum(all)
	})
}

// Forget has the cluster forget a node whose host has been taken back.
func Forget(node string, o Options) plan.Step {
	check := func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
		c, err := o.API.Look(ctx)
		if err != nil {
			return nil, err
		}
		n, err := c.Node(ctx, node)
		if err != nil || n == nil {
			return nil, err
		}
		return []plan.Change{{Object: "node " + node, From: "in the cluster", To: "absent", Disruptive: true}}, nil
	}
	return converge.Func{
		Name:    "leave/forget-" + node,
		CheckFn: check,
		ApplyFn: func(ctx context.Context, h host.Host) error {
			if todo, err := check(ctx, h); err != nil || len(todo) == 0 {
				return err
			}
			c, err := o.API.Dial(ctx)
			if err != nil {
				return err
			}
			return c.DeleteNode(ctx, node)
		},
	}
}

// Dead takes a node out that cannot be asked any more: the cluster is told that it
// is out of service, frees its pods and volumes, and forgets it. A node whose
// kubelet still reports is refused.
func Dead(node string, o Options) plan.Step {
	forget := Forget(node, o)
	return converge.Func{
		Name: "leave/dead-" + node,
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			changes, err := forget.Check(ctx, r)
			for i := range changes {
				changes[i].To = "out of service, its pods and volumes freed, then absent"
			}
			return changes, err
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			c, err := o.API.Dial(ctx)
			if err != nil {
				return err
			}
			if err := silent(ctx, c, node); err != nil {
				return fault.New(fault.Preflight, "take it out in order, without --dead; or switch it off first", err)
			}
			if err := c.Abandon(ctx, node, freeTimeout); err != nil {
				return fault.New(fault.Failure, "see what is left on it: kubectl get pods -A --field-selector spec.nodeName="+node+"; then run the same command again", err)
			}
			return forget.Apply(ctx, h)
		},
	}
}

// silent waits until the cluster says that a node does not report: it takes it
// most of a minute to believe that.
func silent(ctx context.Context, c *kube.Client, node string) error {
	wait, cancel := context.WithTimeout(ctx, deadTimeout)
	defer cancel()
	said := false
	return kube.Poll(wait, time.Second, func(ctx context.Context) error {
		n, err := c.Node(ctx, node)
		if err != nil || n == nil || !kube.NodeReady(n) {
			return err
		}
		if !said {
			plan.Say(ctx, "waiting until the cluster sees that "+node+" is down")
			said = true
		}
		return fmt.Errorf("%s is not dead: its kubelet reports to the cluster", node)
	})
}
