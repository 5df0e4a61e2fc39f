package workflow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"time"

	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/state"
	"github.com/kocli/kocli/pkg/workflow/closure"
)

// Result is what a run did. Its JSON is stable.
type Result struct {
	Cluster    string                   `json:"cluster"`
	Kubernetes string                   `json:"kubernetes"`
	Nodes      int                      `json:"nodes"`
	Changed    int                      `json:"changed"`
	Duration   time.Duration            `json:"durationNs"`
	Phases     map[string]time.Duration `json:"phasesNs,omitempty"`
	Hosts      map[string]Stats         `json:"hosts,omitempty"`
	// Content is what bringing content to all hosts at once cost; nil where each
	// got its own.
	Content    *fanout.Report `json:"content,omitempty"`
	Kubeconfig string         `json:"kubeconfig,omitempty"`
	// Left are the nodes that the run took out.
	Left []string `json:"left,omitempty"`
	Log  string   `json:"log,omitempty"`
	// Order lists the phases as they run.
	Order []string `json:"-"`
}

// Create makes the hosts be the cluster. The result is not nil once the run has
// a log, also with an error.
func Create(ctx context.Context, o Options) (*Result, error) {
	if o.Bundle == "" {
		return nil, fault.New(fault.Usage, "", errNoBundle)
	}
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	res := s.result(len(s.inv.Nodes))
	leaving, err := s.leavers()
	if err != nil {
		return res, err
	}
	c, err := s.prepare(ctx)
	if err != nil {
		return res, err
	}
	if err := errors.Join(c.expect(leaving), s.rotationBegun(ctx)); err != nil {
		return res, err
	}
	for _, l := range leaving {
		o.Observer.Event(plan.Event{Time: o.Clock.Now(), Kind: plan.Note, Node: l.Host.Name, Message: l.Host.Name + " left the YAML and is still part of the cluster", Hint: "take it out with: kocli scale -f " + o.SpecFile})
	}
	c.pushed = func(r fanout.Report) { res.Content = &r }
	phases, err := c.CreatePhases()
	if err != nil {
		return res, err
	}
	p, err := s.compile(phases, res)
	if err != nil {
		return res, err
	}
	if err := s.remember(leaving); err != nil {
		return res, err
	}
	if err := s.run(ctx, p, res); err != nil {
		return res, err
	}
	res.Kubeconfig, err = s.keepKubeconfig(ctx, c.Seed)
	if errors.Is(err, fs.ErrNotExist) && len(o.Only)+len(o.Skip) > 0 {
		err = nil // the cluster was not asked for yet
	}
	return res, err
}

// compile makes a plan of phases.
func (s *Session) compile(phases []plan.Phase, res *Result) (*plan.Plan, error) {
	for _, p := range phases {
		res.Order = append(res.Order, p.Name)
	}
	return plan.Compile(phases, plan.Options{Only: s.o.Only, Skip: s.o.Skip, Now: s.o.Clock.Now})
}

// run executes a plan. The result says what was done, also with an error.
func (s *Session) run(ctx context.Context, p *plan.Plan, res *Result) error {
	report, err := p.Execute(ctx, s.hosts, s.o.Observer.Event)
	res.Changed, res.Phases, res.Hosts = len(report.Changed), report.Phases, s.Stats()
	res.Duration = s.o.Clock.Now().Sub(s.start)
	return err
}

// result is that of a run that has done nothing yet.
func (s *Session) result(nodes int) *Result {
	return &Result{Cluster: s.inv.Name, Kubernetes: s.inv.Version(), Nodes: nodes, Log: s.LogPath}
}

// prepare looks at the hosts and refuses what cannot work, before anything is
// changed.
func (s *Session) prepare(ctx context.Context) (*Cluster, error) {
	damaged := make(chan error, 1)
	go func() { // every byte, while the hosts are asked
		if s.bundle == nil {
			damaged <- nil
			return
		}
		damaged <- s.bundle.Verify(ctx, nil)
	}()
	c, err := s.examine(ctx)
	if bad := <-damaged; bad != nil {
		return nil, bad
	}
	if err != nil {
		return nil, err
	}
	return c, s.sameCluster(ctx, c)
}

// examine asks the hosts what they are, runs the preflight checks, and proves
// that the bundle has all that they will ask for.
func (s *Session) examine(ctx context.Context) (*Cluster, error) {
	facts, err := s.Facts(ctx)
	if err != nil {
		return nil, err
	}
	findings, err := s.Preflight(ctx, facts)
	if err != nil {
		return nil, err
	}
	s.tell(findings)
	if err := preflight.Refusal(findings); err != nil {
		return nil, err
	}
	c, err := s.cluster(ctx, facts)
	if err != nil {
		return nil, err
	}
	if err := s.closed(c); err != nil {
		return nil, err
	}
	return c, c.complete(ctx)
}

// closed refuses a bundle that lacks something.
func (s *Session) closed(c *Cluster) error {
	if s.bundle == nil {
		return nil
	}
	cat, err := catalogue.Embedded()
	if err != nil {
		return err
	}
	known, err := catalogue.EmbeddedAddons()
	if err != nil {
		return err
	}
	in := closure.Input{Inventory: s.inv, Bundle: s.bundle, Catalogue: cat, Addons: known, Kocli: c.Kocli.Arch}
	for _, n := range s.inv.Nodes {
		f := c.Facts[n.Name]
		in.Hosts = append(in.Hosts, closure.Host{Arch: f.Arch, ControlPlane: n.ControlPlane, Registry: s.inv.RegistryOn(n), Distribution: f.OS.ID, Release: f.OS.Version})
	}
	r, err := closure.Check(in)
	if err != nil {
		return err
	}
	return r.Refusal(s.o.Bundle, s.o.SpecFile)
}

// tell reports findings, those that many hosts share once.
func (s *Session) tell(findings []preflight.Finding) {
	var order []string
	shared := map[string]plan.Event{}
	for _, f := range findings {
		e := plan.Event{Time: s.o.Clock.Now(), Kind: plan.Note, Phase: "preflight", Node: f.Node, Step: f.Check,
			Message: fmt.Sprintf("%s: %s", f.Check, f.Message), Hint: f.Fix}
		key := string(f.Level) + e.Message
		if first, ok := shared[key]; ok {
			first.Node += "," + f.Node
			shared[key] = first
			continue
		}
		order, shared[key] = append(order, key), e
	}
	for _, key := range order {
		s.o.Observer.Event(shared[key])
	}
}

// remember saves what is asked for before it is done: state holds intent. Hosts
// that left the YAML are kept by name until they have been taken out.
func (s *Session) remember(leaving []state.Leaver) error {
	r, err := s.dir.Load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	next := state.Record{
		Generation: r.Generation, Kubernetes: s.inv.Version(), Spec: string(s.o.SpecYAML), Leaving: leaving,
		Bundle: r.Bundle, KocliBuild: s.o.Version, Updated: s.o.Clock.Now().UTC(),
	}
	if s.bundle != nil {
		next.Bundle = s.bundle.Digest()
	}
	if r.Kubernetes == next.Kubernetes && r.Spec == next.Spec && r.Bundle == next.Bundle && r.KocliBuild == next.KocliBuild && reflect.DeepEqual(r.Leaving, next.Leaving) {
		return nil
	}
	return s.dir.Save(&next)
}

// keepKubeconfig fetches the administrator's kubeconfig into the state folder.
func (s *Session) keepKubeconfig(ctx context.Context, from inventory.Node) (string, error) {
	r, err := s.hosts.Look(ctx, from.Name)
	if err != nil {
		return "", err
	}
	data, err := r.ReadFile(ctx, kube.AdminConf())
	if err != nil {
		return "", fmt.Errorf("fetch kubeconfig: %w", err)
	}
	if data, err = s.outside(data, r.Name()); err != nil {
		return "", err
	}
	return s.dir.Kubeconfig(), s.dir.Write(s.dir.Kubeconfig(), data)
}

// Preview is what a plan would do.
type Preview struct {
	Changes []plan.Change
	Nodes   []string
	Leaving []string // nodes that would be taken out
}

// Bytes is what would be sent to a node.
func (p *Preview) Bytes(node string) int64 {
	var n int64
	for _, c := range p.Changes {
		if c.Node == node {
			n += c.Bytes
		}
	}
	return n
}

// Plan shows what Create would do, and changes nothing.
func Plan(ctx context.Context, o Options) (*Preview, error) {
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	leaving, err := s.leavers()
	if err != nil {
		return nil, err
	}
	c, err := s.prepare(ctx)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(c.expect(leaving), s.rotationBegun(ctx)); err != nil {
		return nil, err
	}
	phases, err := c.CreatePhases()
	if err != nil {
		return nil, err
	}
	p, err := plan.Compile(phases, plan.Options{Only: o.Only, Skip: o.Skip, Now: o.Clock.Now})
	if err != nil {
		return nil, err
	}
	changes, err := p.Preview(ctx, s.hosts)
	return &Preview{Changes: changes, Nodes: p.Nodes()}, err
}
