package sshhost

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
)

// gate reads stderr. Until the wrapper says that the command starts, it answers
// sudo's prompt; from then on it feeds stdin and keeps what the command says.
type gate struct {
	stdin    io.WriteCloser
	password string
	source   io.Reader
	sent     *atomic.Int64

	mu      sync.Mutex
	before  bytes.Buffer // sudo's part
	after   bytes.Buffer // the command's part
	open    bool
	asked   int
	fed     chan struct{}
	feedErr error
}

func newGate(stdin io.WriteCloser, password string, source io.Reader, sent *atomic.Int64) *gate {
	return &gate{stdin: stdin, password: password, source: source, sent: sent, fed: make(chan struct{})}
}

// ReadFrom is how a session copies its stderr. Without it each session would
// have a buffer of 32 KiB, and hundreds of hosts have one at the same time.
func (g *gate) ReadFrom(r io.Reader) (total int64, err error) {
	buf := make([]byte, 2<<10)
	for {
		n, err := r.Read(buf)
		total += int64(n)
		if n > 0 {
			if _, err := g.Write(buf[:n]); err != nil {
				return total, err
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Write is called with the remote stderr.
func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open {
		if g.after.Len() < 1<<20 { // nobody reads more than a MiB of complaints
			g.after.Write(p)
		}
		return len(p), nil
	}
	g.before.Write(p)
	text := g.before.String()
	if _, rest, ok := strings.Cut(text, ready); ok {
		g.open = true
		g.after.WriteString(rest)
		go g.feed()
		return len(p), nil
	}
	for n := strings.Count(text, prompt); g.asked < n; {
		g.asked++
		if g.asked > 1 { // wrong password: do not try it again
			_ = g.stdin.Close()
			break
		}
		go func() { _, _ = io.WriteString(g.stdin, g.password+"\n") }() // sudo says that it got none
	}
	return len(p), nil
}

// feed copies the source to stdin. Without a source, stdin stays open: its end
// tells the guard to end the command.
func (g *gate) feed() {
	defer close(g.fed)
	if g.source == nil {
		return
	}
	err := copyBuffered(g.stdin, g.source, g.sent)
	g.mu.Lock()
	g.feedErr = err
	g.mu.Unlock()
	_ = g.stdin.Close()
}

// copyBuffered copies with 256 KiB at a time, which keeps the SSH window full.
// Only an error of the source is returned: a command may stop reading early.
func copyBuffered(w io.Writer, r io.Reader, sent *atomic.Int64) error {
	if t, ok := r.(io.WriterTo); ok { // it writes in pieces of its own
		c := &counting{w: w, sent: sent}
		if _, err := t.WriteTo(c); c.failed == nil {
			return err
		}
		return nil
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return nil
			}
			sent.Add(int64(n))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// counting counts what is written, and remembers that it could not be.
type counting struct {
	w      io.Writer
	sent   *atomic.Int64
	failed error
}

// Write passes bytes on.
func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.sent.Add(int64(n))
	c.failed = err
	return n, err
}

// started reports whether the command itself began.
func (g *gate) started() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// finish returns the source's error, if the feeding has come to an end.
func (g *gate) finish() error {
	if !g.started() {
		return nil
	}
	select {
	case <-g.fed:
	default: // the command ended without reading all of it
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.feedErr
}

// text returns what the command said, or what sudo said when it never began.
func (g *gate) text() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open {
		return bytes.Clone(g.after.Bytes())
	}
	return []byte(strings.ReplaceAll(g.before.String(), prompt, ""))
}
