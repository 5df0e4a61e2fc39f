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

// File is a file on a Machine.
type File struct {
	Data  []byte
	Mode  fs.FileMode
	Owner string
	Link  string // target of a symbolic link
}

// Machine is a host in memory. The zero value is not usable: see New.
type Machine struct {
	name string
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu       sync.Mutex
	files    map[string]File
	handlers []Handler
	writes   int
	cutAt    int // lose the connection before this write; 0 means never
	log      []string
}

// ErrCut is what a cut connection returns.
var ErrCut = errors.New("connection lost")

var (
	_ host.Host    = (*Machine)(nil)
	_ host.Batcher = (*Machine)(nil)
	_ host.Tunnel  = (*Machine)(nil)
)

// New returns an empty machine that knows the commands of coreutils that look.
func New(name string, handlers ...Handler) *Machine {
	return &Machine{name: name, files: map[string]File{"/": {Mode: fs.ModeDir | 0o755}}, handlers: append(handlers, coreutils)}
}

// Name is the node's name.
func (m *Machine) Name() string { return m.name }

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

// CutBefore loses the connection before the n-th write from now; 0 mends it.
func (m *Machine) CutBefore(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes, m.cutAt = 0, n
}

// Writes counts the writes since the last CutBefore: Run, Remove, and Put where
// it had to write.
func (m *Machine) Writes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

// Log lists the commands and writes so far.
func (m *Machine) Log() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.log)
}

// Write puts a file there, as a test's set-up or a handler's effect.
func (m *Machine) Write(name string, mode fs.FileMode, data string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[path.Clean(name)] = File{Data: []byte(data), Mode: mode, Owner: "root:root"}
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

// write counts a write, and fails where the connection is to be cut.
func (m *Machine) write(what string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes++
	if m.cutAt > 0 && m.writes >= m.cutAt {
		return fmt.Errorf("%s: %w", m.name, ErrCut)
	}
	m.log = append(m.log, what)
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
func (m *Machine) Run(ctx context.Context, c host.Cmd) (host.Output, error) {
	if err := m.write("run " + c.String()); err != nil {
		return host.Output{}, err
	}
	return m.exec(ctx, c)
}

func (m *Machine) exec(ctx context.Context, c host.Cmd) (host.Output, error) {
	if err := ctx.Err(); err != nil {
		return host.Output{}, err
	}
	var stdin []byte
	if c.Stdin != nil {
		var err error
		if stdin, err = io.ReadAll(c.Stdin); err != nil {
			return host.Output{}, err
		}
	}
	m.mu.Lock()
	handlers := slices.Clone(m.handlers)
	m.mu.Unlock()
	for _, h := range handlers {
		out, code, ok := h(m, c.Argv, stdin)
		if !ok {
			continue
		}
		if code != 0 {
			return host.Output{Stderr: []byte(out)}, &host.ExitError{Cmd: c.String(), Code: code, Stderr: []byte(host.Mask(out, c.Secrets))}
		}
		return host.Output{Stdout: []byte(out)}, nil
	}
	return host.Output{}, fmt.Errorf("hosttest: %s was not told about: %s", m.name, c)
}

// Batch runs queries one after another.
func (m *Machine) Batch(ctx context.Context, cmds []host.Cmd) ([]host.Result, error) {
	out := make([]host.Result, len(cmds))
	for i, c := range cmds {
		o, err := m.exec(ctx, c)
		out[i].Output = o
		var x *host.ExitError
		if errors.As(err, &x) {
			out[i].Code, out[i].Stderr = x.Code, x.Stderr
		} else if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ReadFile reads a file.
func (m *Machine) ReadFile(_ context.Context, name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.files[path.Clean(name)]
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return bytes.Clone(f.Data), nil
}

// Stat describes a file.
func (m *Machine) Stat(_ context.Context, name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.files[path.Clean(name)]
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
		return false, fmt.Errorf("put %s: digest mismatch", f.Path)
	}
	if err := m.write("put " + f.Path); err != nil {
		return false, err
	}
	mode, owner := f.Want()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[path.Clean(f.Path)] = File{Data: data, Mode: mode, Owner: owner}
	return true, nil
}

// Remove removes a file or tree.
func (m *Machine) Remove(_ context.Context, name string) error {
	if name == "" || name == "/" {
		return fmt.Errorf("remove %q: refused", name)
	}
	if err := m.write("remove " + name); err != nil {
		return err
	}
	m.Delete(name)
	return nil
}

// DialContext opens what OnDial leads to.
func (m *Machine) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if m.dial == nil {
		return nil, fmt.Errorf("hosttest: no tunnel from %s to %s", m.name, address)
	}
	return m.dial(ctx, network, address)
}
