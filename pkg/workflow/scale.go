package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/state"
	"github.com/kocli/kocli/pkg/steps/leave"
	"github.com/kocli/kocli/pkg/steps/osprep"
	"github.com/kocli/kocli/pkg/steps/reset"
)

// ScaleOptions say how nodes leave.
type ScaleOptions struct {
	// Dead are nodes that will not be asked any more: they are switched off or gone.
	Dead []string
	// DrainTimeout is how long pods are given to leave a node; zero means what the
	// YAML says.
	DrainTimeout time.Duration
	// ForceAfter is when pods that a disruption budget holds are deleted all the
	// same; zero means never.
	ForceAfter time.Duration
	// MaxUnavailable is how many workers may be out of service at once; zero means
	// what the YAML says.
	MaxUnavailable int
	// Leave are nodes that the caller means to take out: one that is none of the
	// cluster's is an error.
	Leave []string
	// Confirm is asked before nodes are taken out; nil means yes.
	Confirm func(leaving []string) error
	// Commit is called once nothing refuses and before anything is changed; nil
	// where there is nothing to do then.
	Commit func() error
}

// Scale makes the nodes of the cluster be those of the YAML: what is new joins as
// in Create, what left the YAML is drained, leaves etcd and the cluster, and its
// host becomes what it was. Nodes that kocli did not put there stay.
func Scale(ctx context.Context, o Options, so ScaleOptions) (*Result, error) {
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	res := s.result(len(s.inv.Nodes))
	sc, err := s.scaling(ctx, so)
	if err != nil {
		return res, err
	}
	res.Left = sc.names()
	sc.cluster.pushed = func(r fanout.Report) { res.Content = &r }
	phases, err := sc.phases()
	if err != nil {
		return res, err
	}
	p, err := s.compile(phases, res)
	if err != nil {
		return res, err
	}
	if so.Confirm != nil && len(res.Left) > 0 {
		if err := so.Confirm(res.Left); err != nil {
			return res, err
		}
	}
	if so.Commit != nil {
		if err := so.Commit(); err != nil {
			return res, err
		}
	}
	if err := s.remember(sc.leavers); err != nil {
		return res, err
	}
	if err := s.run(ctx, p, res); err != nil {
		return res, err
	}
	if len(o.Only)+len(o.Skip) == 0 {
		if err := s.remember(nil); err != nil {
			return res, err
		}
	}
	res.Kubeconfig, err = s.keepKubeconfig(ctx, sc.keeper)
	return res, err
}

// PlanScale shows what Scale would do, and changes nothing.
func PlanScale(ctx context.Context, o Options, so ScaleOptions) (*Preview, error) {
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	sc, err := s.scaling(ctx, so)
	if err != nil {
		return nil, err
	}
	phases, err := sc.phases()
	if err != nil {
		return nil, err
	}
	p, err := plan.Compile(phases, plan.Options{Only: o.Only, Skip: o.Skip, Now: o.Clock.Now})
	if err != nil {
		return nil, err
	}
	changes, err := p.Preview(ctx, s.hosts)
	return &Preview{Changes: changes, Nodes: p.Nodes(), Leaving: inventory.Names(slices.Concat(sc.dead, sc.live))}, err
}

// scaling is one change of which nodes the cluster has.
type scaling struct {
	*Session
	o       ScaleOptions
	cluster *Cluster
	leavers []state.Leaver
	live    []inventory.Node // leave in order, workers first
	dead    []inventory.Node // are not asked
	keeper  inventory.Node   // a control plane that stays, through which others leave
}

func (sc *scaling) names() []string { return inventory.Names(slices.Concat(sc.dead, sc.live)) }

// scaling looks at hosts and cluster, and refuses what would do harm, before
// anything is changed.
func (s *Session) scaling(ctx context.Context, o ScaleOptions) (*scaling, error) {
	sc := &scaling{Session: s, o: o}
	var err error
	if sc.leavers, err = s.leavers(); err != nil {
		return nil, err
	}
	all, err := nodesOf(sc.leavers)
	if err != nil {
		return nil, err
	}
	for _, name := range o.Dead {
		if _, ok := s.inv.Node(name); ok {
			return nil, fault.New(fault.Usage, "kocli node remove "+name+" --dead takes it out of both", fmt.Errorf("%s is still in the YAML", name))
		}
	}
	for _, n := range all {
		if slices.Contains(o.Dead, n.Name) {
			sc.dead = append(sc.dead, n)
		} else {
			sc.live = append(sc.live, n)
		}
	}
	slices.SortStableFunc(sc.live, func(a, b inventory.Node) int { return order(a) - order(b) })
	s.leaving = sc.live
	s.hosts.Include(all)
	if err := s.trulyDead(ctx, sc.dead); err != nil {
		return nil, err
	}
	if err := s.reachable(ctx, sc.live); err != nil {
		return nil, err
	}
	if sc.cluster, err = s.prepare(ctx); err != nil {
		return nil, err
	}
	sc.cluster.Leaving = controlPlanes(sc.live)
	if slices.ContainsFunc(s.inv.Nodes, func(n inventory.Node) bool {
		return !slices.Contains(sc.cluster.Facts[n.Name].Kubernetes, pki.KubeletConfPath)
	}) { // somebody joins; whoever is dead may leave
		if err := s.rotationBegun(ctx); err != nil {
			return nil, err
		}
	}
	return sc, sc.survey(ctx)
}

// order has workers leave before control planes.
func order(n inventory.Node) int {
	if n.ControlPlane {
		return 1
	}
	return 0
}

// trulyDead refuses to treat as dead what answers.
func (s *Session) trulyDead(ctx context.Context, dead []inventory.Node) error {
	var errs []error
	for _, n := range dead {
		try, cancel := context.WithTimeout(ctx, reachTimeout)
		_, err := s.hosts.Look(try, n.Name)
		cancel()
		if err == nil {
			errs = append(errs, fault.New(fault.Preflight, "take it out in order, without --dead; or switch it off first", fmt.Errorf("%s is not dead: it answers over SSH", n.Name)))
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// reachable connects to the nodes that leave. For one that cannot be reached it
// says how to do without it.
func (s *Session) reachable(ctx context.Context, live []inventory.Node) error {
	errs := make([]error, len(live))
	var wg sync.WaitGroup
	for i, n := range live {
		wg.Go(func() {
			if _, err := s.hosts.Look(ctx, n.Name); err != nil {
				errs[i] = &fault.Error{Node: n.Name, Code: fault.CodeOf(err), Hint: fmt.Sprintf("if %[1]s is gone for good, say so: --dead %[1]s (with kocli node: --dead)", n.Name), Err: err}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// survey asks the cluster what it has, and holds what is asked for against it.
func (sc *scaling) survey(ctx context.Context) error {
	sc.keeper = sc.cluster.Seed
	if _, stays := sc.inv.Node(sc.keeper.Name); !stays {
		sc.keeper = sc.inv.Seed() // it joins first
	}
	c, err := sc.cluster.API().Look(ctx)
	if errors.Is(err, kube.ErrNoCluster) {
		return fault.New(fault.Unhealthy, "make it with: kocli create -f "+sc.Session.o.SpecFile+" --bundle FILE", fmt.Errorf("cluster %s: %w", sc.inv.Name, err))
	}
	if err != nil {
		return err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return fault.New(fault.Unhealthy, "kocli status shows what is wrong", fmt.Errorf("the cluster does not answer through %s: %w", sc.cluster.Seed.Name, err))
	}
	if err := sc.strangers(nodes); err != nil {
		return err
	}
	if err := sc.disruption(nodes); err != nil {
		return err
	}
	return sc.quorum(ctx)
}

// strangers finds nodes of the cluster that neither the YAML nor the state knows.
// They stay, but for those that are said to be dead.
func (sc *scaling) strangers(nodes []corev1.Node) error {
	var unknown []string
	for _, n := range nodes {
		_, listed := sc.inv.Node(n.Name)
		if listed || slices.Contains(sc.names(), n.Name) {
			continue
		}
		if slices.Contains(sc.o.Dead, n.Name) {
			sc.dead = append(sc.dead, inventory.Node{Name: n.Name, IP: kube.InternalIP(&n), ControlPlane: slices.Contains(kube.NodeRoles(&n), "control-plane")})
			continue
		}
		unknown = append(unknown, n.Name)
	}
	for _, name := range slices.Concat(sc.o.Dead, sc.o.Leave) {
		if !slices.Contains(sc.names(), name) {
			return fault.New(fault.Usage, "kocli node list shows the nodes", fmt.Errorf("no node of the cluster is called %s", name))
		}
	}
	if len(unknown) > 0 {
		sc.Session.o.Observer.Event(plan.Event{
			Time: sc.Session.o.Clock.Now(), Kind: plan.Note, Message: "in the cluster, and not put there by kocli: " + strings.Join(unknown, ", ") + "; they stay",
		})
	}
	return nil
}

// disruption refuses to take a worker away while too many others are out of
// service.
func (sc *scaling) disruption(nodes []corev1.Node) error {
	leaves := slices.ContainsFunc(sc.live, func(n inventory.Node) bool { return !n.ControlPlane })
	if !leaves {
		return nil
	}
	workers, out := 0, []string{}
	for _, n := range nodes {
		if slices.Contains(kube.NodeRoles(&n), "control-plane") || slices.Contains(sc.names(), n.Name) {
			continue
		}
		workers++
		if !kube.NodeReady(&n) || n.Spec.Unschedulable {
			out = append(out, n.Name)
		}
	}
	most := sc.maxUnavailable(workers + 1)
	if len(out)+1 <= most {
		return nil
	}
	return fault.New(fault.Preflight, "bring them back first (kocli status), or allow more: --max-unavailable "+fmt.Sprint(len(out)+1),
		fmt.Errorf("%d of the %d workers that stay are out of service already (%s); one more would be %d, and maxUnavailable allows %d",
			len(out), workers, strings.Join(out, ", "), len(out)+1, most))
}

// quorum refuses a change that etcd would not survive.
func (sc *scaling) quorum(ctx context.Context) error {
	r, err := sc.hosts.Look(ctx, sc.cluster.Seed.Name)
	if err != nil {
		return err
	}
	v, err := etcd.Look(ctx, r)
	if errors.Is(err, etcd.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(slices.Concat(sc.live, sc.dead), func(n inventory.Node) bool { return n.ControlPlane }) {
		return nil
	}
	all, err := v.Health(ctx)
	if err != nil {
		return fault.New(fault.Preflight, "bring back enough control planes for a quorum first: kocli status", err)
	}
	at := func(nodes []inventory.Node) func(etcd.Member) bool {
		return func(m etcd.Member) bool {
			return slices.ContainsFunc(nodes, func(n inventory.Node) bool { return m.At(n.Name, n.IP) })
		}
	}
	refuse := func(err error) error {
		if err == nil {
			return nil
		}
		return fault.New(fault.Preflight, "bring the other members back first, or add a control plane before one leaves", err)
	}
	if slices.ContainsFunc(all, func(h etcd.Health) bool { return at(sc.dead)(h.Member) }) {
		if err := refuse(etcd.Removable(all, at(sc.dead))); err != nil {
			return err
		}
	}
	joining := slices.ContainsFunc(sc.inv.ControlPlanes(), func(n inventory.Node) bool {
		return !slices.ContainsFunc(all, func(h etcd.Health) bool { return h.At(n.Name, n.IP) })
	})
	if joining {
		return nil // proved again before each member goes
	}
	return refuse(etcd.Removable(all, at(slices.Concat(sc.live, sc.dead))))
}

// phases are those of Create, between those of the nodes that leave: dead ones
// first, since they are in the way of those that join, live ones last, since
// others take over from them.
func (sc *scaling) phases() ([]plan.Phase, error) {
	between, err := sc.converging()
	if err != nil {
		return nil, err
	}
	// Who holds the virtual IP is looked at once all have left.
	between = slices.DeleteFunc(between, func(p plan.Phase) bool { return p.Name == holderPhase })
	o := leave.Options{API: sc.cluster.API(), Drain: kube.DrainOptions{Timeout: sc.drainTimeout(), ForceAfter: sc.o.ForceAfter}}
	first := plan.Phase{Name: "leave-dead", Nodes: []string{sc.cluster.Seed.Name}, Steps: func(string) ([]plan.Step, error) {
		var out []plan.Step
		for _, n := range sc.dead {
			out = append(out, leave.Etcd(n), leave.Dead(n.Name, o))
		}
		return out, nil
	}}
	all := []string{first.Name}
	for i := range between {
		if slices.Contains([]string{"control-plane", "control-planes", "workers"}, between[i].Name) {
			between[i].Needs = append(slices.Clone(between[i].Needs), first.Name)
		}
		all = append(all, between[i].Name)
	}
	keep := o
	keep.API = sc.cluster.through(sc.keeper.Name)
	hosts := inventory.Names(sc.live)
	last := []plan.Phase{
		{Name: "leave", Needs: all, Nodes: []string{sc.keeper.Name}, Steps: func(string) ([]plan.Step, error) {
			var out []plan.Step
			for _, n := range sc.live {
				out = append(out, leave.Drain(n.Name, keep))
				if n.ControlPlane {
					out = append(out, leave.Etcd(n))
				}
			}
			return out, nil
		}},
		{Name: "reset", Needs: []string{"leave"}, Nodes: hosts, Width: 1, Steps: func(string) ([]plan.Step, error) { return reset.Steps(), nil }},
		{Name: "forget", Needs: []string{"reset"}, Nodes: []string{sc.keeper.Name}, Steps: func(string) ([]plan.Step, error) {
			var out []plan.Step
			for _, n := range sc.live {
				out = append(out, leave.Forget(n.Name, keep))
			}
			return out, nil
		}},
		sc.cluster.peersPhase("reset"),
		sc.cluster.holderPhase(sc.keeper.Name, append(slices.Clone(all), "reset", "peers")...),
	}
	return slices.Concat([]plan.Phase{first}, between, last), nil
}

// converging are the phases of Create; without a bundle only those parts that
// need nothing of it, which is enough where nobody joins.
func (sc *scaling) converging() ([]plan.Phase, error) {
	if sc.bundle != nil {
		return sc.cluster.CreatePhases()
	}
	if joins := sc.joining(); len(joins) > 0 {
		return nil, fault.New(fault.Usage, "give it the file that holds what is installed: --bundle FILE",
			fmt.Errorf("%w, and %s has to join", errNoBundle, strings.Join(joins, ", ")))
	}
	return sc.cluster.upkeepPhases(), nil
}

// joining are the hosts of the YAML that have not been part of a cluster yet.
func (sc *scaling) joining() []string {
	var out []string
	for _, n := range sc.inv.Nodes {
		if !slices.Contains(sc.cluster.Facts[n.Name].Kubernetes, kubeletConf) {
			out = append(out, n.Name)
		}
	}
	return out
}

// kubeletConf is what every node of a cluster has.
const kubeletConf = "/etc/kubernetes/kubelet.conf"

// upkeepPhases keep on every node what names the other nodes: /etc/hosts and the
// load balancer.
func (c *Cluster) upkeepPhases() []plan.Phase {
	c.Payload = nil
	of := func(f func(inventory.Node) ([]plan.Step, error)) func(string) ([]plan.Step, error) {
		return func(name string) ([]plan.Step, error) {
			n, _ := c.Inventory.Node(name)
			return f(n)
		}
	}
	return []plan.Phase{
		{Name: "os", Nodes: inventory.Names(c.Inventory.Nodes), Steps: of(func(n inventory.Node) ([]plan.Step, error) {
			if !on(c.Inventory.Spec.OS.ManageHosts) {
				return nil, nil
			}
			return []plan.Step{osprep.Hosts(c.Inventory, n)}, nil
		})},
		{Name: "loadbalancer", Nodes: c.balanced(), Steps: of(c.loadBalancerSteps)},
	}
}

func (sc *scaling) drainTimeout() time.Duration {
	if sc.o.DrainTimeout > 0 {
		return sc.o.DrainTimeout
	}
	return sc.inv.Spec.Maintenance.DrainTimeout.Value()
}

func (sc *scaling) maxUnavailable(workers int) int {
	if sc.o.MaxUnavailable > 0 {
		return sc.o.MaxUnavailable
	}
	return sc.inv.Spec.Maintenance.MaxUnavailable.Of(workers)
}
