package reset

import (
	"path"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/plan/plantest"
)

// runs reports whether a service does.
func runs(t *testing.T, m *hosttest.Machine, unit string) bool {
	t.Helper()
	_, err := m.Query(t.Context(), host.Command("systemctl", "is-active", unit))
	return err == nil
}

func TestRuntime_aContainerdThatDoesNotAnswerKeepsItsData(t *testing.T) {
	m := withRuntime(t)
	m.Handle(func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		return "ctr: failed to dial: context deadline exceeded\n", 1, argv[0] == "/usr/local/bin/ctr"
	})
	err := Runtime().Apply(t.Context(), m)
	if err == nil || !strings.Contains(err.Error(), "its data stays") || !strings.Contains(err.Error(), "context deadline exceeded") {
		t.Errorf("got %v", err)
	}
	if _, ok := m.Read("/var/lib/containerd/meta.db"); !ok {
		t.Error("the data is gone")
	}
	if changes, err := Runtime().Check(t.Context(), m); err != nil || len(changes) != 1 {
		t.Errorf("the work is still to do: %v, %v", changes, err)
	}
}

func TestRuntime_aContainerdThatDoesNotStartKeepsItsData(t *testing.T) {
	m := withRuntime(t)
	m.Handle(func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		return "Job for containerd.service failed\n", 1, argv[0] == "systemctl" && argv[1] == "start"
	})
	if err := Runtime().Apply(t.Context(), m); err == nil || !strings.Contains(err.Error(), "Job for containerd.service failed") {
		t.Errorf("got %v", err)
	}
	if _, ok := m.Read("/var/lib/containerd/meta.db"); !ok {
		t.Error("the data is gone")
	}
}

// inUse is a host whose containerd others use too.
func inUse(t *testing.T, what string) *hosttest.Machine {
	t.Helper()
	m := withRuntime(t)
	m.Write(path.Join(hosttest.NamespacesDir, "moby", what, "db"), 0o600, "precious")
	m.Write("/etc/made", 0o600, "kocli's")
	err := ledger.Append(t.Context(), m, ledger.Entry{Kind: ledger.FileAbsent, Name: "/etc/made"}, ledger.Entry{Kind: ledger.Service, Name: "containerd.service"},
		ledger.Entry{Kind: ledger.FileAbsent, Name: "/usr/local/bin/ctr"}, ledger.Entry{Kind: ledger.FileAbsent, Name: "/etc/systemd/system/containerd.service"})
	if err != nil {
		t.Fatal(err)
	}
	start(t, m, "containerd.service")
	return m
}

func TestSteps_containerdThatOthersUseStays(t *testing.T) {
	for _, what := range []string{"containers", "images"} {
		m := inUse(t, what)
		changes, err := Runtime().Check(t.Context(), m)
		if err != nil || len(changes) != 1 || !strings.Contains(changes[0].String(), "namespace moby") {
			t.Errorf("%s: %v, %v", what, changes, err)
		}
		for _, s := range Steps()[3:] {
			if err := s.Apply(t.Context(), m); err != nil {
				t.Errorf("%s: %s: %v", what, s.ID(), err)
			}
			if changes, err := s.Check(t.Context(), m); err != nil || len(changes) > 0 {
				t.Errorf("%s: %s: %v, %v", what, s.ID(), changes, err)
			}
		}
		for p, want := range map[string]bool{
			path.Join(hosttest.NamespacesDir, "moby", what, "db"): true, "/usr/local/bin/containerd": true, "/usr/local/bin/ctr": true,
			"/etc/systemd/system/containerd.service": true, "/etc/made": false, "/usr/bin/kubelet": false,
			path.Join(hosttest.ImagesDir, "registry.k8s.io|pause:3.10"): false,
		} {
			if _, ok := m.Read(p); ok != want {
				t.Errorf("%s: %s is there: %t", what, p, ok)
			}
		}
		book, err := ledger.Read(t.Context(), m)
		if err != nil || len(book) == 0 || !runs(t, m, "containerd.service") {
			t.Errorf("%s: containerd runs: %t; the ledger holds %v, %v", what, runs(t, m, "containerd.service"), book, err)
		}
		m.Delete(hosttest.NamespacesDir) // the others have gone: now it can go too
		for _, s := range Steps()[3:] {
			if err := s.Apply(t.Context(), m); err != nil {
				t.Errorf("%s, later: %s: %v", what, s.ID(), err)
			}
		}
		if _, ok := m.Read("/usr/local/bin/containerd"); ok || runs(t, m, "containerd.service") {
			t.Errorf("%s, later: containerd is still there", what)
		}
	}
}

func TestUndo_besideAContainerdThatStaysConverges(t *testing.T) {
	plantest.Converges(t, func() plantest.World { return plantest.World{Step: Undo(), Host: inUse(t, "containers")} })
}

func TestUndo_aFirewallInServiceKeepsItsPackage(t *testing.T) {
	for _, enabled := range []bool{true, false} {
		m := ours(t)
		m.Delete("/usr/local/bin/ctr")
		m.Write("/etc/systemd/system/nftables.service", 0o644, "[Service]\n")
		if enabled {
			if _, err := m.Run(t.Context(), host.Command("systemctl", "enable", "nftables.service")); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range []string{"nftables", "socat"} {
			m.Write("/var/lib/dpkg/info/"+p+".list", 0o644, "")
			if err := ledger.Append(t.Context(), m, ledger.Entry{Kind: ledger.Package, Name: p}); err != nil {
				t.Fatal(err)
			}
		}
		if err := Undo().Apply(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		for p, want := range map[string]bool{"nftables": enabled, "socat": false} {
			if _, ok := m.Read("/var/lib/dpkg/info/" + p + ".list"); ok != want {
				t.Errorf("nftables.service enabled: %t: %s is installed: %t", enabled, p, ok)
			}
		}
	}
}
