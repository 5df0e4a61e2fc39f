// Package loadbalancer makes the endpoint of the API outlive each control plane:
// haproxy before the API servers, on control planes or on every node, and with a
// virtual IP keepalived, which moves it between the control planes. Both are static
// pods. On a new node they are only written; the kubelet, which kubeadm starts,
// starts them.
package loadbalancer

import (
	"context"
	"errors"
	"io/fs"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/staticpod"
)

// Images finds the full reference of an image by the last word of its
// repository, as payload.Payload does.
type Images interface {
	Image(name string) (string, error)
}

// Options are what the steps of a node need.
type Options struct {
	Inventory *inventory.Inventory
	Node      inventory.Node
	// Images names the images. Nil where there is no bundle: then the static pods
	// stay as they are, and only their configuration is kept right.
	Images Images
	// Leaving are control planes that are not in the inventory any more and take part
	// in holding the virtual IP until they have left.
	Leaving []inventory.Node
	// Election is told when keepalived is changed. Nil where nobody asks it.
	Election *Election
	// Password returns spec.controlPlane.endpoint.vrrp.password. It is asked for
	// only where there is one.
	Password func(ctx context.Context) (string, error)
}

// virtual reports whether the node may hold a virtual IP.
func (o Options) virtual() bool {
	return o.Inventory.Spec.ControlPlane.Endpoint.Mode == v1alpha1.EndpointVIP && o.Node.ControlPlane
}

// Steps returns the steps of what a node should have.
func Steps(o Options) ([]plan.Step, error) {
	if !o.Inventory.LoadBalancerOn(o.Node) {
		return nil, nil
	}
	first, err := HAProxy(o)
	if err != nil || !o.virtual() {
		return []plan.Step{first}, err
	}
	second, err := Keepalived(o)
	return []plan.Step{first, second}, err
}

// Leftovers returns the steps that take away what a node should not have any more,
// after the endpoint has come to be another one.
func Leftovers(o Options) []plan.Step {
	var out []plan.Step
	if !o.virtual() {
		out = append(out, noKeepalived())
	}
	if !o.Inventory.LoadBalancerOn(o.Node) {
		out = append(out, gone("loadbalancer/no-haproxy", func(ctx context.Context, h host.Host) error {
			return h.Remove(ctx, kubeadm.HAProxyManifestPath)
		}, kubeadm.HAProxyManifestPath, kubeadm.HAProxyDir))
	}
	return out
}

// noKeepalived gives the virtual IP back. The configuration goes last: it is what
// tells which address that is.
func noKeepalived() plan.Step {
	return gone("loadbalancer/no-keepalived", staticpod.Release, kubeadm.KeepalivedManifestPath, kubeadm.KeepalivedDir)
}

// gone has a static pod and its configuration be gone.
func gone(name string, end func(context.Context, host.Host) error, manifest, config string) plan.Step {
	there := func(ctx context.Context, r host.Reader) ([]string, error) {
		errs := make([]error, 2)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, errs[0] = r.Stat(ctx, manifest)
		}()
		_, errs[1] = r.Stat(ctx, config)
		<-done
		var out []string
		for i, p := range []string{manifest, config} {
			if errs[i] == nil {
				out = append(out, p)
			} else if !errors.Is(errs[i], fs.ErrNotExist) {
				return nil, errs[i]
			}
		}
		return out, nil
	}
	return converge.Func{
		Name: name,
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			left, err := there(ctx, r)
			var out []plan.Change
			for _, p := range left {
				out = append(out, plan.Change{Object: "file " + p, To: "remove: the endpoint is another one"})
			}
			return out, err
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			left, err := there(ctx, h)
			if err != nil || len(left) == 0 {
				return err
			}
			if err := end(ctx, h); err != nil {
				return err
			}
			return h.Remove(ctx, config)
		},
	}
}
