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
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
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
	return converge.Func{
		Name: "settings/cluster",
		CheckFn: func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
			c, err := o.API.Look(ctx)
			if errors.Is(err, kube.ErrNoCluster) {
				return nil, nil // init writes what it is told
			}
			if err != nil {
				return nil, err
			}
			edits, err := edits(ctx, c, o.Inventory)
			if err != nil {
				return nil, err
			}
			var out []plan.Change
			for _, e := range edits {
				out = append(out, e.Change)
			}
			return out, nil
		},
		ApplyFn: func(ctx context.Context, _ host.Host) error {
			c, err := o.API.Dial(ctx)
			if err != nil {
				return err
			}
			edits, err := edits(ctx, c, o.Inventory)
			if err != nil {
				return err
			}
			for _, e := range edits {
				if err := e.apply(ctx, c); err != nil {
					return fmt.Errorf("%s: %w", e.Object, err)
				}
			}
			return nil
		},
	}
}

type edit struct {
	plan.Change
	apply func(context.Context, *kube.Client) error
}

// edits lists what differs in the cluster. What kubeadm has not made yet is left to it.
func edits(ctx context.Context, c *kube.Client, inv *inventory.Inventory) ([]edit, error) {
	kubelet, err1 := c.ConfigMap(ctx, "kube-system", "kubelet-config")
	proxy, err2 := c.ConfigMap(ctx, "kube-system", "kube-proxy")
	told, err3 := c.TemplateAnnotation(ctx, "kube-system", "kube-proxy", mark)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	var out []edit
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
			out = append(out, edit{plan.Change{Object: "configuration of the kubelets", To: strings.Join(diff, ", ") + " as in the YAML"}, func(ctx context.Context, c *kube.Client) error {
				return c.SetConfigMap(ctx, "kube-system", "kubelet-config", "kubelet", string(next), false)
			}})
		}
	}
	last := proxy[mark]
	if text := proxy["config.conf"]; text != "" {
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
			last = hex.EncodeToString(sum[:8])
			digest := last
			out = append(out, edit{plan.Change{Object: "configuration of kube-proxy", To: strings.Join(diff, ", ") + " as in the YAML"}, func(ctx context.Context, c *kube.Client) error {
				if err := c.SetConfigMap(ctx, "kube-system", "kube-proxy", mark, digest, false); err != nil {
					return err
				}
				return c.SetConfigMap(ctx, "kube-system", "kube-proxy", "config.conf", string(next), false)
			}})
		}
	}
	if last != "" && told != last {
		out = append(out, edit{plan.Change{Object: "kube-proxy", From: "runs with an older configuration", To: "its pods are replaced, one after another"}, func(ctx context.Context, c *kube.Client) error {
			return c.AnnotateTemplate(ctx, "kube-system", "kube-proxy", mark, last)
		}})
	}
	return out, nil
}

const (
	kubeletConfig = "/var/lib/kubelet/config.yaml"
	// restart says that the kubelet has not been restarted since its configuration
	// changed. It is there before the change and goes after the restart.
	restart = kubeadm.ConfigDir + "/restart-kubelet-settings"
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
		_, err = r.Stat(ctx, restart)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return []plan.Change{{Object: "service kubelet.service", From: "runs with an older configuration", To: "restart"}}, err
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
			if _, err := h.Run(ctx, host.Command("systemctl", "restart", "kubelet.service")); err != nil {
				return fault.New(fault.Failure, fmt.Sprintf("see why: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager", h.Name()), err)
			}
			return h.Remove(ctx, restart)
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
	if _, err := h.Put(ctx, host.Bytes(restart, 0o600, nil)); err != nil {
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
