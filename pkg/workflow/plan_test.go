package workflow_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/probe"
	"github.com/kocli/kocli/pkg/workflow"
)

// etcdKey is the private key of a client of an external etcd.
const etcdKey = "canary-etcd-key"

var update = flag.Bool("update", false, "write the golden files")

// lab is a cluster's hosts in memory, and what runs on them.
type lab struct {
	inv     *inventory.Inventory
	cluster *workflow.Cluster
	api     *kubetest.Cluster
	wire    *hosttest.Wire // counts what is written to the API
	hosts   map[string]*hosttest.Machine

	mu    sync.Mutex
	dials int
}

// newLab makes fresh hosts for an example.
func newLab(t testing.TB, example string) *lab {
	t.Helper()
	c, err := config.Load(example)
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	b, err := archive.Open(archivetest.Write(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	l := &lab{inv: inv, hosts: map[string]*hosttest.Machine{}, wire: &hosttest.Wire{}}
	l.api = kubetest.NewCluster(l.wire)
	t.Cleanup(l.api.Close)
	var charts *archive.Bundle
	if len(inv.Spec.Addons)+len(inv.Spec.Storage) > 0 {
		charts = archivetest.WithAddons(t)
		b = charts
		l.api.RunWorkloads(nil)
		l.api.Answer = l.metrics
	}
	facts := map[string]probe.Facts{}
	for _, n := range inv.Nodes {
		m := hosttest.OS(hosttest.New(n.Name))
		m.Install(l.api.Kubelet(), hosttest.Ctr(), l.api.Kubeadm(), kubetest.Snapshot())
		m.Attach(hosttest.NodeImages())
		m.OnDial(l.api.Dial)
		m.Handle(func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
			vip := ""
			if l.holds(n) {
				vip = fmt.Sprintf(`,{"local":%q,"prefixlen":32}`, inv.Spec.ControlPlane.Endpoint.Address)
			}
			return fmt.Sprintf(`[{"ifname":"eth0","mtu":1500,"flags":["UP"],"addr_info":[{"local":%q,"prefixlen":24}%s]}]`, n.IP, vip), 0,
				strings.Join(argv, " ") == "ip -j addr show"
		})
		m.Install(func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
			return hosttest.Reply{}, len(argv) > 2 && argv[1] == "node" && argv[2] == "forward"
		})
		m.Handle(func(m *hosttest.Machine, argv []string, _ []byte) (string, int, bool) { // keepalived, once a kubelet runs it
			_, joined := m.Read("/etc/kubernetes/kubelet.conf")
			config, _ := m.Read(kubeadm.KeepalivedConfigPath)
			_, name, ok := strings.Cut(config, "vrrp_process_name ")
			if name, _, _ = strings.Cut(name, "\n"); !ok || !joined {
				return "", 0, strings.Join(argv, " ") == "ss -Hnawp"
			}
			return fmt.Sprintf("UNCONN 0 0 0.0.0.0:112 0.0.0.0:* users:((%q,pid=7,fd=14))\n", name), 0, strings.Join(argv, " ") == "ss -Hnawp"
		})
		l.hosts[n.Name] = m
		facts[n.Name] = probe.Facts{Node: n.Name, Arch: archivetest.Arch, OS: probe.OS{ID: "debian", Version: "12"}}
	}
	l.cluster = &workflow.Cluster{
		Inventory: inv, Bundle: charts, Seed: inv.Seed(), Facts: facts, Dialer: l, Access: kube.NewAccess(),
		Secret: func(context.Context, v1alpha1.SecretRef, string) (string, error) { return "canary-7", nil },
		EtcdCredentials: func() (etcd.Credentials, error) {
			return etcd.Credentials{CA: []byte("ca"), Cert: []byte("certificate"), Key: []byte(etcdKey)}, nil
		},
		Clock: workflow.Clock{Now: func() time.Time { return time.Unix(1_700_000_000, 0) }},
		Payload: func(n inventory.Node) payload.Payload {
			return payload.For(b, payload.Target{
				Kubernetes: inv.Version(), Arch: archivetest.Arch, ControlPlane: n.ControlPlane, CNI: string(inv.Spec.Network.CNI.Name),
				Endpoint: string(inv.Spec.ControlPlane.Endpoint.Mode), ExternalEtcd: inv.ExternalEtcd() != nil, Addons: []string{"local-path-provisioner", "metrics-server"}, Distribution: "debian", Release: "12",
			})
		},
	}
	return l
}

// metrics answers as metrics-server does, once it is there.
func (l *lab) metrics(path string) (string, bool) {
	if path != "/apis/metrics.k8s.io/v1beta1/nodes" || l.api.Get("deployments", "kube-system", "metrics-server") == nil {
		return "", false
	}
	var items []string
	for _, n := range l.api.List("nodes", "") {
		items = append(items, fmt.Sprintf(`{"metadata":{"name":%q}}`, n["metadata"].(kubetest.Object)["name"]))
	}
	return `{"items":[` + strings.Join(items, ",") + `]}`, true
}

// holds reports whether a host has the virtual IP: the first does, once its
// kubelet runs keepalived.
func (l *lab) holds(n inventory.Node) bool {
	_, pod := l.hosts[n.Name].Read(kubeadm.KeepalivedManifestPath)
	_, joined := l.hosts[n.Name].Read("/etc/kubernetes/kubelet.conf")
	return n.Name == l.inv.Seed().Name && pod && joined
}

// Look returns a reader as a run has it.
func (l *lab) Look(_ context.Context, node string) (host.Reader, error) {
	return host.NewBatch(node, l.hosts[node], 200*time.Microsecond), nil
}

// Dial returns a host as a run has it.
func (l *lab) Dial(_ context.Context, node string) (host.Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dials++
	return ledger.Wrap(l.hosts[node]), nil
}

func (l *lab) compile(t testing.TB, o plan.Options) *plan.Plan {
	t.Helper()
	phases, err := l.cluster.CreatePhases()
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Compile(phases, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (l *lab) create(t testing.TB, o plan.Options) {
	t.Helper()
	if _, err := l.compile(t, o).Execute(t.Context(), l, nil); err != nil {
		t.Fatal(err)
	}
}

// writes counts what was written to all hosts.
func (l *lab) writes() int {
	n := 0
	for _, m := range l.hosts {
		n += m.Writes()
	}
	return n
}

// preview shows a plan as text, and fails the test when looking wrote anything.
func (l *lab) preview(t *testing.T) string {
	t.Helper()
	return l.show(t, l.compile(t, plan.Options{}))
}

// show is preview of any plan.
func (l *lab) show(t *testing.T, p *plan.Plan) string {
	t.Helper()
	writes, dials := l.writes(), l.dials
	changes, err := p.Preview(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if l.writes() != writes || l.dials != dials {
		t.Errorf("a plan wrote %d times and dialled %d times", l.writes()-writes, l.dials-dials)
	}
	var b strings.Builder
	last := ""
	for _, c := range changes {
		if where := c.Phase + " on " + c.Node; where != last {
			last = where
			fmt.Fprintf(&b, "%s\n", where)
		}
		fmt.Fprintf(&b, "  %-24s %s", c.Step, c)
		if c.Bytes > 0 {
			fmt.Fprintf(&b, " [%d bytes]", c.Bytes)
		}
		if c.Disruptive {
			b.WriteString(" [disruptive]")
		}
		b.WriteByte('\n')
	}
	if b.Len() == 0 {
		return "nothing to do\n"
	}
	return b.String()
}

// golden compares with a file, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "plans", name+".golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (write it with: go test ./pkg/workflow -run %s -update)", err, t.Name())
	}
	if string(want) != got {
		t.Errorf("%s differs (accept with -update):\n%s", file, lineDiff(string(want), got))
	}
}

// lineDiff shows the lines that only one of two texts has, in order.
func lineDiff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	// common[i][j] is the length of the longest common part of w[i:] and g[j:].
	common := make([][]int, len(w)+1)
	for i := range common {
		common[i] = make([]int, len(g)+1)
	}
	for i := len(w) - 1; i >= 0; i-- {
		for j := len(g) - 1; j >= 0; j-- {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); w[i] == g[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var out []string
	for i, j := 0, 0; i < len(w) || j < len(g); {
		switch {
		case i < len(w) && j < len(g) && w[i] == g[j]:
			i, j = i+1, j+1
		case j == len(g) || i < len(w) && common[i+1][j] >= common[i][j+1]:
			out = append(out, "- "+w[i])
			i++
		default:
			out = append(out, "+ "+g[j])
			j++
		}
	}
	return strings.Join(out, "\n")
}

func TestPlan_ofEveryExampleIsGolden(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Glob("../../examples/cluster-*.yaml")
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, example := range examples {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(example), "cluster-"), ".yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, example)
			golden(t, name+"-empty", l.preview(t))
			// Half-installed: a control plane without a network, and damage on the
			// last host.
			l.create(t, plan.Options{Only: []string{"os", "runtime", "kubernetes", "images", "control-plane"}})
			last := l.hosts[l.inv.Nodes[len(l.inv.Nodes)-1].Name]
			last.Delete("/usr/local/sbin/runc")
			last.Write("/etc/containerd/config.toml", 0o644, "# by hand\n")
			last.Write("/usr/bin/kubelet", 0o700, "")
			last.Delete(hosttest.ImagesDir)
			last.Write("/proc/sys/net/ipv4/ip_forward", 0o644, "0\n")
			golden(t, name+"-half", l.preview(t))
			l.create(t, plan.Options{})
			got := l.preview(t)
			golden(t, name+"-healthy", got)
			if got != "nothing to do\n" {
				t.Errorf("the plan of a healthy cluster is not empty:\n%s", got)
			}
			before := l.writes()
			l.create(t, plan.Options{})
			if l.writes() != before {
				t.Errorf("create on a healthy cluster wrote %d times", l.writes()-before)
			}
		})
	}
}

// The canary stands for every secret: tokens, keys, certificates.
func TestCreate_noSecretInEventsOrPlans(t *testing.T) {
	t.Parallel()
	l := newLab(t, "../../examples/cluster-three-hosts.yaml")
	var said strings.Builder
	said.WriteString(l.preview(t))
	_, err := l.compile(t, plan.Options{}).Execute(t.Context(), l, func(e plan.Event) { fmt.Fprintf(&said, "%+v\n", e) })
	if err != nil {
		t.Fatal(err)
	}
	said.WriteString(l.preview(t))
	keys := 0
	for name, m := range l.hosts {
		for _, line := range m.Log() {
			said.WriteString(line + "\n")
		}
		for _, f := range m.Files() {
			text, _ := m.Read(f)
			if strings.Contains(f, "kubeadm-init") || strings.Contains(f, "kubeadm-join") {
				t.Errorf("%s was left on %s", f, name)
			}
			// What is secret on a host: the key that encrypts Secrets.
			if f != kubeadm.EncryptionConfigPath {
				continue
			}
			for _, field := range strings.Fields(text) {
				if len(field) < 40 {
					continue
				}
				if keys++; strings.Contains(said.String(), field) {
					t.Error("the encryption key was said")
				}
			}
		}
	}
	if !strings.Contains(said.String(), "controlplane/init") || keys == 0 {
		t.Errorf("nothing was said at all, or there are no secrets: %d keys", keys)
	}
}

// The user's password of the virtual IP is in one file of each control plane.
func TestCreate_passwordOfTheVirtualIP(t *testing.T) {
	t.Parallel()
	const canary = "canary-7"
	l := newLab(t, "../../examples/cluster-vip.yaml")
	var said strings.Builder
	said.WriteString(l.preview(t))
	if _, err := l.compile(t, plan.Options{}).Execute(t.Context(), l, func(e plan.Event) { fmt.Fprintf(&said, "%+v\n", e) }); err != nil {
		t.Fatal(err)
	}
	said.WriteString(l.preview(t))
	for name, m := range l.hosts {
		said.WriteString(strings.Join(m.Log(), "\n"))
		n, _ := l.inv.Node(name)
		for _, f := range m.Files() {
			text, _ := m.Read(f)
			if has := strings.Contains(text, canary); has != (n.ControlPlane && f == kubeadm.KeepalivedConfigPath) {
				t.Errorf("%s on %s: %v", f, name, has)
			}
		}
	}
	if strings.Contains(said.String(), canary) || !strings.Contains(said.String(), kubeadm.KeepalivedConfigPath) {
		t.Error("the password was said, or nothing was")
	}
}

// The key for an external etcd is in one file of each control plane, and no member
// of etcd is anywhere.
func TestCreate_withAnExternalEtcd(t *testing.T) {
	t.Parallel()
	l := newLab(t, "../../examples/cluster-external-etcd.yaml")
	var said strings.Builder
	said.WriteString(l.preview(t))
	if _, err := l.compile(t, plan.Options{}).Execute(t.Context(), l, func(e plan.Event) { fmt.Fprintf(&said, "%+v\n", e) }); err != nil {
		t.Fatal(err)
	}
	said.WriteString(l.preview(t))
	for name, m := range l.hosts {
		said.WriteString(strings.Join(m.Log(), "\n"))
		n, _ := l.inv.Node(name)
		if _, there := m.Read(kubeadm.EtcdKeyPath); there != n.ControlPlane {
			t.Errorf("the key on %s: %v", name, there)
		}
		for _, f := range m.Files() {
			if text, _ := m.Read(f); strings.Contains(text, etcdKey) && f != kubeadm.EtcdKeyPath {
				t.Errorf("the key is in %s on %s", f, name)
			}
			if strings.HasPrefix(f, "/var/lib/etcd") || f == kubeadm.EtcdManifestPath {
				t.Errorf("%s on %s", f, name)
			}
		}
		if info, err := m.Stat(t.Context(), kubeadm.EtcdKeyPath); n.ControlPlane && (err != nil || info.Mode().Perm() != 0o600) {
			t.Errorf("%v, %v", info, err)
		}
	}
	if strings.Contains(said.String(), etcdKey) || !strings.Contains(said.String(), kubeadm.EtcdKeyPath) || strings.Contains(said.String(), "k8s.io/etcd:") {
		t.Error("the key was said, or nothing was, or the image of etcd was imported")
	}
}

// A control plane starts keepalived by joining. Those that are there have to know
// it before, where they are told of each other: who is not told takes the address.
func TestCreatePhases_loadBalancersAreReadyBeforeAControlPlaneJoins(t *testing.T) {
	t.Parallel()
	for example, want := range map[string]bool{"vip": true, "local": false} {
		l := newLab(t, "../../examples/cluster-"+example+".yaml")
		phases, err := l.cluster.CreatePhases()
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(phases, func(p plan.Phase) bool { return p.Name == "control-planes" })
		if got := slices.Contains(phases[i].Needs, "loadbalancer"); got != want {
			t.Errorf("%s: control planes join after %v", example, phases[i].Needs)
		}
	}
}

// A control plane that left the YAML is part of the cluster until scale takes it
// out: the others go on to tell it that they hold the address, and it may hold it.
func TestCreatePhases_aControlPlaneThatIsStillThereIsReckonedWith(t *testing.T) {
	t.Parallel()
	l := newLab(t, "../../examples/cluster-vip.yaml")
	l.inv.Spec.ControlPlane.Endpoint.VRRP.Unicast = true
	l.cluster.Leaving = []inventory.Node{{Name: "cp-9", IP: "10.10.0.19", ControlPlane: true}}
	l.create(t, plan.Options{})
	for _, n := range l.inv.ControlPlanes() {
		if c, _ := l.hosts[n.Name].Read(kubeadm.KeepalivedConfigPath); !strings.Contains(c, "10.10.0.19") {
			t.Errorf("%s does not know cp-9:\n%s", n.Name, c)
		}
	}
	if ids := strings.Join(l.compile(t, plan.Options{}).StepIDs(), " "); strings.Contains(ids, "loadbalancer/holder") {
		t.Errorf("who holds the address is judged without cp-9: %s", ids)
	}
}

// With many hosts, all of them get their content in one go, and nobody waits
// for a head start that the others need too.
func TestCreatePhases_ofManyHosts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../examples/cluster-three-hosts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(file, []byte(strings.TrimRight(string(text), "\n")+"\n    - name: host9\n      address: 192.168.10.99\n      roles: [worker]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, file)
	b, err := archive.Open(archivetest.Write(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	l.cluster.Bundle = b
	phases, err := l.cluster.CreatePhases()
	if err != nil {
		t.Fatal(err)
	}
	after := map[string]bool{}
	for _, p := range phases {
		if p.HeadStart != nil {
			t.Errorf("%s gives others a head start", p.Name)
		}
		after[p.Name] = slices.Contains(p.Needs, "content")
	}
	for _, name := range []string{"os", "runtime", "kubernetes", "images"} {
		if !after[name] {
			t.Errorf("%s does not wait for its content", name)
		}
	}
	changes, err := l.compile(t, plan.Options{}).Preview(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changes {
		if c.Phase == "content" {
			got = append(got, c.Object)
			if c.Bytes == 0 {
				t.Errorf("%s: nothing to send", c.Object)
			}
		}
	}
	if len(got) != len(l.inv.Nodes) {
		t.Errorf("content for %v", got)
	}
}
