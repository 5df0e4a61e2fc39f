package workflow

import (
	"context"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/steps/loadbalancer"
)

// balanced are the nodes that have a load balancer of kocli's.
func (c *Cluster) balanced() []string {
	var out []string
	for _, n := range c.Inventory.Nodes {
		if c.Inventory.LoadBalancerOn(n) {
			out = append(out, n.Name)
		}
	}
	return out
}

// loadBalancer is what the steps of a node's load balancer need.
func (c *Cluster) loadBalancer(n inventory.Node) loadbalancer.Options {
	o := loadbalancer.Options{Inventory: c.Inventory, Node: n, Leaving: c.Leaving, Election: &c.election, Password: func(ctx context.Context) (string, error) {
		return c.Secret(ctx, c.Inventory.Spec.ControlPlane.Endpoint.VRRP.Password, "password of the virtual IP")
	}}
	if c.Payload != nil {
		o.Images = c.Payload(n)
	}
	return o
}

func (c *Cluster) loadBalancerSteps(n inventory.Node) ([]plan.Step, error) {
	return loadbalancer.Steps(c.loadBalancer(n))
}

// virtualIP reports whether the control planes share an address.
func (c *Cluster) virtualIP() bool {
	return c.Inventory.Spec.ControlPlane.Endpoint.Mode == v1alpha1.EndpointVIP
}

// holderPhase proves on a node, which may be any, that one control plane holds the
// virtual IP. It stands alone: it need not wait for the pod network, nor that for it.
func (c *Cluster) holderPhase(node string, needs ...string) plan.Phase {
	p := plan.Phase{Name: holderPhase, Needs: needs, Steps: func(string) ([]plan.Step, error) {
		return []plan.Step{loadbalancer.Holder(loadbalancer.HolderOptions{
			Inventory: c.Inventory, Planes: c.Inventory.ControlPlanes(), Look: c.Dialer.Look, Election: &c.election,
		})}, nil
	}}
	if c.virtualIP() {
		p.Nodes = []string{node}
	}
	return p
}

// soleHolderPhase is holderPhase while none of those that are not in the YAML any
// more may hold the address: create does not ask them, and scale looks at the end.
func (c *Cluster) soleHolderPhase(needs ...string) plan.Phase {
	p := c.holderPhase(c.Seed.Name, needs...)
	if len(c.Leaving) > 0 {
		p.Nodes = nil
	}
	return p
}

const holderPhase = "virtual-ip"

// peersPhase has the control planes forget those that have left, where they list
// each other. Until then they are told of: one that does not hear that the address
// is held takes it.
func (c *Cluster) peersPhase(needs ...string) plan.Phase {
	p := plan.Phase{Name: "peers", Needs: needs, Steps: func(name string) ([]plan.Step, error) {
		n, _ := c.Inventory.Node(name)
		o := c.loadBalancer(n)
		o.Leaving = nil
		s, err := loadbalancer.Peers(o)
		return []plan.Step{s}, err
	}}
	if v := c.Inventory.Spec.ControlPlane.Endpoint.VRRP; c.virtualIP() && v != nil && v.Unicast && len(c.Leaving) > 0 {
		p.Nodes = inventory.Names(c.Inventory.ControlPlanes())
	}
	return p
}
