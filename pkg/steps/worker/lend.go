package worker

import (
	"context"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/forward"
)

// lend has the endpoint lead to the API servers while a node joins whose own load
// balancer is the endpoint: kubeadm asks the API before it starts the kubelet,
// which starts that load balancer. Both share the port until the join is over.
func lend(ctx context.Context, h host.Host, o Options) (stop func(), err error) {
	if o.Inventory.Spec.ControlPlane.Endpoint.Mode != v1alpha1.EndpointLocal {
		return func() {}, nil
	}
	var targets []string
	for _, n := range o.Inventory.ControlPlanes() {
		if n.Name != o.Node.Name {
			targets = append(targets, n.APIServer())
		}
	}
	return forward.During(ctx, h, o.Kocli, o.Inventory.Endpoint(), targets)
}
