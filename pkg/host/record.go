package host

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"time"
)

// Full is all that a connection offers.
type Full interface {
	Host
	Batcher
	Tunnel
}

// Entry is one line of a record: a command or a write that ended.
type Entry struct {
	Node     string
	Write    bool   // may have changed the machine
	What     string // masked
	Duration time.Duration
	Err      error
}

// Record wraps a host and reports everything that is done through it.
func Record(h Full, now func() time.Time, report func(Entry)) Full {
	return &recorder{h, now, report}
}

type recorder struct {
	inner  Full
	now    func() time.Time
	report func(Entry)
}

// done reports what began at start.
func (r *recorder) done(start time.Time, write bool, what string, err error) {
	r.report(Entry{Node: r.inner.Name(), Write: write, What: what, Duration: r.now().Sub(start), Err: err})
}

func (r *recorder) Name() string { return r.inner.Name() }

func (r *recorder) Query(ctx context.Context, c Cmd) (Output, error) {
	start := r.now()
	out, err := r.inner.Query(ctx, c)
	r.done(start, false, c.String(), err)
	return out, err
}

func (r *recorder) ReadFile(ctx context.Context, path string) ([]byte, error) {
	start := r.now()
	data, err := r.inner.ReadFile(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		r.done(start, false, "read "+path+": absent", nil)
		return data, err
	}
	r.done(start, false, "read "+path, err)
	return data, err
}

func (r *recorder) Stat(ctx context.Context, path string) (fs.FileInfo, error) {
	return r.inner.Stat(ctx, path)
}

func (r *recorder) Run(ctx context.Context, c Cmd) (Output, error) {
	start := r.now()
	out, err := r.inner.Run(ctx, c)
	r.done(start, true, c.String(), err)
	return out, err
}

func (r *recorder) Put(ctx context.Context, f File) (bool, error) {
	start := r.now()
	changed, err := r.inner.Put(ctx, f)
	r.done(start, changed || err != nil, "put "+f.Path, err)
	return changed, err
}

func (r *recorder) Remove(ctx context.Context, path string) error {
	start := r.now()
	err := r.inner.Remove(ctx, path)
	r.done(start, true, "remove "+path, err)
	return err
}

func (r *recorder) Batch(ctx context.Context, cmds []Cmd) ([]Result, error) {
	start := r.now()
	res, err := r.inner.Batch(ctx, cmds)
	for i, c := range cmds {
		e := err
		if err == nil {
			e = res[i].Err
		}
		if err == nil && res[i].Code != 0 {
			e = &ExitError{Cmd: c.String(), Code: res[i].Code, Stderr: res[i].Stderr}
		}
		r.done(start, false, c.String(), e)
	}
	return res, err
}

func (r *recorder) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	start := r.now()
	c, err := r.inner.DialContext(ctx, network, address)
	r.done(start, false, "connect to "+address, err)
	return c, err
}
