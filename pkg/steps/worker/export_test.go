package worker

import (
	"context"

	"github.com/kocli/kocli/pkg/host"
)

// BecomeMember is the part of a join that waits for etcd: it asks no API, so that
// its clock can be a synthetic one.
func BecomeMember(ctx context.Context, o Options, h host.Host, kubeadm func() error) (bool, error) {
	return o.becomeMember(ctx, h, kubeadm)
}
