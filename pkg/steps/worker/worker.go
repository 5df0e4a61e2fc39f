// Package worker joins nodes to a cluster, and keeps their labels and taints as
// the YAML has them.
package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

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

// Options are what the steps of a worker need.
type Options struct {
	Inventory *inventory.Inventory
	Node      inventory.Node
	API       kube.API
	// Kocli is where kocli is on the host. It stands in for a load balancer on the
	// node itself, which the kubelet starts, while the kubelet is being joined.
	Kocli string
	// CA returns the certificate of the cluster's CA in PEM.
	CA  func(ctx context.Context) ([]byte, error)
	Now func() time.Time
}

// kubeletConf is what a finished join leaves.
const kubeletConf = "/etc/kubernetes/kubelet.conf"

// tokenTTL is how long a join may take.
const tokenTTL = 30 * time.Minute

// Join has the node in the cluster: as a worker, or as a further control plane
// whose certificates are there already.
func Join(o Options) plan.Step {
	name := "worker/join"
	if o.Node.ControlPlane {
		name = "controlplane/join"
	}
	return converge.Func{
		Name: name,
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			change := plan.Change{Object: "kubeadm join " + o.Inventory.Version(), To: "node " + o.Node.Name}
			c, err := o.API.Look(ctx)
			if errors.Is(err, kube.ErrNoCluster) {
				change.After = "controlplane/init"
				return []plan.Change{change}, nil
			}
			if err != nil {
				return nil, err
			}
			leftover := kubeadmrun.Leftover(ctx, r, kubeadm.JoinConfigPath)
			joined, err := joined(ctx, r, c, o.Node)
			there, err2 := leftover()
			if err := errors.Join(err, err2); err != nil {
				return nil, err
			}
			if joined && there {
				return []plan.Change{kubeadmrun.LeftoverChange(kubeadm.JoinConfigPath)}, nil
			}
			if joined {
				return nil, nil
			}
			return []plan.Change{change}, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error { return join(ctx, h, o) },
	}
}

// again are kubeadm's preflight checks that find what an interrupted join left.
func again(n inventory.Node) []string {
	out := []string{
		"FileAvailable--etc-kubernetes-kubelet.conf", "FileAvailable--etc-kubernetes-bootstrap-kubelet.conf",
		"FileAvailable--etc-kubernetes-pki-ca.crt", "DirAvailable--etc-kubernetes-manifests", "Port-10250",
	}
	if n.ControlPlane {
		out = append(out, kubeadmrun.LeftByControlPlane()...)
	}
	return out
}

// joined reports whether both sides agree: the cluster has the node, and the
// host has credentials. The label of a control plane is the last thing that its
// join sets.
func joined(ctx context.Context, r host.Reader, c *kube.Client, node inventory.Node) (bool, error) {
	type answer struct {
		n   *corev1.Node
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		n, err := c.Node(ctx, node.Name)
		ch <- answer{n, err}
	}()
	_, err := r.Stat(ctx, kubeletConf)
	a := <-ch
	if a.err != nil {
		return false, a.err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if a.n == nil || err != nil {
		return false, err
	}
	_, marked := a.n.Labels["node-role.kubernetes.io/control-plane"]
	return marked || !node.ControlPlane, nil
}

func join(ctx context.Context, h host.Host, o Options) error {
	c, err := o.API.Dial(ctx)
	if err != nil {
		return err
	}
	if ok, err := joined(ctx, h, c, o.Node); err != nil {
		return err
	} else if ok {
		there, err := kubeadmrun.Leftover(ctx, h, kubeadm.JoinConfigPath)()
		if err != nil || !there {
			return err
		}
		return h.Remove(ctx, kubeadm.JoinConfigPath)
	}
	ca, err := o.CA(ctx)
	if err != nil {
		return err
	}
	discovery, err := kubeadm.Discovery(o.Inventory, ca)
	if err != nil {
		return err
	}
	resolv, err := resolver.KubeletPath(ctx, h)
	if err != nil {
		return err
	}
	token, err := c.CreateToken(ctx, o.Now(), tokenTTL)
	if err != nil {
		return err
	}
	defer func() { _ = c.DeleteToken(context.WithoutCancel(ctx), token) }() // it expires by itself too
	node := kubeadm.NodeOptions{ResolvConf: resolv}
	config, err := kubeadm.Join(o.Inventory, o.Node, kubeadm.JoinOptions{NodeOptions: node, Token: token})
	if err != nil {
		return err
	}
	if err := kubeadmrun.PutPatch(ctx, h, o.Node, node); err != nil {
		return err
	}
	if _, err := h.Put(ctx, host.Bytes(kubeadm.DiscoveryPath, 0o600, discovery)); err != nil {
		return err
	}
	f := host.Bytes(kubeadm.JoinConfigPath, 0o600, config)
	f.Secret = true
	if _, err := h.Put(ctx, f); err != nil {
		return err
	}
	stop, err := lend(ctx, h, o)
	if err != nil {
		return err
	}
	defer stop()
	// The kubelet complains every second where its folder of static pods is
	// missing, which kubeadm makes on control planes only.
	if _, err := h.Run(ctx, host.Command("mkdir", "-p", "-m", "0700", "/etc/kubernetes/manifests")); err != nil {
		return err
	}
	// What an interrupted join left is gone over: credentials that exist are
	// used, the rest is written again.
	err = kubeadmrun.Run(ctx, h, "join", "--config", kubeadm.JoinConfigPath, "--ignore-preflight-errors="+strings.Join(again(o.Node), ","))
	if err != nil {
		return fault.New(fault.Failure, fmt.Sprintf("check that %s can reach %s, and that its clock is right; then run the same command again", h.Name(), o.Inventory.Endpoint()), err)
	}
	if err := h.Remove(ctx, kubeadm.JoinConfigPath); err != nil { // it holds the token
		return err
	}
	// kubeadm is done when the kubelet has its credentials; the kubelet registers
	// the node a moment later.
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return kube.Poll(wait, 100*time.Millisecond, func(ctx context.Context) error {
		n, err := c.Node(ctx, o.Node.Name)
		if err == nil && n == nil {
			err = fmt.Errorf("the kubelet has not registered node %s", o.Node.Name)
		}
		return err
	})
}

// Marks keeps the labels and taints of a node as the YAML has them.
func Marks(o Options) plan.Step {
	want := kube.Marks{Labels: o.Node.Labels}
	for _, t := range o.Node.Taints {
		want.Taints = append(want.Taints, corev1.Taint{Key: t.Key, Value: t.Value, Effect: corev1.TaintEffect(t.Effect)})
	}
	return converge.Func{
		Name: "node/marks-" + o.Node.Name,
		CheckFn: func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
			title := "node " + o.Node.Name
			c, err := o.API.Look(ctx)
			if errors.Is(err, kube.ErrNoCluster) {
				if len(want.Labels)+len(want.Taints) == 0 {
					return nil, nil
				}
				return []plan.Change{{Object: title, To: fmt.Sprintf("%d labels, %d taints", len(want.Labels), len(want.Taints)), After: "worker/join"}}, nil
			}
			if err != nil {
				return nil, err
			}
			n, err := c.Node(ctx, o.Node.Name)
			if err != nil {
				return nil, err
			}
			if n == nil {
				n = &corev1.Node{}
			}
			var out []plan.Change
			for _, m := range kube.MarkChanges(n, want) {
				out = append(out, plan.Change{Object: title, To: m})
			}
			return out, nil
		},
		ApplyFn: func(ctx context.Context, _ host.Host) error {
			c, err := o.API.Dial(ctx)
			if err != nil {
				return err
			}
			if n, err := c.Node(ctx, o.Node.Name); err != nil || n != nil && len(kube.MarkChanges(n, want)) == 0 {
				return err
			}
			return c.SetMarks(ctx, o.Node.Name, want)
		},
	}
}
