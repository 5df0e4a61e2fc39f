// Package plantest holds the law that every step obeys: once Apply succeeds,
// Check reports no Change, and a run that was cut anywhere goes on from what is
// true. It knows hosts and plans, and no Kubernetes words. Only tests import it.
package plantest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/plan"
)

// World is a step and the host it is for.
type World struct {
	Step plan.Step
	Host *hosttest.Machine
	// Random are files whose content differs from run to run: keys, tokens.
	Random []string
	// State describes what stands behind the host, such as objects of an API; nil
	// where there is nothing.
	State func() string
	Close func() // ends what the world runs; may be nil
}

// patience is how long a step may take: the worlds are in memory, so a step
// that waits longer waits for something that will not come.
const patience = 20 * time.Second

// Converges fails the test when the step breaks the law. newWorld makes a fresh
// host every time, on which the step has something to do.
func Converges(t *testing.T, newWorld func() World) {
	t.Helper()
	n, err := Law(t.Context(), newWorld)
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d writes, each cut before and after", n)
}

// Law checks the law and returns how many writes the step makes.
func Law(ctx context.Context, newWorld func() World) (int, error) {
	end, writes, err := uninterrupted(ctx, newWorld)
	if err != nil {
		return writes, err
	}
	var errs []error
	for n := 1; n <= writes; n++ {
		for _, late := range []bool{false, true} {
			if err := interrupted(ctx, newWorld, n, late, end); err != nil {
				errs = append(errs, fmt.Errorf("cut %s write %d of %d: %w", map[bool]string{false: "before", true: "after"}[late], n, writes, err))
			}
		}
	}
	return writes, errors.Join(errs...)
}

// check looks as a run does: through a reader that batches and cannot write.
func (w World) check(ctx context.Context) ([]plan.Change, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return w.Step.Check(ctx, host.NewBatch(w.Host.Name(), w.Host, 200*time.Microsecond))
}

// apply writes as a run does: through the ledger, in a process of its own.
func (w World) apply(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return w.Step.Apply(ctx, ledger.Wrap(w.Host))
}

func (w World) close() {
	if w.Close != nil {
		w.Close()
	}
}

// uninterrupted runs the step in peace, and returns what the world looks like
// then and how many writes that took.
func uninterrupted(ctx context.Context, newWorld func() World) (string, int, error) {
	w := newWorld()
	defer w.close()
	w.Host.CutBefore(0)
	changes, err := w.check(ctx)
	if err != nil {
		return "", 0, fmt.Errorf("check of a fresh host: %w", err)
	}
	if len(changes) == 0 {
		return "", 0, errors.New("a fresh host needs nothing: the law proves nothing here")
	}
	for _, c := range changes {
		if c.Object == "" {
			return "", 0, errors.New("a change does not say what it is about")
		}
	}
	if n := w.Host.Writes(); n > 0 {
		return "", 0, fmt.Errorf("check wrote: %v", w.Host.Log())
	}
	if err := w.apply(ctx); err != nil {
		return "", 0, fmt.Errorf("apply: %w", err)
	}
	writes, before := w.Host.Writes(), len(w.Host.Log())
	if writes == 0 {
		return "", 0, errors.New("apply wrote nothing")
	}
	if err := w.converged(ctx); err != nil {
		return "", writes, fmt.Errorf("after apply: %w", err)
	}
	end := w.state(ctx)
	if err := w.apply(ctx); err != nil {
		return "", writes, fmt.Errorf("apply again: %w", err)
	}
	if n := w.Host.Writes() - writes; n > 0 {
		return "", writes, fmt.Errorf("apply again wrote: %v", w.Host.Log()[before:])
	}
	if err := w.converged(ctx); err != nil {
		return "", writes, fmt.Errorf("after apply again: %w", err)
	}
	w.Host.Cut()
	if changes, err := w.check(ctx); err == nil && len(changes) == 0 {
		return "", writes, errors.New("check of a host that cannot be reached finds nothing to do")
	}
	return end, writes, nil
}

// converged returns nil when check reports nothing.
func (w World) converged(ctx context.Context) error {
	changes, err := w.check(ctx)
	if err == nil && len(changes) > 0 {
		err = fmt.Errorf("check still reports %v", changes)
	}
	return err
}

// interrupted loses the connection at one write, mends it, and runs again.
func interrupted(ctx context.Context, newWorld func() World, n int, late bool, end string) error {
	w := newWorld()
	defer w.close()
	if late {
		w.Host.CutAfter(n)
	} else {
		w.Host.CutBefore(n)
	}
	err := w.apply(ctx)
	if !w.Host.Lost() {
		return errors.New("the step made fewer writes this time")
	}
	w.Host.CutBefore(0)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("it waits for a host that is gone: %w", err)
	}
	surfaced := err != nil || late
	changes, err := w.check(ctx)
	if err != nil {
		return fmt.Errorf("check of the mended host: %w", err)
	}
	if !surfaced && (len(changes) > 0 || w.state(ctx) != end) { // what was lost mattered
		return errors.New("no error surfaces")
	}
	if len(changes) == 0 {
		if diff := difference(end, w.state(ctx)); diff != "" {
			return fmt.Errorf("check reports nothing to do, and yet: %s", diff)
		}
		return nil
	}
	if err := w.apply(ctx); err != nil {
		return fmt.Errorf("run again: %w", err)
	}
	if err := w.converged(ctx); err != nil {
		return fmt.Errorf("run again: %w", err)
	}
	if diff := difference(end, w.state(ctx)); diff != "" {
		return fmt.Errorf("run again ends elsewhere: %s", diff)
	}
	return nil
}

// state describes the files of the host, a line each, and what stands behind.
// The ledger is left out: what happened to be tried twice may be noted twice.
func (w World) state(ctx context.Context) string {
	var lines []string
	for _, p := range w.Host.Files() {
		if p == ledger.Path() || strings.HasPrefix(p, ledger.OriginalPath("/")) || process(p) {
			continue
		}
		info, err := w.Host.Stat(ctx, p)
		if err != nil {
			lines = append(lines, p+" "+err.Error())
			continue
		}
		content := "random"
		if !slices.Contains(w.Random, p) && info.Mode()&fs.ModeSymlink == 0 {
			data, _ := w.Host.Read(p)
			content = fmt.Sprintf("%x", sha256.Sum256([]byte(data)))[:12]
		}
		lines = append(lines, fmt.Sprintf("%s %v %v %s", p, info.Mode(), info.Sys(), content))
	}
	if w.State != nil {
		lines = append(lines, strings.Split(w.State(), "\n")...)
	}
	return strings.Join(lines, "\n")
}

// process reports whether a path belongs to a process: its number says nothing.
func process(p string) bool {
	rest, ok := strings.CutPrefix(p, "/proc/")
	return ok && rest[0] >= '0' && rest[0] <= '9'
}

// difference names the lines that two states do not share.
func difference(want, got string) string {
	if want == got {
		return ""
	}
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out []string
	for _, l := range w {
		if !slices.Contains(g, l) {
			out = append(out, "lacks "+l)
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			out = append(out, "has "+l)
		}
	}
	return strings.Join(out, "; ")
}
