// Package preflight holds the named checks that are made before anything is
// changed. A check looks at facts that others gathered (pkg/probe) and does no
// I/O. All checks run and all findings are reported; an error can be made a
// warning by the name of its check.
//
// To add a check: write a func(Input) []Finding in the file of its topic, put
// it in Checks with its name and what it is for, and add its line to the table
// of the test. Its name is public: never rename it.
package preflight

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/probe"
)

// Check is one named check.
type Check struct {
	Name string // kebab-case, unique; used in spec.preflight.ignore
	Doc  string // one sentence on what it refuses and why
	Run  func(Input) []Finding
}

// Level is how bad a finding is.
type Level string

// The levels of a finding.
const (
	Error   Level = "error"   // refused, unless its check is ignored
	Warning Level = "warning" // reported
)

// Finding is what a check has to say about a node, or about the cluster where
// Node is empty.
type Finding struct {
	Check   string `json:"check"`
	Node    string `json:"node,omitempty"`
	Level   Level  `json:"level"`
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`     // the exact next command or change
	Ignored bool   `json:"ignored,omitempty"` // was an error; its check is ignored
}

// Input is all that checks look at. What is absent is not checked.
type Input struct {
	Inventory *inventory.Inventory
	Facts     map[string]probe.Facts // by node
	Bundle    Bundle
	Need      map[string][]Space // by node: what the install will write
	Reach     []Reach
	Endpoint  []Reach // from nodes to the external endpoint; To is empty
	Etcd      []Reach // from control planes to the members of an external etcd; To is empty
	// EtcdObjects is how many objects of a cluster an external etcd holds while no
	// control plane has been made.
	EtcdObjects int64
	// Neighbours is what control planes found at the virtual IP. Empty where it is the
	// cluster's already.
	Neighbours []Neighbour
	Ignore     []string // names of checks, beside spec.preflight.ignore
}

// Bundle is what the bundle holds.
type Bundle struct {
	Versions []string // of Kubernetes, with the v
	Arches   []string // amd64, arm64
}

// Space is bytes that will be written below a path.
type Space struct {
	Path  string
	Bytes int64
}

// Reach is the result of one connection from a node to another.
type Reach struct {
	From, To string // nodes
	Address  string // host:port that was tried
	Err      string // empty: it was reached
}

// Run makes all checks and returns the findings: errors first, then by node in
// the order of the inventory, then by check.
func Run(in Input) []Finding {
	ignored := append(slices.Clone(in.Ignore), in.Inventory.Spec.Preflight.Ignore...)
	var all []Finding
	for _, c := range Checks() {
		for _, f := range c.Run(in) {
			f.Check = c.Name
			if f.Level == Error && slices.Contains(ignored, c.Name) {
				f.Level, f.Ignored = Warning, true
			}
			all = append(all, f)
		}
	}
	order := func(f Finding) int {
		return slices.IndexFunc(in.Inventory.Nodes, func(n inventory.Node) bool { return n.Name == f.Node })
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(order(a), order(b)), cmp.Compare(a.Check, b.Check))
	})
	return all
}

// Refusal returns the error of findings with the code Preflight, or nil where
// none of them is an error.
func Refusal(findings []Finding) error {
	var errs []Finding
	for _, f := range findings {
		if f.Level == Error {
			errs = append(errs, f)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	first := errs[0]
	hint := first.Fix
	if len(errs) > 1 {
		hint = "see the findings above; kocli preflight shows them again"
	}
	msg := fmt.Sprintf("%s: %s", first.Check, first.Message)
	if len(errs) > 1 {
		msg = fmt.Sprintf("%d errors, the first is %s", len(errs), msg)
	}
	return &fault.Error{Op: "preflight", Node: first.Node, Code: fault.Preflight, Hint: hint, Err: fmt.Errorf("%s", msg)}
}

// Names returns the names of all checks, in their order.
func Names() []string {
	var names []string
	for _, c := range Checks() {
		names = append(names, c.Name)
	}
	return names
}

// ValidateIgnore refuses names in spec.preflight.ignore that are no check: a slip
// there would otherwise be found at the worst time. It is a config.Validator.
func ValidateIgnore(c *v1alpha1.Cluster) field.ErrorList {
	var all field.ErrorList
	for i, name := range c.Spec.Preflight.Ignore {
		if !slices.Contains(Names(), name) {
			all = append(all, field.NotSupported(field.NewPath("spec", "preflight", "ignore").Index(i), name, Names()))
		}
	}
	return all
}

// perNode makes a check of a function that looks at one node at a time.
func perNode(f func(in Input, n inventory.Node, facts probe.Facts) []Finding) func(Input) []Finding {
	return func(in Input) []Finding {
		var all []Finding
		for _, n := range in.Inventory.Nodes {
			facts, ok := in.Facts[n.Name]
			if !ok {
				continue
			}
			for _, one := range f(in, n, facts) {
				one.Node = n.Name
				all = append(all, one)
			}
		}
		return all
	}
}

// refuse and warn are findings of one node.
func refuse(fix, format string, args ...any) Finding {
	return Finding{Level: Error, Message: fmt.Sprintf(format, args...), Fix: fix}
}

func warn(fix, format string, args ...any) Finding {
	f := refuse(fix, format, args...)
	f.Level = Warning
	return f
}
