// Package forward lends a host a way to an address that nothing serves there yet:
// kocli itself listens on the host for as long as a session lasts, and passes
// connections on. It shares its port with a program that comes to listen there for
// good. It knows nothing of who that is.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// dialTimeout is how long one target is given before the next one is tried.
const dialTimeout = 3 * time.Second

// Serve listens on an address, and passes each connection on to the first target
// that takes it, until in or ctx ends: a session that is lost ends its stdin. Other
// programs of the same user may listen there too.
func Serve(ctx context.Context, in io.Reader, listen string, targets []string) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	go func() {
		_, _ = io.Copy(io.Discard, in) // nothing comes; its end is what counts
		end()
	}()
	l, err := (&net.ListenConfig{Control: shared}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		wg.Go(func() { pass(ctx, c, targets) })
	}
}

// pass connects a connection with a target until one of both ends.
func pass(ctx context.Context, c net.Conn, targets []string) {
	defer func() { _ = c.Close() }()
	var to net.Conn
	for _, t := range targets {
		var err error
		if to, err = (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", t); err == nil {
			break
		}
	}
	if to == nil {
		return
	}
	defer func() { _ = to.Close() }()
	done := make(chan struct{}, 2)
	one := func(dst, src net.Conn) {
		_, _ = io.Copy(dst, src) // the other side hears of it by the connection's end
		done <- struct{}{}
	}
	go one(to, c)
	go one(c, to)
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// The time until a kocli on a host listens, and between two looks.
const (
	readyTime = 15 * time.Second
	readyPoll = 50 * time.Millisecond
)

// During has the kocli at a path of the host listen on an address of the host and
// pass connections on to the targets, until stop is called. It returns when
// something listens there.
func During(ctx context.Context, h host.Host, kocli, listen string, targets []string) (stop func(), err error) {
	t, ok := h.(host.Tunnel)
	if !ok {
		return nil, fmt.Errorf("%s cannot open connections", h.Name())
	}
	argv := []string{kocli, "node", "forward", "--listen", listen}
	for _, to := range targets {
		argv = append(argv, "--to", to)
	}
	in, hold := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		c := host.Command(argv...)
		c.Stdin = in
		_, err := h.Run(ctx, c)
		_ = in.Close()
		ended <- err
	}()
	stop = func() { _ = hold.Close(); <-ended }
	for range readyTime / readyPoll {
		var c net.Conn
		if c, err = t.DialContext(ctx, "tcp", listen); err == nil {
			return stop, c.Close()
		}
		select {
		case failed := <-ended:
			if failed == nil {
				failed = errors.New("it ended at once")
			}
			return nil, fmt.Errorf("forward %s: %w", listen, failed)
		case <-ctx.Done():
			stop()
			return nil, ctx.Err()
		case <-time.After(readyPoll):
		}
	}
	stop()
	return nil, fmt.Errorf("forward %s: nothing listens there after %s: %w", listen, readyTime, err)
}
