package workflow

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/probe"
)

// A bundle that lacks something is refused for the hosts as they are.
func TestClosed_refusesForTheHostsAsTheyAre(t *testing.T) {
	t.Parallel()
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

// create, plan and push all look at the hosts first; the bundle is refused
// there, and nothing was written.
func TestExamine_refusesAnIncompleteBundle(t *testing.T) {
	t.Parallel()
	m, c := archivetest.Sample()
	m.Items = slices.DeleteFunc(m.Items, func(it archive.Item) bool { return strings.Contains(it.Name, "/etcd:") })
	var b bytes.Buffer
	if _, _, err := archive.Write(&b, m, c.Open); err != nil {
		t.Fatal(err)
	}
	bundle, err := archive.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	hosts, before := machines{}, map[string]string{}
	for _, n := range []string{"cp-1", "cp-2", "cp-3", "worker-1"} {
		hosts[n] = hosttest.OS(hosttest.New(n))
		hosts[n].Install(func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
			if argv[0] == "uname" {
				return hosttest.Reply{Stdout: "6.1 x86_64\n"}, true
			}
			return hosttest.Reply{Code: 127}, argv[0] != "sh" && argv[0] != "find"
		})
		before[n] = strings.Join(hosts[n].Files(), " ")
	}
	s := session(t, hosts)
	s.bundle, s.o.Observer, s.o.Ignore = bundle, quiet{}, preflight.Names()
	_, err = s.examine(t.Context())
	if fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "lacks image registry.k8s.io/etcd:3.6.8-0 (amd64)") {
		t.Errorf("got %v, code %d", err, fault.CodeOf(err))
	}
	for name, h := range hosts {
		if after := strings.Join(h.Files(), " "); after != before[name] {
			t.Errorf("%s: files were %s, are %s", name, before[name], after)
		}
	}
}
