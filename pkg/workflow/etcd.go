package workflow

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/steps/worker"
)

// seedEtcd is the cluster's etcd, asked through the seed.
type seedEtcd struct{ c *Cluster }

// etcd returns nil where the cluster's etcd is elsewhere.
func (c *Cluster) etcd() worker.Etcd {
	if c.Inventory.ExternalEtcd() != nil {
		return nil
	}
	return seedEtcd{c}
}

// readCredentials reads the files for an etcd outside the cluster.
func readCredentials(x *v1alpha1.ExternalEtcd) (etcd.Credentials, error) {
	var c etcd.Credentials
	var errs []error
	for to, name := range map[*[]byte]string{&c.CA: x.CAFile, &c.Cert: x.CertFile, &c.Key: x.KeyFile} {
		p, err := config.ExpandPath(name)
		if err == nil {
			*to, err = os.ReadFile(p) //nolint:gosec // the operator names the file
		}
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	if err == nil {
		err = c.Verify()
	}
	if err != nil {
		return c, fault.New(fault.Usage, "look at caFile, certFile and keyFile of spec.etcd.external", fmt.Errorf("certificates of the external etcd: %w", err))
	}
	return c, nil
}

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
