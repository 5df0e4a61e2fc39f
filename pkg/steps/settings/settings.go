// Package settings keeps the configuration of the kubelets and of kube-proxy as
// the YAML has it, on a cluster that runs. On a new one kubeadm has been told.
package settings

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/kubeedit"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/resolver"
)

// Options are what the steps need.
type Options struct {
	Inventory *inventory.Inventory
	Node      inventory.Node
	API       kube.API
}

// mark says which configuration kube-proxy was told last: as a key of its
// ConfigMap, set before the configuration, and as an annotation of its pods.
const mark = "kocli.io.settings"

// Cluster keeps what all kubelets share, and the configuration of kube-proxy, as
// kubeadm keeps them in the cluster.
func Cluster(o Options) plan.Step {
	return kubeedit.Step("settings/cluster", o.API, func(ctx context.Context, c *kube.Client) ([]kubeedit.Edit, error) { return edits(ctx, c, o.Inventory) })
}

// edits lists what differs in the cluster. What kubeadm has not made yet is left to it.
func edits(ctx context.Context, c *kube.Client, inv *inventory.Inventory) ([]kubeedit.Edit, error) {
	kubelet, err1 := c.ConfigMap(ctx, "kube-system", "kubelet-config")
	proxy, err2 := kubeedit.ReadProxy(ctx, c, mark)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	var out []kubeedit.Edit
	if text := kubelet["kubelet"]; text != "" {
		diff, err := kubeadm.KubeletDiffers([]byte(text), inv)
		if err != nil {
			return nil, fmt.Errorf("configmap kube-system/kubelet-config: %w", err)
		}
		if len(diff) > 0 {
			next, err := kubeadm.KubeletConfig(inv)
			if err != nil {
				return nil, err
			}
			out = append(out, kubeedit.Edit{
				Change: plan.Change{Object: "configuration of the kubelets", To: strings.Join(diff, ", ") + " as in the YAML"},
				Apply: func(ctx context.Context, c *kube.Client) error {
					return c.SetConfigMap(ctx, "kube-system", "kubelet-config", "kubelet", string(next), false)
				},
			})
		}
	}
	if text := proxy.Text("config.conf"); text != "" {
		diff, err := kubeadm.ProxyDiffers([]byte(text), inv)
		if err != nil {
			return nil, fmt.Errorf("configmap kube-system/kube-proxy: %w", err)
		}
		if len(diff) > 0 {
			next, err := kubeadm.WithProxyConfig([]byte(text), inv)
			if err != nil {
				return nil, err
			}
			sum := sha256.Sum256(next)
			out = append(out, proxy.Set(plan.Change{Object: "configuration of kube-proxy", To: strings.Join(diff, ", ") + " as in the YAML"},
				"config.conf", hex.EncodeToString(sum[:8]), func() (string, error) { return string(next), nil }))
		}
	}
	return append(out, proxy.Rollout("an older configuration")...), nil
}

const (
	kubeletConfig = "/var/lib/kubelet/config.yaml"
	restart       = kubeedit.Restart("restart-kubelet-settings")
)

// Kubelet has the kubelet of a node run with what all share and with the node's
// own fields over it. Its pods are not touched by the restart.
func Kubelet(o Options) plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		data, err := r.ReadFile(ctx, kubeletConfig)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // it has not joined
		}
		if err != nil {
			return nil, err
		}
		resolv, err := resolver.KubeletPath(ctx, r)
		if err != nil {
			return nil, err
		}
		diff, err := kubeadm.NodeKubeletDiffers(data, o.Inventory, o.Node, kubeadm.NodeOptions{ResolvConf: resolv})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kubeletConfig, err)
		}
		if len(diff) > 0 {
			return []plan.Change{{Object: "configuration of the kubelet", To: strings.Join(diff, ", ") + " as in the YAML; restart"}}, nil
		}
		return restart.Due(ctx, r, "an older configuration")
	}
	return converge.Func{
		Name:    "settings/kubelet",
		CheckFn: check,
		ApplyFn: func(ctx context.Context, h host.Host) error {
			todo, err := check(ctx, h)
			if err != nil || len(todo) == 0 {
				return err
			}
			if todo[0].From == "" {
				if err := rewrite(ctx, h, o); err != nil {
					return err
				}
			}
			return restart.Do(ctx, h)
		},
	}
}

// rewrite has kubeadm write the configuration of a kubelet from the cluster's and
// the node's own.
func rewrite(ctx context.Context, h host.Host, o Options) error {
	resolv, err := resolver.KubeletPath(ctx, h)
	if err != nil {
		return err
	}
	node := kubeadm.NodeOptions{ResolvConf: resolv}
	if err := restart.Ask(ctx, h); err != nil {
		return err
	}
	patch, err := kubeadm.KubeletPatch(o.Node, node)
	if err != nil {
		return err
	}
	argv := []string{"upgrade", "node", "phase", "kubelet-config"}
	if patch == nil {
		err = h.Remove(ctx, kubeadm.KubeletPatchPath)
	} else {
		argv = append(argv, "--patches", kubeadm.PatchesDir)
		err = kubeadmrun.PutPatch(ctx, h, o.Node, node)
	}
	if err != nil {
		return err
	}
	return kubeadmrun.Run(ctx, h, argv...)
}
