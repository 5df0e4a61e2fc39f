package workflow

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"slices"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/inventory"
)

// Hosts that hold all that an install takes, and this kocli, need no more questions;
// whatever one of them lacks, they do.
func TestAllThere(t *testing.T) {
	hosts := machines{}
	s := session(t, hosts)
	b, err := archive.Open(archivetest.Write(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	s.bundle = b
	sum := sha256.Sum256([]byte("this kocli"))
	s.binary = &KocliBinary{Path: "kocli", SHA256: hex.EncodeToString(sum[:]), Size: 10, Arch: archivetest.Arch}
	m := b.Manifest()
	fill := func(n inventory.Node, leave func(archive.Item) bool) {
		h := hosttest.OS(hosttest.New(n.Name))
		h.Write("/etc/os-release", 0o644, "ID=debian\nVERSION_ID=\"12\"\n")
		h.Handle(func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
			return "6.1.0 x86_64\n", 0, slices.Equal(argv, []string{"uname", "-rm"})
		})
		h.Write(kocliPath(), 0o755, "this kocli")
		for _, it := range m.Items {
			if it.Role == archive.RoleControlPlane && !n.ControlPlane || leave(it) {
				continue
			}
			digests := []string{it.Digest}
			if it.Stored != nil {
				digests = []string{it.Stored.Digest}
			}
			for _, l := range it.Blobs {
				digests = append(digests, l.Digest)
			}
			for _, d := range digests {
				if r, ok := b.Section(d); ok {
					data, err := io.ReadAll(r)
					if err != nil {
						t.Fatal(err)
					}
					h.Write(fanout.Path(fanout.Root(), d), 0o600, string(data))
				}
			}
		}
		hosts[n.Name] = h
	}
	none := func(archive.Item) bool { return false }
	all := func() {
		for _, n := range s.inv.Nodes {
			fill(n, none)
		}
	}
	all()
	if !s.allThere(t.Context()) {
		t.Fatal("all is there")
	}
	last := s.inv.Nodes[len(s.inv.Nodes)-1]
	for _, name := range []string{"kubelet", "runc", "socat", "registry.k8s.io/pause:3.10.2"} {
		fill(last, func(it archive.Item) bool { return it.Name == name || it.Package != nil && it.Package.Name == name })
		if s.allThere(t.Context()) {
			t.Errorf("%s is not there", name)
		}
	}
	all()
	hosts[last.Name].Write(kocliPath(), 0o755, "other kocl")
	if s.allThere(t.Context()) {
		t.Error("a host has another kocli")
	}
	all()
	delete(hosts, last.Name)
	if s.allThere(t.Context()) {
		t.Error("a host does not answer")
	}
}
