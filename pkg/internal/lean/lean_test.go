package lean_test

import (
	"math"
	"runtime/debug"
	"testing"

	"github.com/kocli/kocli/pkg/internal/lean"
)

func TestWithin_theFirstLimitHoldsUntilItEnds(t *testing.T) {
	before := debug.SetMemoryLimit(math.MaxInt64)
	defer debug.SetMemoryLimit(before)
	outer := lean.Within(1 << 30)
	inner := lean.Within(1 << 29)
	if got := debug.SetMemoryLimit(-1); got != 1<<30 {
		t.Errorf("a limit of %d", got)
	}
	inner()
	outer()
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("a limit of %d is left", got)
	}
}
