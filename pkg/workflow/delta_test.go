package workflow_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/archive/delta"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/workflow"
)

// deltaBundle is the sample as a delta stands for it, and the bundle that the
// delta was made from.
func deltaBundle(t *testing.T) (base, target *archive.Bundle) {
	t.Helper()
	m, c := archivetest.Release("v1.36.2")
	var b bytes.Buffer
	if _, _, err := archive.Write(&b, m, c.Open); err != nil {
		t.Fatal(err)
	}
	old, file := filepath.Join(t.TempDir(), "old.tar"), filepath.Join(t.TempDir(), "d.tar")
	if err := os.WriteFile(old, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := delta.Make(t.Context(), delta.Options{Base: old, Input: archivetest.Write(t), Output: file}); err != nil {
		t.Fatal(err)
	}
	var err error
	if base, err = delta.Open(old, nil); err != nil {
		t.Fatal(err)
	}
	if target, err = delta.Open(file, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = base.Close(), target.Close() })
	return base, target
}

// With a delta, content comes first, however few the hosts are: nothing else can
// make it. What is nowhere ends a plan; a cluster that has all needs nothing.
func TestCreatePhases_ofADelta(t *testing.T) {
	t.Parallel()
	base, target := deltaBundle(t)
	l := newLab(t, "../../examples/cluster-single.yaml")
	whole := l.cluster.Payload
	self := filepath.Join(t.TempDir(), "kocli")
	if err := os.WriteFile(self, []byte("kocli"), 0o700); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("kocli"))
	l.cluster.Kocli = workflow.KocliBinary{Path: self, SHA256: hex.EncodeToString(sum[:]), Size: 5, Arch: archivetest.Arch}
	use := func() {
		l.cluster.Bundle = target
		l.cluster.Payload = func(n inventory.Node) payload.Payload {
			return payload.For(target, payload.Target{
				Kubernetes: l.inv.Version(), Arch: archivetest.Arch, ControlPlane: n.ControlPlane, CNI: string(l.inv.Spec.Network.CNI.Name),
				Endpoint: string(l.inv.Spec.ControlPlane.Endpoint.Mode), Distribution: "debian", Release: "12",
			})
		}
	}
	use()
	phases, err := l.cluster.CreatePhases()
	if err != nil || !slices.ContainsFunc(phases, func(p plan.Phase) bool { return p.Name == "content" }) {
		t.Fatalf("no content phase: %v", err)
	}
	if _, err := l.compile(t, plan.Options{}).Preview(t.Context(), l); fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "neither in the delta nor made of what the host has") {
		t.Fatalf("a host that holds nothing: %v", err)
	}
	m := base.Manifest()
	for _, d := range m.Contents() {
		r, _ := base.Section(d.Digest)
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range l.hosts {
			h.Write(fanout.Path(fanout.Root(), d.Digest), 0o600, string(data))
		}
	}
	brought := l.cluster.Kocli
	l.cluster.Kocli = workflow.KocliBinary{} // a host of another architecture gets the bundle's, which is not in the delta
	if _, err := l.compile(t, plan.Options{}).Preview(t.Context(), l); fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "of kocli v0.0.0-test (amd64): it makes the others") {
		t.Errorf("without a kocli: %v", err)
	}
	l.cluster.Kocli = brought
	changes, err := l.compile(t, plan.Options{}).Preview(t.Context(), l)
	if err != nil || !slices.ContainsFunc(changes, func(c plan.Change) bool { return c.Phase == "content" && strings.Contains(c.To, "made there") }) {
		t.Fatalf("a host that holds the base: %v, %v", changes, err)
	}
	l.cluster.Bundle, l.cluster.Payload = nil, whole
	l.create(t, plan.Options{})
	use()
	if changes, err := l.compile(t, plan.Options{}).Preview(t.Context(), l); err != nil || len(changes) > 0 {
		t.Errorf("a cluster that has all: %v, %v", changes, err)
	}
}

// What a node may hold so that nothing is to be pushed is all that its steps take.
func TestPayloadContent_isAllThatStepsTakeOfABundle(t *testing.T) {
	l := newLab(t, "../../examples/cluster-single.yaml")
	changes, err := l.compile(t, plan.Options{}).Preview(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	for _, n := range l.inv.Nodes {
		p := l.cluster.Payload(n)
		known := p.Content()
		for _, pkg := range p.Packages() {
			blob, _ := pkg.File.Blob()
			known = append(known, blob)
		}
		for _, c := range changes {
			for _, d := range c.Content {
				_, ours := p.Blob(d)
				if !ours || c.Node != n.Name || c.Phase == "agent" {
					continue
				}
				if taken++; !slices.Contains(known, d) {
					t.Errorf("%s takes %s of the bundle", c, d)
				}
			}
		}
	}
	if taken < 20 {
		t.Errorf("%d blobs are taken", taken)
	}
}
