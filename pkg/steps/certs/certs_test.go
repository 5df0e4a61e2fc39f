package certs_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/certs"
)

func cluster(t *testing.T) *inventory.Inventory {
	t.Helper()
	c, err := config.Read("test", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: v1.36.3}
  hosts:
    - {name: cp-1, address: 10.0.0.1, roles: [control-plane]}
    - {name: worker-1, address: 10.0.0.2}
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

type world struct {
	m *hosttest.Machine
	p *kubetest.StaticPods
	c *kubetest.Cluster
	o certs.Options
}

// controlPlane is one whose certificates end in a week.
func controlPlane(t *testing.T) *world {
	t.Helper()
	inv := cluster(t)
	n, _ := inv.Node("cp-1")
	m := hosttest.OS(hosttest.New("cp-1"))
	c := kubetest.NewCluster(m.Wire)
	soon, later := time.Now().AddDate(0, 0, 7), time.Now().AddDate(9, 0, 0)
	for _, ca := range []string{"ca", "etcd/ca", "front-proxy-ca"} {
		cert, key := kubetest.Issue(ca, later)
		m.Write(pki.Dir+"/"+ca+".crt", 0o644, cert)
		m.Write(pki.Dir+"/"+ca+".key", 0o600, key)
	}
	for _, w := range pki.AllManaged() {
		cert, key := kubetest.Issue(w.Name, soon, "127.0.0.1")
		switch {
		case w.Name == "super-admin.conf": // init ran elsewhere
		case w.Kubeconfig():
			m.Write(w.Path, 0o600, kubetest.WithClient(c.Kubeconfig(), cert, key))
		default:
			m.Write(w.Path, 0o644, cert)
			m.Write(strings.TrimSuffix(w.Path, ".crt")+".key", 0o600, key)
		}
	}
	p := kubetest.StartPods(m)
	m.Install(c.Kubeadm())
	m.OnDial(p.Dial)
	return &world{m, p, c, certs.Options{Inventory: inv, Node: n, Operation: "op-1", Want: pki.AllManaged(), Now: time.Now, Healthy: func(context.Context) error { return nil }}}
}

func random() []string {
	out := []string{certs.MarkPath}
	for _, w := range pki.AllManaged() {
		out = append(out, w.Path, strings.TrimSuffix(w.Path, ".crt")+".key")
	}
	for _, ca := range []string{"ca", "etcd/ca", "front-proxy-ca"} {
		out = append(out, pki.Dir+"/"+ca+".crt", pki.Dir+"/"+ca+".key")
	}
	return out
}

// serials are the certificates on a host, by name.
func (w *world) serials(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, x := range pki.AllManaged() {
		text, ok := w.m.Read(x.Path)
		if !ok {
			continue
		}
		data := []byte(text)
		if x.Kubeconfig() {
			var err error
			if data, _, err = kubeadm.ClientCertificateOf(data); err != nil {
				t.Fatal(err)
			}
		}
		c, err := pki.First(data)
		if err != nil {
			t.Fatal(err)
		}
		out[x.Name] = pki.FactsOf(c).Serial
	}
	return out
}

func apply(t *testing.T, w *world, steps ...plan.Step) {
	t.Helper()
	for _, s := range steps {
		if err := s.Apply(t.Context(), ledger.Wrap(w.m)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFiles_converges(t *testing.T) {
	plantest.Converges(t, func() plantest.World {
		w := controlPlane(t)
		return plantest.World{Step: certs.Files(w.o), Host: w.m, Random: random(), Close: w.c.Close}
	})
}

func TestRestart_converges(t *testing.T) {
	plantest.Converges(t, func() plantest.World {
		w := controlPlane(t)
		apply(t, w, certs.Files(w.o))
		return plantest.World{Step: certs.Restart(w.o), Host: w.m, Random: random(), State: w.p.State, Close: w.c.Close}
	})
}

// However often it is cut off, an operation renews each certificate once and restarts
// each pod once; the next operation does it again.
func TestRenewal_eachCertificateOnceInAnOperation(t *testing.T) {
	for cut, late := 1, true; late; cut++ {
		w := controlPlane(t)
		before := w.serials(t)
		w.m.CutAfter(cut)
		late = false
		step := func(s plan.Step) {
			for {
				err := s.Apply(t.Context(), ledger.Wrap(w.m))
				if err == nil {
					return
				}
				if !w.m.Lost() {
					t.Fatalf("cut after write %d: it does not go on: %v", cut, err)
				}
				w.m.CutBefore(0)
				late = true
			}
		}
		step(certs.Files(w.o))
		renewed := 0
		for _, l := range w.m.Log() {
			if strings.Contains(l, "kubeadm certs renew") {
				renewed++
			}
		}
		step(certs.Restart(w.o))
		after := w.serials(t)
		for name, s := range before {
			if after[name] == s {
				t.Errorf("cut after write %d: %s is the old one", cut, name)
			}
		}
		if renewed != len(before) || len(w.p.Killed()) != 4 {
			t.Errorf("cut after write %d: %d renewals of %d certificates, restarts of %v", cut, renewed, len(before), w.p.Killed())
		}
		next := w.o
		next.Operation = "op-2"
		if changes, err := certs.Files(next).Check(t.Context(), w.m); err != nil || len(changes) != len(before) {
			t.Errorf("the next operation: %v, %v", changes, err)
		}
		w.c.Close()
		if !late && cut < 15 {
			t.Errorf("only %d writes were cut", cut-1)
		}
	}
}

// A host that loses its power between the key and the certificate has a pair that does
// not fit: the same operation renews it again.
func TestFiles_kubeadmCutOffBetweenKeyAndCertificate(t *testing.T) {
	w := controlPlane(t)
	defer w.c.Close()
	w.c.HaltAfter(1)
	if err := certs.Files(w.o).Apply(t.Context(), ledger.Wrap(w.m)); err == nil {
		t.Fatal("no error surfaces")
	}
	w.c.HaltAfter(0)
	w.m.CutBefore(0)
	apply(t, w, certs.Files(w.o), certs.Restart(w.o))
	cert, _ := w.m.Read(pki.Dir + "/apiserver.crt")
	key, _ := w.m.Read(pki.Dir + "/apiserver.key")
	if _, err := tls.X509KeyPair([]byte(cert), []byte(key)); err != nil {
		t.Error(err)
	}
}

func TestRestart_onlyWhatUsesTheCertificates(t *testing.T) {
	w := controlPlane(t)
	defer w.c.Close()
	w.o.Want, _ = pki.Select([]string{"scheduler.conf", "admin.conf"})
	apply(t, w, certs.Files(w.o), certs.Restart(w.o))
	if fmt.Sprint(w.p.Killed()) != "[kube-scheduler]" {
		t.Errorf("restarted: %v", w.p.Killed())
	}
}

// A run that was cut off between the last file and the list of containers.
func TestRestart_whereNobodyWroteDownWhatRan(t *testing.T) {
	w := controlPlane(t)
	defer w.c.Close()
	apply(t, w, certs.Files(w.o))
	text, _ := w.m.Read(certs.MarkPath)
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil || m["containers"] == nil {
		t.Fatalf("%v in %s", err, text)
	}
	delete(m, "containers")
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	w.m.Write(certs.MarkPath, 0o600, string(raw))
	if changes, err := certs.Restart(w.o).Check(t.Context(), w.m); err != nil || len(changes) != 4 || !changes[0].Disruptive {
		t.Errorf("%v, %v", changes, err)
	}
	apply(t, w, certs.Restart(w.o))
	if fmt.Sprint(w.p.Killed()) != "[etcd kube-apiserver kube-controller-manager kube-scheduler]" {
		t.Errorf("restarted: %v", w.p.Killed())
	}
}

func TestRestart_waitsForAHealthyCluster(t *testing.T) {
	w := controlPlane(t)
	defer w.c.Close()
	apply(t, w, certs.Files(w.o))
	w.o.Healthy = func(context.Context) error { return errors.New("etcd member cp-2: it knows no leader") }
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := certs.Restart(w.o).Apply(ctx, ledger.Wrap(w.m))
	if err == nil || !strings.Contains(err.Error(), "it knows no leader") || len(w.p.Killed()) > 0 || fault.HintOf(err) == "" {
		t.Errorf("%v, restarted %v", err, w.p.Killed())
	}
}

// A pod that runs and serves another certificate than that of its file is not done.
func TestRestart_provesWhatIsServed(t *testing.T) {
	w := controlPlane(t)
	defer w.c.Close()
	apply(t, w, certs.Files(w.o), certs.Restart(w.o))
	cert, key := kubetest.Issue("stranger", time.Now().AddDate(1, 0, 0))
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	w.p.Serve("2380", pair)
	changes, err := certs.Restart(w.o).Check(t.Context(), w.m)
	if err != nil || len(changes) != 1 || !strings.Contains(changes[0].From, "etcd serves the certificate "+mustSerial(t, cert)+" at 10.0.0.1:2380") {
		t.Errorf("%v, %v", changes, err)
	}
}

func mustSerial(t *testing.T, cert string) string {
	t.Helper()
	c, err := pki.First([]byte(cert))
	if err != nil {
		t.Fatal(err)
	}
	return pki.FactsOf(c).Serial
}

func TestFiles_refusesWhatItCannotSign(t *testing.T) {
	for name, x := range map[string]struct {
		damage func(*hosttest.Machine)
		want   string
		hint   string
	}{
		"an external CA": {func(m *hosttest.Machine) { m.Delete(pki.Dir + "/front-proxy-ca.key") }, "the CA is an external one and kubeadm cannot sign front-proxy-client", "generate-csr"},
		"a CA that ended": {func(m *hosttest.Machine) {
			cert, _ := kubetest.Issue("ca", time.Now().AddDate(0, 0, -1))
			m.Write(pki.Dir+"/ca.crt", 0o644, cert)
		}, "the CA /etc/kubernetes/pki/ca.crt has ended", "Manual Rotation of CA Certificates"},
	} {
		t.Run(name, func(t *testing.T) {
			w := controlPlane(t)
			defer w.c.Close()
			x.damage(w.m)
			_, err := certs.Files(w.o).Check(t.Context(), w.m)
			if err == nil || fault.CodeOf(err) != fault.Preflight || !strings.Contains(err.Error(), x.want) || !strings.Contains(fault.HintOf(err), x.hint) {
				t.Errorf("%v; %s", err, fault.HintOf(err))
			}
			if err := certs.Files(w.o).Apply(t.Context(), ledger.Wrap(w.m)); err == nil || w.m.Writes() > 0 {
				t.Errorf("%v after %v", err, w.m.Log())
			}
		})
	}
}

func linker(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
	if argv[0] != "ln" || len(argv) != 4 {
		return hosttest.Reply{}, false
	}
	m.Delete(argv[3])
	m.Link(argv[3], argv[2])
	return hosttest.Reply{}, true
}

// lateWorker is a worker whose kubelet was away when its certificate ended.
func lateWorker(t *testing.T) (*hosttest.Machine, *world, certs.KubeletOptions) {
	t.Helper()
	w := controlPlane(t)
	inv := w.o.Inventory
	n, _ := inv.Node("worker-1")
	m := hosttest.OS(hosttest.New("worker-1"))
	m.Install(linker)
	ended := time.Now().AddDate(0, 0, -1)
	old := pki.KubeletDir + "/kubelet-client-2025-01-01-00-00-00.pem"
	cert, key := kubetest.Issue("system:node:worker-1", ended)
	m.Write(old, 0o600, cert+key)
	m.Link(pki.KubeletClientPath, old)
	own, ownKey := kubetest.Issue("worker-1-ca", ended)
	m.Write(pki.KubeletDir+"/kubelet.crt", 0o644, own)
	m.Write(pki.KubeletDir+"/kubelet.key", 0o600, ownKey)
	ca, _ := w.m.Read(kubeadm.CACertPath)
	m.Write(kubeadm.CACertPath, 0o644, ca)
	conf, err := kubeadm.WithClientFile([]byte(w.c.Kubeconfig()), pki.KubeletClientPath, "https://10.0.0.100:8443")
	if err != nil {
		t.Fatal(err)
	}
	m.Write(pki.KubeletConfPath, 0o600, string(conf))
	m.Write("/etc/systemd/system/kubelet.service", 0o644, "[Service]\nExecStart=/usr/bin/kubelet\n")
	signer := &certs.Signer{Inventory: inv, Node: w.o.Node, Dial: func(context.Context) (host.Host, error) { return ledger.Wrap(w.m), nil }}
	now := time.Now()
	return m, w, certs.KubeletOptions{Inventory: inv, Node: n, Sign: signer.Sign, Now: func() time.Time { return now }}
}

func TestKubelet_converges(t *testing.T) {
	now := time.Now()
	plantest.Converges(t, func() plantest.World {
		m, w, o := lateWorker(t)
		o.Now = func() time.Time { return now }
		return plantest.World{Step: certs.Kubelet(o), Host: m, Close: w.c.Close, Random: []string{
			kubeadm.CACertPath, pki.KubeletConfPath, pki.KubeletDir + "/kubelet-client-2025-01-01-00-00-00.pem",
			pki.KubeletDir + "/kubelet-client-" + now.UTC().Format("2006-01-02-15-04-05") + ".pem",
		}}
	})
}

func TestKubelet_getsACertificateInItsOwnForm(t *testing.T) {
	m, w, o := lateWorker(t)
	defer w.c.Close()
	if err := certs.Kubelet(o).Apply(t.Context(), ledger.Wrap(m)); err != nil {
		t.Fatal(err)
	}
	text, err := m.ReadFile(t.Context(), pki.KubeletClientPath)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(text, text); err != nil {
		t.Error(err)
	}
	c, err := pki.First(text)
	if err != nil || c.Subject.CommonName != "system:node:worker-1" {
		t.Errorf("%v, %v", c, err)
	}
	if _, there := m.Read(pki.KubeletDir + "/kubelet.crt"); there {
		t.Error("the serving certificate that ended is still there")
	}
	conf, _ := m.Read(pki.KubeletConfPath)
	if server, err := kubeadm.ServerOf([]byte(conf)); err != nil || server != "https://10.0.0.100:8443" {
		t.Errorf("%s, %v", server, err)
	}
	if !slices.ContainsFunc(m.Log(), func(l string) bool { return strings.Contains(l, "restart kubelet.service") }) {
		t.Errorf("the kubelet was not restarted: %v", m.Log())
	}
	if _, there := w.m.Read(kubeadm.CertConfigPath); there {
		t.Error("the configuration is still on the control plane")
	}
}

// Without a kubeconfig a kubelet is told of the API as the YAML has it.
func TestKubelet_withoutAKubeconfig(t *testing.T) {
	m, w, o := lateWorker(t)
	defer w.c.Close()
	m.Delete(pki.KubeletConfPath)
	if err := certs.Kubelet(o).Apply(t.Context(), ledger.Wrap(m)); err != nil {
		t.Fatal(err)
	}
	conf, _ := m.Read(pki.KubeletConfPath)
	if server, err := kubeadm.ServerOf([]byte(conf)); err != nil || server != "https://10.0.0.1:6443" {
		t.Errorf("%s, %v", server, err)
	}
	if _, file, err := kubeadm.ClientCertificateOf([]byte(conf)); err != nil || file != pki.KubeletClientPath {
		t.Errorf("%s, %v", file, err)
	}
}

// A kubelet that can renew its certificate by itself is left alone, and so is a host
// that has not joined.
func TestKubelet_leavesTheOthersAlone(t *testing.T) {
	m, w, o := lateWorker(t)
	defer w.c.Close()
	cert, key := kubetest.Issue("system:node:worker-1", time.Now().Add(time.Hour))
	m.Write(pki.KubeletClientPath, 0o600, cert+key)
	m.Delete(pki.KubeletDir + "/kubelet.crt")
	if changes, err := certs.Kubelet(o).Check(t.Context(), m); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
	// One that has just joined has its certificate in its kubeconfig.
	m.Delete(pki.KubeletClientPath)
	m.Write(pki.KubeletConfPath, 0o600, kubetest.WithClient(w.c.Kubeconfig(), cert, key))
	if changes, err := certs.Kubelet(o).Check(t.Context(), m); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
	m.Delete(kubeadm.CACertPath)
	m.Delete(pki.KubeletConfPath)
	if changes, err := certs.Kubelet(o).Check(t.Context(), m); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
}
