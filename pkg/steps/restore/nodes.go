package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
)

// controlPlaneLabel is what kubeadm marks a control plane with.
const controlPlaneLabel = "node-role.kubernetes.io/control-plane"

// Registered has the node of this control plane be in the restored cluster and marked,
// before anything places pods there, and its kubelet renew its own certificate.
func Registered(o Options) []plan.Step {
	mark := o.withConfig("node", func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
		n, err := node(ctx, o.API.Look, o.Node.Name)
		if err == nil && n != nil {
			if _, marked := n.Labels[controlPlaneLabel]; marked {
				return nil, nil
			}
		}
		return []plan.Change{{Object: "node " + o.Node.Name, To: "control plane", After: "restore/registered"}}, ctx.Err()
	}, "mark-control-plane")
	return []plan.Step{registered(o), mark, rotation(o)}
}

// node is a node of the cluster; nil where there is none of that name.
func node(ctx context.Context, look func(context.Context) (*kube.Client, error), name string) (*corev1.Node, error) {
	c, err := look(ctx)
	if err != nil {
		return nil, err
	}
	return c.Node(ctx, name)
}

// ownTime is how long a kubelet is given to do by itself what it does every few
// seconds: to register a node that it has never registered, or to report.
const ownTime = 30 * time.Second

func (o Options) patience() time.Duration {
	if o.Patience > 0 {
		return o.Patience
	}
	return ownTime
}

// registered waits until the restored cluster has the node. A kubelet that ran before
// is started anew where the backup does not know its node.
func registered(o Options) plan.Step {
	return converge.Func{
		Name: "restore/registered",
		CheckFn: func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
			if n, err := node(ctx, o.API.Look, o.Node.Name); err != nil || n == nil {
				return []plan.Change{{Object: "node " + o.Node.Name, To: "registered", After: "restore/api"}}, ctx.Err()
			}
			return nil, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			if err := o.wait(ctx, o.patience()); err == nil || ctx.Err() != nil {
				return err
			}
			return o.restartKubelet(ctx, h)
		},
	}
}

// wait waits until the cluster has the node.
func (o Options) wait(ctx context.Context, limit time.Duration) error {
	return patiently(ctx, limit, func(ctx context.Context) error {
		n, err := node(ctx, o.API.Dial, o.Node.Name)
		if err == nil && n == nil {
			err = fmt.Errorf("the kubelet has not registered node %s", o.Node.Name)
		}
		return err
	})
}

// restartKubelet has the kubelet register its node, which it does when it starts. Pods
// are not touched by that.
func (o Options) restartKubelet(ctx context.Context, h host.Host) error {
	_, err := h.Run(ctx, host.Command("systemctl", "restart", "kubelet.service"))
	if err == nil {
		err = o.wait(ctx, readyTime)
	}
	if err != nil && ctx.Err() == nil {
		return fault.New(fault.Unhealthy, fmt.Sprintf("see why: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager; then run the same command again", h.Name()), err)
	}
	return err
}

// rotation has the kubelet use the certificate that it keeps and renews, as the end of
// kubeadm init does: one inside its kubeconfig would end it a year later.
func rotation(o Options) plan.Step {
	return o.withConfig("rotation", func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		conf, err := r.ReadFile(ctx, kubeletConf)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		inside, _, err := kubeadm.ClientCertificateOf(conf)
		if err != nil || len(inside) == 0 {
			return nil, nil //nolint:nilerr // of another form than kubeadm's: nothing to move
		}
		kept, err := present(ctx, r, []string{pki.KubeletClientPath}) // which the kubelet makes when it starts, where it renews
		if err != nil || len(kept) == 0 {
			return nil, err
		}
		return []plan.Change{{Object: "file " + kubeletConf, From: "with a certificate inside", To: "with " + pki.KubeletClientPath}}, nil
	}, "kubelet-finalize enable-client-cert-rotation")
}

// Controllers starts what writes to the API, once all API servers answer and the nodes
// are those that there are.
func Controllers(o Options) []plan.Step {
	scheduler, manager := kubeadm.ManifestsDir+"/kube-scheduler.yaml", kubeadm.ManifestsDir+"/kube-controller-manager.yaml"
	return []plan.Step{phase(o, "controllers", []string{scheduler, manager}, "control-plane controller-manager", "control-plane scheduler")}
}

// Forget takes a node out of the restored cluster whose host is another one now. Its
// pods are made anew elsewhere.
func Forget(name string, api kube.API) plan.Step {
	check := func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
		change := plan.Change{Object: "node " + name, From: "of a host that is no more", To: "forget"}
		n, err := node(ctx, api.Look, name)
		if errors.Is(err, kube.ErrNoCluster) {
			change.After = "restore/api"
			return []plan.Change{change}, nil
		}
		if err != nil || n == nil {
			return nil, err
		}
		return []plan.Change{change}, nil
	}
	return converge.Func{Name: "restore/forget-" + name, CheckFn: check, ApplyFn: func(ctx context.Context, h host.Host) error {
		if todo, err := check(ctx, h); err != nil || len(todo) == 0 {
			return err
		}
		c, err := api.Dial(ctx)
		if err != nil {
			return err
		}
		return forget(ctx, c, name)
	}}
}

// forget takes a node and its pods out of the cluster: in this order, or they would be
// placed there again.
func forget(ctx context.Context, c *kube.Client, name string) error {
	if err := c.DeleteNode(ctx, name); err != nil {
		return fmt.Errorf("forget node %s: %w", name, err)
	}
	return c.DropPods(ctx, name)
}

// silentTime is how old the last report of a kubelet is that may be gone: it reports
// every ten seconds.
const silentTime = time.Minute

// Superseded takes the control planes of the backup out of the restored cluster that
// are not in the YAML: they are no members of etcd any more. One whose kubelet reports
// stays, since its pods run.
func Superseded(o Options) plan.Step {
	object := "control planes that the YAML does not name"
	return converge.Func{
		Name: "restore/superseded",
		CheckFn: func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
			c, err := o.API.Look(ctx)
			var gone map[string]time.Time
			if err == nil {
				gone, err = o.superseded(ctx, c)
			}
			if err != nil {
				return []plan.Change{{Object: object, To: "forget", After: "restore/api"}}, ctx.Err()
			}
			var out []plan.Change
			for _, n := range sorted(gone) {
				out = append(out, plan.Change{Object: "node " + n, From: "a control plane that the YAML does not name", To: "forget"})
			}
			return out, nil
		},
		ApplyFn: func(ctx context.Context, _ host.Host) error {
			c, err := o.API.Dial(ctx)
			if err != nil {
				return err
			}
			gone, err := o.superseded(ctx, c)
			if err != nil || len(gone) == 0 {
				return err
			}
			plan.Say(ctx, "waiting whether "+strings.Join(sorted(gone), ", ")+" reports")
			select {
			case <-time.After(o.patience()):
			case <-ctx.Done():
				return ctx.Err()
			}
			last, err := c.Renewals(ctx)
			if err != nil {
				return err
			}
			for _, n := range sorted(gone) {
				if !last[n].Equal(gone[n]) {
					continue // it reports
				}
				if err := forget(ctx, c, n); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// superseded are the silent control planes of the cluster that the YAML does not name,
// and when each reported last.
func (o Options) superseded(ctx context.Context, c *kube.Client) (map[string]time.Time, error) {
	nodes, err1 := c.Nodes(ctx)
	last, err2 := c.Renewals(ctx)
	now, err3 := c.Clock(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	out := map[string]time.Time{}
	for _, n := range nodes {
		_, named := o.Inventory.Node(n.Name)
		if !named && slices.Contains(kube.NodeRoles(&n), "control-plane") && now.Sub(last[n.Name]) > silentTime {
			out[n.Name] = last[n.Name]
		}
	}
	return out, nil
}

// Returned has a worker come back that the backup does not know, since it joined after
// it was made: its kubelet goes on with a node that is no more. With joins it is made
// to join anew, which a later step does: the API may have moved. Else its kubelet
// registers it again.
func Returned(o Options, joins bool) plan.Step {
	change := plan.Change{Object: "node " + o.Node.Name, From: "not in the backup", To: "register again"}
	if joins {
		change.To = "join anew"
	}
	return converge.Func{
		Name: "restore/returned",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			there, err := present(ctx, r, []string{kubeletConf})
			if err != nil || len(there) == 0 {
				return nil, err
			}
			n, err := node(ctx, o.API.Look, o.Node.Name)
			switch {
			case err != nil:
				c := change
				c.From, c.After = "perhaps not in the backup", "restore/api"
				return []plan.Change{c}, ctx.Err()
			case n == nil:
				return []plan.Change{change}, nil
			}
			return nil, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			n, err := node(ctx, o.API.Dial, o.Node.Name)
			if err != nil || n != nil {
				return err
			}
			if there, err := present(ctx, h, []string{kubeletConf}); err != nil || len(there) == 0 {
				return err
			}
			if !joins {
				return o.restartKubelet(ctx, h)
			}
			for _, p := range []string{pki.KubeletClientPath, kubeletConf} { // the kubeconfig last: it says that there is something to do
				if err := h.Remove(ctx, p); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
