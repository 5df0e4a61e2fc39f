package plantest_test

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
)

func put(ctx context.Context, h host.Host, path, data string) error {
	_, err := h.Put(ctx, host.Bytes(path, 0o600, []byte(data)))
	return err
}

// whenAbsent is a check that looks for one file.
func whenAbsent(path string) func(context.Context, host.Reader) ([]plan.Change, error) {
	return func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		_, err := r.Stat(ctx, path)
		if errors.Is(err, fs.ErrNotExist) {
			return []plan.Change{{Object: path}}, nil
		}
		return nil, err
	}
}

func TestLaw(t *testing.T) {
	twoFiles := func(first, second string) func(context.Context, host.Host) error {
		return func(ctx context.Context, h host.Host) error {
			if err := put(ctx, h, first, "1"); err != nil {
				return err
			}
			return put(ctx, h, second, "2")
		}
	}
	for _, c := range []struct {
		name string
		step converge.Func
		says string // "" means that the law is obeyed
	}{
		{"a step that ends with what its check looks for", converge.Func{CheckFn: whenAbsent("/b"), ApplyFn: twoFiles("/a", "/b")}, ""},
		{"a done-marker that is written first", converge.Func{CheckFn: whenAbsent("/done"), ApplyFn: twoFiles("/done", "/work")},
			"check reports nothing to do, and yet: lacks /work"},
		{"a step with nothing to do", converge.Func{CheckFn: whenAbsent("/there"), ApplyFn: twoFiles("/a", "/b")}, "needs nothing"},
		{"an apply that does not do what the check looks for", converge.Func{CheckFn: whenAbsent("/c"), ApplyFn: twoFiles("/a", "/b")}, "after apply: check still reports"},
		{"an apply that writes every time", converge.Func{CheckFn: whenAbsent("/b"), ApplyFn: func(ctx context.Context, h host.Host) error {
			return errors.Join(put(ctx, h, "/b", "x"), h.Remove(ctx, "/absent"))
		}}, "apply again wrote: [remove /absent]"},
		{"an apply that swallows a lost connection", converge.Func{CheckFn: whenAbsent("/b"), ApplyFn: func(ctx context.Context, h host.Host) error {
			_ = put(ctx, h, "/b", "x")
			return nil
		}}, "no error surfaces"},
		{"a check that writes", converge.Func{CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			if h, ok := r.(host.Host); ok {
				return []plan.Change{{Object: "x"}}, put(ctx, h, "/b", "x")
			}
			return whenAbsent("/b")(ctx, r)
		}, ApplyFn: twoFiles("/a", "/b")}, ""},
		{"a check that takes silence for consent", converge.Func{CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			changes, _ := whenAbsent("/b")(ctx, r)
			return changes, nil
		}, ApplyFn: twoFiles("/a", "/b")}, "cannot be reached finds nothing"},
		{"a step that cannot be run over what it left", converge.Func{CheckFn: whenAbsent("/b"), ApplyFn: func(ctx context.Context, h host.Host) error {
			if _, err := h.Stat(ctx, "/b"); err == nil {
				return nil
			}
			if _, err := h.Stat(ctx, "/a"); err == nil {
				return errors.New("/a is in the way")
			}
			return twoFiles("/a", "/b")(ctx, h)
		}}, "run again: /a is in the way"},
		{"a second run that ends elsewhere", converge.Func{CheckFn: whenAbsent("/b"), ApplyFn: func(ctx context.Context, h host.Host) error {
			name := "/a"
			if _, err := h.Stat(ctx, "/b"); err == nil {
				return nil
			}
			if _, err := h.Stat(ctx, "/a"); err == nil {
				name = "/a2"
			}
			return twoFiles(name, "/b")(ctx, h)
		}}, "run again ends elsewhere: has /a2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := plantest.Law(t.Context(), func() plantest.World {
				m := hosttest.New("n")
				m.Write("/there", 0o600, "")
				return plantest.World{Step: c.step, Host: m}
			})
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}
