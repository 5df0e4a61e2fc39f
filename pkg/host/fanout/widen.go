package fanout

import (
	"cmp"
	"context"
	"io"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// Line makes further connections to a host.
type Line interface {
	// RoundTrip measures how long an answer of the host takes.
	RoundTrip(ctx context.Context) (time.Duration, error)
	// Another logs in once more. The caller closes what it gets.
	Another(ctx context.Context) (Connection, error)
}

// Connection is a connection of its own to a host.
type Connection interface {
	Runner
	io.Closer
}

// channelWindow is how many bytes one SSH channel carries in a round trip: sshd grants no
// more, whatever the line could take.
const channelWindow = 2 << 20

const (
	// maxLines is how many connections one host may get. Their logins run at most
	// half of it at once, which sshd (MaxStartups 10:30:100) does not mind.
	maxLines = 8
	// shortTrip is a round trip for which one connection always suffices.
	shortTrip = 2 * time.Millisecond
	// worth is how many windows of each connection must be left for another login.
	worth = 4
	// wanting is the part of what the connections can carry from which on they are
	// what holds the push up.
	wanting = 0.6
)

// measure finds out how long a round trip to the host takes. The shortest of some
// is that of the line; others waited behind something.
func (m *member) measure(ctx context.Context) {
	if m.target.Line == nil {
		return
	}
	var best time.Duration
	for range 3 {
		d, err := m.target.Line.RoundTrip(ctx)
		if err != nil {
			return // whoever uses the connection hears of it
		}
		if best == 0 || d < best {
			best = d
		}
		m.trip.Store(int64(best))
	}
}

// feedAgain asks the relay what it lacks; its answer begins a feed.
func (m *member) feedAgain() {
	m.feeds++
	m.fed = true
	m.out.put(order{Feed: m.feeds})
}

// widen opens more connections for a feed, twice as many each time, as long as
// those that there are carry all they can.
func (p *push) widen(ctx context.Context, m *member, feed int) {
	trip := time.Duration(m.trip.Load())
	if m.target.Line == nil || trip < shortTrip {
		return
	}
	each := float64(channelWindow) / trip.Seconds() // bytes a second
	since, before := p.Now(), int64(0)
	var lanes sync.WaitGroup
	defer lanes.Wait()
	for lines := 1; lines < maxLines; {
		pause(ctx, max(2*trip, 50*time.Millisecond))
		passed, left := m.out.progress(feed)
		if left == 0 || ctx.Err() != nil {
			return
		}
		rate := float64(passed-before) / p.Now().Sub(since).Seconds()
		since, before = p.Now(), passed
		if rate < cmp.Or(p.wanting, wanting)*each*float64(lines) || left < int64(worth*channelWindow*lines) {
			continue
		}
		more := min(lines, maxLines-lines)
		opened, err := p.lanesFor(ctx, m, feed, more, &lanes)
		if lines += opened; opened > 0 {
			p.say("%s gets its content over %d connections: a round trip takes %s", m.name, lines, trip.Round(time.Millisecond))
		}
		if err != nil && ctx.Err() == nil {
			p.say("%s lets nobody in for another connection, %d have to do (%v)", m.name, lines, err)
			return
		}
		if opened == 0 {
			return // nothing is left to send
		}
		since = p.Now()
		before, _ = m.out.progress(feed)
	}
}

// lanesFor opens n lanes at once, and returns how many there are, once their logins
// have ended.
func (p *push) lanesFor(ctx context.Context, m *member, feed, n int, running *sync.WaitGroup) (opened int, err error) {
	type login struct {
		c   Connection
		err error
	}
	logins := make(chan login, n)
	for range n {
		go func() {
			c, err := m.target.Line.Another(ctx)
			logins <- login{c, err}
		}()
	}
	for range n {
		l := <-logins
		if l.err != nil {
			err = l.err
			continue
		}
		in, ok := m.out.enter(feed)
		if !ok {
			_ = l.c.Close() // it was for nothing
			continue
		}
		opened++
		p.lanes.Add(1)
		running.Go(func() { m.lane(ctx, l.c, in) })
	}
	return opened, err
}

// lane runs one lane until its feed is out, or it breaks off.
func (m *member) lane(ctx context.Context, c Connection, in *lane) {
	cmd := host.Command(m.target.Lane...)
	cmd.Stdin = in
	_, err := c.Run(ctx, cmd)
	_ = in.Close() // nobody reads it any more
	_ = c.Close()
	m.out.leave(in, err != nil)
}
