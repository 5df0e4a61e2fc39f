package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
)

// Report is what an execution did.
type Report struct {
	Changed  []Change // what steps applied, in no order
	Duration time.Duration
	Phases   map[string]time.Duration // longest time of a phase on any node
}

// Execute brings every node to where no check reports a change. A phase starts
// on a node as soon as what it needs is complete. The first error stops new
// phases from starting, waits for what is running, and reports all errors.
func (p *Plan) Execute(ctx context.Context, d Dialer, emit func(Event)) (*Report, error) {
	e := &execution{
		plan: p, dialer: d, emit: serial(emit, p.now), done: map[task]chan struct{}{}, begun: map[task]chan struct{}{}, halt: make(chan struct{}),
		report: Report{Phases: map[string]time.Duration{}},
	}
	start := p.now()
	var err error
	if e.readers, err = p.look(ctx, d); err != nil {
		return &e.report, err
	}
	e.first = p.checkAll(ctx, e.readers)
	for _, ph := range p.phases {
		for _, n := range ph.Nodes {
			e.done[task{ph.Name, n}] = make(chan struct{})
			e.begun[task{ph.Name, n}] = make(chan struct{})
		}
	}
	var wg sync.WaitGroup
	for _, ph := range p.phases {
		width := ph.Width
		if width <= 0 {
			width = max(1, len(ph.Nodes))
		}
		slots := make(chan struct{}, width)
		for _, n := range ph.Nodes {
			wg.Go(func() { e.task(ctx, ph, n, slots) })
		}
	}
	wg.Wait()
	e.report.Duration = p.now().Sub(start)
	if err := errors.Join(e.errs...); err != nil {
		return &e.report, err
	}
	return &e.report, ctx.Err()
}

// execution is one run of a plan.
type execution struct {
	plan    *Plan
	dialer  Dialer
	emit    func(Event)
	readers map[string]host.Reader
	first   map[key]finding
	dirty   atomic.Bool            // something has been applied: the first checks are stale
	done    map[task]chan struct{} // closed when the task has succeeded
	begun   map[task]chan struct{} // closed when the task has begun

	mu     sync.Mutex
	errs   []error
	report Report
	stop   sync.Once
	halt   chan struct{}
}

// task waits for what the phase needs and runs it on a node.
func (e *execution) task(ctx context.Context, ph Phase, node string, slots chan struct{}) {
	for _, dep := range e.dependencies(ph, node) {
		select {
		case <-dep:
		case <-e.halt:
			return
		case <-ctx.Done():
			return
		}
	}
	if !e.waitForHeadStart(ctx, ph, node) {
		return
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-e.halt:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-e.halt: // both were ready
		return
	default:
	}
	start := e.plan.now()
	close(e.begun[task{ph.Name, node}])
	e.emit(Event{Kind: PhaseStarted, Phase: ph.Name, Node: node})
	for i, s := range e.plan.steps[task{ph.Name, node}] {
		if err := e.step(ctx, ph.Name, node, i, s); err != nil {
			e.fail(err)
			return
		}
	}
	took := e.plan.now().Sub(start)
	e.emit(Event{Kind: PhaseEnded, Phase: ph.Name, Node: node, Duration: took})
	e.mu.Lock()
	e.report.Phases[ph.Name] = max(e.report.Phases[ph.Name], took)
	e.mu.Unlock()
	close(e.done[task{ph.Name, node}])
}

// waitForHeadStart reports whether the task may go on.
func (e *execution) waitForHeadStart(ctx context.Context, ph Phase, node string) bool {
	if ph.HeadStart == nil {
		return true
	}
	var first []chan struct{}
	for _, other := range e.plan.phases {
		if other.Name != ph.HeadStart.Phase {
			continue
		}
		if slices.Contains(other.Nodes, node) {
			return true
		}
		for _, n := range other.Nodes {
			first = append(first, e.begun[task{other.Name, n}])
		}
	}
	timer := time.NewTimer(ph.HeadStart.Max)
	defer timer.Stop()
	for _, c := range first {
		select {
		case <-c:
		case <-timer.C:
			return true
		case <-e.halt:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// fail records an error and stops new tasks from starting.
func (e *execution) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.errs = append(e.errs, err)
	e.stop.Do(func() { close(e.halt) })
}

// dependencies lists what must be closed before ph may start on node.
func (e *execution) dependencies(ph Phase, node string) []chan struct{} {
	var out []chan struct{}
	for _, other := range e.plan.phases {
		if slices.Contains(ph.Needs, other.Name) && len(other.Nodes) == 0 {
			out = append(out, e.dependencies(other, node)...) // nobody waits for them in its place
		}
		for _, n := range other.Nodes {
			if slices.Contains(ph.Needs, other.Name) || slices.Contains(ph.Follows, other.Name) && n == node {
				out = append(out, e.done[task{other.Name, n}])
			}
		}
	}
	return out
}

// step checks, applies where needed, and checks again.
func (e *execution) step(ctx context.Context, phase, node string, i int, s Step) error {
	ctx = context.WithValue(ctx, scopeKey{}, &scope{phase, node, s.ID(), e.emit})
	at := Event{Phase: phase, Node: node, Step: s.ID()}
	start := e.plan.now()
	fail := func(err error) error {
		ev := at
		ev.Kind, ev.Error, ev.Hint, ev.Duration = StepFailed, err.Error(), fault.HintOf(err), e.plan.now().Sub(start)
		e.emit(ev)
		return &fault.Error{Op: s.ID(), Node: node, Err: err}
	}
	r := e.readers[node]
	f := e.first[key{phase, node, i}]
	if e.dirty.Load() || f.err != nil {
		f.changes, f.err = check(ctx, phase, node, s, r)
	}
	if f.err != nil {
		return fail(f.err)
	}
	if len(f.changes) == 0 {
		at.Kind = StepUnchanged
		e.emit(at)
		return nil
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	ev := at
	ev.Kind, ev.Changes, ev.Message = StepStarted, len(f.changes), f.changes[0].Object
	e.emit(ev)
	e.dirty.Store(true)
	h, err := e.dialer.Dial(ctx, node)
	if err != nil {
		return fail(err)
	}
	err = s.Apply(ctx, h)
	Forget(r)
	if err != nil {
		return fail(err)
	}
	left, err := check(ctx, phase, node, s, r)
	if err != nil {
		return fail(fmt.Errorf("check what was applied: %w", err))
	}
	if len(left) > 0 {
		return fail(fmt.Errorf("%w: %s", ErrNotConverged, left[0]))
	}
	e.mu.Lock()
	e.report.Changed = append(e.report.Changed, f.changes...)
	e.mu.Unlock()
	at.Kind, at.Changes, at.Duration = StepChanged, len(f.changes), e.plan.now().Sub(start)
	e.emit(at)
	return nil
}

// String shows a change in one line.
func (c Change) String() string {
	s := c.Object
	switch {
	case c.From != "" && c.To != "":
		s += ": " + c.From + " -> " + c.To
	case c.To != "":
		s += ": " + c.To
	case c.From != "":
		s += ": now " + c.From
	}
	if c.After != "" {
		s += " (known after " + c.After + ")"
	}
	return s
}
