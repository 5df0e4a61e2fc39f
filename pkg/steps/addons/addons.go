// Package addons installs, upgrades and removes the add-ons of a cluster, and proves
// that each works. They are Helm releases; what is done is read from the cluster.
package addons

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/addon"
	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/helm"
	"github.com/kocli/kocli/pkg/plan"
)

// Timeout is how long an add-on has to become ready, and to be gone.
const Timeout = 5 * time.Minute

// Options say what is to be done about one add-on.
type Options struct {
	Addon addon.Addon
	Chart *addon.Chart // nil where the add-on goes
	API   kube.API
	// SpecFile is the cluster YAML, for hints.
	SpecFile string
	Timeout  time.Duration // zero means Timeout
}

// Steps bring an add-on into the cluster and prove that it works, or take it out.
func Steps(o Options) []plan.Step {
	if o.Timeout == 0 {
		o.Timeout = Timeout
	}
	name := "addon/" + o.Addon.Name
	if !o.Addon.Enabled {
		return []plan.Step{converge.Func{Name: name, CheckFn: o.checkAbsent, ApplyFn: o.remove}}
	}
	return []plan.Step{
		converge.Func{Name: name, CheckFn: o.checkRelease, ApplyFn: o.deploy},
		converge.Func{Name: name + "-health", CheckFn: o.checkHealth, ApplyFn: o.prove},
	}
}

// Release is the Helm release of an add-on.
func Release(a addon.Addon, c *addon.Chart) (helm.Release, error) {
	packed, err := c.Packed()
	return helm.Release{
		Name: a.Name, Namespace: a.Namespace, Chart: packed, Values: a.Values,
		Labels: map[string]string{
			kube.LabelAddon: a.Name, kube.LabelChart: c.Digest(), kube.LabelValues: a.ValuesDigest(),
			kube.LabelVersion: strings.ReplaceAll(c.Version, "+", "_"),
		},
	}, err
}

func (o Options) object() string { return "add-on " + o.Addon.Name }

// checkRelease compares the release in the cluster with what it should be.
func (o Options) checkRelease(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
	to := "version " + o.Chart.Version
	c, err := o.API.Look(ctx)
	if errors.Is(err, kube.ErrNoCluster) {
		return []plan.Change{{Object: o.object(), To: to, After: "network/verify"}}, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := o.find(ctx, c)
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		return []plan.Change{{Object: o.object(), To: to}}, nil
	case r.Status != kube.StatusDeployed:
		return []plan.Change{{Object: o.object(), From: r.Status, To: to}}, nil
	case r.Labels[kube.LabelChart] != o.Chart.Digest():
		return []plan.Change{{Object: o.object(), From: "version " + r.Labels[kube.LabelVersion], To: to}}, nil
	case r.Labels[kube.LabelValues] != o.Addon.ValuesDigest():
		return []plan.Change{{Object: o.object(), From: "other values", To: to}}, nil
	}
	return nil, nil
}

// find returns the release of the add-on; nil where there is none. One that kocli did
// not make, or made in another namespace, is an error: it stays as it is.
func (o Options) find(ctx context.Context, c *kube.Client) (*kube.Release, error) {
	all, err := c.Releases(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		ours := r.Labels[kube.LabelAddon] == o.Addon.Name
		here := r.Name == o.Addon.Name && r.Namespace == o.Addon.Namespace
		switch {
		case ours && here:
			return &r, nil
		case ours:
			return nil, fault.New(fault.Failure, fmt.Sprintf("take it out there first: kocli addon remove %s -f %s", o.Addon.Name, o.SpecFile),
				fmt.Errorf("%s is in namespace %s, and cannot move to %s", o.object(), r.Namespace, o.Addon.Namespace))
		case here:
			return nil, fault.New(fault.Failure, fmt.Sprintf("keep it and take %s out of %s, or: helm uninstall %s -n %s", o.Addon.Name, o.SpecFile, r.Name, r.Namespace),
				fmt.Errorf("release %s/%s is there, and not by kocli", r.Namespace, r.Name))
		}
	}
	return nil, nil
}

func (o Options) deploy(ctx context.Context, _ host.Host) error {
	if changes, err := o.checkRelease(ctx, nil); err != nil || len(changes) == 0 {
		return err
	}
	c, err := o.API.Dial(ctx)
	if err != nil {
		return err
	}
	r, err := Release(o.Addon, o.Chart)
	if err != nil {
		return err
	}
	if err := helm.Deploy(ctx, c, r, o.Timeout); err != nil {
		if ctx.Err() != nil || fault.HintOf(err) != "" || fault.CodeOf(err) == fault.Unreachable {
			return err
		}
		return fault.New(fault.Failure, fmt.Sprintf("see its values with: kocli addon values %s -f %s; when the cause is gone, type the same command again", o.Addon.Name, o.SpecFile), err)
	}
	return nil
}

func (o Options) checkAbsent(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
	c, err := o.API.Look(ctx)
	if errors.Is(err, kube.ErrNoCluster) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := o.find(ctx, c)
	if err != nil || r == nil {
		return nil, err
	}
	return []plan.Change{{Object: o.object(), From: "version " + r.Labels[kube.LabelVersion], To: "absent"}}, nil
}

// remove takes the add-on out. Storage with volumes stays.
func (o Options) remove(ctx context.Context, _ host.Host) error {
	c, err := o.API.Dial(ctx)
	if err != nil {
		return err
	}
	r, err := o.find(ctx, c)
	if err != nil || r == nil {
		return err
	}
	if o.Addon.Provisioner != "" {
		claims, err := c.ClaimsOf(ctx, o.Addon.Provisioner)
		if err != nil {
			return err
		}
		if len(claims) > 0 {
			return fault.New(fault.Preflight, "delete the claims, which deletes their data, or keep the storage: kubectl get pvc -A",
				fmt.Errorf("%s has volumes that are in use: %s", o.object(), strings.Join(claims, ", ")))
		}
	}
	if err := helm.Remove(ctx, c, r.Namespace, r.Name, o.Timeout); err != nil {
		return err
	}
	return forget(ctx, c, o.Addon.Name)
}
