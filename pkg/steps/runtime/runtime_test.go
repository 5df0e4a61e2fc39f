package runtime_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/runtime"
)

func bundle(t *testing.T) payload.Payload {
	t.Helper()
	b, err := archive.Open(archivetest.Write(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return payload.For(b, payload.Target{Kubernetes: archivetest.Kubernetes, Arch: archivetest.Arch, ControlPlane: true, CNI: "flannel"})
}

func steps(t *testing.T, p payload.Payload, spec v1alpha1.Containerd) map[string]plan.Step {
	t.Helper()
	list, err := runtime.Steps(runtime.Options{Spec: spec, Payload: p})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]plan.Step{}
	for _, s := range list {
		out[s.ID()] = s
	}
	return out
}

func TestSteps_converge(t *testing.T) {
	p := bundle(t)
	all := steps(t, p, v1alpha1.Containerd{})
	apply := func(m *hosttest.Machine, ids ...string) {
		for _, id := range ids {
			if err := all[id].Apply(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
	}
	for id, prepare := range map[string]func(*hosttest.Machine){
		"runtime/binaries": func(*hosttest.Machine) {},
		"runtime/config":   func(*hosttest.Machine) {},
		"runtime/service":  func(m *hosttest.Machine) { apply(m, "runtime/binaries", "runtime/config") },
	} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			plantest.Converges(t, func() plantest.World {
				m := hosttest.OS(hosttest.New("n"))
				prepare(m)
				return plantest.World{Step: all[id], Host: m}
			})
		})
	}
}

func TestSteps_aChangedConfigurationRestarts(t *testing.T) {
	p := bundle(t)
	m := hosttest.OS(hosttest.New("n"))
	run := func(spec v1alpha1.Containerd) (changed []string) {
		t.Helper()
		all := steps(t, p, spec)
		for _, id := range []string{"runtime/binaries", "runtime/config", "runtime/service"} {
			changes, err := all[id].Check(t.Context(), m)
			if err != nil {
				t.Fatal(err)
			}
			if len(changes) == 0 {
				continue
			}
			changed = append(changed, id)
			if err := all[id].Apply(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		return changed
	}
	if got := run(v1alpha1.Containerd{}); len(got) != 3 {
		t.Errorf("first: %v", got)
	}
	if got := run(v1alpha1.Containerd{}); len(got) != 0 {
		t.Errorf("again: %v", got)
	}
	over := v1alpha1.Containerd{Overrides: object(t, `{"debug":{"level":"debug"}}`)}
	if got := strings.Join(run(over), " "); got != "runtime/config runtime/service" {
		t.Errorf("another configuration: %v", got)
	}
	if got := run(over); len(got) != 0 {
		t.Errorf("again: %v", got)
	}
}

func object(t *testing.T, text string) v1alpha1.Object {
	t.Helper()
	var o v1alpha1.Object
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// at walks a decoded document.
func at(v any, keys ...string) any {
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

func TestConfig_parsesAsTOML(t *testing.T) {
	for name, c := range map[string]struct {
		spec v1alpha1.Containerd
		want map[string]any // by path with / in between
	}{
		"default": {v1alpha1.Containerd{}, map[string]any{
			"version": int64(3),
			"plugins/io.containerd.cri.v1.images/pinned_images/sandbox":                           "registry.k8s.io/pause:3.10.2",
			"plugins/io.containerd.cri.v1.images/registry/config_path":                            "/etc/containerd/certs.d",
			"plugins/io.containerd.cri.v1.runtime/containerd/runtimes/runc/options/SystemdCgroup": true,
		}},
		"cgroupfs": {v1alpha1.Containerd{CgroupDriver: v1alpha1.CgroupCgroupfs}, map[string]any{
			"plugins/io.containerd.cri.v1.runtime/containerd/runtimes/runc/options/SystemdCgroup": false,
		}},
		"overrides": {v1alpha1.Containerd{Overrides: object(t, `{"oom_score":-1,"grpc":{"max_recv_message_size":16777216},"ratio":0.5,"plugins":{"io.containerd.cri.v1.images":{"pinned_images":null,"max_concurrent_downloads":8}}}`)}, map[string]any{
			"oom_score": int64(-1), "grpc/max_recv_message_size": int64(16777216), "ratio": 0.5,
			"plugins/io.containerd.cri.v1.images/pinned_images":            nil,
			"plugins/io.containerd.cri.v1.images/max_concurrent_downloads": int64(8),
			"plugins/io.containerd.cri.v1.images/registry/config_path":     "/etc/containerd/certs.d",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := runtime.Config(c.spec, "registry.k8s.io/pause:3.10.2")
			if err != nil {
				t.Fatal(err)
			}
			var doc map[string]any
			if err := toml.Unmarshal(data, &doc); err != nil {
				t.Fatalf("%v in %s", err, data)
			}
			for p, want := range c.want {
				if got := at(doc, strings.Split(p, "/")...); got != want {
					t.Errorf("%s is %v (%T), want %v", p, got, got, want)
				}
			}
		})
	}
}

// containerd2 finds a containerd 2.x: the one that scripts/upstream built, or an
// installed one.
func containerd2(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("KOCLI_CACHE")
	if dir, err := os.UserCacheDir(); cache == "" && err == nil {
		cache = filepath.Join(dir, "kocli")
	}
	found, err := filepath.Glob(filepath.Join(cache, "upstream", "containerd", "v2.*", "containerd"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := exec.LookPath("containerd"); err == nil {
		found = append(found, p)
	}
	for _, p := range found {
		out, err := exec.CommandContext(t.Context(), p, "--version").Output() //nolint:gosec // a containerd
		if f := strings.Fields(string(out)); err == nil && len(f) > 2 && strings.HasPrefix(strings.TrimPrefix(f[2], "v"), "2.") {
			return p
		}
	}
	t.Skip("there is no containerd 2.x here: scripts/upstream builds one, and the journeys run it with this configuration")
	return ""
}

func TestConfig_containerdReadsIt(t *testing.T) {
	program := containerd2(t)
	data, err := runtime.Config(v1alpha1.Containerd{}, "registry.k8s.io/pause:3.10.2")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program, "--config", file, "config", "dump").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "registry.k8s.io/pause:3.10.2") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestRegistries_neverAskTheInternet(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, []byte("PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := hosttest.OS(hosttest.New("n"))
	spec := v1alpha1.Containerd{Mirrors: map[string]v1alpha1.Mirror{
		"docker.io": {Endpoints: []string{"https://harbor.test/v2/docker.io", "http://a.second.test"}, CAFile: ca},
		"quay.io":   {Endpoints: []string{"https://harbor.test/v2/quay.io"}},
	}}
	if err := steps(t, bundle(t), spec)["runtime/config"].Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	for _, registry := range []string{"_default", "docker.io", "quay.io"} {
		text, ok := m.Read("/etc/containerd/certs.d/" + registry + "/hosts.toml")
		if !ok {
			t.Errorf("no hosts.toml for %s", registry)
			continue
		}
		var doc map[string]any
		if err := toml.Unmarshal([]byte(text), &doc); err != nil {
			t.Errorf("%s: %v", registry, err)
		}
		if doc["server"] != runtime.Offline {
			t.Errorf("%s falls back to %v", registry, doc["server"])
		}
		if hosts, _ := doc["host"].(map[string]any); len(hosts) != len(spec.Mirrors[registry].Endpoints) {
			t.Errorf("%s: hosts are %v", registry, hosts)
		}
		if registry == "docker.io" && at(doc, "host", "https://harbor.test/v2/docker.io", "ca") != "/etc/containerd/certs.d/docker.io/ca.crt" {
			t.Errorf("no CA in %s", text)
		}
	}
	text, _ := m.Read("/etc/containerd/certs.d/docker.io/hosts.toml")
	var doc map[string]any
	if err := toml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	// A path is the API's root as it is; containerd would add /v2 to it. The
	// order of the file is the order in which hosts are asked.
	if at(doc, "host", "https://harbor.test/v2/docker.io", "override_path") != true || at(doc, "host", "http://a.second.test", "override_path") == true {
		t.Errorf("paths of endpoints:\n%s", text)
	}
	if first, second := strings.Index(text, "harbor.test"), strings.Index(text, "a.second.test"); first < 0 || second < first {
		t.Errorf("the order of endpoints is lost:\n%s", text)
	}
	if pem, _ := m.Read("/etc/containerd/certs.d/docker.io/ca.crt"); pem != "PEM" {
		t.Errorf("the CA is %q", pem)
	}
}
