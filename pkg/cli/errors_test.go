package cli

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
)

func refused(node, addr string) error {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		panic(err)
	}
	op := &net.OpError{Op: "dial", Net: "tcp", Addr: tcp, Err: &os.SyscallError{Syscall: "connect", Err: syscall.ECONNREFUSED}}
	return &fault.Error{Op: "connect to " + addr, Node: node, Code: fault.Unreachable, Hint: "ssh " + node, Err: op}
}

func TestWriteError(t *testing.T) {
	exit := &host.ExitError{Cmd: "kubeadm join", Code: 1, Stderr: []byte("preflight\nerror: no route\n")}
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"an error without context", errors.New("broken"), "error: broken\n"},
		{
			"host, step and cause are said once",
			&fault.Error{Op: "gather facts", Node: "n1", Err: refused("n1", "10.0.0.1:22")},
			"error: n1: gather facts: connect to 10.0.0.1:22: connection refused\nhint:  ssh n1\n",
		},
		{
			"two hosts, each with its own hint",
			errors.Join(refused("n1", "10.0.0.1:22"), refused("n2", "10.0.0.2:22")),
			"error: 2 errors\n    1. n1: connect to 10.0.0.1:22: connection refused\n       hint:  ssh n1\n" +
				"    2. n2: connect to 10.0.0.2:22: connection refused\n       hint:  ssh n2\n",
		},
		{
			"one hint for all is said once, at the end",
			fault.New(fault.Preflight, "look", errors.Join(errors.New("a"), errors.New("b"))),
			"error: 2 errors\n    1. a\n    2. b\nhint:  look\n",
		},
		{
			"the same failure met twice is one",
			errors.Join(refused("n1", "10.0.0.1:22"), nil, refused("n1", "10.0.0.1:22")),
			"error: n1: connect to 10.0.0.1:22: connection refused\nhint:  ssh n1\n",
		},
		{
			"the end of the remote stderr, and the log",
			withLog(fault.New(fault.Failure, "again", &fault.Error{Op: "worker/join", Node: "n2", Err: fmt.Errorf("join: %w", exit)}), "/run.log"),
			"error: n2: worker/join: join: kubeadm join: exit status 1: error: no route\n       the last lines of its stderr:\n" +
				"       | preflight\n       | error: no route\nhint:  again\nlog:   /run.log\n",
		},
		{
			"the host is not said again inside of the cause",
			&fault.Error{Op: "runtime/config", Node: "n1", Err: fmt.Errorf("check what was applied: %w", &fault.Error{Op: "tunnel to x", Node: "n1", Err: errors.New("EOF")})},
			"error: n1: runtime/config: check what was applied: tunnel to x: EOF\n",
		},
		{
			"several words around a list keep it together",
			fmt.Errorf("import: %w; then %w", errors.New("a"), errors.New("b")),
			"error: import: a; then b\n",
		},
		{
			"problems of a file",
			&fault.Error{Op: "c.yaml", Code: fault.Usage, Hint: "correct it", Err: config.Problems{{Path: "a", Line: 1, Message: "x"}, {Path: "b", Message: "y"}}},
			"error: c.yaml: 2 problems:\n         a (line 1): x\n         b: y\nhint:  correct it\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			writeError(&b, tt.err, false)
			if b.String() != tt.want {
				t.Errorf("got\n%swant\n%s", b.String(), tt.want)
			}
			b.Reset()
			writeError(&b, tt.err, true)
			if !strings.HasPrefix(b.String(), "\x1b[31;1merror:\x1b[0m ") {
				t.Errorf("no colour: %q", b.String())
			}
		})
	}
}
