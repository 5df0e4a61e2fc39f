package workflow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/internal/admission"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/probe"
	"github.com/kocli/kocli/pkg/steps/controlplane"
	"github.com/kocli/kocli/pkg/steps/endpoint"
	"github.com/kocli/kocli/pkg/steps/images"
	"github.com/kocli/kocli/pkg/steps/loadbalancer"
	"github.com/kocli/kocli/pkg/steps/network"
	"github.com/kocli/kocli/pkg/steps/osprep"
	"github.com/kocli/kocli/pkg/steps/registry"
	"github.com/kocli/kocli/pkg/steps/settings"
	"github.com/kocli/kocli/pkg/steps/worker"
)

// Cluster is what the phases of a workflow are made from.
type Cluster struct {
	Inventory *inventory.Inventory
	SpecFile  string // the cluster YAML, for hints
	// Seed is the control plane through which the cluster is reached, and where a
	// new one starts.
	Seed    inventory.Node
	Facts   map[string]probe.Facts // by node
	Dialer  plan.Dialer
	Access  *kube.Access
	Bundle  *archive.Bundle
	Payload func(inventory.Node) payload.Payload
	Kocli   KocliBinary
	Clock   Clock
	// Secret resolves a reference of the cluster YAML; what says what it is for.
	Secret func(ctx context.Context, ref v1alpha1.SecretRef, what string) (string, error)
	// Line makes further connections to a host; nil where there are none.
	Line func(node string) fanout.Line
	// Far says that a round trip to one of the hosts is long.
	Far bool
	// EtcdCredentials are those for an etcd outside the cluster. They are asked for
	// only where there is one.
	EtcdCredentials func() (etcd.Credentials, error)
	// Registries makes what nodes need of the cluster's registries, once.
	Registries func() (*Registries, error)
	// pushed is told what the content phase cost.
	pushed func(fanout.Report)
	// made is told what hosts made in it, where the bundle is a delta.
	made func(blobs int, bytes int64)
	// wholeBundle is the hint where a delta does not do.
	wholeBundle string
	// Leaving are the control planes that are still there and not in the YAML.
	Leaving  []inventory.Node
	election loadbalancer.Election
	// OwnResolver says that a host has no resolver of its own that pods can use.
	OwnResolver bool
}

// KocliBinary is the running kocli, for hosts of the same platform.
type KocliBinary struct {
	Path   string
	SHA256 string
	Size   int64
	Arch   string // empty when it does not run on Linux
}

// API reaches the cluster through the seed.
func (c *Cluster) API() kube.API { return c.through(c.Seed.Name) }

// through reaches the cluster through a control plane.
func (c *Cluster) through(node string) kube.API {
	return kube.API{
		Look: func(ctx context.Context) (*kube.Client, error) {
			r, err := c.Dialer.Look(ctx, node)
			if err != nil {
				return nil, err
			}
			return c.Access.Look(ctx, r)
		},
		Dial: func(ctx context.Context) (*kube.Client, error) {
			h, err := c.Dialer.Dial(ctx, node)
			if err != nil {
				return nil, err
			}
			return c.Access.Dial(ctx, h)
		},
	}
}

// headStart is about as long as kubeadm init takes: the workers catch up while it
// runs. On a slow machine, workers that come too early slow down the one host that
// all of them wait for.
const headStart = 15 * time.Second

// CreatePhases are the phases of create, in order. With many hosts, or with one
// that is far away, content goes to all of them at once before it is installed.
func (c *Cluster) CreatePhases() ([]plan.Phase, error) {
	phases := c.installPhases()
	if !c.pushes() {
		return phases, nil
	}
	push, err := c.contentPhase(phases, fanout.Auto, c.pushed)
	if err != nil {
		return nil, err
	}
	phases[0].HeadStart = nil // the content waits for the agents of all
	for i := range phases {
		if slices.Contains(installing(), phases[i].Name) {
			phases[i].Needs = append(slices.Clone(phases[i].Needs), push.Name)
		}
	}
	return slices.Insert(phases, 1, push), nil
}

// installPhases are the phases of create but for the one that sends content.
func (c *Cluster) installPhases() []plan.Phase {
	inv := c.Inventory
	all, seed := inventory.Names(inv.Nodes), []string{c.Seed.Name}
	turn, window := worker.NewTurn(), admission.New()
	planes := slices.DeleteFunc(inventory.Names(inv.ControlPlanes()), func(n string) bool { return n == c.Seed.Name })
	workers := inventory.Names(inv.Workers())
	joinsAfter := []string{"endpoint"}
	if c.virtualIP() { // elsewhere every node has a load balancer, and need not be waited for
		joinsAfter = append(joinsAfter, "loadbalancer")
	}
	node := func(f func(inventory.Node) ([]plan.Step, error)) func(string) ([]plan.Step, error) {
		return once(func(name string) ([]plan.Step, error) {
			n, ok := inv.Node(name)
			if !ok && name == c.Seed.Name {
				n, ok = c.Seed, true // it leaves when others have joined
			}
			if !ok {
				return nil, fmt.Errorf("no host is called %s", name)
			}
			return f(n)
		})
	}
	return []plan.Phase{
		// Workers can join only when init is done. What they are sent meanwhile need
		// not slow down the host that everybody waits for.
		{Name: "agent", Nodes: all, HeadStart: &plan.HeadStart{Phase: "control-plane", Max: headStart}, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			file, err := c.kocli(n)
			return []plan.Step{osprep.Kocli(file)}, err
		})},
		{Name: "os", Follows: []string{"agent"}, Nodes: all, Steps: node(c.osSteps)},
		{Name: "runtime", Follows: []string{"agent"}, Nodes: all, Steps: node(c.runtimeSteps)},
		{Name: "kubernetes", Follows: []string{"agent"}, Nodes: all, Steps: node(c.kubernetesSteps)},
		{Name: registryPhase, Follows: []string{"os"}, Nodes: c.registryHosts(), Steps: node(c.registrySteps)},
		{Name: "images", Follows: []string{"runtime"}, Nodes: all, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			return []plan.Step{images.Import(c.Payload(n), kocliPath())}, nil
		})},
		// Before the kubelet, which kubeadm starts, and which starts these.
		{Name: "loadbalancer", Follows: []string{"images"}, Nodes: c.balanced(), Steps: node(c.loadBalancerSteps)},
		// One after another: an API server may have to be restarted.
		{Name: "etcd", Follows: []string{"agent"}, Nodes: c.etcdClients(), Width: 1, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			return []plan.Step{controlplane.EtcdClient(controlplane.Options{Inventory: inv, Node: n, API: c.through(n.Name)}, c.EtcdCredentials)}, nil
		})},
		{Name: "control-plane", Follows: []string{"os", "images", "kubernetes", "loadbalancer", "etcd"}, Nodes: seed, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			return controlplane.Steps(controlplane.Options{Inventory: inv, Node: n, API: c.API()}), nil
		})},
		{Name: "network", Needs: []string{"control-plane"}, Nodes: seed, Steps: node(c.networkSteps)},
		// Where a cluster moves to another address, who serves it comes first, then who
		// hands it on, then who uses it.
		{Name: "certificates", Needs: []string{"control-plane"}, Follows: []string{"loadbalancer"}, Nodes: inventory.Names(inv.ControlPlanes()), Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			return []plan.Step{endpoint.Certificate(c.endpoint(n))}, nil
		})},
		{Name: "endpoint", Needs: []string{"certificates"}, Nodes: seed, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			return []plan.Step{endpoint.Cluster(c.endpoint(n)), settings.Cluster(c.settings(n))}, nil
		})},
		// All at once: only in the etcd phase of its join, each waits for its turn. Those
		// that are there have loaded them as peers, and as servers, before: both are
		// static pods, which a join starts.
		{Name: "control-planes", Needs: joinsAfter, Follows: []string{"os", "images", "kubernetes", "loadbalancer", "etcd"}, Nodes: planes, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			from := func(ctx context.Context) (host.Reader, error) { return c.Dialer.Look(ctx, c.Seed.Name) }
			o := c.workerOptions(n)
			if o.Etcd = c.etcd(); o.Etcd != nil {
				o.Turn = turn
			}
			return []plan.Step{controlplane.Shared(from), worker.Join(o)}, nil
		})},
		{Name: "workers", Needs: []string{"endpoint"}, Follows: []string{"os", "images", "kubernetes", "loadbalancer"}, Nodes: workers, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			o := c.workerOptions(n)
			o.Window = window
			return []plan.Step{worker.Join(o)}, nil
		})},
		{Name: "kubelets", Needs: []string{"endpoint"}, Follows: []string{"control-planes", "workers", "loadbalancer"}, Nodes: all, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			return []plan.Step{endpoint.Kubelet(c.endpoint(n)), settings.Kubelet(c.settings(n))}, nil
		})},
		{Name: "nodes", Needs: []string{"workers", "control-planes", "control-plane"}, Nodes: seed, Steps: node(func(inventory.Node) ([]plan.Step, error) {
			var out []plan.Step
			for _, n := range inv.Nodes {
				out = append(out, worker.Marks(c.workerOptions(n)))
			}
			return out, nil
		})},
		// Of an endpoint that is not there any more, once nobody uses it.
		{Name: "leftovers", Needs: []string{"nodes", "kubelets"}, Nodes: all, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			out := loadbalancer.Leftovers(c.loadBalancer(n))
			if !inv.RegistryOn(n) {
				out = append(out, registry.Off())
			}
			return out, nil
		})},
		c.soleHolderPhase("control-planes", "control-plane", "loadbalancer"),
		{Name: "verify", Needs: []string{"nodes", "network"}, Nodes: seed, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			if inv.Spec.Network.CNI.Name == v1alpha1.CNINone {
				return nil, nil // nodes are not ready until the user installs one
			}
			s, err := network.Verify(inv, c.Payload(n), c.API())
			return []plan.Step{s}, err
		})},
		{Name: addonsPhase, Needs: []string{"verify"}, Nodes: seed, Steps: node(c.addonSteps)},
	}
}

// etcdClients are the nodes whose API servers use an etcd outside the cluster.
func (c *Cluster) etcdClients() []string {
	if c.Inventory.ExternalEtcd() == nil {
		return nil
	}
	return inventory.Names(c.Inventory.ControlPlanes())
}

// once remembers what f returned for each node: the phase that brings content and
// those that install it have the same steps.
func once(f func(string) ([]plan.Step, error)) func(string) ([]plan.Step, error) {
	var mu sync.Mutex
	made := map[string][]plan.Step{}
	return func(node string) ([]plan.Step, error) {
		mu.Lock()
		defer mu.Unlock()
		if steps, ok := made[node]; ok {
			return steps, nil
		}
		steps, err := f(node)
		if err == nil {
			made[node] = steps
		}
		return steps, err
	}
}

func (c *Cluster) endpoint(n inventory.Node) endpoint.Options {
	return endpoint.Options{Inventory: c.Inventory, Node: n, API: c.API()}
}

func (c *Cluster) settings(n inventory.Node) settings.Options {
	return settings.Options{Inventory: c.Inventory, Node: n, API: c.API()}
}

func (c *Cluster) workerOptions(n inventory.Node) worker.Options {
	return worker.Options{Inventory: c.Inventory, Node: n, API: c.API(), Kocli: kocliPath(), CA: c.ca, Now: c.Clock.Now}
}

// ca reads the cluster's CA from the control plane, over SSH: a join trusts
// nothing else.
func (c *Cluster) ca(ctx context.Context) ([]byte, error) {
	r, err := c.Dialer.Look(ctx, c.Seed.Name)
	if err != nil {
		return nil, err
	}
	return r.ReadFile(ctx, kubeadm.CACertPath)
}

func (c *Cluster) osSteps(n inventory.Node) ([]plan.Step, error) {
	spec := c.Inventory.Spec
	var out []plan.Step
	if spec.OS.SetHostname {
		out = append(out, osprep.Hostname(n))
	}
	if on(spec.OS.ManageHosts) {
		out = append(out, osprep.Hosts(c.Inventory, n))
	}
	if on(spec.OS.ManageSwap) {
		out = append(out, osprep.Swap())
	}
	out = append(out, osprep.Modules(), osprep.Sysctls(), osprep.ResolvConf(spec.Network.DNS.Upstream))
	if on(spec.OS.InstallPackages) {
		out = append(out, osprep.Packages(c.Payload(n).Packages()))
	}
	return out, nil
}

// on is a switch that is on unless it is said otherwise.
func on(b *bool) bool { return b == nil || *b }

// kocliPath is where kocli's own binary is on a host.
func kocliPath() string { return path.Join(network.BinDir(), "kocli") }

// kocli returns the binary that is put on a node: the running one where it fits,
// the bundle's elsewhere.
func (c *Cluster) kocli(n inventory.Node) (host.File, error) {
	dst := kocliPath()
	if k := c.Kocli; k.Arch != "" && k.Arch == c.Facts[n.Name].Arch {
		return k.file(dst), nil
	}
	var f host.File
	ok := false
	if c.Payload != nil {
		f, ok = c.Payload(n).Kocli(dst)
	}
	if !ok {
		return f, fault.New(fault.Bundle, "build the bundle again with a kocli for "+c.Facts[n.Name].Arch,
			fmt.Errorf("the bundle has no kocli for %s, which %s needs", c.Facts[n.Name].Arch, n.Name))
	}
	return f, nil
}

func (c *Cluster) networkSteps(n inventory.Node) ([]plan.Step, error) {
	// DNS first: a CoreDNS that starts with a resolver that leads to itself ends
	// at once, and waits long before it tries again.
	out := []plan.Step{network.Corefile(c.Inventory.Spec.Network.DNS.Upstream, c.OwnResolver, c.API())}
	if c.Inventory.Spec.Network.CNI.Name == v1alpha1.CNIFlannel {
		s, err := network.Flannel(c.Inventory, c.Payload(n), c.API())
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// ThisKocli describes the running binary.
func ThisKocli() (KocliBinary, error) {
	if runtime.GOOS != "linux" {
		return KocliBinary{}, nil
	}
	p, err := os.Executable()
	if err != nil {
		return KocliBinary{}, err
	}
	sum, size, err := digestFile(p)
	return KocliBinary{Path: p, SHA256: sum, Size: size, Arch: runtime.GOARCH}, err
}

var errNoBundle = errors.New("no bundle was given")
