package workflow

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/probe"
)

// A bundle that lacks something is refused for the hosts as they are.
func TestClosed_refusesForTheHostsAsTheyAre(t *testing.T) {
	for _, x := range []struct {
		name   string
		change func(*archive.Manifest, archivetest.Content)
		worker string // architecture
		want   string // "" for accepted
	}{
		{"all is there", nil, "amd64", ""},
		{"an image is missing", func(m *archive.Manifest, _ archivetest.Content) {
			m.Items = slices.DeleteFunc(m.Items, func(it archive.Item) bool { return strings.Contains(it.Name, "/etcd:") })
		}, "amd64", "image registry.k8s.io/etcd:3.6.8-0 (amd64): static pod etcd on control planes"},
		{"both architectures are there", func(m *archive.Manifest, c archivetest.Content) { archivetest.AddArch(m, c, "arm64") }, "arm64", ""},
		{"a worker has another architecture", nil, "arm64", "things that the cluster asks for, the first is image ghcr.io/flannel-io/flannel-cni-plugin:v1.6.2-flannel1 (arm64)"},
		{"kocli for arm64 is missing", func(m *archive.Manifest, c archivetest.Content) {
			archivetest.AddArch(m, c, "arm64")
			m.Items = slices.DeleteFunc(m.Items, func(it archive.Item) bool { return it.Arch == "arm64" && it.Name == "kocli" })
		}, "arm64", "kocli kocli (arm64)"},
	} {
		t.Run(x.name, func(t *testing.T) {
			m, c := archivetest.Sample()
			if x.change != nil {
				x.change(m, c)
			}
			var b bytes.Buffer
			if _, _, err := archive.Write(&b, m, c.Open); err != nil {
				t.Fatal(err)
			}
			bundle, err := archive.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
			if err != nil {
				t.Fatal(err)
			}
			s := session(t, nil)
			s.bundle, s.o.Bundle, s.o.SpecFile = bundle, "b.tar", "c.yaml"
			facts := map[string]probe.Facts{}
			for _, n := range s.inv.Nodes {
				f := probe.Facts{Arch: "amd64", OS: probe.OS{ID: "debian", Version: "12"}}
				if !n.ControlPlane {
					f.Arch = x.worker
				}
				facts[n.Name] = f
			}
			err = s.closed(&Cluster{Inventory: s.inv, Facts: facts, Kocli: KocliBinary{Arch: "amd64"},
				Payload: func(n inventory.Node) payload.Payload { return s.payload(n, facts[n.Name]) }})
			switch {
			case x.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case x.want != "" && (fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), x.want) ||
				!strings.Contains(fault.HintOf(err), "kocli bundle verify b.tar --closure c.yaml")):
				t.Errorf("got %v, code %d, hint %q", err, fault.CodeOf(err), fault.HintOf(err))
			}
		})
	}
}
