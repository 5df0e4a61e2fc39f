package loadbalancer_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/loadbalancer"
)

const speaking = "/test/process" // holds the name of the keepalived that runs

// ss lists the raw sockets of a host, as keepalived has them.
func ss(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
	if strings.Join(argv, " ") != "ss -Hnawp" {
		return hosttest.Reply{}, false
	}
	name, ok := m.Read(speaking)
	if !ok {
		return hosttest.Reply{}, true
	}
	return hosttest.Reply{Stdout: fmt.Sprintf("UNCONN 0 0 0.0.0.0:112 0.0.0.0:* users:((%q,pid=7,fd=14))\nUNCONN 0 0 10.0.0.1:112 0.0.0.0:* users:((%q,pid=7,fd=13))\n", name, name)}, true
}

// speaks has keepalived have loaded what is on the host.
func speaks(m *hosttest.Machine) {
	c, _ := m.Read(kubeadm.KeepalivedConfigPath)
	m.Write(speaking, 0o444, regexp.MustCompile(`vrrp_process_name (\S+)`).FindStringSubmatch(c)[1])
}

// keeps has a kubelet and a keepalived run on a machine, which loads its
// configuration on SIGHUP.
func keeps(m *hosttest.Machine, reload func(*hosttest.Machine)) {
	m.Write("/etc/systemd/system/kubelet.service", 0o644, "[Service]\n")
	m.Install(func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		switch line := strings.Join(argv, " "); line {
		case "systemctl is-active kubelet.service":
			return hosttest.Reply{Stdout: "active\n"}, true
		case `/usr/local/bin/ctr -n k8s.io containers ls -q labels."io.kubernetes.pod.namespace"==kube-system,labels."io.kubernetes.container.name"==kocli-keepalived`:
			return hosttest.Reply{Stdout: "now\n"}, true
		case "/usr/local/bin/ctr -n k8s.io tasks ls":
			return hosttest.Reply{Stdout: "TASK PID STATUS\nnow 12 RUNNING\n"}, true
		case "/usr/local/bin/ctr -n k8s.io tasks kill --signal SIGHUP now":
			reload(m)
			return hosttest.Reply{}, true
		}
		return hosttest.Reply{}, false
	})
}

func keepalivedOf(t *testing.T, o loadbalancer.Options) plan.Step {
	t.Helper()
	s, err := loadbalancer.Keepalived(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A control plane joins, or leaves: the others load the new peers, and the kubelet
// is given no reason to start their pod anew.
func TestKeepalived_otherPeersAreLoadedAndThePodStays(t *testing.T) {
	reloads := 0
	world := func() plantest.World {
		m := machine()
		apply(t, m, keepalivedOf(t, options(t, unicast, 1, "cp-1")))
		speaks(m)
		keeps(m, func(m *hosttest.Machine) { reloads++; speaks(m) })
		return plantest.World{Step: keepalivedOf(t, options(t, unicast, 3, "cp-1")), Host: m}
	}
	plantest.Converges(t, world)
	w := world()
	pod, _ := w.Host.Read(kubeadm.KeepalivedManifestPath)
	if c, _ := w.Host.Read(kubeadm.KeepalivedConfigPath); !strings.Contains(c, "unicast_peer {\n\t\t127.0.0.1\n\t}") {
		t.Errorf("one alone would go back to multicast:\n%s", c)
	}
	changes, err := w.Step.Check(t.Context(), w.Host)
	if err != nil || len(changes) != 2 || changes[1].To != "reload; the address stays" {
		t.Errorf("%v, %v", changes, err)
	}
	before := reloads
	apply(t, w.Host, w.Step)
	if reloads != before+1 {
		t.Errorf("%d reloads", reloads-before)
	}
	if c, _ := w.Host.Read(kubeadm.KeepalivedConfigPath); !strings.Contains(c, "unicast_src_ip 10.0.0.1\n\tunicast_peer {\n\t\t10.0.0.2\n\t\t10.0.0.3\n\t}") {
		t.Error(c)
	}
	if now, _ := w.Host.Read(kubeadm.KeepalivedManifestPath); now != pod || pod == "" {
		t.Errorf("the manifest changes with the peers:\n%s", now)
	}
}

// A keepalived that is started anew gives the address up: the others have to be there.
func TestKeepalived_isStartedAnewOnOneControlPlaneAfterAnother(t *testing.T) {
	var election loadbalancer.Election
	var starts atomic.Bool // the kubelets start pods
	plane := func() (*hosttest.Machine, loadbalancer.Options) {
		o := options(t, vip, 2, "cp-1")
		o.Election = &election
		m := machine()
		apply(t, m, keepalivedOf(t, o))
		first, _ := m.Read(kubeadm.KeepalivedManifestPath)
		keeps(m, func(*hosttest.Machine) {})
		m.Install(func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
			id := "was"
			if now, _ := m.Read(kubeadm.KeepalivedManifestPath); starts.Load() && now != first {
				id = "now"
			}
			switch strings.Join(argv[:min(5, len(argv))], " ") {
			case "/usr/local/bin/ctr -n k8s.io containers ls":
				return hosttest.Reply{Stdout: id + "\n"}, true
			case "/usr/local/bin/ctr -n k8s.io tasks ls":
				return hosttest.Reply{Stdout: "TASK PID STATUS\n" + id + " 12 RUNNING\n"}, true
			}
			return hosttest.Reply{}, false
		})
		o.Inventory = cluster(t, "{mode: vip, address: 10.0.0.100, vrrp: {id: 77}}", 2)
		return m, o
	}
	a, ao := plane()
	b, bo := plane()
	was, _ := b.Read(kubeadm.KeepalivedManifestPath)
	var g errgroup.Group
	g.Go(func() error { return keepalivedOf(t, ao).Apply(t.Context(), a) })
	for {
		if now, _ := a.Read(kubeadm.KeepalivedManifestPath); now != was {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	g.Go(func() error { return keepalivedOf(t, bo).Apply(t.Context(), b) })
	time.Sleep(500 * time.Millisecond)
	if now, _ := b.Read(kubeadm.KeepalivedManifestPath); now != was {
		t.Error("both are without keepalived at the same time")
	}
	starts.Store(true)
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if now, _ := b.Read(kubeadm.KeepalivedManifestPath); now == was {
		t.Error("the second was not changed")
	}
}

// The file may be right, and the process may not have loaded it.
func TestKeepalived_anOldProcessIsSeenWhateverTheFileSays(t *testing.T) {
	m := machine()
	apply(t, m, keepalivedOf(t, options(t, unicast, 2, "cp-1")))
	speaks(m)
	keeps(m, func(m *hosttest.Machine) { m.Cut() })
	more := keepalivedOf(t, options(t, unicast, 3, "cp-1"))
	if err := more.Apply(t.Context(), m); err == nil {
		t.Error("no error surfaces")
	}
	m.CutBefore(0)
	changes, err := more.Check(t.Context(), m)
	if err != nil || len(changes) != 1 || changes[0].From != "running with an older configuration" {
		t.Errorf("%v, %v", changes, err)
	}
}

// Who leaves is a peer until it has left; the order of the YAML is nobody's.
func TestKeepalived_peers(t *testing.T) {
	inv := cluster(t, unicast, 3)
	config := func(peers []inventory.Node) string {
		c, _, process, err := loadbalancer.KeepalivedConfig(inv, inv.Seed(), "ens3", "x", peers)
		if err != nil || len(process) > 15 {
			t.Fatal(process, err)
		}
		return string(c)
	}
	others := inv.ControlPlanes()[1:]
	back := slices.Clone(others)
	slices.Reverse(back)
	if config(others) != config(back) {
		t.Error("the order changes the configuration")
	}
	left := inventory.Node{Name: "cp-9", IP: "10.0.0.9", ControlPlane: true}
	o := options(t, unicast, 2, "cp-1")
	o.Leaving = []inventory.Node{left, {Name: "worker-9", IP: "10.0.0.99"}}
	m := machine()
	apply(t, m, keepalivedOf(t, o))
	if c, _ := m.Read(kubeadm.KeepalivedConfigPath); !strings.Contains(c, "\t\t10.0.0.2\n\t\t10.0.0.9\n\t}") {
		t.Error(c)
	}
	o.Leaving = nil
	s, err := loadbalancer.Peers(o)
	if err != nil || s.ID() == keepalivedOf(t, o).ID() {
		t.Fatal(s, err)
	}
	apply(t, m, s)
	if c, _ := m.Read(kubeadm.KeepalivedConfigPath); strings.Contains(c, "10.0.0.9") {
		t.Error(c)
	}
}

// A keepalived of Debian's in a network of its own: what it has loaded is seen from
// outside, and loading other peers has it keep the address.
func TestKeepalived_reloadKeepsTheAddress(t *testing.T) {
	dir := t.TempDir()
	scripts := regexp.MustCompile(`(?ms)^vrrp_script \w+ \{.*?^\}|^\ttrack_script \{.*?^\t\}`) // they ask a haproxy
	names := make([]string, 2)
	for i, planes := range []int{1, 3} {
		inv := cluster(t, unicast, planes)
		c, _, process, err := loadbalancer.KeepalivedConfig(inv, inv.Seed(), "v0", "x", inv.ControlPlanes()[1:])
		if err != nil {
			t.Fatal(err)
		}
		names[i] = process
		if err := os.WriteFile(fmt.Sprintf("%s/%d.conf", dir, i), scripts.ReplaceAll(c, nil), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const script = `set -eu
cd "$1"
ip link add v0 type veth peer name v1
ip addr add 10.0.0.1/24 dev v0
for l in lo v0 v1; do ip link set $l up; done
cp 0.conf keepalived.conf
/usr/sbin/keepalived --dont-fork --vrrp --log-console --use-file="$1/keepalived.conf" --pid="$1/pid" --vrrp_pid="$1/vrrp" >log 2>&1 &
trap 'kill $!; wait; cat log >&2' EXIT
held() { ip addr show v0 | grep -qF 10.0.0.100/32; }
i=0; until held; do i=$((i+1)); [ $i -lt 200 ]; sleep 0.1; done
ss -Hnawp
cp 1.conf keepalived.conf
kill -HUP $!
i=0; until ss -Hnawp | grep -qF "\"$2\""; do held; i=$((i+1)); [ $i -lt 200 ]; sleep 0.05; done
for i in 1 2 3 4 5 6 7 8 9 10; do held; sleep 0.1; done
ss -Hnawp
`
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), "unshare", "-rn", "sh", "-c", script, "sh", dir, names[1])
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil || !strings.Contains(stdout.String(), `"`+names[0]+`"`) || !strings.Contains(stdout.String(), `"`+names[1]+`"`) || strings.Count(stderr.String(), "Entering MASTER") != 1 {
		t.Errorf("%v, %v\n%s%s", names, err, stdout.String(), stderr.String())
	}
}
