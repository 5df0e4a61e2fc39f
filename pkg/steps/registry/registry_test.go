package registry_test

import (
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	material "github.com/kocli/kocli/pkg/registry"
	"github.com/kocli/kocli/pkg/steps/registry"
)

const canary = "s3cr3t-k3y"

// serve are the steps of a host with a registry at a port.
func serve(t *testing.T, port int) []plan.Step {
	t.Helper()
	b, err := archive.Open(archivetest.Write(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	inv := &inventory.Inventory{Spec: v1alpha1.ClusterSpec{Registry: v1alpha1.Registry{Builtin: &v1alpha1.BuiltinRegistry{
		Hosts: []string{"n"}, Name: "registry.kocli.internal", Port: port, DataDir: "/srv/images",
	}}}}
	s, err := registry.Serve(registry.Options{
		Inventory: inv, Payload: payload.For(b, payload.Target{Kubernetes: archivetest.Kubernetes, Arch: archivetest.Arch, Registry: true}),
		TLS: material.Pair{Cert: []byte("certificate"), Key: []byte(canary)}, Htpasswd: []byte("kocli:" + canary),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func machine() *hosttest.Machine { return hosttest.OS(hosttest.New("n")) }

func apply(t *testing.T, m *hosttest.Machine, steps ...plan.Step) {
	t.Helper()
	for _, s := range steps {
		if err := s.Apply(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
}

func TestServe_converges(t *testing.T) {
	steps := serve(t, 5000)
	for i := range steps {
		t.Run(steps[i].ID(), func(t *testing.T) {
			plantest.Converges(t, func() plantest.World {
				m := machine()
				apply(t, m, steps[:i]...)
				return plantest.World{Step: steps[i], Host: m}
			})
		})
	}
	plantest.Converges(t, func() plantest.World {
		m := machine()
		apply(t, m, steps...)
		return plantest.World{Step: registry.Off(), Host: m}
	})
}

func TestServe_keepsSecretsToRoot(t *testing.T) {
	m := machine()
	apply(t, m, serve(t, 5000)...)
	found := 0
	for _, p := range m.Files() {
		data, _ := m.Read(p)
		i, err := m.Stat(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(data, canary) {
			continue
		}
		if found++; i.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", p, i.Mode())
		}
	}
	if found != 2 {
		t.Errorf("secrets are in %d files", found)
	}
	for _, l := range m.Log() {
		if strings.Contains(l, canary) {
			t.Errorf("a secret is in %s", l)
		}
	}
	conf, _ := m.Read("/etc/kocli-registry/config.yml")
	unit, _ := m.Read("/etc/systemd/system/" + registry.Unit)
	for _, want := range []string{"addr: :5000", "rootdirectory: /srv/images", "path: /etc/kocli-registry/htpasswd", "minimumtls: tls1.2"} {
		if !strings.Contains(conf, want) {
			t.Errorf("the configuration lacks %q:\n%s", want, conf)
		}
	}
	if !strings.Contains(unit, "ReadWritePaths=/srv/images\n") || !strings.Contains(unit, "ExecStart=/usr/local/lib/kocli/registry serve /etc/kocli-registry/config.yml\n") {
		t.Errorf("the unit:\n%s", unit)
	}
}

// Whatever it reads only when it starts has it started anew.
func TestServe_aChangeRestarts(t *testing.T) {
	m := machine()
	apply(t, m, serve(t, 5000)...)
	for _, s := range serve(t, 5000) {
		if c, err := s.Check(t.Context(), m); err != nil || len(c) > 0 {
			t.Errorf("%s has not converged: %v, %v", s.ID(), c, err)
		}
	}
	steps := serve(t, 5001)
	apply(t, m, steps[:3]...)
	c, err := steps[3].Check(t.Context(), m)
	if err != nil || len(c) == 0 {
		t.Errorf("another port does not restart it: %v, %v", c, err)
	}
}

func TestLogins(t *testing.T) {
	logins := []material.Login{{Registry: "r.example.com", Username: "u", Password: canary}}
	plantest.Converges(t, func() plantest.World { return plantest.World{Step: registry.Logins(logins), Host: machine()} })
	plantest.Converges(t, func() plantest.World {
		m := machine()
		apply(t, m, registry.Logins(logins))
		return plantest.World{Step: registry.Logins(nil), Host: m}
	})
	m := machine()
	apply(t, m, registry.Logins(logins))
	if i, err := m.Stat(t.Context(), registry.LoginsPath); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", i, err)
	}
	apply(t, m, registry.Logins(nil))
	if _, ok := m.Read(registry.LoginsPath); ok {
		t.Error("logins stay where there are to be none")
	}
	const theirs = `{"auths":{}}`
	m.Write(registry.LoginsPath, 0o600, theirs)
	apply(t, m, registry.Logins(nil))
	if got, _ := m.Read(registry.LoginsPath); got != theirs {
		t.Errorf("somebody else's file is now %q", got)
	}
}
