//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// served answers over HTTP from three pods, with kocli's own program: no image of its
// own has to be in a bundle. A pod that is told to go serves until nobody is sent to
// it any more.
const served = `apiVersion: apps/v1
kind: Deployment
metadata: {name: served}
spec:
  replicas: 3
  selector: {matchLabels: {app: served}}
  template:
    metadata: {labels: {app: served}}
    spec:
      terminationGracePeriodSeconds: 30
      topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: served}}}]
      containers:
        - name: p
          image: registry.k8s.io/pause:3.10.2
          command: [/kocli/kocli, node, netcheck, --listen, ":8080"]
          readinessProbe: {httpGet: {path: /node, port: 8080}, periodSeconds: 1}
          lifecycle: {preStop: {sleep: {seconds: 10}}}
          volumeMounts: [{name: kocli, mountPath: /kocli, readOnly: true}]
      volumes: [{name: kocli, hostPath: {path: /var/lib/kocli/bin, type: Directory}}]
---
apiVersion: v1
kind: Service
metadata: {name: served}
spec: {type: NodePort, selector: {app: served}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: served}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: served}}}
`

// edit changes the first line of the journeys' YAML that begins with a prefix.
func edit(t *testing.T, user, prefix, line string) {
	t.Helper()
	text, err := os.ReadFile(yaml(t, user))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, prefix) })
	if i < 0 {
		t.Fatalf("no line %q in\n%s", prefix, text)
	}
	lines[i] = line
	if err := os.WriteFile(yaml(t, user), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
}

// setVersion has the YAML of the journeys ask for another version.
func setVersion(t *testing.T, user, version string) {
	t.Helper()
	edit(t, user, "    version: v", "    version: "+version)
}

// versions lists every node with its kubelet and whether it takes pods.
func versions(t *testing.T, host string) string {
	t.Helper()
	return kubectlAt(t, host, `get nodes --no-headers | awk '{print $1, $2, $5}'`)
}

// wantVersion fails the test when a node has another version, is not ready, or takes
// no pods.
func wantVersion(t *testing.T, host, version string, nodes int) {
	t.Helper()
	got := versions(t, host)
	if strings.Count(got+"\n", " Ready "+version+"\n") != nodes {
		t.Errorf("not all of %d nodes are ready at %s:\n%s", nodes, version, got)
	}
	pods := kubectlAt(t, host, `-n kube-system get pods -l tier=control-plane -o jsonpath='{range .items[*]}{.spec.containers[0].image}{"\n"}{end}' | grep -v etcd | sort | uniq -c`)
	for _, l := range strings.Split(pods, "\n") {
		if !strings.HasSuffix(strings.TrimSpace(l), ":"+version) {
			t.Errorf("static pods: %s", pods)
			break
		}
	}
}

// apply gives a manifest to kubectl on a control plane.
func apply(t *testing.T, host, manifest string) {
	t.Helper()
	kubectlAt(t, host, "apply -f - <<'EOF'\n"+manifest+"EOF")
}

func Test30_anUpgradeIsRefusedAndChangesNothing(t *testing.T) {
	now := env(t, "KOCLI_E2E_KUBERNETES")
	lab(t, "up", "e2e", "--hosts", "5")
	haYAML(t, "upgrade", "{mode: vip, address: "+vip(t)+"}", map[int]string{1: "control-plane", 2: "control-plane", 3: "control-plane", 4: "worker", 5: "worker"})
	r := want(t, 0, "upgrade", "create")
	figure(t, "create.3+2.seconds", r.took.Seconds())
	apply(t, "host1", served)
	kubectlAt(t, "host1", "rollout status deployment/served --timeout=3m")
	setVersion(t, "upgrade", env(t, "KOCLI_E2E_NEXT"))
	t.Setenv("KOCLI_E2E_BUNDLE", env(t, "KOCLI_E2E_NEXT_BUNDLE"))
	if r := want(t, 2, "upgrade", "create"); !strings.Contains(r.err, "kocli upgrade -f ") {
		t.Errorf("create with another version does not name upgrade:\n%s", r)
	}
	// A downgrade, a missing step, and a budget that allows nothing.
	if r := want(t, 2, "upgrade", "upgrade", "--to", "v1.35.0"); !strings.Contains(r.err, "a downgrade is not possible") {
		t.Errorf("downgrade:\n%s", r)
	}
	if r := want(t, 6, "upgrade", "upgrade", "--to", "v1.38.0"); !strings.Contains(r.err, "a bundle is missing for v1.38.0") {
		t.Errorf("a step that is missing:\n%s", r)
	}
	kubectlAt(t, "host1", `patch pdb served --type merge -p '{"spec":{"maxUnavailable":0}}'`)
	time.Sleep(5 * time.Second) // the controller counts
	r = want(t, 3, "upgrade", "upgrade")
	if !strings.Contains(r.err, "is held by PodDisruptionBudget served") || !strings.Contains(r.err, "default/served-") {
		t.Errorf("a budget that allows nothing:\n%s", r)
	}
	kubectlAt(t, "host1", `patch pdb served --type merge -p '{"spec":{"maxUnavailable":1}}'`)
	time.Sleep(5 * time.Second)
	before := versions(t, "host1")
	r = want(t, 0, "upgrade", "upgrade", "--dry-run")
	for _, text := range []string{"hop 1 of 1: " + now, "control plane of host1: " + now, "kubelet of host5: " + now} {
		if !strings.Contains(r.out, text) {
			t.Errorf("the dry run does not say %q:\n%s", text, r)
		}
	}
	if after := versions(t, "host1"); after != before || sh(t, "host1", "ls /var/lib/kocli") == "" || strings.Contains(sh(t, "host1", "ls /var/lib/kocli"), "upgrade") {
		t.Errorf("something was changed:\n%s\n%s", before, after)
	}
	wantVersion(t, "host1", now, 5)
}

// The API server of one control plane serves what an operator may have switched on, a beta
// version that the next minor has no more. It is asked for, an object is written through
// it, and a release of Helm holds another: each is named, and nothing is changed.
func Test34_whoeverUsesAnAPIThatGoesIsNamed(t *testing.T) {
	const (
		group = "storage.k8s.io/v1beta1"
		what  = "volumeattributesclasses"
	)
	counted := own("get --raw /metrics") + ` | grep '^apiserver_requested_deprecated_apis{' | grep -q ` + what
	serves(t, "--runtime-config="+group+"=true", own("get --raw /apis/"+group)+" | grep -q "+what)
	sh(t, "host1", own("apply --server-side -f - <<'EOF'")+`
apiVersion: storage.k8s.io/v1beta1
kind: VolumeAttributesClass
metadata: {name: fast}
driverName: csi.example.com
parameters: {iops: "1000"}
EOF`)
	becomes(t, counted)
	apply(t, "host1", helmRelease(t, "shop", "---\n# Source: shop/templates/range.yaml\napiVersion: networking.k8s.io/v1beta1\nkind: ServiceCIDR\nmetadata: {name: extra}\nspec: {cidrs: [10.97.0.0/16]}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop}\n"))
	before := versions(t, "host1")
	r := want(t, 3, "upgrade", "upgrade")
	for _, text := range []string{
		group + " " + what + " is asked for, and Kubernetes 1.37 does not serve it any more",
		"1 objects were last written through " + group + " " + what + ", which Kubernetes 1.37 does not serve any more: fast",
		"the Helm release default/shop holds extra of networking.k8s.io/v1beta1 servicecidrs, which Kubernetes 1.37 does not serve any more",
	} {
		if !strings.Contains(r.err, text) {
			t.Errorf("it does not say %q", text)
		}
	}
	if t.Failed() {
		t.Logf("%s", r)
	}
	if after := versions(t, "host1"); after != before {
		t.Errorf("nodes were\n%s\nand are\n%s", before, after)
	}
	for i := 1; i <= 5; i++ {
		if h := fmt.Sprintf("host%d", i); strings.Contains(sh(t, h, "ls /var/lib/kocli /etc/kubernetes/kocli 2>/dev/null || true"), "upgrade") {
			t.Errorf("%s was prepared for an upgrade", h)
		}
	}

	// Mended, and counted anew: what kocli itself asked is not held against the cluster.
	kubectlAt(t, "host1", "delete secret sh.helm.release.v1.shop.v1")
	kubectlAt(t, "host1", "delete volumeattributesclasses.v1.storage.k8s.io fast")
	sh(t, "host1", "pkill -x kube-apiserver")
	settled(t, "! { "+counted+"; }")
	for range 2 {
		r := want(t, 0, "upgrade", "upgrade", "--dry-run")
		for _, text := range []string{group, "Helm release"} {
			if strings.Contains(r.out+r.err, text) {
				t.Errorf("it still speaks of %s:\n%s", text, r)
			}
		}
	}
	serves(t, "", "! "+own("get --raw /apis/"+group))
	sh(t, "host1", "rm /root/kube-apiserver.yaml")
	wantVersion(t, "host1", env(t, "KOCLI_E2E_KUBERNETES"), 5)
}

// The API server of the version is told of a flag that does not exist, so that it ends
// at once.
func Test31_aControlPlaneThatDoesNotBecomeHealthyIsRolledBack(t *testing.T) {
	now := env(t, "KOCLI_E2E_KUBERNETES")
	const get = `-n kube-system get cm kubeadm-config -o jsonpath='{.data.ClusterConfiguration}'`
	good := kubectlAt(t, "host1", get)
	// Those of the API server come first.
	bad := strings.Replace(good, "\n  extraArgs:\n", "\n  extraArgs:\n  - name: no-such-flag\n    value: \"1\"\n", 1)
	if bad == good {
		t.Fatalf("no place for a flag in:\n%s", good)
	}
	set := func(text string) {
		t.Helper()
		sh(t, "host1", "cat > /tmp/cc <<'EOF'\n"+text+"\nEOF\nkubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system create cm kubeadm-config --from-file=ClusterConfiguration=/tmp/cc --dry-run=client -o yaml | kubectl --kubeconfig /etc/kubernetes/admin.conf apply -f - 2>&1")
	}
	set(bad)
	edit(t, "upgrade", "    overrides:", "    overrides:\n      upgradeConfiguration: {timeouts: {upgradeManifests: 150s}}")
	defer edit(t, "upgrade", "      upgradeConfiguration:", "")
	api := probe("https://" + vip(t) + ":8443")
	r := want(t, 1, "upgrade", "upgrade")
	_, gap := report(t, api, "rollback.api")
	api.end()
	figure(t, "rollback.seconds", r.took.Seconds())
	if !strings.Contains(r.err, "does not get to "+env(t, "KOCLI_E2E_NEXT")+" and is back at "+now) {
		t.Errorf("the report does not say why:\n%s", r)
	}
	if gap > 15*time.Second {
		t.Errorf("the API was away for %s", gap)
	}
	wantVersion(t, "host1", now, 5)
	set(good)
}

// Under load, with a kill -9 in each phase that disturbs anything: no request to the Service
// fails, and the API is away no longer than its address takes to move.
func Test32_upgradedUnderLoadAndKilledAtEveryPhase(t *testing.T) {
	next := env(t, "KOCLI_E2E_NEXT")
	service := probeAt("http://" + hostAddress(t, 4) + ":30080/node")
	api := probe("https://" + vip(t) + ":8443")
	start := time.Now()
	for _, at := range []struct {
		phase, step string
		later       time.Duration // into the step
	}{
		{"control-plane", "upgrade/control-plane", 30 * time.Second}, {"control-planes", "upgrade/control-plane", 10 * time.Second},
		{"control-plane-kubelets", "upgrade/kubelet", 2 * time.Second}, {"canary", "upgrade/drain", 5 * time.Second}, {"workers", "upgrade/kubelet", 0},
	} {
		code := signalAt(t, "upgrade", syscall.SIGKILL, func(e event) bool {
			if e.Kind != "step-started" || e.Phase != at.phase || e.Step != at.step {
				return false
			}
			time.Sleep(at.later)
			return true
		}, "upgrade")
		if code != -1 {
			t.Fatalf("phase %s: exit %d", at.phase, code)
		}
		if at.phase == "control-plane" { // kubeadm is at work on the host without kocli, or has ended there
			if state := sh(t, "host1", "systemctl is-active kocli-kubeadm.service || cat /var/lib/kocli/kubeadm/status"); !strings.HasPrefix(state, "active") && !strings.HasSuffix(strings.TrimSpace(state), "0") {
				t.Errorf("kubeadm ended with kocli: %s", state)
			}
		}
	}
	r := want(t, 0, "upgrade", "upgrade")
	figure(t, "upgrade.3+2.with-five-kills.seconds", time.Since(start).Seconds())
	t.Log(r.out)
	if failed, _ := report(t, service, "upgrade.service"); failed > 0 {
		t.Errorf("%d requests to the Service failed", failed)
	}
	if _, gap := report(t, api, "upgrade.api"); gap > 10*time.Second {
		t.Errorf("the API was away for %s", gap)
	}
	service.end()
	api.end()
	wantVersion(t, "host1", next, 5)
	wantMembers(t, "host1", "host1", "host2", "host3")
	if proxy := kubectlAt(t, "host1", `-n kube-system get ds kube-proxy -o jsonpath='{.spec.template.spec.containers[0].image}'`); !strings.HasSuffix(proxy, ":"+next) {
		t.Errorf("kube-proxy: %s", proxy)
	}
}

func Test33_anUpgradedClusterIsLeftAlone(t *testing.T) {
	if r := want(t, 0, "upgrade", "upgrade"); !strings.Contains(r.out, "nothing to upgrade") {
		t.Errorf("an upgrade with nothing to do:\n%s", r)
	}
	t.Setenv("KOCLI_E2E_BUNDLE", env(t, "KOCLI_E2E_NEXT_BUNDLE"))
	want(t, 0, "upgrade", "status", "--wait", "2m")
	if e := lastLine(t, want(t, 0, "upgrade", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("create after an upgrade: %d changes", e.Changed)
	}
	modes := sh(t, "host1", fmt.Sprintf("stat -c '%%a %%n' /var/lib/kocli/upgrade /var/lib/kocli/upgrade/%s /var/lib/kocli/upgrade/%[1]s/etcd.db", env(t, "KOCLI_E2E_NEXT")))
	if !strings.HasPrefix(modes, "700 ") || !strings.Contains(modes, "\n600 ") {
		t.Errorf("what was kept is open to others:\n%s", modes)
	}
}
