// Package local is the machine that kocli runs on, as a host.Reader: for what kocli
// does on a control plane by itself. It imports nothing of kocli's but package host.
package local

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/kocli/kocli/pkg/host"
)

// Reader looks at this machine, with the rights of the process.
type Reader struct{ name string }

var (
	_ host.Reader = Reader{}
	_ host.Tunnel = Reader{}
)

// New returns this machine under the name of its node.
func New(name string) Reader { return Reader{name} }

// Name is the node's name.
func (r Reader) Name() string { return r.name }

// Query runs a program that only looks.
func (r Reader) Query(ctx context.Context, c host.Cmd) (host.Output, error) {
	if err := host.CheckQuery(c); err != nil {
		return host.Output{}, err
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...) //nolint:gosec // on the list of those that only look
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	o := host.Output{Stdout: out.Bytes(), Stderr: errs.Bytes()}
	var x *exec.ExitError
	if errors.As(err, &x) {
		return o, &host.ExitError{Cmd: c.String(), Code: x.ExitCode(), Stderr: o.Stderr}
	}
	return o, err
}

// ReadFile reads a file.
func (r Reader) ReadFile(_ context.Context, path string) ([]byte, error) { return os.ReadFile(path) } //nolint:gosec // whatever the caller names

// Stat describes a file.
func (r Reader) Stat(_ context.Context, path string) (fs.FileInfo, error) {
	i, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	owner := ""
	if s, ok := i.Sys().(*syscall.Stat_t); ok {
		owner = strconv.FormatUint(uint64(s.Uid), 10) + ":" + strconv.FormatUint(uint64(s.Gid), 10)
	}
	return host.Info{Base: i.Name(), Bytes: i.Size(), FileMode: i.Mode(), Modified: i.ModTime(), Owner: owner}, nil
}

// DialContext opens a connection.
func (r Reader) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, address)
}
