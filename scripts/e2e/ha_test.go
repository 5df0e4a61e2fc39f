//go:build e2e

package e2e

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/pkiutil"
)

// haHosts is how many hosts the journeys with several control planes have.
const haHosts = 7

// haYAML writes the cluster YAML of a user from that of root: endpoint is its
// endpoint, roles gives each host that is in it its role.
func haYAML(t *testing.T, user, endpoint string, roles map[int]string) {
	t.Helper()
	data, err := os.ReadFile(yaml(t, "root"))
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(data), "\n  hosts:\n")
	head = strings.Replace(head, "\n  preflight:", "\n  controlPlane: {endpoint: "+endpoint+"}\n  preflight:", 1)
	head += "\n  hosts:\n    # the hosts of the journey\n"
	for i := 1; i <= haHosts; i++ {
		if role, ok := roles[i]; ok {
			head += fmt.Sprintf("    - {name: host%d, address: %s, roles: [%s]}\n", i, hostAddress(t, i), role)
		}
	}
	if err := os.WriteFile(yaml(t, user), []byte(head), 0o600); err != nil {
		t.Fatal(err)
	}
}

// change replaces text in the cluster YAML of a user.
func change(t *testing.T, user, from, to string) {
	t.Helper()
	data, err := os.ReadFile(yaml(t, user))
	if err == nil && !strings.Contains(string(data), from) {
		err = fmt.Errorf("the YAML has no %q:\n%s", from, data)
	}
	if err == nil {
		err = os.WriteFile(yaml(t, user), []byte(strings.Replace(string(data), from, to, 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// allHosts has all hosts up, and knows what is on each.
func allHosts(t *testing.T) {
	t.Helper()
	lab(t, "up", "e2e", "--hosts", strconv.Itoa(haHosts))
	for i := 1; i <= haHosts; i++ {
		if h := fmt.Sprintf("host%d", i); before[h] == "" {
			before[h] = sh(t, h, inventory)
		}
	}
}

func hostAddress(t *testing.T, i int) string {
	t.Helper()
	return strings.TrimSpace(lab(t, "address", "e2e", fmt.Sprintf("host%d", i)))
}

func vip(t *testing.T) string {
	t.Helper()
	a := hostAddress(t, 1)
	return a[:strings.LastIndex(a, ".")] + ".100"
}

// prober asks the API through the endpoint ten times a second, over a new
// connection each time.
type prober struct {
	stop chan struct{}
	done sync.WaitGroup

	mu     sync.Mutex
	asked  int
	failed []time.Time
	last   time.Time // of the last answer
	gap    time.Duration

	windows []window // without an answer
	why     error    // the first failure since the last answer
}

// window is a time without an answer.
type window struct {
	from time.Time
	took time.Duration
	why  error
}

func probe(url string) *prober { return probeAt(url + "/readyz") }

// probeAt asks any URL.
func probeAt(url string) *prober {
	p := &prober{stop: make(chan struct{}), last: time.Now()}
	c := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	p.done.Add(1)
	go func() {
		defer p.done.Done()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
			}
			r, err := c.Get(url)
			ok := err == nil && r.StatusCode == http.StatusOK
			if err == nil {
				_ = r.Body.Close()
			}
			p.mu.Lock()
			p.asked++
			if ok {
				took := time.Since(p.last)
				if p.why != nil {
					p.windows = append(p.windows, window{p.last, took, p.why})
				}
				p.gap, p.last, p.why = max(p.gap, took), time.Now(), nil
			} else {
				if p.why == nil {
					p.why = cmp.Or(err, errors.New("not 200"))
				}
				p.failed = append(p.failed, time.Now())
			}
			p.mu.Unlock()
		}
	}()
	return p
}

// since returns what happened since the last call: how often it asked, how many
// requests failed, and the longest time without an answer.
func (p *prober) since() (asked, failed int, gap time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked, failed, gap = p.asked, len(p.failed), max(p.gap, time.Since(p.last))
	p.asked, p.failed, p.gap = 0, nil, 0
	return asked, failed, gap
}

func (p *prober) end() { close(p.stop); p.done.Wait() }

// report prints what a prober saw in a part of a journey.
func report(t *testing.T, p *prober, name string) (failed int, gap time.Duration) {
	t.Helper()
	asked, failed, gap := p.since()
	for _, w := range p.windows {
		t.Logf("%s: nothing from %s for %s: %v", name, w.from.Format(time.TimeOnly), w.took.Round(time.Millisecond), w.why)
	}
	p.windows = nil
	figure(t, name+".requests", asked)
	figure(t, name+".failed", failed)
	figure(t, name+".longest-gap.seconds", gap.Seconds())
	if asked == 0 {
		t.Error("nothing was asked")
	}
	return failed, gap
}

// kubectlAt runs kubectl on a control plane.
func kubectlAt(t *testing.T, host, args string) string {
	t.Helper()
	return sh(t, host, "kubectl --cache-dir /tmp/kube --kubeconfig /etc/kubernetes/admin.conf "+args)
}

// holders lists the hosts that have the virtual IP.
func holders(t *testing.T, hosts ...int) []int {
	t.Helper()
	var out []int
	for _, i := range hosts {
		o, err := exec.Command(env(t, "KOCLI_E2E_LAB"), "exec", "e2e", fmt.Sprintf("host%d", i), "--", "ip", "-br", "addr", "show", "eth0").CombinedOutput()
		if err == nil && strings.Contains(string(o), vip(t)+"/") {
			out = append(out, i)
		}
	}
	return out
}

// members lists the members of etcd as etcd itself has them: name, and whether it
// is a learner or has not started.
func members(t *testing.T, host string) []string {
	t.Helper()
	var out []string
	text := kubectlAt(t, host, "-n kube-system exec etcd-"+host+" -- etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt "+
		"--cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key member list")
	for _, l := range strings.Split(text, "\n") {
		f := strings.Split(l, ", ")
		if len(f) < 6 {
			t.Fatalf("member list: %s", text)
		}
		name := f[2]
		if f[1] != "started" || f[5] != "false" {
			name += "(" + f[1] + ", learner " + f[5] + ")"
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func wantMembers(t *testing.T, host string, want ...string) {
	t.Helper()
	if got := members(t, host); !slices.Equal(got, want) {
		t.Errorf("members of etcd: %v, want %v", got, want)
	}
}

// nodeNames lists the nodes that are ready.
func nodeNames(t *testing.T, host string) string {
	t.Helper()
	return kubectlAt(t, host, `get nodes --no-headers | awk '$2 ~ /^Ready/ {print $1}' | sort | xargs`)
}

// running is the prober of the journeys on the cluster with the virtual IP.
var running *prober

func Test20_threeControlPlanesBehindAVirtualIP(t *testing.T) {
	allHosts(t)
	haYAML(t, "vip", "{mode: vip, address: "+vip(t)+"}", map[int]string{1: "control-plane", 2: "control-plane", 3: "control-plane", 4: "worker", 5: "worker"})
	r := want(t, 0, "vip", "create")
	figure(t, "create.3+2.seconds", r.took.Seconds())
	want(t, 0, "vip", "status", "--wait", "2m")
	if got := nodeNames(t, "host1"); got != "host1 host2 host3 host4 host5" {
		t.Errorf("nodes: %s", got)
	}
	wantMembers(t, "host1", "host1", "host2", "host3")
	if got := holders(t, 1, 2, 3); len(got) != 1 {
		t.Errorf("the virtual IP is on %v", got)
	}
	r = want(t, 0, "vip", "create", "-o", "json")
	e := lastLine(t, r.out)
	if e.Changed != 0 {
		t.Errorf("not converged: %d changes\n%s", e.Changed, r)
	}
	for h, s := range e.Hosts {
		figure(t, "converged.3+2.roundtrips."+h, s.RoundTrips)
		if s.RoundTrips > 6 {
			t.Errorf("%s: %d round trips", h, s.RoundTrips)
		}
	}
	if r := want(t, 0, "vip", "scale", "--dry-run"); !strings.Contains(r.out, "nothing to change") {
		t.Errorf("a scale with nothing to do:\n%s", r)
	}
	running = probe("https://" + vip(t) + ":8443")
	time.Sleep(3 * time.Second)
	if failed, _ := report(t, running, "vip.quiet"); failed > 0 {
		t.Errorf("%d requests failed on a cluster that nobody touched", failed)
	}
}

func Test21_theHolderOfTheVirtualIPDiesAndIsReplaced(t *testing.T) {
	at := holders(t, 1, 2, 3)
	if len(at) != 1 {
		t.Fatalf("the virtual IP is on %v", at)
	}
	dead := fmt.Sprintf("host%d", at[0])
	running.since()
	lab(t, "kill", "e2e", dead)
	time.Sleep(15 * time.Second)
	_, gap := report(t, running, "vip.powercut")
	if gap > 10*time.Second {
		t.Errorf("the API was away for %s", gap)
	}
	// What answers, or is not known to be dead, is not taken for dead.
	if r := want(t, 4, "vip", "node", "replace", dead, "--with", "host6", "--address", hostAddress(t, 6), "--yes"); !strings.Contains(r.err, "--dead "+dead) {
		t.Errorf("a host that cannot be reached:\n%s", r)
	}
	live := fmt.Sprintf("host%d", at[0]%3+1)
	if r := want(t, 3, "vip", "node", "remove", live, "--dead", "--yes"); !strings.Contains(r.err, live+" is not dead: it answers") {
		t.Errorf("a host that answers:\n%s", r)
	}
	// One of two healthy members must not go.
	if r := want(t, 4, "vip", "node", "remove", live, "--yes"); !strings.Contains(r.err, dead) {
		t.Errorf("a removal while a control plane is dead:\n%s", r)
	}
	r := want(t, 0, "vip", "node", "replace", dead, "--with", "host6", "--address", hostAddress(t, 6), "--dead", "--yes")
	figure(t, "replace.dead-control-plane.seconds", r.took.Seconds())
	if failed, _ := report(t, running, "vip.replace-dead"); failed > 0 {
		t.Errorf("%d requests failed while a dead control plane was replaced", failed)
	}
	text, err := os.ReadFile(yaml(t, "vip"))
	if err != nil || strings.Contains(string(text), dead+",") || !strings.Contains(string(text), "# the hosts of the journey") {
		t.Errorf("the YAML: %v\n%s", err, text)
	}
	names := []string{"host1", "host2", "host3", "host6"}
	names = slices.DeleteFunc(names, func(n string) bool { return n == dead })
	wantMembers(t, live, names...)
	if got := nodeNames(t, live); got != strings.Join(slices.Sorted(slices.Values(append(names, "host4", "host5"))), " ") {
		t.Errorf("nodes: %s", got)
	}
	if e := lastLine(t, want(t, 0, "vip", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
	// A fresh machine in the place of the dead one, for later journeys.
	lab(t, "down-host", "e2e", dead)
	lab(t, "up", "e2e", "--hosts", strconv.Itoa(haHosts))
	before[dead] = sh(t, dead, inventory)
}

const web = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      tolerations: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]
      topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}]
      nodeSelector: {web: "yes"}
      containers: [{name: p, image: "registry.k8s.io/pause:3.10.2"}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
`

// plane is a control plane of the cluster as it is now.
func plane(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(yaml(t, "vip"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(string(text), "\n") {
		if strings.Contains(l, "[control-plane]") {
			name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(l), "- {name: "), ",")
			return name
		}
	}
	t.Fatal("no control plane")
	return ""
}

// spare is a host that the YAML does not name.
func spare(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(yaml(t, "vip"))
	if err != nil {
		t.Fatal(err)
	}
	for i := haHosts; i > 0; i-- {
		if !strings.Contains(string(text), fmt.Sprintf("name: host%d,", i)) {
			return i
		}
	}
	t.Fatal("every host is in the YAML")
	return 0
}

func Test22_budgetsAreObeyed(t *testing.T) {
	cp := plane(t)
	sh(t, cp, "cat >/tmp/web.yaml <<'END'\n"+web+"END")
	kubectlAt(t, cp, "label node host4 host5 "+cp+" web=yes")
	kubectlAt(t, cp, "apply -f /tmp/web.yaml")
	kubectlAt(t, cp, "rollout status deployment/web --timeout=90s")
	// One may be away at a time: watched all the while, never fewer than two are there.
	stop, least := make(chan struct{}), make(chan int, 1)
	go func() {
		low := 3
		for {
			select {
			case <-stop:
				least <- low
				return
			default:
			}
			out, err := exec.Command(env(t, "KOCLI_E2E_LAB"), "exec", "e2e", cp, "--", "sh", "-c",
				"kubectl --cache-dir /tmp/kube --kubeconfig /etc/kubernetes/admin.conf get deployment web -o jsonpath='{.status.availableReplicas}'").Output()
			if n, aerr := strconv.Atoi(strings.TrimSpace(string(out))); err == nil && aerr == nil {
				low = min(low, n)
			}
		}
	}()
	r := want(t, 0, "vip", "node", "remove", "host4", "--yes")
	kubectlAt(t, cp, "rollout status deployment/web --timeout=90s")
	close(stop)
	figure(t, "remove.worker.seconds", r.took.Seconds())
	if n := <-least; n < 2 {
		t.Errorf("only %d replicas were available", n)
	}
	if now := sh(t, "host4", inventory); now != before["host4"] {
		t.Errorf("host4 is not what it was:\n%s", difference(before["host4"], now))
	}
	// None may be away: it waits, says which budget and pod, and gives the node back.
	kubectlAt(t, cp, `patch pdb web --type merge -p '{"spec":{"maxUnavailable":0}}'`)
	r = want(t, 1, "vip", "node", "remove", "host5", "--yes", "--drain-timeout", "15s")
	if !strings.Contains(r.err, "is held by PodDisruptionBudget web (3 of 3 healthy, 3 wanted, no disruption allowed)") || !strings.Contains(r.err, "pod default/web-") {
		t.Errorf("what holds the node:\n%s", r)
	}
	if got := kubectlAt(t, cp, "get node host5 -o jsonpath='{.spec.unschedulable}'"); got != "" {
		t.Errorf("host5 is still cordoned: %s", got)
	}
	// Past the budget only when it is asked for.
	kubectlAt(t, cp, "delete pdb web")
	want(t, 0, "vip", "node", "drain", "host5")
	if got := kubectlAt(t, cp, "get pods -l app=web --field-selector spec.nodeName=host5 --no-headers 2>/dev/null | wc -l"); got != "0" {
		t.Errorf("%s pods are left on host5", got)
	}
	want(t, 0, "vip", "node", "uncordon", "host5")
	want(t, 0, "vip", "node", "cordon", "host5")
	want(t, 0, "vip", "node", "uncordon", "host5")
	if r := want(t, 0, "vip", "node", "list"); !strings.Contains(r.out, "host5") {
		t.Errorf("node list:\n%s", r)
	}
	want(t, 0, "vip", "scale", "--yes") // the YAML has lost host5: it was asked for
	if got := kubectlAt(t, cp, "get node host5 --ignore-not-found"); got != "" {
		t.Errorf("host5 is still there: %s", got)
	}
	kubectlAt(t, cp, "delete deployment web")
	report(t, running, "vip.workers-leave")
}

func Test23_theFirstControlPlaneIsReplacedAlive(t *testing.T) {
	first := plane(t)
	running.since()
	r := want(t, 0, "vip", "node", "replace", first, "--with", "host7", "--address", hostAddress(t, 7), "--yes")
	figure(t, "replace.first-control-plane.seconds", r.took.Seconds())
	failed, gap := report(t, running, "vip.replace-first")
	if gap > 10*time.Second {
		t.Errorf("the API was away for %s (%d requests)", gap, failed)
	}
	if now := sh(t, first, inventory); now != before[first] {
		t.Errorf("%s is not what it was:\n%s", first, difference(before[first], now))
	}
	if got := members(t, "host7"); len(got) != 3 || slices.Contains(got, first) {
		t.Errorf("members: %v", got)
	}
	if e := lastLine(t, want(t, 0, "vip", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
	want(t, 0, "vip", "status", "--wait", "2m")
}

func Test24_cutAndKilledInTheMiddle(t *testing.T) {
	cp := plane(t)
	planes := len(members(t, cp))
	i := spare(t)
	fresh := fmt.Sprintf("host%d", i)
	// A control plane loses its cable while it joins.
	args := []string{"node", "add", fresh, "--address", hostAddress(t, i), "--role", "control-plane"}
	cut := false
	signalAt(t, "vip", syscall.SIGCONT, func(e event) bool {
		if e.Kind != "step-started" || e.Step != "controlplane/join" {
			return false
		}
		time.Sleep(6 * time.Second)
		lab(t, "cut", "e2e", fresh)
		cut = true
		return true
	}, args...)
	if !cut {
		t.Fatal("it never joined")
	}
	lab(t, "mend", "e2e", fresh)
	r := want(t, 0, "vip", args...)
	figure(t, "join.after-a-cut.seconds", r.took.Seconds())
	if got := members(t, cp); len(got) != planes+1 || !slices.Contains(got, fresh) {
		t.Errorf("members: %v", got)
	}
	// kocli dies while a member is taken out.
	signalAt(t, "vip", syscall.SIGKILL, func(e event) bool { return e.Kind == "step-started" && e.Step == "leave/etcd-"+fresh }, "node", "remove", fresh, "--yes")
	r = want(t, 0, "vip", "node", "remove", fresh, "--yes")
	figure(t, "remove.after-a-kill.seconds", r.took.Seconds())
	if got := members(t, cp); len(got) != planes || slices.Contains(got, fresh) {
		t.Errorf("members: %v", got)
	}
	if got := kubectlAt(t, cp, "get node "+fresh+" --ignore-not-found"); got != "" {
		t.Errorf("%s is still a node: %s", fresh, got)
	}
	if now := sh(t, fresh, inventory); now != before[fresh] {
		t.Errorf("%s is not what it was:\n%s", fresh, difference(before[fresh], now))
	}
	report(t, running, "vip.cut-and-kill")
}

func Test25_allLosePowerAndComeBack(t *testing.T) {
	cp := plane(t)
	want(t, 0, "vip", "node", "add", "host5", "--address", hostAddress(t, 5))
	report(t, running, "vip.add-worker")
	// What the YAML says of kubelets, kube-proxy and VRRP reaches a cluster that runs.
	change(t, "vip", "failSwapOn: false", "failSwapOn: false\n        maxPods: 97")
	change(t, "vip", "kubeProxy:", "kubeProxy:\n        nodePortAddresses: [primary]")
	change(t, "vip", "{mode: vip, ", "{mode: vip, vrrp: {unicast: true}, ")
	want(t, 0, "vip", "create")
	if got := strings.Fields(kubectlAt(t, cp, "get nodes -o jsonpath='{.items[*].status.capacity.pods}'")); slices.ContainsFunc(got, func(n string) bool { return n != "97" }) {
		t.Errorf("pods that nodes take: %v", got)
	}
	kubectlAt(t, cp, "-n kube-system rollout status daemonset/kube-proxy --timeout=90s")
	if got := kubectlAt(t, cp, "-n kube-system get cm kube-proxy -o yaml | grep -A1 nodePortAddresses"); !strings.Contains(got, "primary") {
		t.Errorf("kube-proxy is told %s", got)
	}
	if got := holders(t, 1, 2, 3, 5, 6, 7); len(got) != 1 {
		t.Errorf("with VRRP by unicast, the virtual IP is on %v", got)
	}
	// One keepalived after another is started anew, and the others hold the address.
	if failed, gap := report(t, running, "vip.settings"); gap > 5*time.Second {
		t.Errorf("the API was away for %s (%d requests)", gap, failed)
	}
	hosts := strings.Fields(nodeNames(t, cp))
	for _, h := range hosts {
		lab(t, "kill", "e2e", h)
	}
	for _, h := range hosts {
		lab(t, "start", "e2e", h)
	}
	r := want(t, 0, "vip", "status", "--wait", "6m")
	figure(t, "powercut.3+1.seconds", r.took.Seconds())
	running.end()
	if e := lastLine(t, want(t, 0, "vip", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("a power cut undid something: %d changes", e.Changed)
	}
	// One after another.
	for _, h := range hosts {
		lab(t, "reboot", "e2e", h)
		want(t, 0, "vip", "status", "--wait", "4m")
	}
	want(t, 0, "vip", "reset", "--yes")
	for _, h := range hosts {
		if now := sh(t, h, inventory); now != before[h] {
			t.Errorf("%s is not what it was:\n%s", h, difference(before[h], now))
		}
	}
}

func Test26_fromOneControlPlaneToThreeAndBack(t *testing.T) {
	allHosts(t)
	haYAML(t, "grow", "{mode: none}", map[int]string{1: "control-plane", 4: "worker"})
	want(t, 0, "grow", "create")
	haYAML(t, "grow", "{mode: local}", map[int]string{1: "control-plane", 2: "control-plane", 3: "control-plane", 4: "worker", 5: "worker"})
	r := want(t, 0, "grow", "scale")
	figure(t, "scale.1+1-to-3+2.seconds", r.took.Seconds())
	wantMembers(t, "host1", "host1", "host2", "host3")
	for _, h := range []string{"host4", "host5"} {
		if got := sh(t, h, "grep -o 'server: .*' /etc/kubernetes/kubelet.conf"); got != "server: https://127.0.0.1:8443" {
			t.Errorf("the kubelet of %s uses %s", h, got)
		}
	}
	if got := kubectlAt(t, "host1", "-n kube-system get cm kubeadm-config -o yaml | grep -o 'controlPlaneEndpoint: .*'"); got != "controlPlaneEndpoint: 127.0.0.1:8443" {
		t.Errorf("kubeadm remembers %s", got)
	}
	if e := lastLine(t, want(t, 0, "grow", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
	// Any control plane may go: the nodes find the others by themselves.
	lab(t, "kill", "e2e", "host1")
	time.Sleep(10 * time.Second)
	if got := kubectlAt(t, "host2", "get nodes --no-headers | wc -l"); got != "5" {
		t.Errorf("%s nodes", got)
	}
	lab(t, "start", "e2e", "host1")
	want(t, 0, "grow", "status", "--wait", "4m")
	// Back to one, which is not the first that there was.
	haYAML(t, "grow", "{mode: local}", map[int]string{3: "control-plane", 4: "worker", 5: "worker"})
	r = want(t, 0, "grow", "scale", "--yes")
	figure(t, "scale.3+2-to-1+2.seconds", r.took.Seconds())
	wantMembers(t, "host3", "host3")
	if got := nodeNames(t, "host3"); got != "host3 host4 host5" {
		t.Errorf("nodes: %s", got)
	}
	want(t, 0, "grow", "status", "--wait", "2m")
	if e := lastLine(t, want(t, 0, "grow", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
	// From an endpoint on each node to a virtual IP.
	change(t, "grow", "{mode: local}", "{mode: vip, address: "+vip(t)+"}")
	want(t, 0, "grow", "create")
	for _, h := range []string{"host3", "host4", "host5"} {
		if got := sh(t, h, "grep -o 'server: .*' /etc/kubernetes/kubelet.conf"); h != "host3" && got != "server: https://"+vip(t)+":8443" {
			t.Errorf("the kubelet of %s uses %s", h, got)
		}
	}
	want(t, 0, "grow", "status", "--wait", "2m")
	if e := lastLine(t, want(t, 0, "grow", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
	want(t, 0, "grow", "reset", "--yes")
	for h, was := range before {
		if now := sh(t, h, inventory); now != was {
			t.Errorf("%s is not what it was:\n%s", h, difference(was, now))
		}
	}
}

// outside starts an etcd on a host that is in no cluster, and returns the part of
// the YAML that names it.
func outside(t *testing.T, host, address string) string {
	t.Helper()
	dir := t.TempDir()
	ca, caKey, err := pkiutil.NewCertificateAuthority(&pkiutil.CertConfig{Config: cert.Config{CommonName: "journey"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []cert.Config{
		{CommonName: "server", Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, AltNames: cert.AltNames{IPs: []net.IP{net.ParseIP(address)}}},
		{CommonName: "client", Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	} {
		crt, key, err := pkiutil.NewCertAndKey(ca, caKey, &pkiutil.CertConfig{Config: c})
		if err := errors.Join(err, pkiutil.WriteCertAndKey(dir, c.CommonName, crt, key)); err != nil {
			t.Fatal(err)
		}
	}
	if err := pkiutil.WriteCert(dir, "ca", ca); err != nil {
		t.Fatal(err)
	}
	sh(t, host, "mkdir -p /srv/outside")
	for _, f := range []string{env(t, "KOCLI_E2E_ETCD"), filepath.Join(dir, "ca.crt"), filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")} {
		copyTo(t, host, f, "/srv/outside/"+filepath.Base(f), "700")
	}
	url := "https://" + address + ":2379"
	sh(t, host, "systemd-run --quiet --unit outside-etcd --property Type=notify /srv/outside/etcd --data-dir /srv/outside/data --listen-client-urls "+url+" --advertise-client-urls "+url+
		" --listen-peer-urls http://127.0.0.1:2380 --client-cert-auth --trusted-ca-file /srv/outside/ca.crt --cert-file /srv/outside/server.crt --key-file /srv/outside/server.key")
	return fmt.Sprintf("{external: {endpoints: [%q], caFile: %[2]s/ca.crt, certFile: %[2]s/client.crt, keyFile: %[2]s/client.key}}", url, dir)
}

func Test27_anEtcdOfTheOperators(t *testing.T) {
	allHosts(t)
	etcd := outside(t, "host7", hostAddress(t, 7))
	haYAML(t, "outside", "{mode: local}", map[int]string{1: "control-plane", 2: "control-plane", 4: "worker"})
	change(t, "outside", "\n  preflight:", "\n  etcd: "+etcd+"\n  preflight:")
	r := want(t, 0, "outside", "create")
	figure(t, "create.2+1.external-etcd.seconds", r.took.Seconds())
	want(t, 0, "outside", "status", "--wait", "2m")
	if got := nodeNames(t, "host1"); got != "host1 host2 host4" {
		t.Errorf("nodes: %s", got)
	}
	if got := kubectlAt(t, "host1", "-n kube-system get pods -l component=etcd --no-headers 2>/dev/null | wc -l"); got != "0" {
		t.Errorf("%s etcd of the cluster's own", got)
	}
	if e := lastLine(t, want(t, 0, "outside", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
	// Any control plane may go: the data is elsewhere.
	want(t, 0, "outside", "node", "remove", "host1", "--yes")
	if got := nodeNames(t, "host2"); got != "host2 host4" {
		t.Errorf("nodes: %s", got)
	}
	want(t, 0, "outside", "reset", "--yes")
	// What the ended cluster left there is not taken over.
	if r := want(t, 3, "outside", "create"); !strings.Contains(r.err, "etcd") {
		t.Errorf("an etcd that holds another cluster:\n%s", r)
	}
	sh(t, "host7", "systemctl stop outside-etcd; rm -r /srv/outside")
	for h, was := range before {
		if now := sh(t, h, inventory); now != was {
			t.Errorf("%s is not what it was:\n%s", h, difference(was, now))
		}
	}
}
