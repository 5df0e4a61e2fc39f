// Package host is how kocli sees a machine: a Reader can look and cannot
// touch, a Host can also write. Commands are argv, never a shell line; root is
// a flag; secrets are marked and masked. The package knows nothing of SSH (see
// host/sshhost), plans or Kubernetes.
package host

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
	"strings"
	"time"
)

// Cmd is one command: a program and its arguments, never a shell line.
type Cmd struct {
	Argv    []string      // program and arguments, passed byte for byte
	Root    bool          // run as root: sudo where the login user is another
	Stdin   io.Reader     // nil means empty
	Stdout  io.Writer     // takes what is printed as it comes; nil means Output.Stdout
	Secrets []string      // values to mask wherever the command or its output is shown
	Timeout time.Duration // zero means: as long as ctx allows
	Once    bool          // nobody will ask it again: a Batch need not remember the answer
}

// Command returns a command that runs as root, which nearly all do.
func Command(argv ...string) Cmd { return Cmd{Argv: argv, Root: true} }

// String shows the command as a shell would take it, with secrets masked.
func (c Cmd) String() string {
	argv := make([]string, len(c.Argv))
	for i, a := range c.Argv {
		argv[i] = Mask(a, c.Secrets) // before quoting, which may tear a secret apart
	}
	return Quote(argv...)
}

// Output is what a command printed.
type Output struct {
	Stdout, Stderr []byte
}

// Text returns stdout without surrounding white space.
func (o Output) Text() string { return strings.TrimSpace(string(o.Stdout)) }

// Reader can look at a machine and cannot change it. All methods are safe for
// concurrent use, and may be repeated by a wrapper after a lost connection.
type Reader interface {
	// Name is the node's name in the cluster YAML.
	Name() string
	// Query runs a program that only looks; anything that is not on the query
	// allow-list is refused with ErrNotQuery before it reaches the machine.
	// A non-zero exit is an *ExitError; Output is filled either way.
	Query(ctx context.Context, c Cmd) (Output, error)
	// ReadFile reads a file as root. fs.ErrNotExist where there is none.
	ReadFile(ctx context.Context, path string) ([]byte, error)
	// Stat describes a file as root, without following a final link.
	// fs.ErrNotExist where there is none.
	Stat(ctx context.Context, path string) (fs.FileInfo, error)
}

// Host can look at a machine and change it. Only the execution of a plan holds
// one.
type Host interface {
	Reader
	// Run runs a program. A non-zero exit is an *ExitError. When ctx ends, the
	// remote process is ended too. Never retried.
	Run(ctx context.Context, c Cmd) (Output, error)
	// Put makes the file be as described: nothing is written when it already
	// is; otherwise the content goes to a temporary file beside it, its digest
	// is checked on the machine, and it is renamed into place.
	Put(ctx context.Context, f File) (changed bool, err error)
	// Remove removes a file, link or tree. No error where there is none.
	Remove(ctx context.Context, path string) error
}

// Bulk is implemented by hosts that can take many files in one stream. What it
// does is what Put does for each of them; files that are there already are not
// sent. ErrNoBulk where the machine cannot: then put them one by one.
type Bulk interface {
	PutAll(ctx context.Context, files []File, sent func(bytes int64)) error
}

// ErrNoBulk says that files have to be put one by one.
var ErrNoBulk = errors.New("this host takes files one by one")

// Tunnel is implemented by readers and hosts that can open a connection from
// the machine (direct-tcpip). The Kubernetes API is reached through it.
type Tunnel interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// File is a file that should be on a machine.
type File struct {
	Path   string
	Mode   fs.FileMode // permission bits; zero means 0644
	Owner  string      // user:group; empty means root:root
	Size   int64       // bytes
	SHA256 string      // hex digest of the content
	Open   func() (io.ReadCloser, error)
	Secret bool // content must not be logged, and Mode must not let others read
	// Compressed is the same content in the form that travels, and that content
	// stores hold; nil where there is none but the content itself.
	Compressed *Compressed
	// HostOnly says that Open has no bytes to give: the host makes them in its content
	// store, and PutAll takes them from there.
	HostOnly bool
}

// Compressed is content as zstd frames (pkg/archive/frames).
type Compressed struct {
	Digest string // "sha256:..."
	Size   int64  // bytes
	Open   func() (io.ReadCloser, error)
}

// Blob is the digest and the size, in bytes, of what travels: the compressed form
// where there is one, the content elsewhere.
func (f File) Blob() (digest string, size int64) {
	if f.Compressed != nil {
		return f.Compressed.Digest, f.Compressed.Size
	}
	return "sha256:" + f.SHA256, f.Size
}

// ErrDigest says that what arrived on a machine is not what was sent.
var ErrDigest = errors.New("digest mismatch")

// Bytes describes a file with the given content.
func Bytes(path string, mode fs.FileMode, content []byte) File {
	sum := sha256.Sum256(content)
	return File{
		Path: path, Mode: mode, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	}
}

// ExitError is a command that ran and did not succeed.
type ExitError struct {
	Cmd    string // masked and quoted
	Code   int    // exit status; 128+n for signal n
	Stderr []byte // all of it
}

// Error shows one line: the command, its status, and the last line it printed.
func (e *ExitError) Error() string {
	last := ""
	for _, l := range strings.Split(strings.TrimSpace(string(e.Stderr)), "\n") {
		if l = strings.TrimSpace(l); l != "" {
			last = l
		}
	}
	cmd := e.Cmd
	if len(cmd) > 160 {
		cmd = cmd[:157] + "..."
	}
	if last == "" {
		return fmt.Sprintf("%s: exit status %d", cmd, e.Code)
	}
	return fmt.Sprintf("%s: exit status %d: %s", cmd, e.Code, last)
}

// Tail returns the last n lines of stderr.
func (e *ExitError) Tail(n int) []string {
	lines := strings.Split(strings.TrimRight(string(e.Stderr), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return lines
}
