package workflow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/probe"
	"github.com/kocli/kocli/pkg/state"
	steps "github.com/kocli/kocli/pkg/steps/upgrade"
	"github.com/kocli/kocli/pkg/upgrade"
)

// UpgradeOptions say where an upgrade leads, and how.
type UpgradeOptions struct {
	Bundles []string // paths; one may hold several versions
	To      string   // version; empty means that of the YAML
	// PauseAfter ends the last hop early: PauseAfterControlPlane or PauseAfterCanary.
	PauseAfter string
	// DrainTimeout, ForceAfter and MaxUnavailable are as for Scale.
	DrainTimeout, ForceAfter time.Duration
	MaxUnavailable           int
	// Show is told the way before anything is changed; nil where nobody looks.
	Show func(path []upgrade.Hop)
	// Confirm is asked before anything is changed; nil means yes.
	Confirm func(path []upgrade.Hop) error
}

// UpgradeResult is what an upgrade did. Its JSON is stable.
type UpgradeResult struct {
	Result
	Path []upgrade.Hop `json:"path"`
	// Done is how many hops of the path are complete.
	Done   int    `json:"hopsDone"`
	Paused string `json:"pausedAfter,omitempty"`
}

// Upgrade brings the cluster to another version of Kubernetes, minor by minor. What
// may not be is refused before anything is changed; an interrupted upgrade goes on.
// The result is not nil once the run has a log, also with an error.
func Upgrade(ctx context.Context, o Options, uo UpgradeOptions) (*UpgradeResult, error) {
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	u, err := s.upgrading(ctx, uo)
	res := &UpgradeResult{Result: *s.result(len(s.inv.Nodes)), Path: []upgrade.Hop{}}
	if err != nil {
		return res, err
	}
	res.Kubernetes, res.Path = u.target, append(res.Path, u.hops...)
	if uo.Show != nil {
		uo.Show(u.hops)
	}
	for i, hop := range u.hops {
		c, err := u.enter(ctx, hop)
		if err != nil {
			return res, err
		}
		if i == 0 && uo.Confirm != nil {
			if err := uo.Confirm(u.hops); err != nil {
				return res, err
			}
		}
		if err := u.run(ctx, c, hop, i == len(u.hops)-1, res); err != nil {
			return res, err
		}
		res.Done++
		u.unfinished, u.moved = "", true
	}
	if len(u.hops) > 0 {
		res.Paused = uo.PauseAfter
	}
	res.Duration = o.Clock.Now().Sub(s.start)
	res.Kubeconfig, err = s.keepKubeconfig(ctx, u.seed)
	return res, err
}

// HopPreview is what one hop would do.
type HopPreview struct {
	upgrade.Hop
	Preview *Preview
}

// PlanUpgrade shows the way, and what each hop would do as far as that can be known
// before those that lead to it. It changes nothing, and refuses what Upgrade would.
func PlanUpgrade(ctx context.Context, o Options, uo UpgradeOptions) ([]HopPreview, error) {
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	u, err := s.upgrading(ctx, uo)
	if err != nil {
		return nil, err
	}
	out := []HopPreview{}
	for i, hop := range u.hops {
		c, err := u.prepareHop(ctx, hop, i == 0)
		if err != nil {
			return out, err
		}
		p, err := u.plan(c, hop, i == len(u.hops)-1)
		if err != nil {
			return out, err
		}
		changes, err := p.Preview(ctx, s.hosts)
		out = append(out, HopPreview{hop, &Preview{Changes: changes, Nodes: p.Nodes()}})
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// upgrading is one upgrade of a cluster.
type upgrading struct {
	*Session
	o       UpgradeOptions
	base    *inventory.Inventory // of the YAML
	target  string
	bundles map[string]*archive.Bundle // by path
	hops    []upgrade.Hop
	seed    inventory.Node
	facts   map[string]probe.Facts
	nodes   int // of the cluster, those that the YAML does not name too
	leavers []state.Leaver
	// held says that a node of the YAML is still out of service for an upgrade.
	held bool
	// moved says that a hop of this run has moved pods.
	moved bool
	// unfinished is a control plane that an interrupted upgrade was working on; it is
	// brought to its end before others are begun.
	unfinished string
}

// upgrading opens the bundles, asks the cluster which versions it runs, and plans the
// way. Bundles are verified while the hosts are asked.
func (s *Session) upgrading(ctx context.Context, o UpgradeOptions) (*upgrading, error) {
	s.replaces = true
	u := &upgrading{Session: s, o: o, base: s.inv, target: s.inv.Version(), bundles: map[string]*archive.Bundle{}}
	if o.To != "" {
		u.target = o.To
	}
	var offers []upgrade.Offer
	for _, path := range o.Bundles {
		b, err := archive.OpenSigned(path, s.o.Keys)
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, b.Close)
		u.bundles[path] = b
		offer := upgrade.Offer{Bundle: path}
		for _, r := range b.Manifest().Kubernetes {
			offer.Versions = append(offer.Versions, r.Version)
		}
		offers = append(offers, offer)
	}
	var wg sync.WaitGroup
	damaged := make([]error, len(o.Bundles))
	for i, path := range o.Bundles {
		wg.Go(func() { damaged[i] = u.bundles[path].Verify(ctx, nil) })
	}
	found, err := u.versions(ctx)
	if err == nil {
		u.leavers, err = s.leavers()
	}
	wg.Wait()
	if err := errors.Join(damaged...); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	begun, err := u.begun(ctx)
	if err != nil {
		return u, err
	}
	found.Unfinished = begun || u.held
	if u.hops, err = upgrade.Path(found, u.target, offers); err != nil || len(u.hops) == 0 {
		return u, err
	}
	u.hops[0].Begun = u.hops[0].Begun || begun
	return u, nil
}

// versions asks the cluster which versions its API servers and kubelets have.
func (u *upgrading) versions(ctx context.Context) (upgrade.Found, error) {
	found := upgrade.Found{APIServers: map[string]string{}, Kubelets: map[string]string{}}
	var err error
	if u.facts, err = u.Facts(ctx); err != nil {
		return found, err
	}
	if u.seed, err = u.Session.seed(ctx, u.facts); err != nil {
		return found, err
	}
	if err := u.revive(ctx); err != nil {
		return found, err
	}
	r, err := u.hosts.Look(ctx, u.seed.Name)
	if err != nil {
		return found, err
	}
	c, err := u.access.Look(ctx, r)
	if errors.Is(err, kube.ErrNoCluster) {
		return found, noCluster(u.Session.o)
	}
	if err != nil {
		return found, err
	}
	if err := u.sameName(ctx, r); err != nil {
		return found, err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return found, fault.New(fault.Unhealthy, "kocli status shows what is wrong", fmt.Errorf("the cluster does not answer through %s: %w", u.seed.Name, err))
	}
	u.nodes = len(nodes)
	servers, err := c.APIServers(ctx)
	if err != nil {
		return found, err
	}
	return found, u.compare(nodes, servers, found)
}

// begun reports whether an upgrade was interrupted in its work on some node, and
// remembers the control plane on which it was.
func (u *upgrading) begun(ctx context.Context) (bool, error) {
	var wg sync.WaitGroup
	planes, kubelets, errs := make([]bool, len(u.base.Nodes)), make([]bool, len(u.base.Nodes)), make([]error, len(u.base.Nodes))
	for i, n := range u.base.Nodes {
		wg.Go(func() {
			r, err := u.hosts.Look(ctx, n.Name)
			if err == nil {
				planes[i], kubelets[i], err = steps.Unfinished(ctx, r)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if i := slices.Index(planes, true); i >= 0 {
		u.unfinished = u.base.Nodes[i].Name
	}
	return u.unfinished != "" || slices.Contains(kubelets, true), errors.Join(errs...)
}

// reviveTime is how long control planes are given to answer that an interrupted
// upgrade left.
const reviveTime = 2 * time.Minute

// revive has the cluster answer where an upgrade was interrupted that left no control
// plane which does: it waits for one, with manifests that lack put back. A run that
// only looks waits for nothing.
func (u *upgrading) revive(ctx context.Context) error {
	if u.answers(ctx, u.seed) == nil || u.LogPath == "" {
		return ctx.Err()
	}
	if begun, err := u.begun(ctx); err != nil || !begun {
		return err
	}
	u.Session.o.Observer.Event(plan.Event{Time: u.Session.o.Clock.Now(), Kind: plan.Note, Message: "an upgrade was interrupted, and no control plane answers: waiting for one, and for kubeadm where it is still at work"})
	for _, n := range u.base.ControlPlanes() {
		h, err := u.hosts.Dial(ctx, n.Name)
		if err != nil {
			return err
		}
		if _, err := steps.Mend(ctx, h); err != nil {
			return &fault.Error{Op: "go on with an upgrade", Node: n.Name, Err: err}
		}
	}
	wait, cancel := context.WithTimeout(ctx, reviveTime)
	defer cancel()
	_ = kube.Poll(wait, time.Second, func(ctx context.Context) error { // who does not answer is reported below
		n, ok := u.answering(ctx, u.base.ControlPlanes())
		if !ok {
			return errors.New("none answers")
		}
		u.seed = n
		return nil
	})
	return ctx.Err()
}

// compare fills in the versions of the nodes of the YAML, and refuses where the two
// lists differ: nodes come and go by scale.
func (u *upgrading) compare(nodes []corev1.Node, servers map[string]string, found upgrade.Found) error {
	var absent []string
	for _, n := range u.base.Nodes {
		i := slices.IndexFunc(nodes, func(k corev1.Node) bool { return k.Name == n.Name })
		if i < 0 {
			absent = append(absent, n.Name)
			continue
		}
		found.Kubelets[n.Name] = nodes[i].Status.NodeInfo.KubeletVersion
		u.held = u.held || kube.CordonedByUs(&nodes[i])
		if n.ControlPlane {
			if servers[n.Name] == "" {
				return fault.New(fault.Unhealthy, "kocli status shows what is wrong", fmt.Errorf("the cluster knows no API server on %s", n.Name))
			}
			found.APIServers[n.Name] = servers[n.Name]
		}
	}
	if len(absent) > 0 {
		return fault.New(fault.Preflight, "kocli scale -f "+u.Session.o.SpecFile+" joins them, with a bundle of the version that runs; or take them out of the YAML",
			fmt.Errorf("%s: in the YAML, and not in the cluster", strings.Join(absent, ", ")))
	}
	for _, n := range nodes {
		if _, ok := u.base.Node(n.Name); !ok && slices.Contains(kube.NodeRoles(&n), "control-plane") {
			return fault.New(fault.Preflight, "put it into the YAML, or take it out: kocli node remove "+n.Name,
				fmt.Errorf("%s is a control plane of the cluster and not in the YAML: it would stay behind", n.Name))
		}
	}
	return nil
}

// enter makes the session be about the hop, and refuses what may not be.
func (u *upgrading) enter(ctx context.Context, hop upgrade.Hop) (*Cluster, error) {
	var err error
	if u.facts, err = u.Facts(ctx); err != nil {
		return nil, err
	}
	return u.prepareHop(ctx, hop, true)
}

// prepareHop looks at hosts and bundle for a hop; where gates says so at the cluster
// too, which is not yet what it will be before a later hop.
func (u *upgrading) prepareHop(ctx context.Context, hop upgrade.Hop, gates bool) (*Cluster, error) {
	u.inv, u.bundle, u.Session.o.Bundle = u.base.At(hop.To), u.bundles[hop.Bundle], hop.Bundle
	c, err := u.cluster(ctx, u.facts)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(c.expect(u.leavers), u.rotationBegun(ctx)); err != nil {
		return nil, err
	}
	if u.copies, err = u.etcdCopies(ctx, hop); err != nil {
		return nil, err
	}
	findings, err := u.Preflight(ctx, u.facts)
	if err != nil {
		return nil, err
	}
	if gates {
		more, err := u.gates(ctx, c, hop)
		if err != nil {
			return nil, err
		}
		findings = append(findings, more...)
	}
	u.tell(findings)
	if err := preflight.Refusal(findings); err != nil {
		return nil, refused(err, findings)
	}
	return c, u.closed(c)
}

// etcdCopies is what the copies of etcd's data will take on control planes, in bytes:
// the snapshot that is kept, and the copy that kubeadm makes of all of the folder.
// Where a hop has been begun the snapshot is there.
func (u *upgrading) etcdCopies(ctx context.Context, hop upgrade.Hop) (map[string][]preflight.Space, error) {
	if hop.Begun || u.inv.ExternalEtcd() != nil {
		return nil, nil
	}
	planes := u.inv.ControlPlanes()
	sizes, errs := make([]int64, len(planes)), make([]error, len(planes))
	var wg sync.WaitGroup
	for i, n := range planes {
		wg.Go(func() {
			r, err := u.hosts.Look(ctx, n.Name)
			if err != nil {
				errs[i] = err
				return
			}
			info, err := r.Stat(ctx, kubeadm.EtcdDataPath)
			switch {
			case err == nil:
				sizes[i] = info.Size()
			case !errors.Is(err, fs.ErrNotExist): // where there is none, nothing is copied
				errs[i] = err
			}
		})
	}
	wg.Wait()
	out := map[string][]preflight.Space{}
	for i, n := range planes {
		if sizes[i] > 0 {
			out[n.Name] = []preflight.Space{{Path: steps.Root(), Bytes: sizes[i]}, {Path: kubeadm.TmpDir, Bytes: sizes[i] + etcdLogs}}
		}
	}
	return out, errors.Join(errs...)
}

// etcdLogs is what etcd keeps beside its data, in bytes: up to five files of its log,
// and snapshots of that.
const etcdLogs = 384 << 20

// refused says where the findings can be seen again, where they are several.
func refused(err error, findings []preflight.Finding) error {
	errs := 0
	for _, f := range findings {
		if f.Level == preflight.Error {
			errs++
		}
	}
	if errs < 2 {
		return err
	}
	return fault.New(fault.Preflight, "see the findings above; nothing was changed. The same command with --dry-run shows them again", err)
}

// plan compiles a hop.
func (u *upgrading) plan(c *Cluster, hop upgrade.Hop, last bool) (*plan.Plan, error) {
	phases, err := u.phases(c, hop, last)
	if err != nil {
		return nil, err
	}
	return plan.Compile(phases, plan.Options{Now: u.Session.o.Clock.Now})
}

func (u *upgrading) phases(c *Cluster, hop upgrade.Hop, last bool) ([]plan.Phase, error) {
	so := &scaling{Session: u.Session, o: ScaleOptions{DrainTimeout: u.o.DrainTimeout, ForceAfter: u.o.ForceAfter, MaxUnavailable: u.o.MaxUnavailable}}
	h := HopOptions{
		From: hop.From, Drain: kube.DrainOptions{Timeout: so.drainTimeout(), ForceAfter: u.o.ForceAfter},
		MaxUnavailable: so.maxUnavailable(len(u.inv.Workers())), First: u.unfinished, Anew: !hop.Begun, Alone: u.nodes == 1,
		PlanSaid: u.planSaid,
	}
	if r, ok := u.bundle.Release(hop.To); ok {
		h.Components = r.Components
	}
	if last {
		h.PauseAfter = u.o.PauseAfter
	}
	return c.UpgradePhases(h)
}

// run does a hop.
func (u *upgrading) run(ctx context.Context, c *Cluster, hop upgrade.Hop, last bool, res *UpgradeResult) error {
	c.pushed = func(r fanout.Report) { res.Content = &r }
	u.Session.o.Observer.Event(plan.Event{Time: u.Session.o.Clock.Now(), Kind: plan.Note, Message: fmt.Sprintf("hop %d of %d: %s to %s, from %s", res.Done+1, len(u.hops), hop.From, hop.To, hop.Bundle)})
	phases, err := u.phases(c, hop, last)
	if err != nil {
		return err
	}
	res.Order = nil
	p, err := u.compile(phases, &res.Result)
	if err != nil {
		return err
	}
	if err := u.remember(u.leavers); err != nil {
		return err
	}
	changed := res.Changed
	err = u.Session.run(ctx, p, &res.Result)
	res.Changed += changed
	return err
}
