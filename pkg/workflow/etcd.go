package workflow

import (
	"context"

	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/steps/worker"
)

// seedEtcd is the cluster's etcd, asked through the seed.
type seedEtcd struct{ c *Cluster }

func (c *Cluster) etcd() worker.Etcd { return seedEtcd{c} }

// client opens etcd for one question: certificates are there only once the seed is.
func (e seedEtcd) client(ctx context.Context) (*etcd.Client, error) {
	h, err := e.c.Dialer.Dial(ctx, e.c.Seed.Name)
	if err != nil {
		return nil, err
	}
	return etcd.Dial(ctx, h)
}

// Members lists the members.
func (e seedEtcd) Members(ctx context.Context) ([]etcd.Member, error) {
	c, err := e.client(ctx)
	if err != nil {
		return nil, err
	}
	return c.Members(ctx)
}

// Healthy returns nil when all that vote are healthy.
func (e seedEtcd) Healthy(ctx context.Context) error {
	c, err := e.client(ctx)
	if err != nil {
		return err
	}
	return c.Healthy(ctx)
}

// Remove takes a member out.
func (e seedEtcd) Remove(ctx context.Context, id uint64) error {
	c, err := e.client(ctx)
	if err != nil {
		return err
	}
	return c.Remove(ctx, id)
}
