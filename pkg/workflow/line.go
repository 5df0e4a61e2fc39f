package workflow

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/host/sshhost"
)

// line makes further connections to a host.
type line struct {
	hosts *Hosts
	node  string
}

// Line makes further connections to a host.
func (d *Hosts) Line(node string) fanout.Line { return line{d, node} }

// RoundTrip measures how long sshd takes to answer.
func (l line) RoundTrip(ctx context.Context) (time.Duration, error) {
	c, err := l.hosts.connect(ctx, l.node)
	if err != nil {
		return 0, err
	}
	return c.raw.RoundTrip(ctx)
}

// maxFurther is how many logins for further connections run at once, of all hosts
// together: they may share a bastion, whose sshd drops logins from ten on
// (MaxStartups 10:30:100).
const maxFurther = 8

// Another logs in once more.
func (l line) Another(ctx context.Context) (fanout.Connection, error) {
	c, err := l.hosts.connect(ctx, l.node)
	if err != nil {
		return nil, err
	}
	select {
	case l.hosts.further <- struct{}{}:
		defer func() { <-l.hosts.further }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	raw, err := c.raw.Another(ctx)
	if err != nil {
		return nil, err
	}
	return &further{host.Record(raw, l.hosts.now, l.hosts.record), raw, &c.further}, nil
}

// further is one more connection to a host.
type further struct {
	host.Host
	raw   *sshhost.Host
	spent *spent
}

// spent is what connections cost that are closed.
type spent struct{ trips, sent atomic.Int64 }

// Close closes it, and counts what it cost.
func (f *further) Close() error {
	f.spent.trips.Add(f.raw.Trips())
	f.spent.sent.Add(f.raw.Sent())
	return f.raw.Close()
}

// farTrip is a round trip from which on one SSH connection may not carry what the
// line can: 200 MB/s at most.
const farTrip = 10 * time.Millisecond

// far reports whether a host is so far away that its content is worth several
// connections. Hosts that do not answer are none of its business.
func far(ctx context.Context, nodes []string, to func(node string) fanout.Line) bool {
	var far atomic.Bool
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			for range 3 { // one answer may have waited behind something
				if trip, err := to(n).RoundTrip(ctx); err != nil || trip < farTrip {
					return
				}
			}
			far.Store(true)
		})
	}
	wg.Wait()
	return far.Load()
}
