package workflow

import (
	"context"
	"slices"
	"time"

	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/probe"
)

// seedTimeout is how long a control plane is given to answer before the next one
// is tried.
const seedTimeout = 10 * time.Second

// seed chooses the control plane through which a run reaches the cluster: the
// first that answers, whichever that is. Nodes that leave come last, and serve
// where no other is there yet. Where none answers it is the first that has begun
// to be one, for init to go on; where there is none, the first of the list.
func (s *Session) seed(ctx context.Context, facts map[string]probe.Facts) (inventory.Node, error) {
	var begun, made []inventory.Node
	for _, n := range slices.Concat(s.inv.ControlPlanes(), controlPlanes(s.leaving)) {
		k := facts[n.Name].Kubernetes
		if slices.Contains(k, caKey) {
			begun = append(begun, n)
		}
		if slices.Contains(k, caKey) && slices.Contains(k, kube.AdminConf()) {
			made = append(made, n)
		}
	}
	if n, ok := s.answering(ctx, made); ok || ctx.Err() != nil {
		return n, ctx.Err()
	}
	return slices.Concat(made, begun, []inventory.Node{s.inv.Seed()})[0], nil
}

// answering returns the first control plane whose API server is ready.
func (s *Session) answering(ctx context.Context, planes []inventory.Node) (inventory.Node, bool) {
	for _, n := range planes {
		if err := s.answers(ctx, n); err == nil {
			return n, true
		}
		if ctx.Err() != nil {
			break
		}
	}
	return inventory.Node{}, false
}

// answers returns nil when the API server of a control plane says that it is
// ready.
func (s *Session) answers(ctx context.Context, n inventory.Node) error {
	ctx, cancel := context.WithTimeout(ctx, seedTimeout)
	defer cancel()
	r, err := s.hosts.Look(ctx, n.Name)
	if err != nil {
		return err
	}
	c, err := s.access.Look(ctx, r)
	if err != nil {
		return err
	}
	return c.Ready(ctx)
}

func controlPlanes(nodes []inventory.Node) []inventory.Node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n inventory.Node) bool { return !n.ControlPlane })
}
