package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/steps/reset"
)

// ResetOptions narrow a reset down.
type ResetOptions struct {
	Nodes []string // empty means all: the cluster ends
}

// How long pods are given to leave a node. In a cluster that ends they have
// nowhere to go, so it is enough to let them finish.
const (
	drainTimeout    = 5 * time.Minute
	lastDrainWindow = 20 * time.Second
)

// Reset takes hosts back to what they were before kocli came. A host that is
// clean already is left alone.
func Reset(ctx context.Context, o Options, r ResetOptions) (*Result, error) {
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	nodes, err := s.resetNodes(r)
	if err != nil {
		return nil, err
	}
	whole := len(nodes) == len(s.inv.Nodes)
	res := s.result(len(nodes))
	p, err := s.compile(s.resetPhases(ctx, nodes, whole), res)
	if err != nil {
		return res, err
	}
	if err := s.run(ctx, p, res); err != nil {
		return res, err
	}
	if whole && len(o.Only)+len(o.Skip) == 0 {
		err = s.dir.Forget()
	}
	return res, err
}

// resetNodes checks the names that were given.
func (s *Session) resetNodes(r ResetOptions) ([]string, error) {
	all := inventory.Names(s.inv.Nodes)
	if len(r.Nodes) == 0 {
		return all, nil
	}
	for _, n := range r.Nodes {
		node, ok := s.inv.Node(n)
		if !ok {
			return nil, fault.New(fault.Usage, "see spec.hosts in the cluster YAML", fmt.Errorf("no host is called %s", n))
		}
		if node.ControlPlane && len(r.Nodes) < len(all) {
			return nil, fault.New(fault.Usage, "take it out in order: kocli node remove "+n,
				fmt.Errorf("%s is a control plane: a reset would take its member of etcd away from the others", n))
		}
	}
	return r.Nodes, nil
}

// resetPhases drain first, workers before control planes.
func (s *Session) resetPhases(ctx context.Context, nodes []string, whole bool) []plan.Phase {
	seed, ok := s.answering(ctx, s.inv.ControlPlanes())
	if !ok {
		seed = s.inv.Seed() // to say what is wrong with it
	}
	workers := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool {
		node, _ := s.inv.Node(n)
		return node.ControlPlane
	})
	planes := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return slices.Contains(workers, n) })
	c := Cluster{Inventory: s.inv, Seed: seed, Dialer: s.hosts, Access: s.access}
	api := c.API()
	steps := func(string) ([]plan.Step, error) { return reset.Steps(), nil }
	return []plan.Phase{
		{Name: "drain", Nodes: []string{seed.Name}, Steps: func(string) ([]plan.Step, error) {
			out := make([]plan.Step, 0, len(workers))
			for _, n := range workers {
				out = append(out, drainStep(n, whole, api))
			}
			return out, nil
		}},
		{Name: "workers", Needs: []string{"drain"}, Nodes: workers, Steps: steps},
		// One after another: each leaves an etcd that still has its quorum.
		{Name: "control-plane", Needs: []string{"workers"}, Nodes: planes, Width: 1, Steps: steps},
	}
}

// drainStep empties a node and takes it out of the cluster. A cluster that does
// not answer, and is to end, has nothing to drain.
func drainStep(node string, whole bool, api kube.API) plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		if ours, err := reset.Ours(ctx, r); err != nil || !ours {
			return nil, err // nothing of kocli's; what is there is not ours to drain
		}
		c, err := api.Look(ctx)
		if errors.Is(err, kube.ErrNoCluster) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		n, err := c.Node(ctx, node)
		if err != nil && whole {
			return nil, nil //nolint:nilerr // the API is down, and the cluster is to end
		}
		if err != nil || n == nil {
			return nil, err
		}
		return []plan.Change{{Object: "node " + node, To: "drain, leave the cluster", Disruptive: true}}, nil
	}
	return converge.Func{
		Name:    "reset/drain-" + node,
		CheckFn: check,
		ApplyFn: func(ctx context.Context, h host.Host) error {
			if todo, err := check(ctx, h); err != nil || len(todo) == 0 {
				return err
			}
			c, err := api.Dial(ctx)
			if err != nil {
				return err
			}
			timeout := drainTimeout
			if whole {
				timeout = lastDrainWindow
			}
			if err := c.Drain(ctx, node, kube.DrainOptions{Timeout: timeout}); err != nil {
				if !whole || ctx.Err() != nil {
					return fault.New(fault.Failure, "see what holds the pods: kubectl get pdb -A; then run the same command again", err)
				}
				plan.Say(ctx, fmt.Sprintf("not waiting longer: the cluster ends (%v)", err))
			}
			return c.DeleteNode(ctx, node)
		},
	}
}
