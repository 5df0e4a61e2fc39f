package workflow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/fanout"
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
	Log        string         `json:"log,omitempty"`
	// Order lists the phases as they run.
	Order []string `json:"-"`
}

// Create makes the hosts be the cluster. The result is not nil once the run has
// a log, also with an error.
func Create(ctx context.Context, o Options) (*Result, error) {
	if o.Bundle == "" {
		return nil, fault.New(fault.Usage, "", errNoBundle)
	}
	start := o.Clock.Now()
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	res := &Result{Cluster: s.inv.Name, Kubernetes: s.inv.Version(), Nodes: len(s.inv.Nodes), Log: s.LogPath}
	c, err := s.prepare(ctx)
	if err != nil {
		return res, err
	}
	c.pushed = func(r fanout.Report) { res.Content = &r }
	phases, err := c.CreatePhases()
	if err != nil {
		return res, err
	}
	for _, p := range phases {
		res.Order = append(res.Order, p.Name)
	}
	p, err := plan.Compile(phases, plan.Options{Only: o.Only, Skip: o.Skip, Now: o.Clock.Now})
	if err != nil {
		return res, err
	}
	if err := s.remember(); err != nil {
		return res, err
	}
	report, err := p.Execute(ctx, s.hosts, o.Observer.Event)
	res.Changed, res.Phases, res.Hosts = len(report.Changed), report.Phases, s.Stats()
	res.Duration = o.Clock.Now().Sub(start)
	if err != nil {
		return res, err
	}
	res.Kubeconfig, err = s.keepKubeconfig(ctx)
	if errors.Is(err, fs.ErrNotExist) && len(o.Only)+len(o.Skip) > 0 {
		return res, nil // the cluster was not asked for yet
	}
	if err != nil {
		return res, err
	}
	return res, nil
}

// prepare looks at the hosts and refuses what cannot work, before anything is
// changed.
func (s *Session) prepare(ctx context.Context) (*Cluster, error) {
	damaged := make(chan error, 1)
	go func() { // every byte, while the hosts are asked
		damaged <- s.bundle.Verify(ctx, nil)
	}()
	c, err := s.examine(ctx)
	if bad := <-damaged; bad != nil {
		return nil, bad
	}
	if err != nil {
		return nil, err
	}
	return c, s.sameCluster(ctx, c.Facts)
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
	c, err := s.cluster(facts)
	if err != nil {
		return nil, err
	}
	return c, s.closed(c)
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
	in := closure.Input{Inventory: s.inv, Bundle: s.bundle, Catalogue: cat, Kocli: c.Kocli.Arch}
	for _, n := range s.inv.Nodes {
		f := c.Facts[n.Name]
		in.Hosts = append(in.Hosts, closure.Host{Arch: f.Arch, ControlPlane: n.ControlPlane, Distribution: f.OS.ID, Release: f.OS.Version})
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

// remember saves what is asked for before it is done: state holds intent.
func (s *Session) remember() error {
	r, err := s.dir.Load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	next := state.Record{Generation: r.Generation, Kubernetes: s.inv.Version(), Spec: string(s.o.SpecYAML), KocliBuild: s.o.Version, Updated: s.o.Clock.Now().UTC()}
	if s.bundle != nil {
		next.Bundle = s.bundle.Digest()
	}
	if r.Kubernetes == next.Kubernetes && r.Spec == next.Spec && r.Bundle == next.Bundle && r.KocliBuild == next.KocliBuild {
		return nil
	}
	return s.dir.Save(&next)
}

// keepKubeconfig fetches the administrator's kubeconfig into the state folder.
func (s *Session) keepKubeconfig(ctx context.Context) (string, error) {
	r, err := s.hosts.Look(ctx, s.inv.Seed().Name)
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
	c, err := s.prepare(ctx)
	if err != nil {
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
