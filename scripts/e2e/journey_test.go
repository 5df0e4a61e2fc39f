//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inventory lists what is in the folders that kocli writes to, with digests.
const inventory = `find /etc /usr /opt /root /home /var/lib/kubelet /var/lib/etcd /var/lib/containerd /var/lib/cni /var/log/pods -xdev -type f \
  -not -path /etc/ld.so.cache -print0 2>/dev/null | sort -z | xargs -0 -r sha256sum --
find /etc /usr /opt -xdev -type l -printf '%p -> %l\n' | sort; hostname; cat /proc/sys/net/ipv4/ip_forward
iptables-save 2>/dev/null | wc -l; ls /sys/class/net`

var before = map[string]string{}

func Test01_preflightRefusesAndChangesNothing(t *testing.T) {
	for _, h := range []string{"host1", "host2", "host3"} {
		before[h] = sh(t, h, inventory)
	}

	t.Run("an unreachable host among reachable ones", func(t *testing.T) {
		lab(t, "cut", "e2e", "host3")
		defer lab(t, "mend", "e2e", "host3")
		r := want(t, 4, "root", "create")
		if !strings.Contains(r.err, "host3") || strings.Contains(r.err, "on host2") {
			t.Errorf("does not name host3 alone:\n%s", r)
		}
		figure(t, "unreachable.seconds", r.took.Seconds())
	})
	t.Run("port 6443 is taken", func(t *testing.T) {
		sh(t, "host1", `nohup perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(LocalPort=>6443,Listen=>1) or die; sleep 600' >/dev/null 2>&1 & echo $! >/run/port.pid; sleep 0.5`)
		defer sh(t, "host1", "kill $(cat /run/port.pid); rm /run/port.pid")
		r := want(t, 3, "root", "create")
		if !strings.Contains(r.err, "6443") || !strings.Contains(r.err, "host1") {
			t.Errorf("does not name the port and the host:\n%s", r)
		}
	})
	t.Run("another kubelet is there", func(t *testing.T) {
		sh(t, "host2", "printf '#!/bin/sh\n' >/usr/bin/kubelet; chmod +x /usr/bin/kubelet; mkdir -p /etc/kubernetes; echo other >/etc/kubernetes/kubelet.conf")
		defer sh(t, "host2", "rm -r /usr/bin/kubelet /etc/kubernetes")
		r := want(t, 3, "root", "create")
		if !strings.Contains(r.err, "host2") || !strings.Contains(r.err, "kubelet") {
			t.Errorf("does not name the kubelet:\n%s", r)
		}
		want(t, 3, "root", "reset", "--yes") // which is not for what others installed
		if got := sh(t, "host2", "cat /etc/kubernetes/kubelet.conf"); got != "other" {
			t.Errorf("overwritten: %s", got)
		}
	})
	t.Run("the sudo password is wrong", func(t *testing.T) {
		data, err := os.ReadFile(yaml(t, "ops"))
		if err != nil {
			t.Fatal(err)
		}
		pw := filepath.Join(t.TempDir(), "password")
		bad := strings.Replace(string(data), "file:"+env(t, "KOCLI_LAB_OPS_PASSWORD_FILE"), "file:"+pw, 1)
		if err := os.WriteFile(pw, []byte("not-the-password\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(yaml(t, "wrong"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		r := want(t, 4, "wrong", "create")
		if !strings.Contains(r.err, "sudo") || strings.Contains(r.err+r.out, "not-the-password") {
			t.Errorf("%s", r)
		}
	})
	for h, was := range before {
		if now := sh(t, h, inventory); now != was {
			t.Errorf("%s was changed:\n%s", h, difference(was, now))
		}
	}
}

func Test02_killedAtTheWorstMomentsThenGoesOn(t *testing.T) {
	// An interrupt first: a clean end, and the message that typing it again goes on.
	code := signalAt(t, "root", syscall.SIGINT, func(e event) bool { return e.Kind == "step-started" && e.Step == "runtime/binaries" }, "create")
	if code != 130 {
		t.Errorf("Ctrl-C: exit %d", code)
	}
	for _, at := range []string{"kubernetes/binaries", "images/import", "controlplane/init", "worker/join"} {
		signalAt(t, "root", syscall.SIGKILL, func(e event) bool {
			if at == "controlplane/init" && e.Kind == "step-started" && e.Step == "images/import" && e.Node == "host1" {
				// containerd dies while images come in, and init is reached all the same.
				time.Sleep(500 * time.Millisecond)
				sh(t, "host1", "systemctl kill --signal=KILL containerd.service")
			}
			return e.Kind == "step-started" && e.Step == at
		}, "create")
		for _, h := range []string{"host1", "host2", "host3"} {
			if half := sh(t, h, `for f in /usr/bin/kubelet /usr/bin/kubeadm /usr/local/bin/containerd; do [ ! -e $f ] || $f --version >/dev/null 2>&1 || [ $f = /usr/bin/kubeadm ] || echo $f; done`); half != "" {
				t.Errorf("after the kill at %s: half a file on %s: %s", at, h, half)
			}
		}
	}
	r := want(t, 0, "root", "create")
	figure(t, "resume.seconds", r.took.Seconds())
	healthy(t, 2*time.Minute)
}

func Test03_aHealthyClusterIsLeftAlone(t *testing.T) {
	r := want(t, 0, "root", "create", "-o", "json")
	e := lastLine(t, r.out)
	if e.Changed != 0 {
		t.Errorf("changed %d things on a healthy cluster:\n%s", e.Changed, r)
	}
	for h, s := range e.Hosts {
		if s.RoundTrips > 6 || s.BytesSent > 100<<10 {
			t.Errorf("%s: %d round trips, %d bytes", h, s.RoundTrips, s.BytesSent)
		}
		figure(t, "converged.roundtrips."+h, s.RoundTrips)
	}
	figure(t, "converged.seconds", r.took.Seconds())
	if r := want(t, 0, "root", "plan"); !strings.Contains(strings.ToLower(r.out), "nothing to change") {
		t.Errorf("the plan of a healthy cluster:\n%s", r)
	}
	want(t, 0, "root", "status")
	if r := want(t, 0, "root", "kubeconfig"); !strings.Contains(r.out, "client-key-data") {
		t.Errorf("kubeconfig:\n%s", r)
	}
	// Another control plane first in the list is not a reason to start anew.
	data, err := os.ReadFile(yaml(t, "root"))
	if err != nil {
		t.Fatal(err)
	}
	swapped := strings.NewReplacer("roles: [control-plane, worker]", "roles: [worker]", "roles: [worker]", "roles: [control-plane, worker]").Replace(string(data))
	swapped = strings.Replace(swapped, "\n  preflight:", "\n  controlPlane: {endpoint: {mode: external, address: 192.0.2.1}}\n  preflight:", 1)
	if err := os.WriteFile(yaml(t, "swapped"), []byte(swapped), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := want(t, 3, "swapped", "create"); !strings.Contains(r.err, "belongs to") {
		t.Errorf("a second cluster over the first:\n%s", r)
	}
	// The other commands of the README.
	want(t, 0, "root", "preflight")
	conf := filepath.Join(t.TempDir(), "kubeconfig")
	want(t, 0, "root", "kubeconfig", "--to", conf)
	if st, err := os.Stat(conf); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig --to: %v %v", st, err)
	}
	want(t, 0, "root", "exec", "all", "--", "uptime")
	for _, verb := range []string{"verify", "inspect"} {
		if out, err := shell("'" + env(t, "KOCLI_E2E_KOCLI") + "' bundle " + verb + " '" + env(t, "KOCLI_E2E_BUNDLE") + "'"); err != nil || !strings.Contains(out, "Digest: sha256:") {
			t.Errorf("bundle %s: %v\n%s", verb, err, out)
		}
	}
	if r := want(t, 0, "root", "exec", "host1,host3", "--", "uname", "-n"); !strings.Contains(r.out, "host3") {
		t.Errorf("exec:\n%s", r)
	}
}

func Test04_aSecondKocliIsRefused(t *testing.T) {
	done := make(chan int, 1)
	sh(t, "host2", "rm /etc/sysctl.d/90-kocli.conf") // something to do
	go func() {
		done <- signalAt(t, "root", syscall.SIGCONT, func(e event) bool {
			if e.Kind != "step-started" {
				return false
			}
			r := kocli(t, "root", "create")
			if r.code != 5 || !strings.Contains(r.err, "pid") {
				t.Errorf("a second kocli: %s", r)
			}
			return true
		}, "create")
	}()
	if code := <-done; code != 0 {
		t.Errorf("the first kocli: exit %d", code)
	}
}

func Test05_hostsRebootAndTheClusterIsBack(t *testing.T) {
	lab(t, "reboot", "e2e", "host2")
	figure(t, "reboot.worker.seconds", healthy(t, 4*time.Minute).Seconds())
	for _, h := range []string{"host1", "host2", "host3"} {
		lab(t, "kill", "e2e", h)
	}
	for _, h := range []string{"host1", "host2", "host3"} {
		lab(t, "start", "e2e", h)
	}
	figure(t, "powercut.all.seconds", healthy(t, 6*time.Minute).Seconds())
	r := want(t, 0, "root", "create", "-o", "json")
	if e := lastLine(t, r.out); e.Changed != 0 {
		t.Errorf("a reboot undid something:\n%s", r)
	}
}

func Test06_resetBringsTheHostsBack(t *testing.T) {
	// Others' rules and files have to stay.
	sh(t, "host1", "iptables -N FOREIGN && iptables -A FOREIGN -p tcp --dport 4242 -j ACCEPT && iptables -I INPUT -j FOREIGN; echo mine >/etc/cni/net.d/99-mine.conf; echo '10.9.9.9 printer' >>/etc/hosts")
	// So has a container in another namespace of containerd, which keeps running.
	sh(t, "host2", "ctr -n k8s.io images export --local /root/theirs.tar $(ctr -n k8s.io images ls -q | grep pause:) && ctr -n others images import --local /root/theirs.tar && rm /root/theirs.tar && "+
		"ctr -n others run -d $(ctr -n others images ls -q | grep pause:) theirs")
	r := want(t, 0, "root", "reset", "--yes")
	figure(t, "reset.seconds", r.took.Seconds())
	if got := sh(t, "host2", "ctr -n others tasks ls 2>/dev/null | awk '/theirs/{print $3}'; ctr -n k8s.io images ls -q 2>/dev/null; ls /usr/bin/kubelet 2>/dev/null || :"); got != "RUNNING" {
		t.Errorf("the container of others: %q", got)
	}
	if r := want(t, 0, "root", "reset", "--yes"); !strings.Contains(r.out, "nothing of kocli") {
		t.Errorf("a second reset, with a container of others:\n%s", r)
	}
	sh(t, "host2", "ctr -n others tasks kill -s KILL theirs; sleep 1; ctr -n others tasks rm theirs 2>/dev/null; ctr -n others containers rm theirs; ctr -n others images rm --sync $(ctr -n others images ls -q)")
	want(t, 0, "root", "reset", "--yes")
	if got := sh(t, "host1", "cat /etc/cni/net.d/99-mine.conf; grep -c printer /etc/hosts; grep -c kocli /etc/hosts || :"); got != "mine\n1\n0" {
		t.Errorf("what others had: %q", got)
	}
	sh(t, "host1", "rm /etc/cni/net.d/99-mine.conf; rmdir /etc/cni/net.d /etc/cni; sed -i '/printer/d' /etc/hosts")
	for h, was := range before {
		if now := sh(t, h, inventory); now != was {
			t.Errorf("%s is not what it was:\n%s", h, difference(was, now))
		}
		if left := sh(t, h, `ps -eo comm | grep -E '^(kube|etcd|containerd|flanneld|coredns)' || :; ls -A /var/lib/kubelet /var/lib/etcd /var/lib/containerd /var/lib/kocli | grep -v : | grep . || :`); left != "" {
			t.Errorf("left on %s: %s", h, left)
		}
	}
	if r := want(t, 0, "root", "reset", "--yes"); !strings.Contains(r.out, "nothing of kocli") {
		t.Errorf("a second reset:\n%s", r)
	}
}

func Test07_withASudoPassword(t *testing.T) {
	password, err := os.ReadFile(env(t, "KOCLI_LAB_OPS_PASSWORD_FILE"))
	if err != nil {
		t.Fatal(err)
	}
	canary := strings.TrimSpace(string(password))
	stop := make(chan struct{})
	seen := make(chan string, 1)
	go func() { // the process list, all the while
		defer close(seen)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, h := range []string{"host1", "host2", "host3"} {
				out := lab(t, "exec", "e2e", h, "--", "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'")
				if strings.Contains(out, canary) {
					seen <- h
					return
				}
			}
		}
	}()
	pushed(t, "ops")
	r := want(t, 0, "ops", "create", "-o", "json")
	close(stop)
	if h, ok := <-seen; ok {
		t.Errorf("the password was in a process list of %s", h)
	}
	figure(t, "create.ops.seconds", r.took.Seconds())
	for h, s := range lastLine(t, r.out).Hosts {
		if s.BytesSent > 2<<20 {
			t.Errorf("create sent %d bytes to %s, which had the content", s.BytesSent, h)
		}
	}
	if e := lastLine(t, want(t, 0, "ops", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
	healthy(t, time.Minute)
	if strings.Contains(r.out+r.err, canary) {
		t.Error("the password is in the output")
	}
	err = filepath.WalkDir(home(t, "ops"), func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		if strings.Contains(string(data), canary) {
			t.Errorf("the password is in %s", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, h := range []string{"host1", "host2", "host3"} {
		if got := sh(t, h, "grep -rlF -- '"+canary+"' /etc /var/lib/kocli /var/log /home /root /tmp 2>/dev/null || :"); got != "" {
			t.Errorf("the password is in %s of %s", got, h)
		}
	}
	want(t, 0, "ops", "reset", "--yes")
}

// pushed brings the bundle's content to all hosts first, from host to host, and
// proves that nothing is left running there. A create then has little to send.
func pushed(t *testing.T, user string) {
	t.Helper()
	push := func(args ...string) result {
		t.Helper()
		return want(t, 0, user, append([]string{"bundle", "push"}, args...)...)
	}
	r := push("--fan-out", "chain", "-o", "json")
	figure(t, "push.seconds", r.took.Seconds())
	e := lastLine(t, r.out)
	var most int64
	for _, n := range e.MissingBytes {
		most = max(most, n)
	}
	figure(t, "push.copies-sent", float64(e.SentBytes)/float64(most))
	if e.SentBytes > most*11/10 || e.Links < 2 {
		t.Errorf("%d bytes left the operator over %d links; no host lacked more than %d", e.SentBytes, e.Links, most)
	}
	for _, h := range []string{"host1", "host2", "host3"} {
		if got := sh(t, h, "pgrep -af '[k]ocli node' || :; ss -Hltn | grep -vE ':22 |127.0.0.11' || :"); got != "" {
			t.Errorf("left on %s: %s", h, got)
		}
	}
	if r := push("--fan-out", "ssh"); !strings.Contains(r.out, "have what they need") {
		t.Errorf("a second push:\n%s", r)
	}
	// What an interrupted push leaves is gone on with, over SSH alone too.
	sh(t, "host2", `cd /var/lib/kocli/content && f=$(ls -S sha256 | head -1) && head -c 5000000 sha256/$f >part/$f && rm sha256/$f`)
	r = push("--fan-out", "ssh", "-o", "json")
	if e := lastLine(t, r.out); len(e.MissingBytes) != 1 || e.SentBytes != e.MissingBytes["host2"] {
		t.Errorf("a push that goes on: %s", r)
	}
	size := sh(t, "host2", `cd /var/lib/kocli/content/sha256 && stat -c %s $(ls -S | head -1)`)
	if got := fmt.Sprint(lastLine(t, r.out).SentBytes + 5000000); got != size {
		t.Errorf("with what was there it is %s bytes, not %s", got, size)
	}
}

func Test08_fromOneOfTheHosts(t *testing.T) {
	// kocli, its bundle and a key on host1, which is one of the hosts; the user
	// has passwordless sudo.
	data, err := os.ReadFile(yaml(t, "deploy"))
	if err != nil {
		t.Fatal(err)
	}
	local := yaml(t, "local")
	if err := os.WriteFile(local, []byte(strings.Replace(string(data), env(t, "KOCLI_LAB_KEY"), "/opt/operator/key", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, "host1", "mkdir -p /opt/operator/home")
	copyTo(t, "host1", env(t, "KOCLI_E2E_KOCLI"), "/opt/operator/kocli", "755")
	copyTo(t, "host1", env(t, "KOCLI_E2E_BUNDLE"), "/opt/operator/bundle.tar", "644")
	copyTo(t, "host1", env(t, "KOCLI_LAB_KEY"), "/opt/operator/key", "600")
	copyTo(t, "host1", env(t, "KOCLI_LAB_KNOWN_HOSTS"), "/opt/operator/home/known_hosts", "600")
	copyTo(t, "host1", local, "/opt/operator/cluster.yaml", "644")
	start := time.Now()
	sh(t, "host1", "cd /opt/operator && ./kocli create --home home --bundle bundle.tar 2>&1")
	figure(t, "create.deploy.on-a-host.seconds", time.Since(start).Seconds())
	healthy(t, time.Minute)
	if out := sh(t, "host1", "cd /opt/operator && ./kocli create --home home --bundle bundle.tar -o json 2>/dev/null"); lastLine(t, out).Changed != 0 {
		t.Errorf("not converged:\n%s", out)
	}
	sh(t, "host1", "cd /opt/operator && ./kocli reset --yes --home home 2>&1 && rm -r /opt/operator")
	for h, was := range before {
		if now := sh(t, h, inventory); now != was {
			t.Errorf("%s is not what it was:\n%s", h, difference(was, now))
		}
	}
}

func Test09_threeControlPlanesBehindAnExternalEndpoint(t *testing.T) {
	// The endpoint stands for a load balancer: here it leads to host1 alone.
	data, err := os.ReadFile(yaml(t, "root"))
	if err != nil {
		t.Fatal(err)
	}
	address := sh(t, "host1", "hostname -i")
	ha := strings.ReplaceAll(string(data), "roles: [worker]", "roles: [control-plane, worker]")
	ha = strings.Replace(ha, "\n  preflight:", "\n  controlPlane: {endpoint: {mode: external, address: "+address+"}}\n  preflight:", 1)
	ha = strings.Replace(ha, "\n    ignorePreflightErrors", "\n    encryption: {secrets: true}\n    audit: {enabled: true}\n    ignorePreflightErrors", 1)
	labelled := strings.Replace(ha, "{name: host2,", "{name: host2, labels: {tier: web}, taints: [{key: dedicated, value: db, effect: PreferNoSchedule}],", 1)
	if err := os.WriteFile(yaml(t, "ha"), []byte(labelled), 0o600); err != nil {
		t.Fatal(err)
	}
	// A join of a control plane that is killed goes on, like all else.
	signalAt(t, "ha", syscall.SIGKILL, func(e event) bool { return e.Kind == "step-started" && e.Step == "controlplane/join" }, "create")
	r := want(t, 0, "ha", "create")
	figure(t, "create.three-control-planes.resume.seconds", r.took.Seconds())
	healthy(t, time.Minute)
	if got := kubectl(t, "get nodes --no-headers -l node-role.kubernetes.io/control-plane | wc -l"); got != "3" {
		t.Errorf("%s control planes", got)
	}
	if got := kubectl(t, "-n kube-system get pods --no-headers -l component=etcd | grep -c 1/1"); got != "3" {
		t.Errorf("%s etcd members", got)
	}
	if e := lastLine(t, want(t, 0, "ha", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
	// Secrets are encrypted in etcd, on whichever member; the audit log is written.
	kubectl(t, "create secret generic canary --from-literal=word=plain-canary")
	for _, h := range []string{"host1", "host2", "host3"} {
		stored := kubectl(t, "-n kube-system exec etcd-"+h+" -- etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt "+
			"--cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key get /registry/secrets/default/canary | tr -d '\\000'")
		if !strings.Contains(stored, "k8s:enc:") || strings.Contains(stored, "plain-canary") {
			t.Errorf("etcd on %s holds the secret as it is: %.80q", h, stored)
		}
		if got := sh(t, h, "grep -c '\"kind\":\"Event\"' /var/log/kubernetes/audit/audit.log"); got == "0" {
			t.Errorf("no audit log on %s", h)
		}
	}
	// Labels and taints come with the YAML, and go with it.
	marks := func() string {
		return kubectl(t, "get node host2 -o jsonpath='{.metadata.labels.tier} {.spec.taints[?(@.key==\"dedicated\")].value}'")
	}
	if got := marks(); got != "web db" {
		t.Errorf("labels and taints: %q", got)
	}
	if err := os.WriteFile(yaml(t, "ha"), []byte(ha), 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, 0, "ha", "create")
	if got := strings.TrimSpace(marks()); got != "" {
		t.Errorf("labels and taints that left the YAML: %q", got)
	}
	want(t, 0, "ha", "reset", "--yes")
	for h, was := range before {
		if now := sh(t, h, inventory); now != was {
			t.Errorf("%s is not what it was:\n%s", h, difference(was, now))
		}
	}
}
