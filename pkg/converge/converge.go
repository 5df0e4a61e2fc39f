// Package converge has the shapes that most steps share: files that should be
// there, and functions. It knows hosts and plans, and no Kubernetes words.
package converge

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/plan"
)

// Func is a step made of two functions.
type Func struct {
	Name    string
	CheckFn func(ctx context.Context, r host.Reader) ([]plan.Change, error)
	ApplyFn func(ctx context.Context, h host.Host) error
}

// ID is the step's name.
func (f Func) ID() string { return f.Name }

// Check calls CheckFn.
func (f Func) Check(ctx context.Context, r host.Reader) ([]plan.Change, error) {
	return f.CheckFn(ctx, r)
}

// Apply calls ApplyFn.
func (f Func) Apply(ctx context.Context, h host.Host) error { return f.ApplyFn(ctx, h) }

// When is a step with one thing to do, where look says that it is due.
func When(name string, look func(context.Context, host.Reader) (plan.Change, bool, error), do func(context.Context, host.Host) error) Func {
	return Func{
		Name: name,
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			c, due, err := look(ctx, r)
			if err != nil || !due {
				return nil, err
			}
			return []plan.Change{c}, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			if _, due, err := look(ctx, h); err != nil || !due {
				return err
			}
			return do(ctx, h)
		},
	}
}

// Fixed is the list of Files that does not depend on the host.
func Fixed(files []host.File) func(context.Context, host.Reader) ([]host.File, error) {
	return func(context.Context, host.Reader) ([]host.File, error) { return files, nil }
}

// Files is a step that makes files be as described.
type Files struct {
	Name string
	// List returns the files. It may look at the host.
	List func(ctx context.Context, r host.Reader) ([]host.File, error)
	// Width is how many files are written at once; zero means one after another.
	Width int
}

// ID is the step's name.
func (f Files) ID() string { return f.Name }

// Check reports every file that differs.
func (f Files) Check(ctx context.Context, r host.Reader) ([]plan.Change, error) {
	files, err := f.List(ctx, r)
	if err != nil {
		return nil, err
	}
	return Differences(ctx, r, files)
}

// Apply writes the files that differ.
func (f Files) Apply(ctx context.Context, h host.Host) error {
	files, err := f.List(ctx, h)
	if err != nil {
		return err
	}
	return Put(ctx, h, files, f.Width)
}

// Put writes the files that differ: in one stream where the host can take one,
// width at once elsewhere.
func Put(ctx context.Context, h host.Host, files []host.File, width int) error {
	var total, done, travels int64
	var hostOnly bool
	for _, file := range files {
		_, size := file.Blob()
		total, travels = total+file.Size, travels+size
		hostOnly = hostOnly || file.HostOnly
	}
	if b, ok := h.(host.Bulk); ok && (total > bulkFrom || hostOnly) {
		err := b.PutAll(ctx, files, func(n int64) { plan.Transfer(ctx, "files", n, travels) })
		if !errors.Is(err, host.ErrNoBulk) {
			return err
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(1, width))
	var failed error
	for _, file := range files {
		slots <- struct{}{}
		mu.Lock()
		stop := failed != nil
		mu.Unlock()
		if stop {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			_, err := h.Put(ctx, file)
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
			done += file.Size
			if total > 1<<20 {
				plan.Transfer(ctx, "files", done, total)
			}
		})
	}
	wg.Wait()
	return failed
}

// bulkFrom is the size, in bytes, from which one stream is worth its start.
const bulkFrom = 1 << 20

// Differences reports every file that is not as described, asking for all of
// them at once.
func Differences(ctx context.Context, r host.Reader, files []host.File) ([]plan.Change, error) {
	diffs := make([]string, len(files))
	errs := make([]error, len(files))
	var wg sync.WaitGroup
	for i, f := range files {
		wg.Go(func() { diffs[i], errs[i] = ledger.Differs(ctx, r, f) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var out []plan.Change
	for i, d := range diffs {
		if d == "" {
			continue
		}
		blob, size := files[i].Blob()
		c := plan.Change{Object: "file " + files[i].Path, From: d, To: "as rendered", Bytes: size, Content: []string{blob}}
		switch d {
		case "absent":
			c.From, c.To = "", "create"
		case "content":
			c.From, c.To = "", "replace"
		default:
			c.To = modeAndOwner(files[i])
			c.Bytes, c.Content = 0, nil
		}
		out = append(out, c)
	}
	return out, nil
}

func modeAndOwner(f host.File) string {
	mode, owner := f.Want()
	return fmt.Sprintf("mode %04o, owner %s", mode, owner)
}

// Asked runs queries at once and returns their outputs; an ExitError is left to
// the caller to look at, in Errs.
func Asked(ctx context.Context, r host.Reader, cmds ...host.Cmd) ([]host.Output, []error, error) {
	outs := make([]host.Output, len(cmds))
	errs := make([]error, len(cmds))
	var wg sync.WaitGroup
	for i, c := range cmds {
		wg.Go(func() { outs[i], errs[i] = r.Query(ctx, c) })
	}
	wg.Wait()
	for _, err := range errs {
		var x *host.ExitError
		if err != nil && !errors.As(err, &x) {
			return nil, nil, err
		}
	}
	return outs, errs, nil
}
