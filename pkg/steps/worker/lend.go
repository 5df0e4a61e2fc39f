package worker

import (
	"context"
	"slices"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/forward"
	"github.com/kocli/kocli/pkg/inventory"
)

// lend has the endpoint lead to the API servers while a node joins whose own load
// balancer is the endpoint: kubeadm asks the API before it starts the kubelet,
// which starts that load balancer. Both share the port until the join is over.
func lend(ctx context.Context, h host.Host, o Options) (stop func(), err error) {
	if o.Inventory.Spec.ControlPlane.Endpoint.Mode != v1alpha1.EndpointLocal {
		return func() {}, nil
	}
	return forward.During(ctx, h, o.Kocli, o.Inventory.Endpoint(), apiServers(o.Inventory, o.Node))
}

// apiServers lists the API servers for a node that joins, other than its own: each
// node of the list begins with another one, so that hundreds of joins do not all
// meet the first.
func apiServers(inv *inventory.Inventory, n inventory.Node) []string {
	var out []string
	for _, cp := range inv.ControlPlanes() {
		if cp.Name != n.Name {
			out = append(out, cp.APIServer())
		}
	}
	if len(out) == 0 {
		return nil
	}
	first := slices.IndexFunc(inv.Nodes, func(o inventory.Node) bool { return o.Name == n.Name }) % len(out)
	return append(out[max(first, 0):], out[:max(first, 0)]...)
}
