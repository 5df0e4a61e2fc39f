//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// hop is one version on the way, and the bundle that holds it.
type hop struct{ version, bundle string }

// way is what KOCLI_E2E_HOPS says: "v1.34.4=/path/to/bundle" by version, in order.
func way(t *testing.T) []hop {
	t.Helper()
	var out []hop
	for _, f := range strings.Fields(env(t, "KOCLI_E2E_HOPS")) {
		v, path, ok := strings.Cut(f, "=")
		if !ok {
			t.Fatalf("KOCLI_E2E_HOPS: %q", f)
		}
		out = append(out, hop{v, path})
	}
	return out
}

// static returns the version of the image that a static pod of host1 runs.
func static(t *testing.T, component string) string {
	t.Helper()
	image := kubectl(t, `-n kube-system get pod `+component+`-host1 -o jsonpath='{.status.containerStatuses[0].image}'`)
	return image[strings.LastIndex(image, ":")+1:]
}

// From the oldest minor that kocli installs to the newest. What runs in the cluster, and
// what is kept there, goes with it.
func Test35_threeHopsInOneCommand(t *testing.T) {
	all := way(t)
	now, hops, next := env(t, "KOCLI_E2E_KUBERNETES"), all[1:], env(t, "KOCLI_E2E_NEXT")
	if len(hops) != 3 || all[0].version != now || hops[2].version != next {
		t.Fatalf("the way is %v", all)
	}
	r := want(t, 0, "root", "create")
	figure(t, "hops.create.seconds", r.took.Seconds())
	wantVersion(t, "host1", now, 2)
	// The image of its pods is that of the sandboxes, which this version's bundle has.
	apply(t, "host1", strings.ReplaceAll(served, "pause:3.10.2", "pause:3.10.1"))
	kubectl(t, "rollout status deployment/served --timeout=3m")
	kubectl(t, "create configmap kept --from-literal=since="+now)
	setVersion(t, "root", next)

	// The last bundle alone does not do: what lacks is named.
	if r := want(t, 6, "root", "upgrade"); !strings.Contains(r.err, "a bundle is missing for v1.35.x and for v1.36.x") {
		t.Errorf("two steps are missing:\n%s", r)
	}
	command := []string{"upgrade", "--bundle", hops[0].bundle, "--bundle", hops[1].bundle}
	r = want(t, 0, "root", append(slices.Clone(command), "--dry-run")...)
	from := now
	for i, h := range hops {
		for _, text := range []string{fmt.Sprintf("hop %d of 3: %s -> %s", i+1, from, h.version), "from " + h.bundle} {
			if !strings.Contains(r.out, text) {
				t.Errorf("the dry run does not say %q:\n%s", text, r)
			}
		}
		from = h.version
	}
	wantVersion(t, "host1", now, 2)

	api := probe("https://" + hostAddress(t, 1) + ":6443")
	service := probeAt("http://" + hostAddress(t, 1) + ":30080/node")
	r = want(t, 0, "root", command...)
	figure(t, "hops.upgrade.seconds", r.took.Seconds())
	t.Log(r.out)
	// One control plane: its API is away while its static pods are replaced.
	report(t, api, "hops.api")
	report(t, service, "hops.service")
	api.end()
	service.end()

	wantVersion(t, "host1", next, 2)
	for component, version := range map[string]string{"etcd": "3.7.0-0", "kube-apiserver": next} {
		if got := static(t, component); got != version {
			t.Errorf("%s runs %s", component, got)
		}
	}
	for what, image := range map[string]string{"ds/kube-proxy": "kube-proxy:" + next, "deploy/coredns": "coredns:v1.14.6"} {
		if got := kubectl(t, "-n kube-system get "+what+" -o jsonpath='{.spec.template.spec.containers[0].image}'"); !strings.HasSuffix(got, "/"+image) {
			t.Errorf("%s: %s", what, got)
		}
	}
	kubectl(t, "-n kube-system rollout status deploy/coredns --timeout=2m")
	if got := kubectl(t, "-n kube-system get cm kubeadm-config -o jsonpath='{.data.ClusterConfiguration}'"); !strings.Contains(got, "kubernetesVersion: "+next) {
		t.Errorf("kubeadm remembers:\n%s", got)
	}
	for _, host := range []string{"host1", "host2"} {
		// The kubelet of 1.35 and later does not start with this one.
		if got := sh(t, host, "cat /var/lib/kubelet/kubeadm-flags.env"); strings.Contains(got, "pod-infra-container-image") {
			t.Errorf("%s: %s", host, got)
		}
		if got := sh(t, host, "cat /etc/containerd/config.toml"); !strings.Contains(got, "registry.k8s.io/pause:3.10.2") {
			t.Errorf("%s: containerd makes sandboxes of another image:\n%s", host, got)
		}
		// Only what the last hop replaced is kept.
		if got := sh(t, host, "ls /var/lib/kocli/upgrade"); got != next {
			t.Errorf("%s keeps %q", host, got)
		}
	}
	// What was there is there, and serves.
	if got := kubectl(t, "get cm kept -o jsonpath='{.data.since}'"); got != now {
		t.Errorf("kept: %q", got)
	}
	kubectl(t, "rollout status deployment/served --timeout=3m")
	if out, err := shell("curl -fsS --max-time 5 http://" + hostAddress(t, 1) + ":30080/node"); err != nil {
		t.Errorf("the Service: %v, %s", err, out)
	}
	// And there is nothing left to do.
	if r := want(t, 0, "root", command...); !strings.Contains(r.out, "nothing to upgrade") {
		t.Errorf("again:\n%s", r)
	}
	t.Setenv("KOCLI_E2E_BUNDLE", hops[2].bundle)
	want(t, 0, "root", "status", "--wait", "2m")
	if e := lastLine(t, want(t, 0, "root", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("create after an upgrade: %d changes", e.Changed)
	}
}
