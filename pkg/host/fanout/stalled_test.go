package fanout

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// swamp is a machine whose links swallow what comes after the first bytes, and say
// nothing of it.
type swamp struct {
	*machine
	t     *testing.T
	links atomic.Int64 // so many swallow
}

func (s *swamp) Run(ctx context.Context, c host.Cmd) (host.Output, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return host.Output{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { <-ctx.Done(); _ = l.Close() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.pass(ctx, conn, s.links.Add(-1) >= 0) })
		}
	})
	out := c.Stdout
	c.Stdout = writer(func(p []byte) {
		port := func(n int64) []byte { return fmt.Appendf(nil, `"port":%d,`, n) }
		_, _ = out.Write(bytes.Replace(p, port(s.port.Load()), port(int64(l.Addr().(*net.TCPAddr).Port)), 1)) // the pipe of the push
	})
	return s.machine.Run(ctx, c)
}

func (s *swamp) pass(ctx context.Context, from net.Conn, swallow bool) {
	to, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", s.port.Load()))
	if err != nil {
		_ = from.Close()
		return
	}
	stop := context.AfterFunc(ctx, func() { _, _ = from.Close(), to.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		if swallow {
			_, _ = io.CopyN(to, from, unit)
			_, _ = io.Copy(io.Discard, from)
		} else {
			_, _ = io.Copy(to, from)
		}
		_ = to.Close()
	})
	wg.Go(func() { _, _ = io.Copy(from, to); _ = from.Close() })
	wg.Wait()
}

// mired makes the second of three hosts one whose first links swallow.
func mired(t *testing.T, mode Mode, links int64) *cluster {
	c := newCluster(t, 3, mode, 8*unit)
	c.options.Standstill = 2 * time.Second
	s := &swamp{machine: c.machines[1], t: t}
	s.links.Store(links)
	c.options.Targets[1].Host = s
	return c
}

func TestPush_aLinkThatStandsStillIsBridged(t *testing.T) {
	t.Parallel()
	c := mired(t, Chain, 1)
	start := time.Now()
	r := c.push()
	c.check(c.machines...)
	if took := time.Since(start); r.Moved == 0 || took > 30*time.Second {
		t.Errorf("%d links were made anew in %s", r.Moved, took)
	}
	if said := strings.Join(c.said, "\n"); strings.Contains(said, "through SSH") {
		t.Errorf("one link was stuck, and not all: %s", said)
	}
}

func TestPush_whereNoLinkMovesAllGoesThroughSSH(t *testing.T) {
	t.Parallel()
	c := mired(t, Chain, 1000)
	c.push()
	c.check(c.machines...)
	if said := strings.Join(c.said, "\n"); !strings.Contains(said, "all goes through SSH") {
		t.Errorf("nobody was told: %q", said)
	}
}

// deaf is a machine whose relay hears nothing more once it is to get content.
type deaf struct{ *machine }

func (d deaf) Run(ctx context.Context, c host.Cmd) (host.Output, error) {
	c.Stdin = &muffled{Reader: c.Stdin, ctx: ctx}
	return d.machine.Run(ctx, c)
}

// muffled passes the first orders on. It waits for the end of the session after
// them, as a connection does that nobody reads any more.
type muffled struct {
	io.Reader
	ctx   context.Context
	heard bool
}

func (m *muffled) Read(p []byte) (int, error) {
	if m.heard {
		<-m.ctx.Done()
		return 0, m.ctx.Err()
	}
	n, err := m.Reader.Read(p)
	m.heard = bytes.Contains(p[:n], []byte(`"go":true`))
	return n, err
}

// Close ends whoever writes.
func (m *muffled) Close() error {
	if c, ok := m.Reader.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func TestPush_whatDoesNotHelpFailsAndNamesHostAndLink(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, SSH, 8*unit)
	c.options.Standstill = 2 * time.Second
	c.options.Targets[1].Host = deaf{c.machines[1]}
	done := make(chan error, 1)
	go func() { _, err := Push(t.Context(), c.options); done <- err }()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "the link from this machine to host2 stood still") || strings.Count(err.Error(), "push content") != 1 {
			t.Errorf("got %v", err)
		}
		c.check(c.machines[0], c.machines[2])
	case <-time.After(time.Minute):
		t.Fatal("the push hangs")
	}
}
