package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Batcher runs many queries in one round trip. Every result stands at the index
// of its command. The error is one of the connection, not of a command.
type Batcher interface {
	Batch(ctx context.Context, cmds []Cmd) ([]Result, error)
}

// Result is what one command of a batch did.
type Result struct {
	Output
	Code int
	Err  error // why there is no answer: its time-out is over. Nil where there is one
}

// Batch is a Reader that collects the questions that arrive at about the same
// time, asks them in one round trip, and remembers the answers until Forget.
// Steps simply ask; that many of them ask at once is what makes a check of a
// whole host cost a handful of round trips.
type Batch struct {
	name  string
	inner Batcher
	wait  time.Duration

	mu      sync.Mutex
	pending []pending
	done    chan struct{} // of those that are pending; one for all, for they are answered together
	known   map[string]*question
}

// question is what is remembered of each: with hundreds of hosts, there are tens
// of thousands.
type question struct {
	done <-chan struct{} // closed when the rest is there
	res  Result
	err  error
}

// pending is a question that has not been asked yet.
type pending struct {
	key string
	cmd Cmd
	*question
}

// NewBatch wraps a machine. It waits until none has joined for wait; zero means 20 ms.
func NewBatch(name string, inner Batcher, wait time.Duration) *Batch {
	if wait == 0 {
		wait = 20 * time.Millisecond
	}
	return &Batch{name: name, inner: inner, wait: wait, known: map[string]*question{}}
}

// Name is the node's name.
func (b *Batch) Name() string { return b.name }

// Forget drops all answers: the machine has been written to.
func (b *Batch) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known = map[string]*question{}
}

// DialContext opens a connection from the machine when the wrapped one can.
func (b *Batch) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	t, ok := b.inner.(Tunnel)
	if !ok {
		return nil, errors.New("this host cannot open connections")
	}
	return t.DialContext(ctx, network, address)
}

// Query asks one question.
func (b *Batch) Query(ctx context.Context, c Cmd) (Output, error) {
	if err := CheckQuery(c); err != nil {
		return Output{}, err
	}
	return b.ask(ctx, c)
}

// ReadFile reads a file.
func (b *Batch) ReadFile(ctx context.Context, name string) ([]byte, error) {
	out, err := b.ask(ctx, Command("cat", "--", name))
	if err != nil {
		return nil, AsNotExist("read", name, err)
	}
	return out.Stdout, nil
}

// Stat describes a file.
func (b *Batch) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	out, err := b.ask(ctx, StatCommand(name))
	if err != nil {
		return nil, AsNotExist("stat", name, err)
	}
	return ParseStat(name, out.Text())
}

// questionKey is what makes two questions the same.
func questionKey(c Cmd) string { return strconv.FormatBool(c.Root) + Quote(c.Argv...) }

func (b *Batch) ask(ctx context.Context, c Cmd) (Output, error) {
	key := questionKey(c)
	b.mu.Lock()
	q, ok := b.known[key]
	if !ok {
		if len(b.pending) == 0 {
			b.done = make(chan struct{})
			go b.flush(context.WithoutCancel(ctx))
		}
		q = &question{done: b.done}
		b.known[key] = q
		b.pending = append(b.pending, pending{key, c, q})
	}
	b.mu.Unlock()
	select {
	case <-q.done:
	case <-ctx.Done():
		return Output{}, ctx.Err()
	}
	if err := errors.Join(q.err, q.res.Err); err != nil {
		return Output{}, err
	}
	if q.res.Code != 0 {
		return q.res.Output, &ExitError{Cmd: c.String(), Code: q.res.Code, Stderr: []byte(Mask(string(q.res.Stderr), c.Secrets))}
	}
	return q.res.Output, nil
}

// batchTimeout bounds the questions of one round trip: none of them takes long,
// but one may hang, on a dead network file system for instance.
const batchTimeout = 2 * time.Minute

// collect waits until no further question has come for a while, on a busy
// machine for a few such whiles, and takes them all.
func (b *Batch) collect() ([]pending, chan struct{}) {
	seen := 0
	for range 5 {
		time.Sleep(b.wait)
		b.mu.Lock()
		n := len(b.pending)
		b.mu.Unlock()
		if n == seen {
			break
		}
		seen = n
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	qs := b.pending
	b.pending = nil
	return qs, b.done
}

func (b *Batch) flush(ctx context.Context) {
	qs, done := b.collect()
	cmds := make([]Cmd, len(qs))
	for i, q := range qs {
		cmds[i] = q.cmd
	}
	ctx, cancel := context.WithTimeoutCause(ctx, batchTimeout, fmt.Errorf("%d questions were not answered within %s: %w", len(cmds), batchTimeout, context.DeadlineExceeded))
	defer cancel()
	res, err := b.inner.Batch(ctx, cmds)
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, q := range qs {
		if q.err = err; err == nil {
			q.res = res[i]
		}
		if b.known[q.key] == q.question && (err != nil || q.res.Err != nil || q.cmd.Once) {
			delete(b.known, q.key) // a lost connection is no answer, nor is a time-out
		}
	}
	close(done)
}

// StatCommand is the question that ParseStat reads the answer of.
func StatCommand(name string) Cmd { return Command("stat", "-c", "%f %s %Y %U:%G", "--", name) }

// ParseStat reads the answer of StatCommand. Sys returns "user:group".
func ParseStat(name, line string) (fs.FileInfo, error) {
	f := strings.Fields(line)
	bad := &fs.PathError{Op: "stat", Path: name, Err: errors.New("unexpected answer " + strconv.Quote(line))}
	if len(f) != 4 {
		return nil, bad
	}
	raw, err1 := strconv.ParseUint(f[0], 16, 32)
	size, err2 := strconv.ParseInt(f[1], 10, 64)
	sec, err3 := strconv.ParseInt(f[2], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return nil, bad
	}
	return Info{Base: path.Base(name), Bytes: size, FileMode: unixMode(uint32(raw)), Modified: time.Unix(sec, 0), Owner: f[3]}, nil
}

// unixMode translates st_mode.
func unixMode(raw uint32) fs.FileMode {
	m := fs.FileMode(raw & 0o777)
	for _, bit := range []struct {
		raw  uint32
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if raw&bit.raw != 0 {
			m |= bit.mode
		}
	}
	switch raw & 0o170000 {
	case 0o040000:
		m |= fs.ModeDir
	case 0o120000:
		m |= fs.ModeSymlink
	case 0o010000:
		m |= fs.ModeNamedPipe
	case 0o140000:
		m |= fs.ModeSocket
	case 0o020000:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case 0o060000:
		m |= fs.ModeDevice
	}
	return m
}

// Info is the fs.FileInfo of a file on a machine.
type Info struct {
	Base     string
	Bytes    int64
	FileMode fs.FileMode
	Modified time.Time
	Owner    string // user:group
}

// Name is the last element of the path.
func (i Info) Name() string { return i.Base }

// Size is in bytes.
func (i Info) Size() int64 { return i.Bytes }

// Mode is the type and permission bits.
func (i Info) Mode() fs.FileMode { return i.FileMode }

// ModTime has a resolution of one second.
func (i Info) ModTime() time.Time { return i.Modified }

// IsDir reports whether it is a folder.
func (i Info) IsDir() bool { return i.FileMode.IsDir() }

// Sys returns the owner as "user:group".
func (i Info) Sys() any { return i.Owner }

// AsNotExist turns the complaint of cat, stat or sha256sum about a missing file
// into fs.ErrNotExist, and leaves every other error as it is.
func AsNotExist(op, name string, err error) error {
	var e *ExitError
	if errors.As(err, &e) && (strings.Contains(string(e.Stderr), "No such file") || strings.Contains(string(e.Stderr), "Not a directory")) {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return err
}
