package reset

import (
	"context"
	"path"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan/plantest"
)

// ours is a host on which kocli installed Kubernetes and containerd, which does
// not run.
func ours(t *testing.T) *hosttest.Machine {
	t.Helper()
	m := hosttest.OS(hosttest.New("n"))
	m.Install(hosttest.Ctr(), scripts)
	for _, p := range []string{"/usr/bin/kubelet", "/usr/bin/kubeadm", "/usr/local/bin/containerd", "/usr/local/bin/ctr"} {
		m.Write(p, 0o755, "")
	}
	m.Write("/etc/systemd/system/containerd.service", 0o644, "[Service]\n")
	m.Write("/etc/systemd/system/kubelet.service", 0o644, "[Service]\n")
	err := ledger.Append(t.Context(), m,
		ledger.Entry{Kind: ledger.FileAbsent, Name: "/usr/bin/kubelet"}, ledger.Entry{Kind: ledger.FileAbsent, Name: "/usr/local/bin/containerd"})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func start(t *testing.T, m *hosttest.Machine, units ...string) {
	t.Helper()
	for _, u := range units {
		if _, err := m.Run(t.Context(), host.Command("systemctl", "start", u)); err != nil {
			t.Fatal(err)
		}
	}
}

// controlPlane is a host with everything that kubeadm and a kubelet leave, and
// what the next reset has to do.
func controlPlane(t *testing.T) (*hosttest.Machine, *kubetest.Cluster) {
	t.Helper()
	m := ours(t)
	c := kubetest.NewCluster(m.Wire)
	m.Install(c.Kubeadm())
	start(t, m, "kubelet.service")
	for _, p := range []string{
		"manifests/etcd.yaml", "manifests/kube-apiserver.yaml", "pki/ca.key", "pki/etcd/ca.key", "admin.conf", "super-admin.conf", "kubelet.conf",
		"controller-manager.conf", "scheduler.conf", "tmp/kubeadm-kubelet-config1/config.yaml",
	} {
		m.Write("/etc/kubernetes/"+p, 0o600, "kubeadm's")
	}
	m.Write(kubeadm.AuditPolicyPath, 0o600, "kocli's: the ledger knows of it")
	for _, p := range []string{"config.yaml", "kubeadm-flags.env", "pki/kubelet.crt", "pods/1/etc-hosts"} {
		m.Write("/var/lib/kubelet/"+p, 0o600, "the kubelet's")
	}
	m.Write("/var/lib/etcd/member/snap/db", 0o600, "etcd's")
	m.Write(path.Join(hosttest.ContainersDir, "etcd"), 0o600, "")
	return m, c
}

func TestKubeadm_converges(t *testing.T) {
	plantest.Converges(t, func() plantest.World {
		m, c := controlPlane(t)
		return plantest.World{Step: Kubeadm(), Host: m, Close: c.Close}
	})
	m, c := controlPlane(t)
	defer c.Close()
	if err := Kubeadm().Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	for _, p := range m.Files() {
		if p != kubeadm.AuditPolicyPath && (strings.HasPrefix(p, "/etc/kubernetes/") || strings.HasPrefix(p, "/var/lib/kubelet/") || strings.HasPrefix(p, hosttest.ContainersDir)) {
			t.Errorf("%s was left", p)
		}
	}
	if _, ok := m.Read(kubeadm.AuditPolicyPath); !ok {
		t.Error("what the ledger is to undo was removed")
	}
}

// A host may lose its power between any two things that kubeadm reset does.
func TestKubeadm_goesOnAfterAnyEffect(t *testing.T) {
	for n := 1; n <= 10; n++ {
		m, c := controlPlane(t)
		c.HaltAfter(n)
		if err := Kubeadm().Apply(t.Context(), m); err == nil {
			t.Errorf("after %d effects: no error surfaces", n)
		}
		m.CutBefore(0)
		changes, err := Kubeadm().Check(t.Context(), m)
		if err != nil || len(changes) != 1 {
			t.Errorf("after %d effects: %v, %v", n, changes, err)
		}
		if err := Kubeadm().Apply(t.Context(), m); err != nil {
			t.Errorf("after %d effects, again: %v", n, err)
		}
		if changes, err := Kubeadm().Check(t.Context(), m); err != nil || len(changes) > 0 {
			t.Errorf("after %d effects, in the end: %v, %v", n, changes, err)
		}
		c.Close()
	}
}

// Whatever of it a run that was cut off has left, the next one goes on with.
func TestKubeadm_seesAnythingThatIsLeft(t *testing.T) {
	m, c := controlPlane(t)
	c.Close()
	for _, left := range m.Files() {
		if left == kubeadm.AuditPolicyPath || !strings.HasPrefix(left, "/etc/kubernetes/") && !strings.HasPrefix(left, "/var/lib/kubelet/") && !strings.HasPrefix(left, "/var/lib/etcd/") {
			continue
		}
		m := ours(t)
		c := kubetest.NewCluster(m.Wire)
		m.Install(c.Kubeadm())
		m.Write(left, 0o600, "")
		if changes, err := Kubeadm().Check(t.Context(), m); err != nil || len(changes) != 1 {
			t.Errorf("%s: %v, %v", left, changes, err)
		}
		if err := Kubeadm().Apply(t.Context(), m); err != nil {
			t.Errorf("%s: %v", left, err)
		}
		if _, ok := m.Read(left); ok {
			t.Errorf("%s is still there", left)
		}
		c.Close()
	}
}

func TestKubeadm_leavesWhatIsNotOurs(t *testing.T) {
	m, c := controlPlane(t)
	defer c.Close()
	m.Delete(ledger.Root())
	m.CutBefore(0)
	_, err := Kubeadm().Check(t.Context(), m)
	if fault.CodeOf(err) != fault.Preflight || !strings.Contains(err.Error(), "did not install") {
		t.Errorf("check: %v", err)
	}
	if err := Kubeadm().Apply(t.Context(), m); err == nil || m.Writes() > 0 {
		t.Errorf("apply: %v, %v", err, m.Log())
	}
}

// A volume of its own has a folder that is nobody's.
func TestKubeadm_aCleanHostHasNothingToReset(t *testing.T) {
	m := hosttest.OS(hosttest.New("n"))
	m.Write("/var/lib/kubelet/lost+found/x", 0o600, "")
	m.Write("/var/lib/etcd/lost+found/x", 0o600, "")
	m.Delete("/var/lib/kubelet/lost+found/x")
	m.Delete("/var/lib/etcd/lost+found/x")
	if changes, err := Kubeadm().Check(t.Context(), m); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
}

// withRuntime is a host whose containerd holds what Kubernetes leaves.
func withRuntime(t *testing.T) *hosttest.Machine {
	t.Helper()
	m := ours(t)
	m.Write(path.Join(hosttest.ImagesDir, "registry.k8s.io|pause:3.10"), 0o600, "sha256:1 ")
	m.Write("/var/lib/containerd/meta.db", 0o600, "")
	m.Write("/run/containerd/containerd.sock", 0o600, "")
	return m
}

func TestRuntime_converges(t *testing.T) {
	for name, prepare := range map[string]func(*hosttest.Machine){
		"it runs":          func(m *hosttest.Machine) { start(t, m, "containerd.service") },
		"it was stopped":   func(*hosttest.Machine) {},
		"it holds nothing": func(m *hosttest.Machine) { m.Delete("/var/lib/containerd"); start(t, m, "containerd.service") },
		"others have containers": func(m *hosttest.Machine) {
			m.Write(hosttest.NamespacesDir+"/moby/containers/db", 0o600, "")
			start(t, m, "containerd.service")
		},
		"others have images, and it was stopped": func(m *hosttest.Machine) { m.Write(hosttest.NamespacesDir+"/buildkit/images/base", 0o600, "") },
		"it was there before kocli": func(m *hosttest.Machine) {
			start(t, m, "containerd.service")
			if err := ledger.Append(t.Context(), m, ledger.Entry{Kind: ledger.FileKept, Name: "/usr/local/bin/containerd"}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			plantest.Converges(t, func() plantest.World {
				m := withRuntime(t)
				prepare(m)
				return plantest.World{Step: Runtime(), Host: m, State: func() string {
					_, err := m.Query(context.WithoutCancel(t.Context()), host.Command("systemctl", "is-active", "containerd.service"))
					return "containerd runs: " + map[bool]string{true: "yes", false: "no"}[err == nil]
				}}
			})
		})
	}
}
