package workflow

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/steps/images"
	"github.com/kocli/kocli/pkg/steps/kubernetes"
	"github.com/kocli/kocli/pkg/steps/network"
	"github.com/kocli/kocli/pkg/steps/osprep"
	"github.com/kocli/kocli/pkg/steps/upgrade"
)

// Where an upgrade can be told to pause: before the first kubelet of a worker, or
// after it.
const (
	PauseAfterControlPlane = "control-plane"
	PauseAfterCanary       = "canary"
)

// HopOptions say how one hop of an upgrade is done.
type HopOptions struct {
	From       string            // the oldest version in the cluster
	Components map[string]string // of the bundle, for the version that the hop leads to
	Drain      kube.DrainOptions
	// MaxUnavailable is how many workers are drained at once.
	MaxUnavailable int
	PauseAfter     string // empty: not at all
	// First is the control plane that goes first; empty means the one through which the
	// cluster is reached.
	First string
	// Anew says that the hop has not been begun on any node.
	Anew bool
	// Alone says that the cluster has one node only: nothing can move.
	Alone bool
	// PlanSaid is told what kubeadm upgrade plan says against the hop, and returns why it
	// ends there; nil where the hop goes on all the same.
	PlanSaid func(said string) error
	// Calm and Deaf are as for the steps of an upgrade.
	Calm, Deaf time.Duration
}

// UpgradePhases bring the cluster to the version of its inventory, from one that is
// at most a minor older: content and copies of what will be replaced first, while all
// goes on; then the control planes, one by one; what runs beside them; and kubelets,
// of control planes, of one worker, of the others.
func (c *Cluster) UpgradePhases(o HopOptions) ([]plan.Phase, error) {
	inv := c.Inventory
	o.First = cmp.Or(o.First, c.Seed.Name)
	all, seed := inventory.Names(inv.Nodes), []string{c.Seed.Name}
	planes := inventory.Names(inv.ControlPlanes())
	others := slices.DeleteFunc(slices.Clone(planes), func(n string) bool { return n == o.First })
	workers := inventory.Names(inv.Workers())
	canary := workers[:min(1, len(workers))]
	node := func(f func(inventory.Node) ([]plan.Step, error)) func(string) ([]plan.Step, error) {
		return once(func(name string) ([]plan.Step, error) {
			n, ok := inv.Node(name)
			if !ok {
				return nil, fmt.Errorf("no host is called %s", name)
			}
			return f(n)
		})
	}
	save := node(func(n inventory.Node) ([]plan.Step, error) { return []plan.Step{upgrade.Save(c.upgrade(n, o))}, nil })
	controlPlane := node(func(n inventory.Node) ([]plan.Step, error) {
		binaries, err := c.Payload(n).Binaries("kubernetes", kubernetes.BinDir)
		if err != nil {
			return nil, err
		}
		u := c.upgrade(n, o)
		steps := []plan.Step{upgrade.Kubeadm(binaries)}
		if u.First && o.Anew { // before anything of the cluster is changed
			steps = append(steps, upgrade.KubeadmPlan(u))
		}
		return append(steps, upgrade.ControlPlane(u)), nil
	})
	kubelet := node(func(n inventory.Node) ([]plan.Step, error) { return c.kubeletSteps(n, o) })
	phases := []plan.Phase{
		{Name: "agent", Nodes: all, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			file, err := c.kocli(n)
			return []plan.Step{osprep.Kocli(file)}, err
		})},
		{Name: "images", Follows: []string{"agent"}, Nodes: all, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			return []plan.Step{images.Import(c.Payload(n), kocliPath())}, nil
		})},
		{Name: "save-workers", Follows: []string{"agent"}, Nodes: workers, Steps: save},
		// One after another: a snapshot is work for a member of etcd.
		{Name: "save", Follows: []string{"agent"}, Nodes: planes, Width: 1, Steps: save},
		{Name: "control-plane", Needs: []string{"images", "save", "save-workers"}, Nodes: []string{o.First}, Steps: controlPlane},
		{Name: "control-planes", Needs: []string{"control-plane"}, Nodes: others, Width: 1, Steps: controlPlane},
		{Name: "addons", Needs: []string{"control-planes"}, Nodes: seed, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			return []plan.Step{upgrade.Addons(c.upgrade(n, o))}, nil
		})},
		{Name: "loadbalancer", Needs: []string{"control-planes"}, Nodes: c.balanced(), Width: 1, Steps: node(c.loadBalancerSteps)},
		{Name: "network", Needs: []string{"addons"}, Nodes: seed, Steps: node(c.networkSteps)},
		// Kubelets come last: they may be older than API servers, and never newer.
		{Name: "control-plane-kubelets", Needs: []string{"network", "loadbalancer"}, Nodes: planes, Width: 1, Steps: kubelet},
		{Name: "canary", Needs: []string{"control-plane-kubelets"}, Nodes: canary, Steps: kubelet},
		{Name: "workers", Needs: []string{"canary"}, Nodes: workers[len(canary):], Width: max(1, o.MaxUnavailable), Steps: kubelet},
		c.soleHolderPhase("control-plane-kubelets"),
		{Name: "verify", Needs: []string{"workers"}, Nodes: seed, Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			if inv.Spec.Network.CNI.Name == v1alpha1.CNINone {
				return nil, nil // nodes are ready by what the user installed
			}
			s, err := network.Verify(inv, c.Payload(n), c.API())
			return []plan.Step{s}, err
		})},
		{Name: addonsPhase, Needs: []string{"verify"}, Nodes: seed, Steps: node(c.addonSteps)},
	}
	phases = pausedAfter(phases, o.PauseAfter)
	if !c.pushes() {
		return phases, nil
	}
	push, err := c.contentPhase(c.upgradeContent(node), fanout.Auto, c.pushed)
	if err != nil {
		return nil, err
	}
	for i := range phases {
		if phases[i].Name == "images" {
			phases[i].Needs = append(slices.Clone(phases[i].Needs), push.Name)
		}
	}
	return slices.Insert(phases, 1, push), nil
}

// pausedAfter leaves out what comes after a pause.
func pausedAfter(phases []plan.Phase, pause string) []plan.Phase {
	out := map[string][]string{
		PauseAfterControlPlane: {"canary", "workers", "verify", addonsPhase},
		PauseAfterCanary:       {"workers", "verify", addonsPhase},
	}[pause]
	return slices.DeleteFunc(phases, func(p plan.Phase) bool { return slices.Contains(out, p.Name) })
}

// kubeletSteps bring the kubelet of a node to the version, and with it what the bundle
// has for it: containerd, runc and the CNI plugins. The node is drained first where
// any of it has to change, and takes pods again when it is back.
func (c *Cluster) kubeletSteps(n inventory.Node, o HopOptions) ([]plan.Step, error) {
	work, err := c.nodePrograms(n)
	if err != nil {
		return nil, err
	}
	u := c.upgrade(n, o)
	for i, s := range work {
		work[i] = upgrade.Begin(u, s)
	}
	work = append(work, upgrade.Kubelet(u))
	return slices.Concat([]plan.Step{upgrade.Drain(u, work)}, work, []plan.Step{upgrade.Uncordon(u)}), nil
}

// nodePrograms are the steps that install programs on a node.
func (c *Cluster) nodePrograms(n inventory.Node) ([]plan.Step, error) {
	runtime, err := c.runtimeSteps(n)
	if err != nil {
		return nil, err
	}
	programs, err := kubernetes.Steps(c.Payload(n))
	return append(runtime, programs...), err
}

// upgradeContent are phases, as contentPhase knows them, whose steps need all that a
// hop will.
func (c *Cluster) upgradeContent(node func(func(inventory.Node) ([]plan.Step, error)) func(string) ([]plan.Step, error)) []plan.Phase {
	return []plan.Phase{
		{Name: "images", Steps: node(func(n inventory.Node) ([]plan.Step, error) {
			return []plan.Step{images.Import(c.Payload(n), kocliPath())}, nil
		})},
		{Name: "kubernetes", Steps: node(c.nodePrograms)},
	}
}

// upgrade is what the steps of a node need for a hop.
func (c *Cluster) upgrade(n inventory.Node, o HopOptions) upgrade.Options {
	hooks := c.Inventory.Spec.Hooks
	return upgrade.Options{
		Before: c.hooks(hooks.BeforeUpgrade, n, o.From), After: c.hooks(hooks.AfterUpgrade, n, o.From),
		Inventory: c.Inventory, Node: n, From: o.From, API: c.API(), Local: c.through(n.Name), Kocli: kocliPath(),
		First: n.Name == o.First, Components: o.Components, Drain: o.Drain, Anew: o.Anew, Alone: o.Alone,
		PlanSaid: o.PlanSaid, Calm: o.Calm, Deaf: o.Deaf,
	}
}
