package admission_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kocli/kocli/pkg/internal/admission"
)

var (
	errBusy   = errors.New("too many requests")
	errBroken = errors.New("broken")
)

func transient(err error) bool { return errors.Is(err, errBusy) }

// crowd has n callers want something that takes a second, and returns how many
// were at it at once at most and how long all of it took.
func crowd(t *testing.T, w *admission.Window, n int, answer time.Duration) (int, time.Duration) {
	t.Helper()
	var inside, most atomic.Int32
	start := time.Now()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			err := w.Do(t.Context(), transient, func(context.Context) (time.Duration, error) {
				in := inside.Add(1)
				for {
					m := most.Load()
					if in <= m || most.CompareAndSwap(m, in) {
						break
					}
				}
				time.Sleep(time.Second)
				inside.Add(-1)
				return answer, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	return int(most.Load()), time.Since(start)
}

func TestWindow_aFewAreNotHeldUpAtAll(t *testing.T) {
	for name, w := range map[string]*admission.Window{"a window": admission.New(), "none": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if most, took := crowd(t, w, 3, 0); most != 3 || took != time.Second {
					t.Errorf("%d at once, in %s", most, took)
				}
			})
		})
	}
}

func TestWindow_growsWhileTheServerIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := admission.New()
		// 32, 64, 128, 256, 20: five rounds, where a fixed 32 would need sixteen.
		most, took := crowd(t, w, 500, admission.Quick)
		// Those of the last round may begin while some of the one before are still counted.
		if most < 256 || most > 276 || took != 5*time.Second {
			t.Errorf("%d at once, in %s", most, took)
		}
	})
}

func TestWindow_doesNotGrowWhileTheServerIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := admission.New()
		most, took := crowd(t, w, 100, admission.Quick+1)
		if most != admission.Start || took != 4*time.Second || w.Limit() != admission.Start {
			t.Errorf("%d at once, in %s, and then %d", most, took, w.Limit())
		}
	})
}

func TestWindow_isNeverLargerThanItsMaximum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := admission.New()
		crowd(t, w, 2*admission.Max, 0)
		if w.Limit() != admission.Max {
			t.Errorf("%d", w.Limit())
		}
	})
}

// One overload fails many at once, and is one overload.
func TestWindow_halvesOnceForThoseThatFailTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := admission.New()
		var wg sync.WaitGroup
		for range 32 {
			first := true
			wg.Go(func() {
				err := w.Do(t.Context(), transient, func(context.Context) (time.Duration, error) {
					time.Sleep(time.Second)
					if first {
						first = false
						return 0, errBusy
					}
					return admission.Quick + 1, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if w.Limit() != 16 {
			t.Errorf("a window of %d", w.Limit())
		}
		// It grows again by one in a whole window of successes.
		if most, _ := crowd(t, w, 16, 0); most != 16 || w.Limit() != 17 {
			t.Errorf("%d at once, then %d", most, w.Limit())
		}
	})
}

func TestWindow_isNeverSmallerThanOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := admission.New()
		for range 5 {
			if err := w.Do(t.Context(), transient, func(context.Context) (time.Duration, error) { return 0, errBusy }); !errors.Is(err, errBusy) {
				t.Error(err)
			}
		}
		if w.Limit() != 1 {
			t.Errorf("a window of %d", w.Limit())
		}
	})
}

func TestDo_triesThreeTimesWhatPassesAndOnceWhatDoesNot(t *testing.T) {
	for _, c := range []struct {
		name  string
		errs  []error
		want  error
		tries int
		least time.Duration // waited at least; at most half as long again
	}{
		{"a success", []error{nil}, nil, 1, 0},
		{"a success at the second try", []error{errBusy, nil}, nil, 2, time.Second},
		{"a success at the third", []error{errBusy, errBusy, nil}, nil, 3, 3 * time.Second},
		{"three failures", []error{errBusy, errBusy, errBusy, nil}, errBusy, 3, 3 * time.Second},
		{"a failure that does not pass", []error{errBroken, nil}, errBroken, 1, 0},
		{"one that passes, then one that does not", []error{errBusy, errBroken, nil}, errBroken, 2, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, tries := time.Now(), 0
				err := admission.New().Do(t.Context(), transient, func(context.Context) (time.Duration, error) {
					tries++
					return 0, c.errs[tries-1]
				})
				took := time.Since(start)
				if !errors.Is(err, c.want) || tries != c.tries || took < c.least || took > c.least*3/2 {
					t.Errorf("%v after %d tries in %s", err, tries, took)
				}
			})
		})
	}
}

func TestDo_theTriesOfManyAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, start := admission.New(), time.Now()
		at := map[time.Duration]bool{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 16 {
			tries := 0
			wg.Go(func() {
				_ = w.Do(t.Context(), transient, func(context.Context) (time.Duration, error) {
					if tries++; tries == 1 {
						return 0, errBusy
					}
					mu.Lock()
					defer mu.Unlock()
					at[time.Since(start)] = true
					return 0, nil
				})
			})
		}
		wg.Wait()
		if len(at) < 12 {
			t.Errorf("16 came again at %d moments", len(at))
		}
	})
}

func TestDo_endsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := admission.New()
		ctx, cancel := context.WithCancel(t.Context())
		var done atomic.Int32
		var wg sync.WaitGroup
		for range admission.Start + 3 { // three wait for room
			wg.Go(func() {
				err := w.Do(ctx, transient, func(ctx context.Context) (time.Duration, error) {
					<-ctx.Done()
					return 0, errBusy // and none is tried again
				})
				if errors.Is(err, context.Canceled) || errors.Is(err, errBusy) {
					done.Add(1)
				}
			})
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		if done.Load() != admission.Start+3 || w.Limit() != admission.Start {
			t.Errorf("%d ended, a window of %d", done.Load(), w.Limit())
		}
		if most, took := crowd(t, w, admission.Start, 0); most != admission.Start || took != time.Second {
			t.Errorf("then %d at once, in %s: a place was lost", most, took)
		}
	})
}
