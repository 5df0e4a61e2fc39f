package workflow

import (
	"context"

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
	o := loadbalancer.Options{Inventory: c.Inventory, Node: n, Password: func(ctx context.Context) (string, error) {
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
