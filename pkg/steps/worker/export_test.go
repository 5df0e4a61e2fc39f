package worker

import (
	"context"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
)

// BecomeMember is the part of a join that waits for etcd: it asks no API, so that
// its clock can be a synthetic one.
func BecomeMember(ctx context.Context, o Options, h host.Host, kubeadm func() error) (bool, error) {
	return o.becomeMember(ctx, h, kubeadm)
}

// Unreachable is what a join that has failed says of the way to the endpoint.
func Unreachable(ctx context.Context, o Options, r host.Reader) string {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if why := o.unreachable(ctx, r, nil, failure{}); why != nil {
		return why.what
	}
	return ""
}

// APIServers is apiServers.
func APIServers(inv *inventory.Inventory, n inventory.Node) []string { return apiServers(inv, n) }
