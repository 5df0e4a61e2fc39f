package upgrade

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/plan"
)

// perNode is how long kube-proxy is given on each node, beyond the limit.
const perNode = 10 * time.Second

// Addons has kube-proxy and CoreDNS run with the images of the version. kubeadm brings
// them with the last control plane; where it was interrupted, this does. It runs once
// all API servers are at the version.
func Addons(o Options) plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		left, err := exists(ctx, r, kubeadm.UpgradeConfigPath)
		if err != nil {
			return nil, err
		}
		c, err := o.API.Look(ctx)
		if err != nil {
			return nil, err
		}
		list, err := o.addons(ctx, c)
		if err != nil {
			return nil, err
		}
		var out []plan.Change
		for _, a := range list {
			switch {
			case a.have != a.want:
				out = append(out, plan.Change{Object: a.name, From: a.have, To: a.want})
			case a.unready != nil:
				out = append(out, plan.Change{Object: a.name, From: a.unready.Error(), To: "ready"})
			}
		}
		if left && len(out) == 0 {
			out = append(out, plan.Change{Object: "file " + kubeadm.UpgradeConfigPath, From: "left by a run that was cut off", To: "absent"})
		}
		return out, nil
	}
	return converge.Func{Name: "upgrade/addons", CheckFn: check, ApplyFn: func(ctx context.Context, h host.Host) error {
		if left, err := exists(ctx, h, kubeadm.UpgradeConfigPath); err != nil {
			return err
		} else if left { // by a run that was cut off: kubeadm may be at it still
			if err := kubeadmrun.Forget(ctx, h); err != nil {
				return err
			}
		}
		c, err := o.API.Dial(ctx)
		if err != nil {
			return err
		}
		list, err := o.addons(ctx, c)
		if err != nil {
			return err
		}
		old := false
		for _, a := range list {
			old = old || a.have != a.want
		}
		if old {
			if err := o.putConfig(ctx, h, kubeadm.UpgradeConfigPath); err != nil {
				return err
			}
			if err := kubeadmrun.Detached(ctx, h, "to "+o.to(), "upgrade", "apply", "phase", "addon", "all", "--config", kubeadm.UpgradeConfigPath); err != nil {
				return err
			}
		}
		limit := o.limit() + time.Duration(len(o.Inventory.Nodes))*perNode
		err = o.within(ctx, limit, func(ctx context.Context) error {
			list, err := o.addons(ctx, c)
			for _, a := range list {
				err = errors.Join(err, a.unready)
			}
			return err
		})
		if err != nil {
			err = c.Explain(ctx, err, "kube-system", map[string]string{"k8s-app": "kube-proxy"})
			return fault.New(fault.Failure, "see why: kubectl -n kube-system get pods -o wide; then run the same command again", err)
		}
		if left, err := exists(ctx, h, kubeadm.UpgradeConfigPath); err != nil || !left {
			return err
		}
		return h.Remove(ctx, kubeadm.UpgradeConfigPath)
	}}
}

// addon is one that kubeadm installs.
type addon struct {
	name, have, want string // images
	unready          error
}

// addons looks at those that are there: others have been taken away on purpose.
func (o Options) addons(ctx context.Context, c *kube.Client) ([]addon, error) {
	images, err := kubeadm.Images(o.Inventory, o.Components)
	if err != nil {
		return nil, err
	}
	var out []addon
	for _, im := range images {
		kind, name, ok := strings.Cut(im.What, " kube-system/")
		if !ok {
			continue
		}
		have, unready, err := c.Image(ctx, kind, "kube-system", name)
		if err != nil {
			return nil, err
		}
		if have != "" {
			out = append(out, addon{name, have, im.Ref, unready})
		}
	}
	return out, nil
}
