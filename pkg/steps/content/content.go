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
	Mode fanout.Mode
	Now  func() time.Time
	// Done is told what the push cost. May be nil.
	Done func(fanout.Report)
}

// Push has every node hold what its steps will need. It runs once for all of
// them, on whichever node its phase names.
func Push(o Options) plan.Step { return push{o} }

type push struct{ Options }

// ID is the step's name.
func (p push) ID() string { return "content/push" }

// Check asks every node what it lacks.
func (p push) Check(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
	lacking, err := p.lacking(ctx)
	if err != nil {
		return nil, err
	}
	var out []plan.Change
	for i, n := range p.Nodes {
		if len(lacking[i]) == 0 {
			continue
		}
		c := plan.Change{Object: "content of " + n.Name, To: fmt.Sprintf("%d blobs", len(lacking[i]))}
		for _, it := range lacking[i] {
			c.Bytes += it.Size
		}
		out = append(out, c)
	}
	return out, nil
}

// lacking returns the blobs that each node will need and does not have.
func (p push) lacking(ctx context.Context) ([][]fanout.Item, error) {
	out := make([][]fanout.Item, len(p.Nodes))
	errs := make([]error, len(p.Nodes))
	var g errgroup.Group
	g.SetLimit(plan.MaxChecked)
	for i, n := range p.Nodes {
		g.Go(func() error { out[i], errs[i] = p.lackingOn(ctx, n); return nil })
	}
	_ = g.Wait() // the errors are in errs, each with its node
	for i, err := range errs {
		if err != nil {
			return nil, &fault.Error{Op: "ask what is lacking", Node: p.Nodes[i].Name, Err: err}
		}
	}
	return out, nil
}

func (p push) lackingOn(ctx context.Context, n Node) ([]fanout.Item, error) {
	r, err := p.Dialer.Look(ctx, n.Name)
	if err != nil {
		return nil, err
	}
	needs := make([][]plan.Change, len(n.Steps))
	errs := make([]error, len(n.Steps)+1)
	var have map[string]int64
	var wg sync.WaitGroup
	wg.Go(func() { have, errs[len(n.Steps)] = fanout.Stored(ctx, r, p.Also...) })
	for i, s := range n.Steps {
		wg.Go(func() { needs[i], errs[i] = s.Check(ctx, r) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	var out []fanout.Item
	seen := map[string]bool{}
	for _, c := range slices.Concat(needs...) {
		for _, d := range c.Content {
			it, ok := p.Item(d)
			size, there := have[d]
			if ok && !seen[d] && (!there || size != it.Size) {
				out = append(out, it)
			}
			seen[d] = true
		}
	}
	return out, nil
}

// Apply pushes to all nodes that lack something.
func (p push) Apply(ctx context.Context, _ host.Host) error {
	lacking, err := p.lacking(ctx)
	if err != nil {
		return err
	}
	o := fanout.Options{
		Mode: p.Mode, Now: p.Now, Say: func(s string) { plan.Say(ctx, s) },
		Progress: func(done, total int64) { plan.Transfer(ctx, "content", done, total) },
	}
	numbers := map[string]int{}
	for i, n := range p.Nodes {
		if len(lacking[i]) == 0 {
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
		for _, it := range lacking[i] {
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
	report, err := fanout.Push(ctx, o)
	if p.Done != nil {
		p.Done(report)
	}
	for _, n := range p.Nodes { // they have been written to
		if r, err := p.Dialer.Look(ctx, n.Name); err == nil {
			plan.Forget(r)
		}
	}
	return err
}
