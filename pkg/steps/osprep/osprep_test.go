package osprep_test

import (
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/osprep"
)

func cluster() *inventory.Inventory {
	return &inventory.Inventory{Name: "c", Spec: v1alpha1.ClusterSpec{}, Nodes: []inventory.Node{
		{Name: "cp-1", IP: "10.0.0.1", ControlPlane: true}, {Name: "worker-1", IP: "10.0.0.2", Worker: true},
	}}
}

func packages(t *testing.T) []payload.Package {
	t.Helper()
	b, err := archive.Open(archivetest.Write(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	p := payload.For(b, payload.Target{Kubernetes: archivetest.Kubernetes, Arch: archivetest.Arch, CNI: "flannel", Distribution: "debian", Release: "12"}).Packages()
	if len(p) != 7 {
		t.Fatalf("%d packages", len(p))
	}
	return p
}

func TestSteps_converge(t *testing.T) {
	inv, pkgs := cluster(), packages(t)
	for name, c := range map[string]struct {
		step    plan.Step
		prepare func(*hosttest.Machine)
	}{
		"hostname":                            {osprep.Hostname(inv.Nodes[0]), nil},
		"hostname, the file is right already": {osprep.Hostname(inv.Nodes[0]), func(m *hosttest.Machine) { m.Write("/etc/hostname", 0o644, "cp-1\n") }},
		"hosts":                               {osprep.Hosts(inv, inv.Nodes[0]), nil},
		"hosts, without a file":               {osprep.Hosts(inv, inv.Nodes[0]), func(m *hosttest.Machine) { m.Delete("/etc/hosts") }},
		"swap":                                {osprep.Swap(), nil},
		"swap, in fstab alone":                {osprep.Swap(), func(m *hosttest.Machine) { m.Delete("/proc/swaps") }},
		"swap, on and not in fstab":           {osprep.Swap(), func(m *hosttest.Machine) { m.Delete("/etc/fstab") }},
		"modules":                             {osprep.Modules(), nil},
		"modules that are built in":           {osprep.Modules(), func(m *hosttest.Machine) { builtIn(t, m) }},
		"sysctl":                              {osprep.Sysctls(), func(m *hosttest.Machine) { builtIn(t, m) }},
		"resolver":                            {osprep.ResolvConf(nil), func(m *hosttest.Machine) { m.Write("/etc/resolv.conf", 0o644, "nameserver 127.0.0.53\n") }},
		"packages":                            {osprep.Packages(pkgs), nil},
		"packages, one of them is there":      {osprep.Packages(pkgs), func(m *hosttest.Machine) { m.Write("/var/lib/dpkg/info/socat.list", 0o644, "") }},
		"kocli":                               {osprep.Kocli(host.Bytes("/var/lib/kocli/bin/kocli", 0o755, make([]byte, 2<<20))), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plantest.Converges(t, func() plantest.World {
				m := hosttest.OS(hosttest.New("cp-1"))
				if c.prepare != nil {
					c.prepare(m)
				}
				return plantest.World{Step: c.step, Host: m}
			})
		})
	}
}

// builtIn gives the machine the features that modules bring.
func builtIn(t *testing.T, m *hosttest.Machine) {
	t.Helper()
	if _, err := m.Run(t.Context(), host.Command("modprobe", "-a", "overlay", "br_netfilter")); err != nil {
		t.Fatal(err)
	}
}

func TestSteps_leaveAloneWhatIsThere(t *testing.T) {
	m := hosttest.OS(hosttest.New("cp-1"))
	m.Write("/proc/swaps", 0o444, "Filename Type Size Used Priority\n")
	m.Write("/etc/fstab", 0o644, "# /dev/sda2 none swap sw 0 0\nUUID=1 / ext4 defaults 0 1\n")
	for _, p := range []string{"conntrack", "socat", "ethtool", "iptables", "nftables", "ebtables", "libmnl0"} {
		m.Write("/var/lib/dpkg/info/"+p+".list", 0o644, "")
	}
	for _, s := range []plan.Step{osprep.Swap(), osprep.Packages(packages(t)), osprep.Packages(nil), osprep.ResolvConf([]string{"10.0.0.53"})} {
		changes, err := s.Check(t.Context(), m)
		if err != nil || len(changes) > 0 {
			t.Errorf("%s: %v, %v", s.ID(), changes, err)
		}
	}
}

func TestHosts_keepsEverythingElse(t *testing.T) {
	m := hosttest.OS(hosttest.New("cp-1"))
	const before = "127.0.0.1 localhost\n\n# mine\n10.9.9.9 db # keep\n"
	m.Write("/etc/hosts", 0o644, before)
	inv := cluster()
	self := inv.Nodes[1]
	inv.Nodes = append(inv.Nodes, inventory.Node{Name: "worker-2", IP: "10.0.0.3", Worker: true}, inventory.Node{Name: "cp-2", IP: "10.0.0.4", ControlPlane: true})
	apply := func() string {
		t.Helper()
		if err := osprep.Hosts(inv, self).Apply(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		text, _ := m.Read("/etc/hosts")
		return text
	}
	first := apply()
	if !strings.HasPrefix(first, before) || !strings.Contains(first, "10.0.0.1 cp-1\n10.0.0.4 cp-2\n10.0.0.2 worker-1\n") || strings.Contains(first, "worker-2") {
		t.Errorf("got %q", first)
	}
	inv.Nodes = inv.Nodes[:2]
	if got := apply(); strings.Contains(got, "cp-2") || !strings.Contains(got, "worker-1") || !strings.HasPrefix(got, before) {
		t.Errorf("a node that left stays in %q", got)
	}
	// Somebody else writes below the block.
	m.Write("/etc/hosts", 0o644, apply()+"10.8.8.8 later\n")
	if got := apply(); !strings.Contains(got, "10.8.8.8 later\n") || strings.Count(got, "cp-1") != 1 {
		t.Errorf("got %q", got)
	}
	// A block whose end was lost must not swallow the rest of the file.
	m.Write("/etc/hosts", 0o644, "# kocli: nodes of the cluster, begin\n10.0.0.1 cp-1\n10.7.7.7 precious\n")
	if got := apply(); !strings.Contains(got, "10.7.7.7 precious\n") {
		t.Errorf("a block without an end swallowed what follows: %q", got)
	}
}

func TestSteps_recordWhatWasThereBefore(t *testing.T) {
	m := hosttest.OS(hosttest.New("cp-1"))
	builtIn(t, m)
	h := ledger.Wrap(m)
	for _, s := range []plan.Step{osprep.Hostname(cluster().Nodes[0]), osprep.Swap(), osprep.Sysctls(), osprep.Packages(packages(t))} {
		if err := s.Apply(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	book, err := ledger.Read(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	has := func(kind ledger.Kind, name, value string) {
		t.Helper()
		for _, e := range book.Of(kind) {
			if e.Name == name && e.Value == value {
				return
			}
		}
		t.Errorf("no %s of %s=%q in %v", kind, name, value, book)
	}
	has(ledger.Hostname, "hostname", "localhost")
	has(ledger.Swap, "/dev/sda2", "")
	has(ledger.Sysctl, "net.ipv4.ip_forward", "0")
	has(ledger.Package, "conntrack", "")
	has(ledger.FileKept, "/etc/fstab", "")
	has(ledger.FileAbsent, "/etc/sysctl.d/90-kocli.conf", "")
	if old, _ := m.Read(ledger.OriginalPath("/etc/hostname")); old != "localhost\n" {
		t.Errorf("the original hostname is %q", old)
	}
}
