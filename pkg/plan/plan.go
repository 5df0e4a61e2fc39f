// Package plan turns phases of steps into something that can be previewed
// and executed. It knows hosts as names behind a Dialer, and no Kubernetes
// words. The law of every step: once Apply succeeds, Check reports no Change.
package plan

import (
	"context"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// Change is one thing that a step would do on one node.
type Change struct {
	Phase, Node, Step string // filled in by the plan

	Object     string // what: "file /etc/sysctl.d/90-kocli.conf", "service kubelet"
	From, To   string // states in a few words; empty where there is none
	After      string // step whose result is needed first: "controlplane/init"
	Disruptive bool   // drain, restart, data loss: asks for confirmation
	Bytes      int64  // bytes to send to the host
	// Content lists the digests ("sha256:...") of blobs that Apply will need.
	Content []string
}

// Step is one convergent piece of work on one node.
type Step interface {
	// ID is stable: "runtime/config". It is used by --only and --skip, in
	// events and in reports.
	ID() string
	// Check looks and reports what Apply would do. Nothing means converged. It
	// must be cheap, and safe to call at any time and concurrently.
	Check(ctx context.Context, r host.Reader) ([]Change, error)
	// Apply makes it so. It must be safe to repeat after any interruption.
	Apply(ctx context.Context, h host.Host) error
}

// Phase is a list of steps that run, in order, on each of its nodes.
type Phase struct {
	Name    string
	Needs   []string // phases that must be complete on all of their nodes first
	Follows []string // phases that must be complete on the same node first
	Nodes   []string // where it runs
	Width   int      // nodes at once; zero means all
	Steps   func(node string) ([]Step, error)
	// HeadStart lets the nodes of another phase go first.
	HeadStart *HeadStart
}

// HeadStart makes a phase wait, on nodes that are not in the named phase, until
// that phase has begun on all of its nodes, and at most for Max. What the others
// wait for anyway is then ready sooner.
type HeadStart struct {
	Phase string
	Max   time.Duration
}

// Dialer gives access to nodes by name. Connections are its to share and close.
type Dialer interface {
	// Look returns a reader that cannot be asserted back to a host.Host.
	Look(ctx context.Context, node string) (host.Reader, error)
	// Dial returns a host.
	Dial(ctx context.Context, node string) (host.Host, error)
}
