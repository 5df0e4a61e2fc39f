//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// addonsYAML is that of root, with these lines under spec.
func addonsYAML(t *testing.T, user, lines string) {
	t.Helper()
	data, err := os.ReadFile(yaml(t, "root"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(yaml(t, user), []byte(strings.Replace(string(data), "\n  preflight:", "\n"+lines+"  preflight:", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// releases counts the revisions of Helm releases whose status is one of these.
func releases(t *testing.T, statuses string) int {
	t.Helper()
	return len(strings.Fields(kubectl(t, "get secrets -A -l 'owner=helm,status in ("+statuses+")' -o name")))
}

// eventually tries for two minutes.
func eventually(t *testing.T, what string, f func() (string, bool)) {
	t.Helper()
	var last string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
		got, ok := f()
		if ok {
			return
		}
		last = got
	}
	t.Fatalf("%s: %s", what, last)
}

// try runs kubectl on the first control plane, which may fail.
func try(t *testing.T, args string) (string, bool) {
	t.Helper()
	out, err := exec.Command(env(t, "KOCLI_E2E_LAB"), "exec", "e2e", "host1", "--", "sh", "-c", "kubectl --cache-dir /tmp/kube --kubeconfig /etc/kubernetes/admin.conf "+args+" 2>&1").CombinedOutput()
	return strings.TrimSpace(string(out)), err == nil
}

// topAnswers waits until kubectl top knows all three nodes.
func topAnswers(t *testing.T) {
	t.Helper()
	eventually(t, "kubectl top nodes", func() (string, bool) {
		out, ok := try(t, "top nodes --no-headers")
		return out, ok && strings.Count(out, "host") == 3 && !strings.Contains(out, "<unknown>")
	})
}

// A claim without a class, a pod that writes into it, and one that reads.
const claim = `apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 8Mi}}
`

func pod(name, script string) string {
	return `apiVersion: v1
kind: Pod
metadata: {name: ` + name + `}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
    - {name: main, image: "docker.io/library/busybox:1.37", command: [/bin/sh, -c, '` + script + `'], volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
`
}

func applyObjects(t *testing.T, text string) {
	t.Helper()
	kubectl(t, "apply -f - <<'YAML'\n"+text+"YAML\n")
}

func ends(t *testing.T, name string) {
	t.Helper()
	eventually(t, "pod "+name, func() (string, bool) {
		out, ok := try(t, "get pod "+name+" -o jsonpath={.status.phase}")
		if out == "Failed" {
			t.Fatalf("pod %s failed: %s", name, kubectl(t, "logs "+name))
		}
		return out, ok && out == "Succeeded"
	})
}

func Test60_addonsAndStorageInOneYAML(t *testing.T) {
	const both = "  storage: [{name: local, type: local}]\n  addons: [{name: metrics-server}]\n"

	t.Run("what cannot work is refused before anything is changed", func(t *testing.T) {
		for text, want := range map[string]string{
			"  addons: [{name: metric-server}]\n":                                                         "did you mean metrics-server?",
			"  addons: [{name: metrics-server, values: {replicas: two}}]\n":                               "spec.addons[0].values.replicas",
			"  storage: [{name: a, type: local, default: true}, {name: b, type: local, default: true}]\n": "one class can be the default",
		} {
			addonsYAML(t, "addons", text)
			if r := kocli(t, "addons", "create"); r.code != 2 || !strings.Contains(r.err, want) {
				t.Errorf("%s wanted exit 2 and %q:\n%s", text, want, r)
			}
		}
		addonsYAML(t, "addons", both) // with the bundle that has no add-ons
		if r := kocli(t, "addons", "create"); r.code != 6 || !strings.Contains(r.err, "chart local-path-provisioner") {
			t.Errorf("a bundle without the charts:\n%s", r)
		}
		t.Setenv("KOCLI_E2E_BUNDLE", env(t, "KOCLI_E2E_ADDONS_BUNDLE"))
		addonsYAML(t, "addons", "  addons: [{name: metrics-server, values: {image: {tag: v9.9.9}}}]\n")
		if r := kocli(t, "addons", "create"); r.code != 6 || !strings.Contains(r.err, "metrics-server:v9.9.9") {
			t.Errorf("an image that is not in the bundle:\n%s", r)
		}
	})
	t.Setenv("KOCLI_E2E_BUNDLE", env(t, "KOCLI_E2E_ADDONS_BUNDLE"))
	addonsYAML(t, "addons", both)
	bundle(t, t.TempDir(), 0, "verify", env(t, "KOCLI_E2E_ADDONS_BUNDLE"), "--closure", yaml(t, "addons"))

	// Killed when Helm has begun, and typed again.
	signalAt(t, "addons", syscall.SIGKILL, func(e event) bool {
		if e.Kind != "step-started" || e.Step != "addon/metrics-server" {
			return false
		}
		eventually(t, "the release", func() (string, bool) {
			out, ok := try(t, "get secrets -n kube-system -l owner=helm,name=metrics-server -o name")
			return out, ok && out != ""
		})
		return true
	}, "create")
	if n := releases(t, "pending-install"); n != 1 {
		t.Errorf("%d releases were left half done, and the kill was meant to leave one", n)
	}
	r := want(t, 0, "addons", "create")
	figure(t, "addons.create-after-kill.seconds", r.took.Seconds())
	if n := releases(t, "pending-install,pending-upgrade,pending-rollback,uninstalling"); n != 0 {
		t.Errorf("%d releases are stuck:\n%s", n, kubectl(t, "get secrets -A -l owner=helm --show-labels"))
	}
	healthy(t, time.Minute)
	topAnswers(t)
	if got := kubectl(t, "get storageclass --no-headers"); !strings.HasPrefix(got, "local (default)") {
		t.Errorf("storage classes: %s", got)
	}

	// What one pod has written, another one reads.
	applyObjects(t, claim+"---\n"+pod("writer", "echo kept >/data/file && sync"))
	ends(t, "writer")
	applyObjects(t, pod("reader", "cat /data/file"))
	ends(t, "reader")
	if got := kubectl(t, "logs reader"); got != "kept" {
		t.Errorf("read %q", got)
	}
	// Storage that is in use stays.
	if r := kocli(t, "addons", "addon", "remove", "local-path-provisioner", "--yes"); r.code != 3 || !strings.Contains(r.err, "default/data") {
		t.Errorf("storage with a volume was removed, or for another reason not:\n%s", r)
	}
	kubectl(t, "delete pod writer reader --wait=false; "+"kubectl --kubeconfig /etc/kubernetes/admin.conf delete pvc data --timeout=60s")

	// Nothing to do a second time.
	r = want(t, 0, "addons", "create", "-o", "json")
	if e := lastLine(t, r.out); e.Changed != 0 {
		t.Errorf("changed %d things:\n%s", e.Changed, r)
	}
	figure(t, "addons.converged.seconds", r.took.Seconds())
	if r := want(t, 0, "addons", "plan"); !strings.Contains(strings.ToLower(r.out), "nothing to change") {
		t.Errorf("plan:\n%s", r)
	}
}

func Test61_addonsAreListedRemovedInstalledAndUpgraded(t *testing.T) {
	t.Setenv("KOCLI_E2E_BUNDLE", env(t, "KOCLI_E2E_ADDONS_BUNDLE"))
	status := func() string {
		t.Helper()
		var rep struct {
			Addons []struct{ Name, Status, Declared, Version string }
		}
		out := strings.TrimSpace(want(t, 0, "addons", "addon", "list", "-o", "json").out)
		if err := json.Unmarshal([]byte(out[strings.LastIndex(out, "\n")+1:]), &rep); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, a := range rep.Addons {
			if a.Name == "metrics-server" {
				return strings.Join([]string{a.Status, a.Declared, a.Version}, " ")
			}
		}
		t.Fatalf("metrics-server is not listed:\n%s", out)
		return ""
	}
	if got := status(); got != "deployed enabled 3.13.1" {
		t.Errorf("listed as %q", got)
	}
	want(t, 0, "addons", "addon", "remove", "metrics-server", "--yes")
	if out, ok := try(t, "-n kube-system get deployment metrics-server"); ok {
		t.Errorf("still there: %s", out)
	}
	if got := status(); got != "absent enabled " {
		t.Errorf("listed as %q", got)
	}
	r := want(t, 0, "addons", "addon", "install", "metrics-server")
	figure(t, "addons.install.seconds", r.took.Seconds())
	topAnswers(t)

	// An upgrade shows what it changes first.
	addonsYAML(t, "addons", "  storage: [{name: local, type: local}]\n  addons: [{name: metrics-server, values: {podLabels: {journey: \"61\"}}}]\n")
	r = want(t, 0, "addons", "addon", "upgrade", "metrics-server", "--dry-run")
	if !strings.Contains(r.out, "+        journey: \"61\"") {
		t.Errorf("the difference:\n%s", r)
	}
	want(t, 0, "addons", "addon", "upgrade", "metrics-server", "--yes")
	if got := kubectl(t, "-n kube-system get pods -l journey=61 --no-headers | wc -l"); got != "1" {
		t.Errorf("%s pods have the new label", got)
	}
	topAnswers(t)
	if e := lastLine(t, want(t, 0, "addons", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("create has %d changes after an upgrade", e.Changed)
	}

	// enabled: false takes it out.
	addonsYAML(t, "addons", "  storage: [{name: local, type: local}]\n  addons: [{name: metrics-server, enabled: false}]\n")
	want(t, 0, "addons", "create")
	if got := status(); got != "absent disabled " {
		t.Errorf("listed as %q", got)
	}
	want(t, 0, "addons", "reset", "--yes")
}
