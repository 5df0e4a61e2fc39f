package sshhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
)

// Host is one machine behind one SSH connection. Safe for concurrent use; at
// most six commands run at once, because sshd allows ten sessions.
type Host struct {
	target  Target
	options Options
	client  *ssh.Client
	closers []func() error
	slots   chan struct{}
	running atomic.Int64 // sessions that are open
	trips   atomic.Int64
	sent    atomic.Int64

	closeOnce sync.Once
	closed    chan struct{}
	lost      atomic.Pointer[error]
}

var (
	_ host.Host    = (*Host)(nil)
	_ host.Batcher = (*Host)(nil)
	_ host.Tunnel  = (*Host)(nil)
)

func newHost(t Target, o Options, c *ssh.Client, closers []func() error) *Host {
	return &Host{target: t, options: o, client: c, closers: closers, slots: make(chan struct{}, 6), closed: make(chan struct{})}
}

// Name is the node's name.
func (h *Host) Name() string { return h.target.Name }

// Trips counts the channels that were opened: sessions and tunnels.
func (h *Host) Trips() int64 { return h.trips.Load() }

// Sent counts the bytes of content that were sent.
func (h *Host) Sent() int64 { return h.sent.Load() }

// Close ends the connection and what runs on it.
func (h *Host) Close() error {
	var err error
	h.closeOnce.Do(func() {
		close(h.closed)
		err = h.client.Close()
		for i := len(h.closers) - 1; i >= 0; i-- {
			_ = h.closers[i]() // the connection above it is closed
		}
	})
	return err
}

// keepAlive notices a cut cable: three probes without an answer close the
// connection, so that everything that waits on it fails.
func (h *Host) keepAlive(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var waiting atomic.Int32
	for {
		select {
		case <-h.closed:
			return
		case <-tick.C:
		}
		if waiting.Load() >= 3 {
			err := fmt.Errorf("no answer for %s", 3*every)
			h.lost.Store(&err)
			_ = h.Close()
			return
		}
		waiting.Add(1)
		go func() {
			if _, _, err := h.client.SendRequest("keepalive@openssh.com", true, nil); err == nil {
				waiting.Store(0)
			}
		}()
	}
}

// RoundTrip measures how long sshd takes to answer.
func (h *Host) RoundTrip(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	answered := make(chan error, 1)
	go func() {
		_, _, err := h.client.SendRequest("keepalive@openssh.com", true, nil)
		answered <- err
	}()
	select {
	case err := <-answered:
		if err != nil {
			return 0, h.broken("measure the round trip", err)
		}
		return time.Since(start), nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// Another logs in to the same machine once more: a connection of its own, with the
// same key check. The caller closes it.
func (h *Host) Another(ctx context.Context) (*Host, error) {
	return Dial(ctx, h.target, h.options)
}

// DialContext opens a connection from the machine.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	h.trips.Add(1)
	c, err := h.client.DialContext(ctx, network, address)
	var refused *ssh.OpenChannelError
	if errors.As(err, &refused) { // by what is at the address: the host itself is there
		return nil, fmt.Errorf("connect from %s to %s: %w", h.Name(), address, err)
	}
	if err != nil {
		return nil, h.broken("tunnel to "+address, err)
	}
	return c, nil
}

// Query runs a command that only looks.
func (h *Host) Query(ctx context.Context, c host.Cmd) (host.Output, error) {
	if err := host.CheckQuery(c); err != nil {
		return host.Output{}, err
	}
	return h.run(ctx, c)
}

// ReadFile reads a file as root.
func (h *Host) ReadFile(ctx context.Context, name string) ([]byte, error) {
	out, err := h.run(ctx, host.Command("cat", "--", name))
	if err != nil {
		return nil, host.AsNotExist("read", name, err)
	}
	return out.Stdout, nil
}

// Stat describes a file as root.
func (h *Host) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	out, err := h.run(ctx, host.StatCommand(name))
	if err != nil {
		return nil, host.AsNotExist("stat", name, err)
	}
	return host.ParseStat(name, out.Text())
}

// Run runs a command.
func (h *Host) Run(ctx context.Context, c host.Cmd) (host.Output, error) { return h.run(ctx, c) }

// Remove removes a file, link or tree.
func (h *Host) Remove(ctx context.Context, name string) error {
	if p := path.Clean(name); p == "." || p == "/" {
		return fmt.Errorf("remove %q: refused", name)
	}
	_, err := h.run(ctx, host.Command("rm", "-rf", "--", name))
	return err
}

// session opens a channel within the limit of sshd.
func (h *Host) session(ctx context.Context) (*ssh.Session, func(), error) {
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	release := func() { <-h.slots }
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, longestWait) {
		s, err := h.open(ctx)
		if ctx.Err() != nil {
			release()
			return nil, nil, ctx.Err()
		}
		if err == nil {
			h.running.Add(1)
			return s, func() { _ = s.Close(); h.running.Add(-1); release() }, nil
		}
		// sshd refuses a session above its limit, and counts one that we have
		// closed until it has taken notice. As long as one of ours runs, there is
		// one to wait for.
		var full *ssh.OpenChannelError
		if !errors.As(err, &full) || wait == longestWait && h.running.Load() == 0 {
			release()
			return nil, nil, h.broken("open session", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			release()
			return nil, nil, ctx.Err()
		}
	}
}

// longestWait is the longest pause before sshd is asked for a session again.
const longestWait = time.Second

// open opens a session. A connection that has gone dead does not keep it from
// returning when ctx ends.
func (h *Host) open(ctx context.Context) (*ssh.Session, error) {
	type answer struct {
		s   *ssh.Session
		err error
	}
	h.trips.Add(1)
	ch := make(chan answer, 1)
	go func() {
		s, err := h.client.NewSession()
		ch <- answer{s, err}
	}()
	select {
	case a := <-ch:
		if a.s != nil && ctx.Err() != nil {
			_ = a.s.Close()
		}
		return a.s, a.err
	case <-ctx.Done():
		go func() {
			if a := <-ch; a.s != nil {
				_ = a.s.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// broken says that the connection, not a command, failed.
func (h *Host) broken(op string, err error) error {
	if l := h.lost.Load(); l != nil {
		err = *l
	}
	return &fault.Error{Op: op, Node: h.Name(), Code: fault.Unreachable,
		Hint: fmt.Sprintf("the connection to %s was lost; check the host and the network, then run the same command again: it goes on", h.Name()), Err: err}
}

// ready is printed by the wrapper when the command is about to start: before
// it, everything on stderr is sudo's.
const ready = "kocli-ready\n"

// prompt is what sudo is told to print when it wants the password.
const prompt = "kocli-password:"

// guard runs "$@" and ends it when stdin closes: a cancelled run, or a lost
// connection, leaves nothing behind. The read of stdin is left to a child, so
// the command itself has an empty one.
const guard = `exec 3<&0; printf 'kocli-ready\n' >&2; "$@" 3<&- </dev/null & p=$!
{ cat <&3; kill -TERM $p; } >/dev/null 2>&1 & w=$!
exec 3<&-; wait $p; r=$?; kill $w 2>/dev/null; exit $r`

// plain runs "$@" with stdin as it is.
const plain = `printf 'kocli-ready\n' >&2; exec "$@"`

// environment makes output and paths the same on every machine.
const environment = `LC_ALL=C PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH"; export LC_ALL PATH; `

// line builds what is sent to the login shell.
func (h *Host) line(c host.Cmd) string {
	script := guard
	if c.Stdin != nil {
		script = plain
	}
	argv := append([]string{"sh", "-c", environment + script, "kocli"}, c.Argv...)
	if c.Root && h.target.User != "root" {
		if h.target.SudoPassword != "" {
			argv = append([]string{"sudo", "-S", "-p", prompt, "--"}, argv...)
		} else {
			argv = append([]string{"sudo", "-n", "--"}, argv...)
		}
	}
	return host.Quote(argv...)
}

// farewell is how long a cancelled command is given to say that it has ended,
// on a connection that may be dead.
const farewell = 2 * time.Second

// run starts the command and waits for it.
func (h *Host) run(ctx context.Context, c host.Cmd) (host.Output, error) {
	if len(c.Argv) == 0 {
		return host.Output{}, errors.New("empty command")
	}
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("no end after %s: %w", c.Timeout, context.DeadlineExceeded))
		defer cancel()
	}
	s, done, err := h.session(ctx)
	if err != nil {
		return host.Output{}, err
	}
	var stdout bytes.Buffer
	stdin, err := s.StdinPipe()
	if err != nil {
		done()
		return host.Output{}, err
	}
	stderr := newGate(stdin, h.target.SudoPassword, c.Stdin, &h.sent)
	s.Stdout, s.Stderr = &stdout, stderr
	if c.Stdout != nil {
		s.Stdout = c.Stdout
	}
	ended := make(chan error, 1)
	go func() {
		defer done()
		if err := s.Start(h.line(c)); err != nil {
			ended <- err
			return
		}
		ended <- s.Wait()
	}()
	var said host.Output // before it was cut off, where that is known
	select {
	case err = <-ended:
	case <-ctx.Done():
		_ = s.Signal(ssh.SIGKILL) // closing the session ends it too
		_ = s.Close()
		select {
		case <-ended: //nolint:errcheck // only when it ended matters here
			said.Stdout = append([]byte{}, stdout.Bytes()...)
		case <-time.After(farewell):
		}
	}
	if ctx.Err() != nil {
		return said, fmt.Errorf("%s: %w", c, context.Cause(ctx))
	}
	feedErr := stderr.finish()
	out := host.Output{Stdout: stdout.Bytes(), Stderr: stderr.text()}
	var exit *ssh.ExitError
	switch {
	case err == nil && feedErr != nil:
		return out, fmt.Errorf("%s: send: %w", c, feedErr)
	case err == nil:
		return out, nil
	case !errors.As(err, &exit):
		return out, h.broken("run "+c.String(), err)
	case !stderr.started() && c.Root && h.target.User != "root":
		return out, h.noSudo(string(stderr.text()))
	}
	code := exit.ExitStatus()
	if code == 0 && exit.Signal() != "" {
		code = 128 + 9
	}
	if feedErr != nil {
		return out, fmt.Errorf("%s: send: %w", c, feedErr)
	}
	return out, &host.ExitError{Cmd: c.String(), Code: code, Stderr: []byte(host.Mask(string(out.Stderr), c.Secrets))}
}
