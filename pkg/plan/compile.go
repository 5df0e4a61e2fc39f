package plan

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// Options narrow a plan down.
type Options struct {
	Only []string // step IDs or phase names; empty means all
	Skip []string
	// Now is the clock; nil means time.Now of the caller's choice is required.
	Now func() time.Time
}

// Plan is a compiled list of phases.
type Plan struct {
	phases []Phase
	steps  map[task][]Step
	now    func() time.Time
}

// task is one phase on one node.
type task struct{ phase, node string }

// Compile checks that every phase exists that another one asks for, that order
// contains no circle, and that step IDs are unique on a node; and builds the
// steps.
func Compile(phases []Phase, o Options) (*Plan, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Plan{phases: phases, steps: map[task][]Step{}, now: o.Now}
	seen := map[string]bool{}
	for _, ph := range phases {
		for _, dep := range slices.Concat(ph.Needs, ph.Follows) {
			if !seen[dep] {
				return nil, fmt.Errorf("phase %s comes after %s, which is not listed before it", ph.Name, dep)
			}
		}
		if seen[ph.Name] {
			return nil, fmt.Errorf("phase %s is listed twice", ph.Name)
		}
		seen[ph.Name] = true
	}
	for _, ph := range phases {
		if ph.HeadStart != nil && !seen[ph.HeadStart.Phase] {
			return nil, fmt.Errorf("phase %s gives a head start to %s, which does not exist", ph.Name, ph.HeadStart.Phase)
		}
	}
	known := map[string]bool{}
	ids := map[task]bool{}
	for _, ph := range phases {
		known[ph.Name] = true
		for _, n := range ph.Nodes {
			steps, err := ph.Steps(n)
			if err != nil {
				return nil, fmt.Errorf("phase %s on %s: %w", ph.Name, n, err)
			}
			for _, s := range steps {
				if ids[task{s.ID(), n}] {
					return nil, fmt.Errorf("step %s stands twice on %s", s.ID(), n)
				}
				ids[task{s.ID(), n}], known[s.ID()] = true, true
				if o.wants(ph.Name, s.ID()) {
					p.steps[task{ph.Name, n}] = append(p.steps[task{ph.Name, n}], s)
				}
			}
		}
	}
	for _, name := range slices.Concat(o.Only, o.Skip) {
		if !known[name] {
			return nil, fmt.Errorf("no step or phase is called %q", name)
		}
	}
	return p, nil
}

func (o Options) wants(phase, step string) bool {
	if slices.Contains(o.Skip, phase) || slices.Contains(o.Skip, step) {
		return false
	}
	return len(o.Only) == 0 || slices.Contains(o.Only, phase) || slices.Contains(o.Only, step)
}

// Nodes lists every node of the plan, in the order of first use.
func (p *Plan) Nodes() []string {
	var out []string
	for _, ph := range p.phases {
		for _, n := range ph.Nodes {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}

// StepIDs lists every step with the phase it stands in, once.
func (p *Plan) StepIDs() []string {
	var out []string
	for _, ph := range p.phases {
		for _, n := range ph.Nodes {
			for _, s := range p.steps[task{ph.Name, n}] {
				if !slices.Contains(out, s.ID()) {
					out = append(out, s.ID())
				}
			}
		}
	}
	return out
}

// ErrNotConverged is returned when a step succeeds and its own check still
// finds something to change.
var ErrNotConverged = errors.New("applied, and its check still reports a change")

// Forgetter is a reader that remembers answers, and can be told that they are
// no longer true.
type Forgetter interface{ Forget() }

// Forget tells a reader that its machine has been written to.
func Forget(r host.Reader) {
	if f, ok := r.(Forgetter); ok {
		f.Forget()
	}
}
