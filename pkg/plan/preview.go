package plan

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/kocli/kocli/pkg/host"
)

// finding is what one check said.
type finding struct {
	changes []Change
	err     error
}

// Preview looks at all nodes at once and returns the changes in the order in
// which they would happen. It holds readers only. Nodes that cannot be reached
// are reported together, and the changes of the others are still returned.
func (p *Plan) Preview(ctx context.Context, d Dialer) ([]Change, error) {
	readers, err := p.look(ctx, d)
	found := p.checkAll(ctx, readers)
	var out []Change
	errs := []error{err}
	for _, ph := range p.phases {
		for _, n := range ph.Nodes {
			for i, s := range p.steps[task{ph.Name, n}] {
				f, ok := found[key{ph.Name, n, i}]
				if !ok {
					continue // the node was not reached
				}
				if f.err != nil {
					errs = append(errs, fmt.Errorf("check %s on %s: %w", s.ID(), n, f.err))
				}
				out = append(out, f.changes...)
			}
		}
	}
	return out, errors.Join(errs...)
}

type key struct {
	phase, node string
	step        int
}

// look opens a reader to every node, all at once.
func (p *Plan) look(ctx context.Context, d Dialer) (map[string]host.Reader, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[string]host.Reader{}
	nodes := p.Nodes()
	errs := make([]error, len(nodes))
	for i, n := range nodes {
		wg.Go(func() {
			r, err := d.Look(ctx, n)
			if err != nil {
				errs[i] = err
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[n] = r
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// MaxChecked is how many nodes are checked at once. With many hundreds, the
// questions of all of them at the same time would take more memory than the
// answers.
const MaxChecked = 64

// checkAll runs every check of a node at once, so that a reader that batches can
// answer them in a handful of round trips, on many nodes at once.
func (p *Plan) checkAll(ctx context.Context, readers map[string]host.Reader) map[key]finding {
	var mu sync.Mutex
	out := map[key]finding{}
	one := func(ph *Phase, node string, i int) {
		changes, err := check(ctx, ph.Name, node, p.steps[task{ph.Name, node}][i], readers[node])
		mu.Lock()
		defer mu.Unlock()
		out[key{ph.Name, node, i}] = finding{changes, err}
	}
	checks := map[string][]func(){} // by node
	for _, ph := range p.phases {
		for _, n := range ph.Nodes {
			if readers[n] == nil {
				continue
			}
			for i := range p.steps[task{ph.Name, n}] {
				checks[n] = append(checks[n], func() { one(&ph, n, i) })
			}
		}
	}
	slots := make(chan struct{}, MaxChecked)
	var nodes sync.WaitGroup
	for _, todo := range checks {
		nodes.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			var wg sync.WaitGroup
			for _, f := range todo {
				wg.Go(f)
			}
			wg.Wait()
		})
	}
	nodes.Wait()
	return out
}

// check runs one check and fills in where its changes belong.
func check(ctx context.Context, phase, node string, s Step, r host.Reader) ([]Change, error) {
	changes, err := s.Check(ctx, r)
	for i := range changes {
		changes[i].Phase, changes[i].Node, changes[i].Step = phase, node, s.ID()
	}
	return changes, err
}
