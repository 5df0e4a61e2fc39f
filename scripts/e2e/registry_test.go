//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// registryUser has the YAML of a cluster with a registry.
const registryUser = "registry"

// registryYAML is root's cluster with what is said of a registry.
func registryYAML(t *testing.T, spec string) {
	t.Helper()
	text, err := os.ReadFile(yaml(t, "root"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(yaml(t, registryUser), []byte(strings.TrimRight(string(text), "\n")+"\n  registry: "+spec+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// pulls has a pod on every node pull an image, whatever is there already.
func pulls(t *testing.T, name, image string) {
	t.Helper()
	for _, h := range []string{"host1", "host2", "host3"} {
		pod := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "%s-%s"}, "spec": {"nodeName": %q, "tolerations": [{"operator": "Exists"}], "containers": [{"name": "p", "image": %q, "imagePullPolicy": "Always"}]}}`, name, h, h, image)
		sh(t, "host1", "echo '"+pod+"' | kubectl --kubeconfig /etc/kubernetes/admin.conf apply -f -")
	}
}

func Test70_aRegistryOnAHost(t *testing.T) {
	for what, spec := range map[string]string{
		"unknown host":  "{builtin: {hosts: [host9]}}",
		"a port of k8s": "{builtin: {hosts: [host2], port: 10250}}",
		"no dot":        "{builtin: {hosts: [host2], name: registry}}",
	} {
		registryYAML(t, spec)
		if r := want(t, 2, registryUser, "validate"); !strings.Contains(r.out, "spec.registry.builtin") {
			t.Errorf("%s:\n%s", what, r)
		}
	}
	registryYAML(t, "{builtin: {hosts: [host2]}}")
	want(t, 0, registryUser, "create")
	if e := lastLine(t, want(t, 0, registryUser, "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("a second create: %d changes", e.Changed)
	}
	if r := want(t, 0, registryUser, "registry", "check"); !strings.Contains(r.out, "connect, certificate, login, push, pull") {
		t.Errorf("the check:\n%s", r)
	}

	// Somebody outside logs in as told, and pushes.
	var info struct {
		Registries []struct {
			Name, CAFile, Username, PasswordFile string
			Addresses                            []string
		}
	}
	if err := json.Unmarshal([]byte(want(t, 0, registryUser, "registry", "login-info", "-o", "json").out), &info); err != nil || len(info.Registries) != 1 {
		t.Fatalf("%v: %+v", err, info)
	}
	r := info.Registries[0]
	password, err := os.ReadFile(r.PasswordFile)
	if err != nil {
		t.Fatal(err)
	}
	docker := filepath.Join(env(t, "KOCLI_E2E_WORK"), "docker")
	auth := base64.StdEncoding.EncodeToString([]byte(r.Username + ":" + string(password)))
	if err := os.MkdirAll(docker, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(docker, "config.json"), fmt.Appendf(nil, `{"auths": {%q: {"auth": %q}}}`, r.Addresses[0], auth), 0o600); err != nil {
		t.Fatal(err)
	}
	push := exec.Command(env(t, "KOCLI_E2E_KOCLI"), "bundle", "push", env(t, "KOCLI_E2E_BUNDLE"), "--registry", "https://"+r.Addresses[0], "--ca-file", r.CAFile)
	push.Env = append(os.Environ(), "DOCKER_CONFIG="+docker)
	if out, err := push.CombinedOutput(); err != nil {
		t.Fatalf("push: %v\n%s", err, out)
	}

	// A pod on every node pulls by the name that images carry, with the node's login.
	pulls(t, "pulled", r.Name+"/pause:3.10.2")
	kubectl(t, "wait --for=condition=Ready --timeout=90s pod/pulled-host1 pod/pulled-host2 pod/pulled-host3")
	// What is in no registry and on no node fails, and nobody looks for it outside.
	pulls(t, "nowhere", "docker.io/library/nowhere:1")
	end := time.Now().Add(60 * time.Second)
	for {
		events := kubectl(t, "get events --field-selector reason=Failed -o jsonpath='{range .items[*]}{.message}{\"\\n\"}{end}'")
		if strings.Contains(events, "not-in-the-bundle.kocli.invalid") {
			break
		}
		if time.Now().After(end) {
			t.Errorf("an image of nowhere:\n%s", events)
			break
		}
		time.Sleep(2 * time.Second)
	}
	kubectl(t, "delete pod --force --grace-period=0 nowhere-host1 nowhere-host2 nowhere-host3 pulled-host1 pulled-host2 pulled-host3")

	// The password is nobody's but root's, on the hosts and here.
	for _, h := range []string{"host1", "host2", "host3"} {
		if got := sh(t, h, "stat -c '%a %U' /var/lib/kubelet/config.json"); got != "600 root" {
			t.Errorf("%s: logins are %s", h, got)
		}
	}
	copyTo(t, "host2", r.PasswordFile, "/root/password", "600")
	if got := sh(t, "host2", "cat /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -cFf /root/password || true; rm /root/password"); got != "0" {
		t.Error("the password is in a process list")
	}

	// Another password: the registry and all kubelets have it, and containerd is left alone.
	before := sh(t, "host3", "systemctl show -p MainPID containerd.service")
	file := filepath.Join(env(t, "KOCLI_E2E_WORK"), "registry-password")
	if err := os.WriteFile(file, []byte("an0ther-passw0rd"), 0o600); err != nil {
		t.Fatal(err)
	}
	registryYAML(t, fmt.Sprintf("{builtin: {hosts: [host2], password: %q}}", "file:"+file))
	want(t, 0, registryUser, "create")
	want(t, 0, registryUser, "registry", "check")
	if after := sh(t, "host3", "systemctl show -p MainPID containerd.service"); after != before {
		t.Errorf("containerd was started anew: %s, then %s", before, after)
	}
	if r := want(t, 0, registryUser, "create", "-o", "json"); strings.Contains(r.String(), "an0ther-passw0rd") {
		t.Error("the password is shown")
	}

	// A wrong one is named as such.
	if err := os.WriteFile(file, []byte("wr0ng"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := want(t, 4, registryUser, "registry", "check"); !strings.Contains(r.err, `does not take the password of "kocli"`) || strings.Contains(r.String(), "wr0ng") {
		t.Errorf("a wrong password:\n%s", r)
	}

	// It goes when the YAML lets it go; images stay.
	registryYAML(t, "{}")
	want(t, 0, registryUser, "create")
	if got := sh(t, "host2", "systemctl is-active kocli-registry.service || true; ls /etc/kocli-registry /var/lib/kubelet/config.json 2>/dev/null; ls /var/lib/kocli-registry"); !strings.HasPrefix(got, "inactive\n") || !strings.HasSuffix(got, "docker") {
		t.Errorf("after it was let go:\n%s", got)
	}
	want(t, 0, registryUser, "reset", "--yes")
}
