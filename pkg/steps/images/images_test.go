package images_test

import (
	"path"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/images"
)

func bundle(t *testing.T, controlPlane bool) payload.Payload {
	t.Helper()
	b, err := archive.Open(archivetest.Write(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return payload.For(b, payload.Target{Kubernetes: archivetest.Kubernetes, Arch: archivetest.Arch, ControlPlane: controlPlane, CNI: "flannel", Endpoint: "none"})
}

// running is a machine with containerd.
func running(t *testing.T) *hosttest.Machine {
	t.Helper()
	m := hosttest.OS(hosttest.New("n"))
	m.Install(hosttest.Ctr())
	m.Write("/usr/local/bin/ctr", 0o755, "")
	m.Write("/etc/systemd/system/containerd.service", 0o644, "[Service]\n")
	if _, err := m.Run(t.Context(), host.Command("systemctl", "start", "containerd.service")); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestImport_converges(t *testing.T) {
	p := bundle(t, false)
	step := images.Import(p, "kocli")
	for name, prepare := range map[string]func(*hosttest.Machine){
		"a fresh host": func(*hosttest.Machine) {},
		"one image is not pinned and one is old": func(m *hosttest.Machine) {
			if err := step.Apply(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			list := p.Images()
			ref := func(i int) string { return path.Join(hosttest.ImagesDir, strings.ReplaceAll(list[i].Ref, "/", "|")) }
			m.Write(ref(0), 0o600, list[0].Digest+" ")
			m.Write(ref(1), 0o600, list[0].Digest+" "+images.PinnedLabel)
		},
		"layers were collected": func(m *hosttest.Machine) {
			if err := step.Apply(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			m.Delete(path.Join(hosttest.ImagesDir, strings.ReplaceAll(p.Images()[0].Ref, "/", "|")))
			m.Delete(path.Join(hosttest.ContentDir, strings.TrimPrefix(p.Images()[0].Blobs[2].Digest, "sha256:")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plantest.Converges(t, func() plantest.World {
				m := running(t)
				prepare(m)
				return plantest.World{Step: step, Host: m}
			})
		})
	}
}

func TestImport_withoutContainerdIsKnownAfterTheRuntime(t *testing.T) {
	m := hosttest.OS(hosttest.New("n"))
	m.Install(hosttest.Ctr())
	changes, err := images.Import(bundle(t, true), "kocli").Check(t.Context(), m)
	if err != nil || len(changes) != 9 || changes[0].After != "runtime/service" || changes[0].Bytes == 0 {
		t.Errorf("%v, %v", changes, err)
	}
}

func TestImport_sendsOnlyWhatIsLacking(t *testing.T) {
	p := bundle(t, true)
	m := running(t)
	var sent []int
	m.Handle(func(_ *hosttest.Machine, argv []string, stdin []byte) (string, int, bool) {
		if len(argv) > 4 && argv[4] == "import" {
			sent = append(sent, len(stdin))
		}
		return "", 0, false
	})
	if err := images.Import(p, "kocli").Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	// The worker's images share layers with those of the control plane, so that
	// one that is imported again sends next to nothing.
	m.Delete(path.Join(hosttest.ImagesDir, strings.ReplaceAll(p.Images()[0].Ref, "/", "|")))
	if err := images.Import(p, "kocli").Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if len(sent) != 2 || sent[1] > sent[0]/4 {
		t.Errorf("sent %v bytes", sent)
	}
}
