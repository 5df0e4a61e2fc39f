package restore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/etcd/datadir"
	"github.com/kocli/kocli/pkg/etcd/etcdtest"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/restore"
)

const (
	pki       = "/etc/kubernetes/pki/"
	kocli     = "/usr/local/bin/kocli"
	kubelet   = "/run/kubelet-runs" // stands for the process
	snapshots = "/var/lib/etcd/.kocli-snapshot.db"

	kubeletPair = "/var/lib/kubelet/pki/kubelet-client-current.pem"
)

func cluster(t *testing.T) *inventory.Inventory {
	t.Helper()
	c, err := config.Read("test", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: v1.36.3}
  controlPlane: {endpoint: {mode: external, address: 10.0.0.100}}
  hosts:
    - {name: cp-1, address: 10.0.0.1, roles: [control-plane]}
    - {name: cp-2, address: 10.0.0.2, roles: [control-plane]}
    - {name: cp-3, address: 10.0.0.3, roles: [control-plane]}
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

// authority is a CA, and certificates of it.
type authority struct {
	pem  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(4_000_000_000, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), cert, key}
}

// leaf is a certificate for names and addresses.
func (a authority) leaf(t *testing.T, sans ...string) string {
	t.Helper()
	return a.until(t, "", time.Unix(4_000_000_000, 0), sans...)
}

// until is a certificate of somebody that ends then.
func (a authority) until(t *testing.T, name string, end time.Time, sans ...string) string {
	t.Helper()
	form := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: end}
	for _, s := range sans {
		if ip := net.ParseIP(s); ip != nil {
			form.IPAddresses = append(form.IPAddresses, ip)
		} else {
			form.DNSNames = append(form.DNSNames, s)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, form, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (a authority) conf(server string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster: {server: %q, certificate-authority-data: %s}\nusers: [{name: u, user: {token: t}}]\n", server, base64.StdEncoding.EncodeToString(a.pem))
}

// client is a kubeconfig that leads to the host, with a certificate inside.
func (a authority) client(cert string) string {
	return strings.Replace(a.conf("https://10.0.0.1:6443"), "{token: t}", fmt.Sprintf("{client-certificate-data: %s}", base64.StdEncoding.EncodeToString([]byte(cert))), 1)
}

func leafPaths() []string {
	return []string{pki + "apiserver", pki + "apiserver-kubelet-client", pki + "front-proxy-client", pki + "apiserver-etcd-client", pki + "etcd/server", pki + "etcd/peer", pki + "etcd/healthcheck-client"}
}

func confPaths() []string {
	const dir = "/etc/kubernetes/"
	return []string{dir + "admin.conf", dir + "super-admin.conf", dir + "controller-manager.conf", dir + "scheduler.conf", dir + "kubelet.conf"}
}

// plane is cp-1: a host with the programs of a control plane, and what they do.
type plane struct {
	*hosttest.Machine
	api   *kubetest.Cluster
	o     restore.Options
	ran   []string // phases of kubeadm
	asked []datadir.Request
}

func newPlane(t *testing.T, ca authority) *plane {
	t.Helper()
	inv := cluster(t)
	m := hosttest.OS(hosttest.New("cp-1"))
	api := kubetest.NewCluster(m.Wire)
	t.Cleanup(api.Close)
	m.OnDial(api.Dial)
	access := kube.NewAccess()
	p := &plane{Machine: m, api: api}
	m.Install(p.kubeadm(t, ca), p.kocli(), runs)
	m.Handle(func(m *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		if argv[0] != "systemctl" || argv[len(argv)-1] != "kubelet.service" {
			return "", 0, false
		}
		_, active := m.Read(kubelet)
		switch argv[1] {
		case "is-active":
			return map[bool]string{true: "active\n", false: "inactive\n"}[active], 0, true
		case "stop":
			m.Delete(kubelet)
			return "", 0, true
		case "restart": // a kubelet that starts registers its node
			m.Write(kubelet, 0o600, "")
			p.api.AddNode(m.Name())
			return "", 0, true
		}
		return "", 0, false
	})
	f := host.Bytes("", 0o600, []byte("the snapshot"))
	p.o = restore.Options{
		Inventory: inv, Node: inv.Nodes[0], ID: "id", Kocli: kocli, Snapshot: &f, Now: time.Now, Patience: 100 * time.Millisecond,
		API: kube.API{
			Look: func(ctx context.Context) (*kube.Client, error) { return access.Look(ctx, m) },
			Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, m) },
		},
	}
	for _, n := range []string{"ca.crt", "front-proxy-ca.crt", "etcd/ca.crt"} {
		p.o.Files = append(p.o.Files, host.Bytes(pki+n, 0o600, ca.pem))
	}
	return p
}

// kubeadm does what phases of kubeadm init do.
func (p *plane) kubeadm(t *testing.T, ca authority) hosttest.Program {
	return func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		i := slices.Index(argv, "/usr/bin/kubeadm")
		if i < 0 {
			return hosttest.Reply{}, false
		}
		if conf, ok := m.Read(kubeadm.RestoreConfigPath); !ok || !strings.Contains(conf, "advertiseAddress: 10.0.0.1") {
			return hosttest.Reply{Stderr: "error: no configuration", Code: 1}, true
		}
		name := strings.Join(argv[i+3:len(argv)-2], " ")
		p.ran = append(p.ran, name)
		new := func(path, text string) { // kubeadm uses what is there
			if _, ok := m.Read(path); !ok {
				m.Write(path, 0o600, text)
			}
		}
		switch name {
		case "certs all":
			for _, l := range leafPaths() { // as kubeadm does: the key first, and half a pair is an error
				_, key := m.Read(l + ".key")
				if _, cert := m.Read(l + ".crt"); key != cert {
					return hosttest.Reply{Stderr: "error: failure loading certificate and key", Code: 1}, true
				}
				new(l+".key", "key")
				new(l+".crt", ca.leaf(t, "cp-1", "10.0.0.1", "10.0.0.100", "127.0.0.1"))
			}
		case "kubeconfig admin", "kubeconfig super-admin", "kubeconfig controller-manager", "kubeconfig scheduler", "kubeconfig kubelet":
			new("/etc/kubernetes/"+strings.TrimPrefix(name, "kubeconfig ")+".conf", ca.conf("https://10.0.0.100:6443"))
		case "kubelet-finalize enable-client-cert-rotation":
			m.Write("/etc/kubernetes/kubelet.conf", 0o600, strings.Replace(ca.conf("https://10.0.0.1:6443"), "{token: t}", "{client-certificate: "+kubeletPair+"}", 1))
		case "etcd local":
			new(kubeadm.EtcdManifestPath, "etcd")
		case "kubelet-start":
			m.Write("/var/lib/kubelet/config.yaml", 0o644, "kubelet")
			m.Write(kubelet, 0o600, "")
		case "control-plane apiserver", "control-plane controller-manager", "control-plane scheduler":
			new(kubeadm.ManifestsDir+"/kube-"+strings.TrimPrefix(strings.TrimPrefix(name, "control-plane "), "api")+".yaml", name)
			new(kubeadm.APIServerManifestPath, "api")
		case "mark-control-plane":
			p.api.AddControlPlane(m.Name())
		default:
			return hosttest.Reply{Stderr: "error: no phase " + name, Code: 1}, true
		}
		return hosttest.Reply{}, true
	}
}

// kocli makes the data directory.
func (p *plane) kocli() hosttest.Program {
	return func(_ context.Context, m *hosttest.Machine, argv []string, stdin []byte) (hosttest.Reply, bool) {
		if argv[0] != kocli {
			return hosttest.Reply{}, false
		}
		var rq datadir.Request
		if err := json.Unmarshal(stdin, &rq); err != nil {
			return hosttest.Reply{Stderr: err.Error(), Code: 2}, true
		}
		p.asked = append(p.asked, rq)
		if rq.Snapshot != "" {
			if data, ok := m.Read(rq.Snapshot); !ok || data != "the snapshot" {
				return hosttest.Reply{Stderr: "error: no snapshot", Code: 1}, true
			}
		}
		m.Write(datadir.MarkerPath(rq.Dir), 0o600, string(datadir.Marker(rq.ID)))
		return hosttest.Reply{}, true
	}
}

// runs has a container run for each static pod.
func runs(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
	if argv[0] != "/usr/local/bin/ctr" {
		return hosttest.Reply{}, false
	}
	var out string
	for _, c := range []string{"etcd", "kube-apiserver", "kube-scheduler", "kube-controller-manager"} {
		_, there := m.Read(kubeadm.ManifestsDir + "/" + c + ".yaml")
		switch {
		case !there:
		case argv[3] == "tasks":
			out += c + " 17 RUNNING\n"
		case strings.HasSuffix(argv[len(argv)-1], "=="+c):
			out += c + "\n"
		}
	}
	return hosttest.Reply{Stdout: out}, true
}

// old is a control plane that ran before, at another address.
func (p *plane) old(t *testing.T, ca authority) {
	t.Helper()
	for _, c := range []string{"etcd", "kube-apiserver", "kube-scheduler", "kube-controller-manager"} {
		p.Write(kubeadm.ManifestsDir+"/"+c+".yaml", 0o600, "old")
	}
	for _, l := range leafPaths() {
		p.Write(l+".crt", 0o644, ca.leaf(t, "cp-1", "10.9.9.9"))
		p.Write(l+".key", 0o600, "key")
	}
	for _, c := range confPaths() {
		p.Write(c, 0o600, ca.conf("https://10.9.9.9:6443"))
	}
	p.Write("/var/lib/kubelet/config.yaml", 0o644, "kubelet")
	p.Write(kubelet, 0o600, "")
}

func TestSteps_converge(t *testing.T) {
	ca := newAuthority(t)
	var random []string
	for _, l := range leafPaths() {
		random = append(random, l+".crt")
	}
	for name, tt := range map[string]struct {
		step    func(restore.Options) plan.Step
		prepare func(*plane)
	}{
		"stop":                      {restore.Stop, func(p *plane) { p.old(t, ca) }},
		"files, on a new host":      {restore.Files, func(*plane) {}},
		"files, at other addresses": {restore.Files, func(p *plane) { p.old(t, ca) }},
		"files, of another CA":      {restore.Files, func(p *plane) { p.old(t, newAuthority(t)) }},
		"files, that have ended": {restore.Files, func(p *plane) {
			p.Write(pki+"front-proxy-client.crt", 0o644, ca.until(t, "front-proxy-client", time.Unix(1_000_000_000, 0)))
			p.Write(pki+"front-proxy-client.key", 0o600, "key")
			p.Write("/etc/kubernetes/scheduler.conf", 0o600, ca.client(ca.until(t, "s", time.Unix(1_000_000_000, 0))))
			p.Write("/etc/kubernetes/kubelet.conf", 0o600, ca.client(ca.until(t, "system:node:another", time.Unix(4_000_000_000, 0))))
			p.Write(kubeletPair, 0o600, "pair")
		}},
		"files, half a pair that a killed kubeadm left": {restore.Files, func(p *plane) { p.Write(pki+"etcd/peer.key", 0o600, "key") }},
		"data": {restore.Data, func(*plane) {}},
		"data, the snapshot is left": {restore.Data, func(p *plane) {
			p.Write(datadir.MarkerPath(restore.DataDir), 0o600, string(datadir.Marker("id")))
			p.Write(snapshots, 0o600, "x")
		}},
		"certificates": {func(o restore.Options) plan.Step { return restore.Credentials(o)[0] }, func(*plane) {}},
		"kubeconfigs":  {func(o restore.Options) plan.Step { return restore.Credentials(o)[1] }, func(*plane) {}},
		"etcd":         {func(o restore.Options) plan.Step { return restore.Etcd(o)[0] }, func(*plane) {}},
		"kubelet":      {func(o restore.Options) plan.Step { return restore.Etcd(o)[1] }, func(*plane) {}},
		"API server":   {func(o restore.Options) plan.Step { return restore.APIServer(o)[0] }, func(*plane) {}},
		"controllers":  {func(o restore.Options) plan.Step { return restore.Controllers(o)[0] }, func(*plane) {}},
		"mark": {func(o restore.Options) plan.Step { return restore.Registered(o)[1] }, func(p *plane) {
			p.Write(kube.AdminConf(), 0o600, p.api.Kubeconfig())
			p.api.AddNode("cp-1")
		}},
		"registered, by a kubelet that ran before": {func(o restore.Options) plan.Step { return restore.Registered(o)[0] }, func(p *plane) {
			p.Write(kube.AdminConf(), 0o600, p.api.Kubeconfig())
		}},
		"rotation": {func(o restore.Options) plan.Step { return restore.Registered(o)[2] }, func(p *plane) {
			p.Write("/etc/kubernetes/kubelet.conf", 0o600, ca.client("cert"))
			p.Write(kubeletPair, 0o600, "pair")
		}},
		"control planes of the backup": {restore.Superseded, func(p *plane) {
			p.Write(kube.AdminConf(), 0o600, p.api.Kubeconfig())
			for _, n := range []string{"cp-1", "old-1", "old-2"} {
				p.api.AddControlPlane(n)
			}
		}},
		"a worker that joins anew": {func(o restore.Options) plan.Step { return restore.Returned(o, true) }, func(p *plane) {
			p.Write(kube.AdminConf(), 0o600, p.api.Kubeconfig())
			p.Write("/etc/kubernetes/kubelet.conf", 0o600, "of the old cluster")
			p.Write(kubeletPair, 0o600, "pair")
		}},
		"a worker that registers again": {func(o restore.Options) plan.Step { return restore.Returned(o, false) }, func(p *plane) {
			p.Write(kube.AdminConf(), 0o600, p.api.Kubeconfig())
			p.Write("/etc/kubernetes/kubelet.conf", 0o600, "of the old cluster")
		}},
		"forget": {func(o restore.Options) plan.Step { return restore.Forget("worker-1", o.API) }, func(p *plane) {
			p.Write(kube.AdminConf(), 0o600, p.api.Kubeconfig())
			p.api.AddNode("worker-1")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			plantest.Converges(t, func() plantest.World {
				p := newPlane(t, ca)
				tt.prepare(p)
				return plantest.World{Step: tt.step(p.o), Host: p.Machine, Random: append([]string{kubeadm.RestoreConfigPath}, random...)}
			})
		})
	}
}

// In the order of a restore, a host that ran at another address ends with all of its
// own, and nothing of what was there is lost.
func TestSteps_inTheirOrderMakeAControlPlane(t *testing.T) {
	ca := newAuthority(t)
	p := newPlane(t, ca)
	p.old(t, ca)
	steps := slices.Concat([]plan.Step{restore.Stop(p.o), restore.Data(p.o), restore.Files(p.o)}, restore.Credentials(p.o), restore.Etcd(p.o), restore.APIServer(p.o)[:1], restore.Controllers(p.o)[:1])
	for range 2 { // a second run does nothing
		for _, s := range steps {
			todo, err := s.Check(t.Context(), p.Machine)
			if err == nil && len(todo) > 0 {
				err = s.Apply(t.Context(), p.Machine)
			}
			if err != nil {
				t.Fatalf("%s: %v", s.ID(), err)
			}
		}
	}
	if got := strings.Join(p.ran, ", "); got != "certs all, kubeconfig admin, kubeconfig super-admin, kubeconfig controller-manager, kubeconfig scheduler, kubeconfig kubelet, etcd local, kubelet-start, control-plane apiserver, control-plane controller-manager, control-plane scheduler" {
		t.Errorf("kubeadm ran %s", got)
	}
	want := datadir.Request{ID: "id", Dir: "/var/lib/etcd", Snapshot: snapshots, Member: datadir.Member{
		Name: "cp-1", PeerURL: "https://10.0.0.1:2380", Token: "kocli-id", Cluster: "cp-1=https://10.0.0.1:2380,cp-2=https://10.0.0.2:2380,cp-3=https://10.0.0.3:2380",
	}}
	if len(p.asked) != 1 || p.asked[0] != want {
		t.Errorf("kocli was asked %+v", p.asked)
	}
	if _, ok := p.Read(snapshots); ok {
		t.Error("the snapshot is left")
	}
	if _, ok := p.Read(kubeadm.RestoreConfigPath); ok {
		t.Error("the configuration with a token is left")
	}
	if m, _ := p.Read(kubeadm.EtcdManifestPath); m != "etcd" {
		t.Errorf("the manifest of etcd is %q", m)
	}
}

// What is good stays, and what the kubelet keeps of another time goes with its
// kubeconfig.
func TestFiles_replaceOnlyWhatCannotBeUsed(t *testing.T) {
	ca := newAuthority(t)
	p := newPlane(t, ca)
	end := time.Unix(4_000_000_000, 0)
	good := ca.client(ca.until(t, "system:node:cp-1", end))
	p.Write("/etc/kubernetes/kubelet.conf", 0o600, good)
	p.Write("/etc/kubernetes/scheduler.conf", 0o600, ca.client(ca.until(t, "s", end)))
	p.Write(kubeletPair, 0o600, "pair")
	files := func() {
		t.Helper()
		if err := restore.Files(p.o).Apply(t.Context(), p.Machine); err != nil {
			t.Fatal(err)
		}
	}
	files()
	for _, f := range []string{"/etc/kubernetes/kubelet.conf", "/etc/kubernetes/scheduler.conf", kubeletPair} {
		if _, ok := p.Read(f); !ok {
			t.Errorf("%s was good, and is gone", f)
		}
	}
	for name, conf := range map[string]string{
		"in another node's name":  ca.client(ca.until(t, "system:node:cp-2", end)),
		"with an ended client":    ca.client(ca.until(t, "system:node:cp-1", time.Unix(1_000_000_000, 0))),
		"of another CA":           newAuthority(t).conf("https://10.0.0.1:6443"),
		"that leads elsewhere":    ca.conf("https://10.9.9.9:6443"),
		"with a pair that lacks":  strings.Replace(ca.conf("https://10.0.0.1:6443"), "{token: t}", "{client-certificate: /nowhere.pem}", 1),
		"that is no kubeconfig":   "{",
		"that trusts nobody":      "apiVersion: v1\nclusters: [{name: c, cluster: {server: \"https://10.0.0.1:6443\"}}]\n",
		"in the name of somebody": ca.client(newAuthority(t).until(t, "system:node:cp-1", end)),
	} {
		p.Write("/etc/kubernetes/kubelet.conf", 0o600, conf)
		p.Write(kubeletPair, 0o600, "pair")
		files()
		_, ok1 := p.Read("/etc/kubernetes/kubelet.conf")
		_, ok2 := p.Read(kubeletPair)
		if ok1 || ok2 {
			t.Errorf("the kubelet keeps a kubeconfig %s, or its pair", name)
		}
	}
}

// The control plane that reports stays: its pods run. Nodes of other roles do as well.
func TestSuperseded_leavesWhoReports(t *testing.T) {
	p := newPlane(t, newAuthority(t))
	p.Write(kube.AdminConf(), 0o600, p.api.Kubeconfig())
	for _, n := range []string{"cp-1", "silent", "alive", "waking"} {
		p.api.AddControlPlane(n)
	}
	p.api.AddNode("worker-9")
	for _, n := range []string{"silent", "alive"} {
		p.api.Put("pods", "kube-system", "dns-on-"+n, kubetest.Object{"spec": kubetest.Object{"nodeName": n}})
	}
	report := func(n string, at time.Time) {
		p.api.Put("leases", "kube-node-lease", n, kubetest.Object{"spec": kubetest.Object{"renewTime": at.UTC().Format("2006-01-02T15:04:05.000000Z07:00")}})
	}
	long := time.Now().Add(-time.Hour)
	report("silent", long)
	report("waking", long)
	report("alive", time.Now())
	p.o.Patience = time.Second
	time.AfterFunc(200*time.Millisecond, func() { report("waking", time.Now()) })
	s := restore.Superseded(p.o)
	if err := s.Apply(t.Context(), p.Machine); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, n := range []string{"cp-1", "silent", "alive", "waking", "worker-9"} {
		if p.api.Get("nodes", "", n) != nil {
			left = append(left, n)
		}
	}
	if got := strings.Join(left, " "); got != "cp-1 alive waking worker-9" {
		t.Errorf("left are %s", got)
	}
	if p.api.Get("pods", "kube-system", "dns-on-silent") != nil || p.api.Get("pods", "kube-system", "dns-on-alive") == nil {
		t.Error("pods of the node that is gone are left, or those of another one are not")
	}
	if todo, err := s.Check(t.Context(), p.Machine); err != nil || len(todo) > 0 {
		t.Errorf("%v, %v", todo, err)
	}
}

// A survivor's own data is restored, without a snapshot and without other files.
func TestData_ofASurvivor(t *testing.T) {
	p := newPlane(t, newAuthority(t))
	p.o.Snapshot, p.o.Files = nil, nil
	if err := restore.Data(p.o).Apply(t.Context(), p.Machine); err != nil {
		t.Fatal(err)
	}
	if len(p.asked) != 1 || p.asked[0].Snapshot != "" {
		t.Errorf("%+v", p.asked)
	}
}

func TestData_saysWhatToDo(t *testing.T) {
	p := newPlane(t, newAuthority(t))
	p.Install(func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		return hosttest.Reply{Stderr: "error: no space left on device", Code: 1}, argv[0] == kocli
	})
	err := restore.Data(p.o).Apply(t.Context(), p.Machine)
	if err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(fault.HintOf(err), "df -h /var/lib/etcd") {
		t.Errorf("%v; %s", err, fault.HintOf(err))
	}
}

func TestQuorum_namesWhoLacks(t *testing.T) {
	p := newPlane(t, newAuthority(t))
	e := etcdtest.New(t)
	e.Install(p.Machine)
	p.OnDial(e.Dial)
	e.Add("cp-1", "10.0.0.1")
	e.Add("cp-2", "10.0.0.2")
	s := restore.Quorum(p.o)
	if todo, err := s.Check(t.Context(), p.Machine); err != nil || len(todo) != 1 {
		t.Errorf("two of three members: %v, %v", todo, err)
	}
	e.Add("cp-3", "10.0.0.3")
	if todo, err := s.Check(t.Context(), p.Machine); err != nil || len(todo) != 0 {
		t.Errorf("all members: %v, %v", todo, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
	defer cancel()
	e.Down("10.0.0.2", true)
	if err := s.Apply(ctx, p.Machine); err == nil || !strings.Contains(err.Error(), "cp-2") || fault.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
}

func TestNewID_isThatOfBackupAndMembers(t *testing.T) {
	inv := cluster(t)
	a := restore.NewID("x", inv.Nodes)
	moved := slices.Clone(inv.Nodes)
	moved[1].IP = "10.0.0.9"
	if a != restore.NewID("x", inv.Nodes) || a == restore.NewID("y", inv.Nodes) || a == restore.NewID("x", moved) || a == restore.NewID("x", inv.Nodes[:2]) {
		t.Error("other restores have the same ID, or one has two")
	}
}
