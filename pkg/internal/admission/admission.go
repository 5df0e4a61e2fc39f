// Package admission holds back work on a server that many want at once: as many
// at a time as the server is quick for, after the manner of TCP's congestion
// control. It knows nothing of the work, and imports nothing of kocli.
package admission

import (
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// How the window moves.
const (
	// Start is how many are let in at first.
	Start = 32
	// Max is how many are let in at most.
	Max = 512
	// Quick is the longest answer of a server that could take more.
	Quick = time.Second
	// Tries is how often something is tried that fails for a reason that passes.
	Tries = 3
)

// backoff is how long a try waits for the next one: about one second, then about
// two. The jitter keeps those apart that have failed together.
func backoff() wait.Backoff {
	return wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.5, Steps: Tries}
}

// Window lets work in. Its zero value is of no use, and a nil Window lets
// everything in. All methods are safe for concurrent use.
type Window struct {
	mu      sync.Mutex
	limit   int
	grown   int // successes towards the next step, once the window has been too large
	steady  bool
	running int
	epoch   int // counts the halvings
	waiting []chan struct{}
}

// New returns a window of Start.
func New() *Window { return &Window{limit: Start} }

// Limit is how many may run at once now.
func (w *Window) Limit() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limit
}

// Do calls try once there is room for it, first come, first served. It is called
// again, Tries times in all, while it fails with an error that is transient;
// meanwhile others have its place. try returns how long the slowest answer of the
// server took. Do returns the last error of try, or that of ctx.
func (w *Window) Do(ctx context.Context, transient func(error) bool, try func(ctx context.Context) (slowest time.Duration, err error)) error {
	for b, n := backoff(), 1; ; n++ {
		epoch, err := w.enter(ctx)
		if err != nil {
			return err
		}
		slowest, err := try(ctx)
		passes := err != nil && ctx.Err() == nil && transient(err)
		w.leave(epoch, err == nil && slowest <= Quick, passes)
		if !passes || n == Tries {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(b.Step()):
		}
	}
}

// enter waits for room, and returns in what epoch it was found.
func (w *Window) enter(ctx context.Context) (int, error) {
	if w == nil {
		return 0, ctx.Err()
	}
	w.mu.Lock()
	if err := ctx.Err(); err != nil {
		w.mu.Unlock()
		return 0, err
	}
	if w.running < w.limit && len(w.waiting) == 0 {
		defer w.mu.Unlock()
		w.running++
		return w.epoch, nil
	}
	turn := make(chan struct{})
	w.waiting = append(w.waiting, turn)
	w.mu.Unlock()
	select {
	case <-turn:
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		at := slices.Index(w.waiting, turn)
		if at < 0 { // let in at the same moment
			w.running--
			w.admit()
			return 0, ctx.Err()
		}
		w.waiting = slices.Delete(w.waiting, at, at+1)
		return 0, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.epoch, nil
}

// leave gives the place to others, and moves the window: one more for each quick
// success, so that it doubles, until it has been too large once; from then on one
// more for a whole window of them. A failure halves it, but only one of those
// that were let in since it was halved last: what one overload does to many at
// once counts once.
func (w *Window) leave(epoch int, quick, failed bool) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running--
	switch {
	case failed && epoch == w.epoch:
		w.limit, w.grown, w.steady = max(1, w.limit/2), 0, true
		w.epoch++
	case quick && w.steady:
		if w.grown++; w.grown >= w.limit {
			w.limit, w.grown = min(Max, w.limit+1), 0
		}
	case quick:
		w.limit = min(Max, w.limit+1)
	}
	w.admit()
}

// admit lets in who there is room for. The lock is held.
func (w *Window) admit() {
	for w.running < w.limit && len(w.waiting) > 0 {
		w.running++
		close(w.waiting[0])
		w.waiting = w.waiting[1:]
	}
}
