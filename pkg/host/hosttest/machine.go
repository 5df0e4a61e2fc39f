// Package hosttest holds what tests need instead of a machine: one in memory
// that fails on any command it was not told about, a cutter that loses the
// connection before the n-th write, a recorder, and the conformance suite that
// every host.Host passes, the one in memory included.
package hosttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// Handler answers a command; ok is false when it is not its business. It may
// change the machine through m. It runs with the machine unlocked.
type Handler func(m *Machine, argv []string, stdin []byte) (out string, code int, ok bool)

// Reply is what a program did.
type Reply struct {
	Stdout, Stderr string
	Code           int
}

// Program answers a command like a Handler, with both outputs and a context to
// wait for; it is asked after the handlers.
type Program func(ctx context.Context, m *Machine, argv []string, stdin []byte) (Reply, bool)

// Stream answers a command that talks while it reads; it is asked before all
// others, and gets the command's own stdin and stdout.
type Stream func(ctx context.Context, m *Machine, c host.Cmd) (Reply, bool)

// File is a file on a Machine.
type File struct {
	Data  []byte
	Mode  fs.FileMode
	Owner string
	Link  string // target of a symbolic link
}

// Machine is a host in memory. The zero value is not usable: see New.
type Machine struct {
	book sync.Mutex // a shell appends to a file in one piece; so does ledger

	*Wire
	name string
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu       sync.Mutex
	files    map[string]File
	handlers []Handler
	programs []Program
	streams  []Stream
}

var (
	_ host.Host    = (*Machine)(nil)
	_ host.Batcher = (*Machine)(nil)
	_ host.Tunnel  = (*Machine)(nil)
)

// New returns an empty machine that knows the commands of coreutils that look.
func New(name string, handlers ...Handler) *Machine {
	return &Machine{
		Wire: &Wire{}, name: name, files: map[string]File{"/": folder()}, handlers: append(handlers, coreutils), programs: []Program{find, shell},
	}
}

func folder() File { return File{Mode: fs.ModeDir | 0o755, Owner: "root:root"} }

// Name is the node's name.
func (m *Machine) Name() string { return m.name }

// Install adds programs, asked before those that are there.
func (m *Machine) Install(p ...Program) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.programs = append(slices.Clone(p), m.programs...)
}

// Attach adds programs that talk while they read, asked before those that are
// there.
func (m *Machine) Attach(s ...Stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.streams = append(slices.Clone(s), m.streams...)
}

// Handle adds handlers, asked before those that are there.
func (m *Machine) Handle(h ...Handler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.handlers = append(slices.Clone(h), m.handlers...)
}

// OnDial says what a tunnel from this machine leads to.
func (m *Machine) OnDial(f func(ctx context.Context, network, address string) (net.Conn, error)) {
	m.dial = f
}

// Write puts a file there, as a test's set-up or a handler's effect.
func (m *Machine) Write(name string, mode fs.FileMode, data string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set(name, File{Data: []byte(data), Mode: mode, Owner: "root:root"})
}

// Link puts a symbolic link there.
func (m *Machine) Link(name, target string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set(name, File{Mode: fs.ModeSymlink | 0o777, Owner: "root:root", Link: target})
}

// set stores a file and makes the folders above it. The lock is held.
func (m *Machine) set(name string, f File) {
	name = path.Clean(name)
	m.files[name] = f
	for dir := path.Dir(name); dir != "/" && dir != "."; dir = path.Dir(dir) {
		if _, ok := m.files[dir]; ok {
			return
		}
		m.files[dir] = folder()
	}
}

// get finds a file, through a link where follow is set. Below something that is
// no folder there is nothing.
func (m *Machine) get(name string, follow bool) (File, bool) {
	f, ok := m.files[path.Clean(name)]
	for range 8 {
		if !ok || !follow || f.Mode&fs.ModeSymlink == 0 {
			break
		}
		to := f.Link
		if !path.IsAbs(to) {
			to = path.Join(path.Dir(name), to)
		}
		name = to
		f, ok = m.files[path.Clean(to)]
	}
	return f, ok
}

// Read returns a file's content, and whether it is there.
func (m *Machine) Read(name string) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.files[path.Clean(name)]
	return string(f.Data), ok
}

// Files lists the paths of all files.
func (m *Machine) Files() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for p, f := range m.files {
		if !f.Mode.IsDir() {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// Delete removes a file or tree.
func (m *Machine) Delete(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = path.Clean(name)
	for p := range m.files {
		if p == name || strings.HasPrefix(p, name+"/") {
			delete(m.files, p)
		}
	}
}

// alive is the error of a machine that cannot be reached, or of a context that
// has ended.
func (m *Machine) alive(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.Lost() {
		return fmt.Errorf("%s: %w", m.name, ErrCut)
	}
	return nil
}

// Query runs a command that only looks.
func (m *Machine) Query(ctx context.Context, c host.Cmd) (host.Output, error) {
	if err := host.CheckQuery(c); err != nil {
		return host.Output{}, err
	}
	return m.exec(ctx, c)
}

// Run runs a command; it counts as a write.
func (m *Machine) Run(ctx context.Context, c host.Cmd) (out host.Output, err error) {
	if err := m.alive(ctx); err != nil {
		return out, err
	}
	if len(c.Argv) == 0 {
		return out, errors.New("empty command")
	}
	cut := m.Do("run "+c.String(), func() error {
		out, err = m.exec(ctx, c)
		return nil
	})
	if cut != nil {
		return host.Output{}, cut
	}
	return out, err
}

func (m *Machine) exec(ctx context.Context, c host.Cmd) (host.Output, error) {
	if err := m.alive(ctx); err != nil {
		return host.Output{}, err
	}
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("no end after %s: %w", c.Timeout, context.DeadlineExceeded))
		defer cancel()
	}
	r, ok := m.stream(ctx, c)
	if !ok {
		var stdin []byte
		if c.Stdin != nil {
			var err error
			if stdin, err = io.ReadAll(c.Stdin); err != nil {
				return host.Output{}, err
			}
		}
		r, ok = m.program(ctx, c.Argv, stdin)
	}
	if err := ctx.Err(); err != nil {
		return host.Output{}, fmt.Errorf("%s: %w", c, context.Cause(ctx))
	}
	if !ok {
		return host.Output{}, fmt.Errorf("hosttest: %s was not told about: %s", m.name, c)
	}
	out := host.Output{Stdout: []byte(r.Stdout), Stderr: []byte(r.Stderr)}
	if c.Stdout != nil && len(out.Stdout) > 0 {
		if _, err := c.Stdout.Write(out.Stdout); err != nil {
			return out, err
		}
		out.Stdout = nil
	}
	if r.Code != 0 {
		return out, &host.ExitError{Cmd: c.String(), Code: r.Code, Stderr: []byte(host.Mask(r.Stderr, c.Secrets))}
	}
	return out, nil
}

// stream finds who answers a command and talks while it reads.
func (m *Machine) stream(ctx context.Context, c host.Cmd) (Reply, bool) {
	m.mu.Lock()
	streams := slices.Clone(m.streams)
	m.mu.Unlock()
	for _, s := range streams {
		if r, ok := s(ctx, m, c); ok {
			return r, true
		}
	}
	return Reply{}, false
}

// program finds who answers a command.
func (m *Machine) program(ctx context.Context, argv []string, stdin []byte) (Reply, bool) {
	m.mu.Lock()
	handlers, programs := slices.Clone(m.handlers), slices.Clone(m.programs)
	m.mu.Unlock()
	for _, h := range handlers {
		out, code, ok := h(m, argv, stdin)
		if ok && code != 0 {
			return Reply{Stderr: out, Code: code}, true
		}
		if ok {
			return Reply{Stdout: out}, true
		}
	}
	for _, p := range programs {
		if r, ok := p(ctx, m, argv, stdin); ok {
			return r, true
		}
	}
	return Reply{}, false
}

// Batch runs queries one after another.
func (m *Machine) Batch(ctx context.Context, cmds []host.Cmd) ([]host.Result, error) {
	for _, c := range cmds {
		if err := host.CheckQuery(c); err != nil {
			return nil, err
		}
	}
	out := make([]host.Result, len(cmds))
	for i, c := range cmds {
		o, err := m.exec(ctx, c)
		out[i].Output = o
		var x *host.ExitError
		switch {
		case errors.As(err, &x):
			out[i].Code = x.Code
		case c.Timeout > 0 && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			out[i].Err = err
		case err != nil:
			return nil, err
		}
	}
	return out, nil
}

// ReadFile reads a file.
func (m *Machine) ReadFile(ctx context.Context, name string) ([]byte, error) {
	if err := m.alive(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.get(name, true)
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	if f.Mode.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("is a directory")}
	}
	return bytes.Clone(f.Data), nil
}

// Stat describes a file.
func (m *Machine) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	if err := m.alive(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.get(name, false)
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return host.Info{Base: path.Base(name), Bytes: int64(len(f.Data)), FileMode: f.Mode, Modified: time.Unix(0, 0), Owner: f.Owner}, nil
}

// Put makes the file be as described.
func (m *Machine) Put(ctx context.Context, f host.File) (bool, error) {
	diff, err := host.Differs(ctx, m, f)
	if err != nil || diff == "" {
		return false, err
	}
	rc, err := f.Open()
	if err != nil {
		return false, err
	}
	data, err := io.ReadAll(rc)
	if err = errors.Join(err, rc.Close()); err != nil {
		return false, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != f.SHA256 {
		return false, fmt.Errorf("put %s: %w", f.Path, host.ErrDigest)
	}
	mode, owner := f.Want()
	err = m.Do("put "+f.Path, func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.set(f.Path, File{Data: data, Mode: mode, Owner: owner})
		return nil
	})
	return err == nil, err
}

// Remove removes a file or tree.
func (m *Machine) Remove(ctx context.Context, name string) error {
	if name = path.Clean(name); name == "." || name == "/" {
		return fmt.Errorf("remove %q: refused", name)
	}
	if err := m.alive(ctx); err != nil {
		return err
	}
	return m.Do("remove "+name, func() error { m.Delete(name); return nil })
}

// DialContext opens what OnDial leads to.
func (m *Machine) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if err := m.alive(ctx); err != nil {
		return nil, err
	}
	if m.dial == nil {
		return nil, fmt.Errorf("hosttest: no tunnel from %s to %s", m.name, address)
	}
	return m.dial(ctx, network, address)
}
