// Package lean keeps the process small. It imports nothing of kocli's.
package lean

import (
	"math"
	"runtime/debug"
)

// Within has Go's memory collected more often as it comes near limit, in bytes,
// until the returned function is called. GOMEMLIMIT has the last word, and so has
// whoever asked first.
func Within(limit int64) (end func()) {
	before := debug.SetMemoryLimit(-1)
	if before == math.MaxInt64 {
		debug.SetMemoryLimit(limit)
	}
	return func() { debug.SetMemoryLimit(before) }
}
