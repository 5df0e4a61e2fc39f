// Package worker joins nodes to a cluster, and keeps their labels and taints as
// the YAML has them.
package worker

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
	"github.com/kocli/kocli/pkg/internal/admission"
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
	// Etcd is the cluster's etcd. Nil where kubeadm does not manage it, or nobody
	// can ask it: then kubeadm's own look at its health has to do.
	Etcd Etcd
	// Turn is shared by the joins of a run, so that one control plane at a time
	// becomes a member of etcd. Nil where only one joins.
	Turn *Turn
	// Window lets the workers of a run in, as many at a time as the API is quick
	// for. Nil lets all in.
	Window *admission.Window
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
	node := kubeadm.NodeOptions{ResolvConf: resolv}
	if err := kubeadmrun.PutPatch(ctx, h, o.Node, node); err != nil {
		return err
	}
	if _, err := h.Put(ctx, host.Bytes(kubeadm.DiscoveryPath, 0o600, discovery)); err != nil {
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
	if o.Node.ControlPlane { // they are few, and wait for their turn
		_, err = o.try(ctx, h, c, node, ca)
	} else {
		err = o.Window.Do(ctx, transient, func(ctx context.Context) (time.Duration, error) { return o.try(ctx, h, c, node, ca) })
	}
	return err
}

// try joins the node with a token of its own, which it takes back. Where that
// fails it looks for the reason. It returns how long the API took to answer.
func (o Options) try(ctx context.Context, h host.Host, c *kube.Client, node kubeadm.NodeOptions, ca []byte) (slowest time.Duration, err error) {
	start := o.Now()
	token, err := c.CreateToken(ctx, start, tokenTTL)
	slowest = o.Now().Sub(start)
	if err != nil {
		return slowest, err
	}
	defer func() { _ = c.DeleteToken(context.WithoutCancel(ctx), token) }() // it expires by itself too
	config, err := kubeadm.Join(o.Inventory, o.Node, kubeadm.JoinOptions{NodeOptions: node, Token: token})
	if err != nil {
		return slowest, err
	}
	f := host.Bytes(kubeadm.JoinConfigPath, 0o600, config)
	f.Secret = true
	if _, err := h.Put(ctx, f); err != nil {
		return slowest, err
	}
	start = o.Now()
	if err := runKubeadm(ctx, h, o, c); err != nil {
		return slowest, o.explain(ctx, h, c, failure{err: err, took: o.Now().Sub(start), ca: ca, token: token})
	}
	if err := h.Remove(ctx, kubeadm.JoinConfigPath); err != nil { // it holds the token
		return slowest, err
	}
	// kubeadm is done when the kubelet has its credentials; the kubelet registers
	// the node a moment later.
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return slowest, kube.Poll(wait, 100*time.Millisecond, func(ctx context.Context) error {
		asked := o.Now()
		n, err := c.Node(ctx, o.Node.Name)
		slowest = max(slowest, o.Now().Sub(asked))
		if err == nil && n == nil {
			err = fmt.Errorf("the kubelet has not registered node %s", o.Node.Name)
		}
		return err
	})
}

// explain returns the error of a join with its reason and what to do about it. An
// error that has a hint of its own, as those of etcd have, says both already.
func (o Options) explain(ctx context.Context, h host.Host, c *kube.Client, f failure) error {
	if fault.HintOf(f.err) != "" || fault.CodeOf(f.err) == fault.Unreachable {
		return f.err
	}
	err := o.lookInto(ctx, h, c, f)
	hint := fmt.Sprintf("see what %s says: kocli exec %[1]s --root -- journalctl -u kubelet -n 50 --no-pager; then run the same command again", h.Name())
	var why *reasonError
	if errors.As(err, &why) {
		hint = why.reasons[0].hint
	}
	return fault.New(fault.Failure, hint, err)
}

// runKubeadm runs kubeadm join: at once for a worker, in three parts for a
// control plane, the second of which waits for its turn. What an interrupted
// join left is gone over: credentials that exist are used, the rest is written
// again.
func runKubeadm(ctx context.Context, h host.Host, o Options, c *kube.Client) error {
	argv := []string{"join", "--config", kubeadm.JoinConfigPath, "--ignore-preflight-errors=" + strings.Join(again(o.Node), ",")}
	if !o.Node.ControlPlane {
		return kubeadmrun.Run(ctx, h, argv...)
	}
	part := func(kubelet bool, p kubeadm.JoinPart) error {
		return kubeadmrun.Run(ctx, h, append(slices.Clone(argv), "--skip-phases="+strings.Join(kubeadm.JoinSkips(o.Inventory, kubelet, p), ","))...)
	}
	if err := part(false, kubeadm.JoinPrepare); err != nil {
		return err
	}
	// kubeadm starts no kubelet of a node that is there. One that has not got its
	// credentials yet is started with the token of this join: the last one's may
	// be gone.
	there, err := exists(ctx, h, kubeletConf)
	if err != nil {
		return err
	}
	n, err := c.Node(ctx, o.Node.Name)
	if err != nil {
		return err
	}
	start := !there || n == nil
	added, err := o.becomeMember(ctx, h, func() error { return part(start, kubeadm.JoinMember) })
	if err != nil {
		return err
	}
	return part(start && !added, kubeadm.JoinFinish)
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
