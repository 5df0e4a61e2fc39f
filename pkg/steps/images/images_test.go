package images_test

import (
	"context"
	"io"
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
	m.Attach(hosttest.NodeImages())
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
			m.Write(ref(1), 0o600, list[0].Digest+" "+images.PinnedLabel+"=pinned")
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

// counted counts what is sent to kocli on the host.
func counted(m *hosttest.Machine) *[]int64 {
	var sent []int64
	m.Attach(func(ctx context.Context, m *hosttest.Machine, c host.Cmd) (hosttest.Reply, bool) {
		if len(c.Argv) < 3 || c.Argv[2] != "images" {
			return hosttest.Reply{}, false
		}
		sent = append(sent, 0)
		c.Stdin = io.TeeReader(c.Stdin, counter(func(n int) { sent[len(sent)-1] += int64(n) }))
		return hosttest.NodeImages()(ctx, m, c)
	})
	return &sent
}

type counter func(int)

func (c counter) Write(p []byte) (int, error) { c(len(p)); return len(p), nil }

func TestImport_sendsOnlyWhatIsLacking(t *testing.T) {
	p := bundle(t, true)
	m := running(t)
	sent := counted(m)
	if err := images.Import(p, "kocli").Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	// One that is named anew sends nothing but what it is called.
	m.Delete(path.Join(hosttest.ImagesDir, strings.ReplaceAll(p.Images()[0].Ref, "/", "|")))
	if err := images.Import(p, "kocli").Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if len(*sent) != 2 || (*sent)[1] > (*sent)[0]/4 {
		t.Errorf("sent %v bytes", *sent)
	}
}

func TestImport_takesWhatIsInTheStoreOfTheHost(t *testing.T) {
	p := bundle(t, false)
	m := running(t)
	sent := counted(m)
	var stored int64
	for _, im := range p.Images() {
		for _, b := range im.Blobs {
			s, ok := p.Blob(b.Digest)
			if !ok {
				t.Fatal(b.Digest)
			}
			data, err := io.ReadAll(s)
			if err != nil {
				t.Fatal(err)
			}
			stored += int64(len(data))
			m.Write(path.Join(hosttest.StoreDir, strings.TrimPrefix(b.Digest, "sha256:")), 0o600, string(data))
		}
	}
	step := images.Import(p, "kocli")
	if err := step.Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if changes, err := step.Check(t.Context(), m); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
	if len(*sent) != 1 || (*sent)[0] > 8<<10 {
		t.Errorf("%v bytes were sent, %d were there", *sent, stored)
	}
}

func TestImport_goesOnAfterContainerdWasRestarted(t *testing.T) {
	p := bundle(t, true)
	m := running(t)
	runs := 0
	m.Attach(func(ctx context.Context, m *hosttest.Machine, c host.Cmd) (hosttest.Reply, bool) {
		if len(c.Argv) < 3 || c.Argv[2] != "images" {
			return hosttest.Reply{}, false
		}
		if runs++; runs > 1 {
			return hosttest.NodeImages()(ctx, m, c)
		}
		c.Stdin = io.LimitReader(c.Stdin, 20_000) // then it is gone
		r, _ := hosttest.NodeImages()(ctx, m, c)
		return r, true
	})
	step := images.Import(p, "kocli")
	if err := step.Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if changes, err := step.Check(t.Context(), m); err != nil || len(changes) > 0 || runs != 2 {
		t.Errorf("%v, %v after %d runs", changes, err, runs)
	}
}

func TestImport_doesNotGoOnForEver(t *testing.T) {
	m := running(t)
	runs := 0
	m.Attach(func(_ context.Context, _ *hosttest.Machine, c host.Cmd) (hosttest.Reply, bool) {
		if len(c.Argv) < 3 || c.Argv[2] != "images" {
			return hosttest.Reply{}, false
		}
		runs++
		return hosttest.Reply{Stderr: "no space left on device", Code: 1}, true
	})
	err := images.Import(bundle(t, true), "kocli").Apply(t.Context(), m)
	if err == nil || !strings.Contains(err.Error(), "no space left") || runs != 2 {
		t.Errorf("%d runs, %v", runs, err)
	}
}

func TestImport_withoutKocliOnTheHostGoesThroughCtr(t *testing.T) {
	step := images.Import(bundle(t, false), "kocli")
	plantest.Converges(t, func() plantest.World {
		m := running(t)
		m.Attach(func(_ context.Context, _ *hosttest.Machine, c host.Cmd) (hosttest.Reply, bool) {
			return hosttest.Reply{Stderr: "sh: 1: kocli: not found", Code: 127}, len(c.Argv) > 2 && c.Argv[2] == "images"
		})
		return plantest.World{Step: step, Host: m}
	})
}
