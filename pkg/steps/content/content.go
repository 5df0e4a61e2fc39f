// Package content brings what many hosts lack of the bundle into their content
// stores, all of it in one go. The steps that install it take it from there.
package content

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/plan"
)

// Node is a host that content is brought to.
type Node struct {
	Name  string
	IP    string      // among the hosts
	Steps []plan.Step // whose changes say what it lacks
	// First are steps that come before this one. With a delta, what they need has to
	// be in it whole.
	First []plan.Step
}

// Options are a push.
type Options struct {
	Nodes  []Node
	Dialer plan.Dialer
	// Item returns a blob of the bundle by its digest; false where it has none,
	// as with a file that was rendered.
	Item func(digest string) (fanout.Item, bool)
	// Relay is the command that runs kocli's relay on a host.
	Relay []string
	// Lane is the command that runs a lane on a host, see fanout.Lane, and Line makes
	// the connections for it. nil where one connection a host is all there is.
	Lane []string
	Line func(node string) fanout.Line
	// Also are folders on the hosts where others keep blobs, see fanout.Relay.
	Also []string
	// Delta says how blobs are made of what a host has; nil of a whole bundle.
	Delta *Delta
	Mode  fanout.Mode
	Now   func() time.Time
	// Done is told what the push cost. May be nil.
	Done func(fanout.Report)
	// Made is told how many blobs, and bytes of them, hosts have made. May be nil.
	Made func(blobs int, bytes int64)
}

// Push has every node hold what its steps will need. It runs once for all of
// them, on whichever node its phase names.
func Push(o Options) plan.Step { return &push{Options: o} }

type push struct {
	Options
	// needs are the changes that the steps of each node would make, step by step, as
	// Apply found them: bringing content there does not change them, and the check that
	// follows asks only what the stores hold now. nil where they have to be asked for.
	needs [][][]plan.Change
}

// ID is the step's name.
func (p *push) ID() string { return "content/push" }

// Check asks every node what it lacks.
func (p *push) Check(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
	known := p.needs
	p.needs = nil
	lacking, _, err := p.lacking(ctx, known)
	if err != nil {
		return nil, err
	}
	var out []plan.Change
	for i, n := range p.Nodes {
		if lacking[i].nothing() {
			continue
		}
		c := plan.Change{Object: "content of " + n.Name, To: fmt.Sprintf("%d blobs", len(lacking[i].items))}
		if made := len(lacking[i].make); made > 0 {
			c.To = fmt.Sprintf("%d blobs, and %d made there of what it has", len(lacking[i].items), made)
		} else if len(lacking[i].items) == 0 {
			c.To = "without the rests of a delta"
		}
		for _, it := range lacking[i].items {
			c.Bytes += it.Size
		}
		out = append(out, c)
	}
	return out, nil
}

// lack is what a node will need and does not have.
type lack struct {
	items   []fanout.Item
	make    []archive.DeltaBlob // that it makes of what it has, and of items
	files   map[string]string   // installed files that it takes for that, by digest
	rests   []string            // what a delta stored, and nobody needs any more
	nowhere []Nowhere
}

func (l lack) nothing() bool { return len(l.items)+len(l.make)+len(l.rests) == 0 }

// lacking returns what each node lacks, and what its steps would change: that is asked
// for where it is not known. What is nowhere is an error.
func (p *push) lacking(ctx context.Context, known [][][]plan.Change) ([]lack, [][][]plan.Change, error) {
	out := make([]lack, len(p.Nodes))
	needs := make([][][]plan.Change, len(p.Nodes))
	copy(needs, known)
	errs := make([]error, len(p.Nodes))
	var g errgroup.Group
	g.SetLimit(plan.MaxChecked)
	for i, n := range p.Nodes {
		g.Go(func() error { out[i], needs[i], errs[i] = p.lackingOn(ctx, n, needs[i]); return nil })
	}
	_ = g.Wait() // the errors are in errs, each with its node
	for i, err := range errs {
		if err != nil {
			return nil, nil, &fault.Error{Op: "ask what is lacking", Node: p.Nodes[i].Name, Err: err}
		}
	}
	return out, needs, p.refusal(out)
}

func (p *push) lackingOn(ctx context.Context, n Node, needs [][]plan.Change) (lack, [][]plan.Change, error) {
	r, err := p.Dialer.Look(ctx, n.Name)
	if err != nil {
		return lack{}, nil, err
	}
	steps := slices.Concat(n.Steps, n.First)
	if needs != nil {
		steps = nil
	} else {
		needs = make([][]plan.Change, len(steps))
	}
	errs := make([]error, len(steps)+1)
	var have map[string]int64
	var wg sync.WaitGroup
	wg.Go(func() { have, errs[len(steps)] = fanout.Stored(ctx, r, p.Also...) })
	for i, s := range steps {
		wg.Go(func() { needs[i], errs[i] = s.Check(ctx, r) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return lack{}, nil, err
		}
	}
	var out lack
	var others []string // that the bundle does not have as they are
	seen := map[string]bool{}
	for _, c := range slices.Concat(needs[:len(n.Steps)]...) {
		for _, d := range c.Content {
			if seen[d] {
				continue
			}
			seen[d] = true
			it, ok := p.Item(d)
			if size, there := have[d]; ok && (!there || size != it.Size) {
				out.items = append(out.items, it)
			} else if !ok {
				others = append(others, d)
			}
		}
	}
	if p.Delta != nil {
		err = p.made(ctx, r, others, have, &out)
		p.first(slices.Concat(needs[len(n.Steps):]...), &out)
	}
	return out, needs, err
}

// Apply pushes to all nodes that lack something, and has them make the rest.
func (p *push) Apply(ctx context.Context, _ host.Host) error {
	lacking, needs, err := p.lacking(ctx, nil)
	if err != nil {
		return err
	}
	if err := p.send(ctx, lacking); err != nil {
		return err
	}
	if p.Delta != nil {
		if err := p.makeAll(ctx, lacking); err != nil {
			return err
		}
	}
	p.needs = needs
	return nil
}

// send brings the items to all nodes that lack some.
func (p *push) send(ctx context.Context, lacking []lack) error {
	o := fanout.Options{
		Mode: p.Mode, Now: p.Now, Say: func(s string) { plan.Say(ctx, s) },
		Progress: func(done, total int64) { plan.Transfer(ctx, "content", done, total) },
	}
	numbers := map[string]int{}
	for i, n := range p.Nodes {
		if len(lacking[i].items) == 0 {
			continue
		}
		h, err := p.Dialer.Dial(ctx, n.Name)
		if err != nil {
			return err
		}
		runner, ok := h.(fanout.Runner)
		if !ok {
			return fmt.Errorf("%s: its connection carries no tunnels", n.Name)
		}
		t := fanout.Target{Host: runner, IP: n.IP, Relay: p.Relay, Lane: p.Lane}
		if p.Line != nil {
			t.Line = p.Line(n.Name)
		}
		for _, it := range lacking[i].items {
			k, ok := numbers[it.Digest]
			if !ok {
				k = len(o.Items)
				numbers[it.Digest] = k
				o.Items = append(o.Items, it)
			}
			t.Blobs = append(t.Blobs, k)
		}
		o.Targets = append(o.Targets, t)
	}
	if len(o.Targets) == 0 {
		return nil
	}
	report, err := fanout.Push(ctx, o)
	if p.Done != nil {
		p.Done(report)
	}
	return err
}
