package hosttest

import (
	"errors"
	"slices"
	"sync"

	"github.com/kocli/kocli/pkg/fault"
)

// ErrCut is what a cut connection returns.
var ErrCut = fault.New(fault.Unreachable, "", errors.New("connection lost"))

// Wire is what leads from the operator to machines and to what stands behind
// them. It counts writes, and can be cut before or after any of them. Machines
// that share one are lost together, as when the operator's cable is cut.
type Wire struct {
	mu      sync.Mutex
	writes  int
	cutAt   int  // lose the connection at this write; 0 means never
	cutLate bool // after it was done, before its answer arrives
	lost    bool
	log     []string
}

// CutBefore loses the connection before the n-th write from now; 0 mends it.
// What is lost stays lost, for reading too.
func (w *Wire) CutBefore(n int) { w.cut(n, false) }

// CutAfter loses the connection after the n-th write from now has been done and
// before anybody hears of it.
func (w *Wire) CutAfter(n int) { w.cut(n, true) }

func (w *Wire) cut(n int, late bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes, w.cutAt, w.cutLate, w.lost = 0, n, late, false
}

// Cut loses the connection now.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = true
}

// Lost reports whether the connection has been cut.
func (w *Wire) Lost() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// Writes counts the writes since the last CutBefore: Run, Remove, Put where it
// had to write, and requests to an API that change something.
func (w *Wire) Writes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writes
}

// Log lists the writes so far.
func (w *Wire) Log() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.log)
}

// Do counts a write and does it, and fails where the connection is to be cut:
// before it, or after it without telling.
func (w *Wire) Do(what string, do func() error) error {
	w.mu.Lock()
	if w.lost {
		w.mu.Unlock()
		return ErrCut
	}
	w.writes++
	cut := w.cutAt > 0 && w.writes >= w.cutAt
	if cut && !w.cutLate {
		w.lost = true
		w.mu.Unlock()
		return ErrCut
	}
	w.log = append(w.log, what)
	w.mu.Unlock()
	err := do()
	if cut {
		w.Cut()
		return ErrCut
	}
	return err
}
