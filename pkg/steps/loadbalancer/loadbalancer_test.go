package loadbalancer_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/loadbalancer"
)

const (
	vip     = `{mode: vip, address: 10.0.0.100}`
	unicast = `{mode: vip, address: 10.0.0.100, vrrp: {unicast: true}}`
	local   = `{mode: local}`
)

// cluster has control planes 1 to n and a worker.
func cluster(t *testing.T, endpoint string, planes int) *inventory.Inventory {
	t.Helper()
	var hosts strings.Builder
	for i := 1; i <= planes; i++ {
		fmt.Fprintf(&hosts, "    - {name: cp-%d, address: 10.0.0.%d, roles: [control-plane]}\n", i, i)
	}
	c, err := config.Read("test", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: v1.36.3}
  controlPlane: {endpoint: `+endpoint+`}
  hosts:
`+hosts.String()+`    - {name: worker-1, address: 10.0.0.50}
`))
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// images names images after themselves.
type images struct{}

func (images) Image(name string) (string, error) { return "registry.example.com/" + name + ":1", nil }

func options(t *testing.T, endpoint string, planes int, node string) loadbalancer.Options {
	t.Helper()
	inv := cluster(t, endpoint, planes)
	n, ok := inv.Node(node)
	if !ok {
		t.Fatal(node)
	}
	return loadbalancer.Options{Inventory: inv, Node: n, Images: images{}, Password: func(context.Context) (string, error) { return "canary-78", nil }}
}

func steps(t *testing.T, o loadbalancer.Options) []plan.Step {
	t.Helper()
	s, err := loadbalancer.Steps(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func names(all []plan.Step) string {
	var out []string
	for _, s := range all {
		out = append(out, s.ID())
	}
	return strings.Join(out, " ")
}

// machine is a host with an interface and nothing of ours.
func machine() *hosttest.Machine {
	m := hosttest.OS(hosttest.New("cp-1"))
	m.Install(ip, ss, idle)
	return m
}

// idle is containerd's client where nothing runs.
func idle(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
	line := strings.Join(argv, " ")
	return hosttest.Reply{}, strings.HasPrefix(line, "/usr/local/bin/ctr -n k8s.io containers ls") || line == "/usr/local/bin/ctr -n k8s.io tasks ls"
}

const held = "/test/address" // holds the virtual IP while an interface does

// ip is iproute2 of a host with 10.0.0.1, and the virtual IP while it is held.
func ip(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
	switch strings.Join(argv, " ") {
	case "ip -j addr show":
		more := ""
		if a, ok := m.Read(held); ok {
			more = fmt.Sprintf(`,{"local":%q,"prefixlen":32}`, a)
		}
		return hosttest.Reply{Stdout: `[{"ifname":"lo","addr_info":[{"local":"127.0.0.1","prefixlen":8}]},
			{"ifname":"ens3","flags":["UP"],"addr_info":[{"local":"10.0.0.1","prefixlen":24}` + more + `]}]`}, true
	case "ip addr del 10.0.0.100/32 dev ens3":
		m.Delete(held)
		return hosttest.Reply{}, true
	}
	return hosttest.Reply{}, false
}

const table = "/proc/net/unix"

// listening writes the kernel's table as it is with a haproxy that has loaded the
// configuration on the host.
func listening(m *hosttest.Machine) {
	c, _ := m.Read(kubeadm.HAProxyConfigPath)
	name := regexp.MustCompile(`abns@(\S+)`).FindStringSubmatch(c)[1]
	m.Write(table, 0o444, "Num RefCount Protocol Flags Type St Inode Path\n0000: 02 0 010000 01 01 17 /run/systemd/private\n0000: 02 0 010000 01 01 18 @"+name+strings.Repeat("@", 70)+"\n")
}

// runs has a kubelet and a haproxy run on a machine, which loads its configuration
// on SIGUSR2.
func runs(t *testing.T, m *hosttest.Machine, reload func(*hosttest.Machine)) {
	t.Helper()
	m.Write("/etc/systemd/system/kubelet.service", 0o644, "[Service]\n")
	m.Install(func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		line := strings.Join(argv, " ")
		switch {
		case line == "systemctl is-active kubelet.service":
			return hosttest.Reply{Stdout: "active\n"}, true
		case strings.HasPrefix(line, "/usr/local/bin/ctr -n k8s.io containers ls -q"):
			if !strings.HasSuffix(line, `labels."io.kubernetes.pod.namespace"==kube-system,labels."io.kubernetes.container.name"==kocli-haproxy`) {
				return hosttest.Reply{}, true
			}
			return hosttest.Reply{Stdout: "old\nnow\n"}, true
		case line == "/usr/local/bin/ctr -n k8s.io tasks ls":
			return hosttest.Reply{Stdout: "TASK PID STATUS\nold 0 STOPPED\nnow 12 RUNNING\nother 13 RUNNING\n"}, true
		case line == "/usr/local/bin/ctr -n k8s.io tasks kill --signal SIGUSR2 now":
			reload(m)
			return hosttest.Reply{}, true
		}
		return hosttest.Reply{}, false
	})
}

func apply(t *testing.T, m *hosttest.Machine, all ...plan.Step) {
	t.Helper()
	for _, s := range all {
		if err := s.Apply(t.Context(), ledger.Wrap(m)); err != nil {
			t.Fatalf("%s: %v", s.ID(), err)
		}
		if left, err := s.Check(t.Context(), m); err != nil || len(left) > 0 {
			t.Fatalf("%s: %v, %v", s.ID(), left, err)
		}
	}
}

func TestSteps_areThoseOfTheModeAndTheRole(t *testing.T) {
	for _, x := range []struct{ endpoint, node, want, gone string }{
		{vip, "cp-1", "loadbalancer/haproxy loadbalancer/keepalived", ""},
		{vip, "worker-1", "", "loadbalancer/no-keepalived loadbalancer/no-haproxy"},
		{local, "cp-1", "loadbalancer/haproxy", "loadbalancer/no-keepalived"},
		{local, "worker-1", "loadbalancer/haproxy", "loadbalancer/no-keepalived"},
		{`{mode: external, address: lb}`, "cp-1", "", "loadbalancer/no-keepalived loadbalancer/no-haproxy"},
		{`{mode: none}`, "cp-1", "", "loadbalancer/no-keepalived loadbalancer/no-haproxy"},
	} {
		o := options(t, x.endpoint, 1, x.node)
		if got := names(steps(t, o)); got != x.want {
			t.Errorf("%s on %s: %q", x.endpoint, x.node, got)
		}
		if got := names(loadbalancer.Leftovers(o)); got != x.gone {
			t.Errorf("%s on %s takes away %q", x.endpoint, x.node, got)
		}
	}
}

func TestSteps_converge(t *testing.T) {
	for _, endpoint := range []string{vip, unicast, local} {
		for i := range steps(t, options(t, endpoint, 3, "cp-1")) {
			plantest.Converges(t, func() plantest.World {
				return plantest.World{Step: steps(t, options(t, endpoint, 3, "cp-1"))[i], Host: machine()}
			})
		}
	}
}

// A change of the control planes on a node whose haproxy runs, without a bundle
// at hand.
func TestHAProxy_reloadConverges(t *testing.T) {
	reloads := 0
	world := func() plantest.World {
		m := machine()
		apply(t, m, steps(t, options(t, local, 1, "cp-1"))...)
		listening(m)
		runs(t, m, func(m *hosttest.Machine) { reloads++; listening(m) })
		o := options(t, local, 3, "cp-1")
		o.Images = nil
		return plantest.World{Step: steps(t, o)[0], Host: m}
	}
	plantest.Converges(t, world)
	w, before := world(), reloads
	changes, err := w.Step.Check(t.Context(), w.Host)
	if err != nil || len(changes) != 2 || changes[1].To != "reload; connections stay" {
		t.Errorf("%v, %v", changes, err)
	}
	apply(t, w.Host, w.Step)
	if reloads != before+1 {
		t.Errorf("%d reloads", reloads-before)
	}
	if c, _ := w.Host.Read(kubeadm.HAProxyConfigPath); strings.Count(c, "server cp-") != 6 {
		t.Error(c)
	}
}

// The file may be right, and the process may have been started before it was.
func TestHAProxy_anOldProcessIsSeenWhateverTheFileSays(t *testing.T) {
	m := machine()
	apply(t, m, steps(t, options(t, local, 1, "cp-1"))...)
	listening(m)
	more := steps(t, options(t, local, 3, "cp-1"))[0]
	runs(t, m, func(m *hosttest.Machine) { m.Cut() })
	if err := more.Apply(t.Context(), m); err == nil {
		t.Error("no error surfaces")
	}
	m.CutBefore(0)
	changes, err := more.Check(t.Context(), m)
	if err != nil || len(changes) != 1 || changes[0].From != "running with an older configuration" {
		t.Errorf("%v, %v", changes, err)
	}
}

func TestHAProxy_thatAKubeletShouldRunAndDoesNot(t *testing.T) {
	m := machine()
	s := steps(t, options(t, local, 1, "cp-1"))[0]
	apply(t, m, s)
	runs(t, m, func(*hosttest.Machine) {})
	changes, err := s.Check(t.Context(), m)
	if err != nil || len(changes) != 1 || changes[0].To != "started by the kubelet" {
		t.Errorf("%v, %v", changes, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Apply(ctx, m); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestKeepalived_interfaceAndPassword(t *testing.T) {
	for name, x := range map[string]struct {
		endpoint string
		wants    []string
	}{
		"derived": {vip, []string{"interface ens3\n", "virtual_router_id 137\n", "auth_pass 5b98acba"}},
		"given": {`{mode: vip, address: 10.0.0.100, vrrp: {id: 7, password: "env:X", interface: bond0.7}}`,
			[]string{"interface bond0.7\n", "dev bond0.7\n", "virtual_router_id 7\n", "auth_pass canary-7\n"}},
	} {
		m := machine()
		apply(t, m, steps(t, options(t, x.endpoint, 3, "cp-1"))...)
		c, _ := m.Read(kubeadm.KeepalivedConfigPath)
		for _, w := range x.wants {
			if !strings.Contains(c, w) {
				t.Errorf("%s: no %q in\n%s", name, w, c)
			}
		}
		info, err := m.Stat(t.Context(), kubeadm.KeepalivedConfigPath)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		pod, _ := m.Read(kubeadm.KeepalivedManifestPath)
		if strings.Contains(pod, "canary") {
			t.Error("the password is in the manifest")
		}
	}
	o := options(t, vip, 3, "cp-2") // has another address than the machine
	if _, err := steps(t, o)[1].Check(t.Context(), machine()); fault.CodeOf(err) != fault.Preflight || !strings.Contains(fault.HintOf(err), "vrrp.interface") {
		t.Error(err)
	}
	o = options(t, `{mode: vip, address: 10.0.0.100, vrrp: {password: "env:X"}}`, 3, "cp-1")
	o.Password = func(context.Context) (string, error) { return "can ary", nil }
	if _, err := steps(t, o)[1].Check(t.Context(), machine()); fault.CodeOf(err) != fault.Usage || strings.Contains(err.Error(), "can ary") {
		t.Error(err)
	}
}

func TestLeftovers_converge(t *testing.T) {
	for i := range 2 {
		plantest.Converges(t, func() plantest.World {
			m := machine()
			apply(t, m, steps(t, options(t, vip, 3, "cp-1"))...)
			m.Write(held, 0o644, "10.0.0.100")
			runs(t, m, func(*hosttest.Machine) {})
			w := plantest.World{Step: loadbalancer.Leftovers(options(t, `{mode: external, address: lb}`, 3, "cp-1"))[i], Host: m}
			w.State = func() string { _, ok := m.Read(held); return fmt.Sprint("held ", ok) }
			return w
		})
	}
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// anInterface is one that this machine has, other than the loopback: keepalived
// looks.
func anInterface(t *testing.T) string {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagMulticast != 0 {
			return i.Name
		}
	}
	t.Fatal("this machine has no network interface")
	return ""
}

// haproxy and keepalived themselves read what is written for them.
func TestConfigurations_theirProgramsReadThem(t *testing.T) {
	run := func(argv ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
		return string(out), err
	}
	for _, endpoint := range []string{vip, local} {
		for _, planes := range []int{1, 7} {
			c, _, err := loadbalancer.HAProxyConfig(cluster(t, endpoint, planes))
			if err != nil {
				t.Fatal(err)
			}
			if out, err := run("/usr/sbin/haproxy", "-c", "-f", write(t, "haproxy.cfg", c)); err != nil || strings.Contains(out, "WARNING") {
				t.Errorf("%v: %s", err, out)
			}
		}
	}
	var c []byte
	for _, endpoint := range []string{unicast, vip} {
		for _, planes := range []int{1, 3, 7} {
			inv := cluster(t, endpoint, planes)
			var err error
			c, _, _, err = loadbalancer.KeepalivedConfig(inv, inv.Seed(), anInterface(t), inv.VRRPPassword(), inv.ControlPlanes()[1:])
			if err != nil {
				t.Fatal(err)
			}
			if out, err := run("/usr/sbin/keepalived", "--config-test", "--use-file", write(t, "keepalived.conf", c)); err != nil {
				t.Errorf("%s, %d control planes: %v: %s", endpoint, planes, err, out)
			}
		}
	}
	// That it finds faults at all.
	if out, err := run("/usr/sbin/keepalived", "--config-test", "--use-file", write(t, "bad.conf", []byte(strings.Replace(string(c), "virtual_router_id 137", "virtual_router_id 300", 1)))); err == nil {
		t.Errorf("keepalived takes a router id of 300: %s", out)
	}
}

func TestManifests_arePodsOfTheKubelet(t *testing.T) {
	haproxy, err := loadbalancer.HAProxyManifest(cluster(t, vip, 3), images{})
	if err != nil {
		t.Fatal(err)
	}
	keepalived, err := loadbalancer.KeepalivedManifest(images{}, "abcd")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{kubeadm.HAProxyPod: haproxy, kubeadm.KeepalivedPod: keepalived} {
		var p corev1.Pod
		if err := yaml.UnmarshalStrict(data, &p); err != nil {
			t.Fatal(err)
		}
		c := p.Spec.Containers[0]
		if p.Name != name || c.Name != name || !p.Spec.HostNetwork || p.Spec.PriorityClassName != "system-node-critical" || c.Resources.Requests.Cpu().IsZero() || len(c.Resources.Limits) > 0 {
			t.Errorf("%s", data)
		}
		if drop := c.SecurityContext.Capabilities.Drop; len(drop) != 1 || drop[0] != "ALL" {
			t.Errorf("%s keeps capabilities: %v", name, drop)
		}
		if strings.Contains(string(data), "status:") || strings.Contains(string(data), "creationTimestamp") {
			t.Errorf("%s", data)
		}
	}
}
