package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kocli/kocli/manifests"
	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/netcheck"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/render"
)

// Namespace is kocli's own in the cluster.
const Namespace = "kocli-system"

// evidence is the ConfigMap that says for which nodes the pod network was last
// proved to work.
const evidence = "network-verified"

// BinDir is where kocli's binary is on every host.
func BinDir() string { return path.Join(ledger.Root(), "bin") }

// Verify waits until all nodes are ready and proves from a pod on each of them
// that DNS, the other pods and services answer. The proof is kept with the
// identity of the nodes it holds for, so it is made again when one is new.
func Verify(inv *inventory.Inventory, p payload.Payload, api kube.API) (plan.Step, error) {
	manifest, err := NetcheckManifest(p)
	if err != nil {
		return nil, err
	}
	v := verifier{inv: inv, manifest: manifest, api: api}
	return converge.Func{Name: "network/verify", CheckFn: v.check, ApplyFn: v.apply}, nil
}

// NetcheckManifest renders the pods that check the network.
func NetcheckManifest(p Images) ([]byte, error) {
	pause, err := p.Image("pause")
	if err != nil {
		return nil, err
	}
	return render.File(manifests.FS, "netcheck.yaml", map[string]string{"PauseImage": pause, "BinDir": BinDir()})
}

type verifier struct {
	inv      *inventory.Inventory
	manifest []byte
	api      kube.API
}

func (v verifier) check(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
	c, err := v.api.Look(ctx)
	if errors.Is(err, kube.ErrNoCluster) {
		return []plan.Change{{Object: "pod network", To: "verify", After: "network/flannel"}}, nil
	}
	if err != nil {
		return nil, err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	var out []plan.Change
	for _, n := range v.inv.Nodes {
		i := slices.IndexFunc(nodes, func(k corev1.Node) bool { return k.Name == n.Name })
		if i < 0 {
			out = append(out, plan.Change{Object: "node " + n.Name, To: "Ready", After: "worker/join"})
		} else if ok, why := kube.NodeCondition(&nodes[i]); !ok {
			out = append(out, plan.Change{Object: "node " + n.Name, From: why, To: "Ready"})
		}
	}
	if err := c.DeploymentReady(ctx, "kube-system", "coredns"); err != nil {
		out = append(out, plan.Change{Object: "cluster DNS", From: err.Error(), To: "ready"})
	}
	evident, err := c.ConfigMap(ctx, Namespace, evidence)
	if err != nil {
		return nil, err
	}
	if len(out) == 0 && !proved(evident, nodes, v.inv) {
		out = append(out, plan.Change{Object: "pod network", From: "not proved for these nodes", To: "verify"})
	}
	return out, nil
}

// proved reports whether a proof holds for the nodes of the YAML: made with this
// network, and with each of them among others that may have left since.
func proved(evident map[string]string, nodes []corev1.Node, inv *inventory.Inventory) bool {
	for _, n := range nodes {
		_, ours := inv.Node(n.Name)
		if ours && !slices.Contains(strings.Split(evident["nodes"], "\n"), identity(n)) {
			return false
		}
	}
	return evident["network"] == fingerprint(inv)
}

// identity tells a node from another one that had its name.
func identity(n corev1.Node) string { return string(n.UID) + " " + n.Name }

// identities is the evidence for nodes.
func identities(nodes []corev1.Node) string {
	var lines []string
	for _, n := range nodes {
		lines = append(lines, identity(n))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// fingerprint is a digest over what the network is made of.
func fingerprint(inv *inventory.Inventory) string {
	net, err := json.Marshal(inv.Spec.Network)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(net)
	return hex.EncodeToString(sum[:])
}

func (v verifier) apply(ctx context.Context, _ host.Host) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if changes, err := v.check(ctx, nil); err == nil && len(changes) == 0 {
		return nil
	}
	c, err := v.api.Dial(ctx)
	if err != nil {
		return err
	}
	objs, err := kube.Decode(v.manifest)
	if err != nil {
		return err
	}
	// The pods come when the nodes are ready: one that starts before its network
	// would wait long before it tries again.
	for _, ready := range []func(context.Context, *kube.Client) error{
		v.nodesReady,
		func(ctx context.Context, c *kube.Client) error { return c.Apply(ctx, objs) },
		v.podsReady,
	} {
		if err := kube.Poll(ctx, 200*time.Millisecond, func(ctx context.Context) error { return ready(ctx, c) }); err != nil {
			return advise("look at what does not start: kocli status, or kubectl get pods -A", err)
		}
	}
	// A service's rules reach every node a moment after its pods are ready.
	deadline, cancel2 := context.WithTimeout(ctx, 90*time.Second)
	defer cancel2()
	if err := kube.Poll(deadline, 500*time.Millisecond, func(ctx context.Context) error { return v.ask(ctx, c) }); err != nil {
		return advise("check that no firewall between the hosts drops the pod network (flannel vxlan: UDP 8472), then run again", err)
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	// The proof comes last: a run that is cut off before it cleans up again.
	if err := c.Delete(ctx, objs[1:]); err != nil { // the namespace stays, for the proof
		return err
	}
	for _, kv := range [][2]string{{"network", fingerprint(v.inv)}, {"nodes", identities(nodes)}} {
		if err := c.SetConfigMap(ctx, Namespace, evidence, kv[0], kv[1], true); err != nil {
			return fmt.Errorf("record the proof: %w", err)
		}
	}
	return nil
}

// advise adds a hint, unless the error has one of its own, as that of a lost host.
func advise(hint string, err error) error {
	if fault.CodeOf(err) == fault.Unreachable || errors.Is(err, kube.ErrFinal) {
		return err
	}
	return fault.New(fault.Failure, hint, err)
}

// nodesReady returns nil when all nodes are.
func (v verifier) nodesReady(ctx context.Context, c *kube.Client) error {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	var wait []string
	for _, n := range v.inv.Nodes {
		i := slices.IndexFunc(nodes, func(k corev1.Node) bool { return k.Name == n.Name })
		if i < 0 {
			wait = append(wait, fmt.Sprintf("node %s is not in the cluster", n.Name))
		} else if ok, why := kube.NodeCondition(&nodes[i]); !ok {
			wait = append(wait, fmt.Sprintf("node %s is not ready: %s", n.Name, why))
		}
	}
	if len(wait) > 0 {
		return errors.New(strings.Join(wait, "; "))
	}
	return nil
}

// podsReady returns nil when cluster DNS and a pod on every node are ready.
func (v verifier) podsReady(ctx context.Context, c *kube.Client) error {
	if err := c.DeploymentReady(ctx, "kube-system", "coredns"); err != nil {
		return c.Explain(ctx, err, "kube-system", map[string]string{"k8s-app": "kube-dns"})
	}
	if err := c.DaemonSetReady(ctx, Namespace, "netcheck"); err != nil && v.lacks(ctx, c) {
		if nodes, nerr := c.Nodes(ctx); nerr == nil {
			if short := pressed(nodes); short != nil {
				return short
			}
		}
		return c.Explain(ctx, err, Namespace, selector())
	}
	return nil
}

// lacks reports whether a node of the YAML has no pod that is ready. Others may be down,
// of which nothing is to be proved.
func (v verifier) lacks(ctx context.Context, c *kube.Client) bool {
	pods, err := c.Pods(ctx, Namespace, selector())
	return err != nil || slices.ContainsFunc(v.inv.Nodes, func(n inventory.Node) bool {
		return !slices.ContainsFunc(pods, func(p corev1.Pod) bool {
			ready, _ := kube.PodReady(&p)
			return p.Spec.NodeName == n.Name && ready
		})
	})
}

// pressed names the nodes whose kubelets evict pods, so that none ever gets ready there.
func pressed(nodes []corev1.Node) error {
	var short []string
	for i := range nodes {
		if why := kube.NodePressure(&nodes[i]); why != "" {
			short = append(short, nodes[i].Name+": "+why)
		}
	}
	if len(short) == 0 {
		return nil
	}
	return fault.New(fault.Failure, "free what is short and run the same command again; the kubelet's limits are evictionHard (imagefs.available 15 %, nodefs.available 10 % where spec.kubernetes.overrides.kubelet sets none)",
		fmt.Errorf("kubelets evict pods: %s: %w", strings.Join(short, "; "), kube.ErrFinal))
}

func selector() map[string]string { return map[string]string{"app.kubernetes.io/name": "netcheck"} }

// ask lets every pod try DNS, the API's service, all other pods, and a service
// in front of them.
func (v verifier) ask(ctx context.Context, c *kube.Client) error {
	pods, err := c.Pods(ctx, Namespace, selector())
	if err != nil {
		return err
	}
	pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool { // of nodes that are down and not in the YAML
		_, ours := v.inv.Node(p.Spec.NodeName)
		ready, _ := kube.PodReady(&p)
		return !ours && !ready
	})
	domain := v.inv.Spec.Network.DNSDomain
	q := netcheck.Question{
		Names: []string{"kubernetes.default.svc." + domain, "netcheck." + Namespace + ".svc." + domain},
		TCP:   []string{"kubernetes.default.svc." + domain + ":443"},
		HTTP:  []string{"http://netcheck." + Namespace + ".svc." + domain + "/node"},
	}
	for _, p := range pods {
		q.HTTP = append(q.HTTP, "http://"+net.JoinHostPort(p.Status.PodIP, "8080")+"/node")
	}
	question, err := json.Marshal(q)
	if err != nil {
		return err
	}
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, p := range pods {
		wg.Go(func() {
			raw, err := c.PodGet(ctx, &p, 8080, "/check", map[string]string{"q": string(question)})
			if err != nil {
				errs[i] = fmt.Errorf("ask the pod on %s: %w", p.Spec.NodeName, err)
				return
			}
			var a netcheck.Answer
			if err := json.Unmarshal(raw, &a); err != nil {
				errs[i] = fmt.Errorf("answer of the pod on %s: %w", p.Spec.NodeName, err)
				return
			}
			for _, f := range a.Failures() {
				errs[i] = errors.Join(errs[i], fmt.Errorf("from a pod on %s: %s: %s", p.Spec.NodeName, f.What, f.Error))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
