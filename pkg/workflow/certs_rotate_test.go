package workflow

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/steps/certs"
)

// rotated is a cluster in memory whose certificates are signed by its CAs: three
// control planes and a worker.
type rotated struct {
	hosts    machines
	pods     map[string]*kubetest.StaticPods
	clusters map[string]*kubetest.Cluster
	old      map[string][2]string
}

func newRotated(t *testing.T) *rotated {
	t.Helper()
	w := &rotated{hosts: machines{}, pods: map[string]*kubetest.StaticPods{}, clusters: map[string]*kubetest.Cluster{}, old: map[string][2]string{}}
	for _, a := range pki.Authorities() {
		cert, key := kubetest.Issue(a.Name, time.Now().AddDate(0, 2, 0))
		w.old[a.Name] = [2]string{cert, key}
	}
	for _, n := range []string{"cp-1", "cp-2", "cp-3"} {
		w.plane(t, n)
	}
	w.node(t, "worker-1")
	cert, key := kubetest.Issue("kubelet", time.Now().AddDate(1, 0, 0))
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	for n, m := range w.hosts {
		at := n
		if w.pods[n] == nil {
			at = "cp-1"
		}
		m.OnDial(func(ctx context.Context, network, address string) (net.Conn, error) {
			switch {
			case m.Lost():
				return nil, hosttest.ErrCut
			case strings.HasSuffix(address, ":6443"):
				return w.clusters[at].Dial(ctx, network, address)
			case strings.HasSuffix(address, ":10250"):
				w.pods[at].Serve("10250", pair)
			}
			return w.pods[at].Dial(ctx, network, address)
		})
	}
	return w
}

// node is what a worker has, and a control plane as well.
func (w *rotated) node(t *testing.T, name string) *hosttest.Machine {
	t.Helper()
	m := hosttest.OS(hosttest.New(name))
	main := w.old["ca"]
	m.Write(kubeadm.CACertPath, 0o644, main[0])
	cert, key := kubetest.Sign(main[0], main[1], "system:node:"+name, time.Now().AddDate(0, 1, 0))
	m.Write(pki.KubeletDir+"/kubelet-client-1.pem", 0o600, cert+key)
	m.Link(pki.KubeletClientPath, pki.KubeletDir+"/kubelet-client-1.pem")
	c := kubetest.NewCluster(m.Wire)
	t.Cleanup(c.Close)
	conf, err1 := kubeadm.WithAuthority([]byte(c.Kubeconfig()), []byte(main[0]))
	kubelet, err2 := kubeadm.WithClientFile(conf, pki.KubeletClientPath, "https://10.0.0.100:6443")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	m.Write(pki.KubeletConfPath, 0o600, string(kubelet))
	m.Write("/etc/systemd/system/kubelet.service", 0o644, "[Service]\nExecStart=/usr/bin/kubelet\n")
	m.Install(c.Kubeadm(), func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		if argv[0] != "ln" {
			return hosttest.Reply{}, false
		}
		m.Link(argv[3], argv[2])
		return hosttest.Reply{}, true
	})
	w.hosts[name], w.clusters[name] = m, c
	return m
}

func (w *rotated) plane(t *testing.T, name string) {
	t.Helper()
	m := w.node(t, name)
	c := w.clusters[name]
	for _, n := range []string{"cp-1", "cp-2", "cp-3", "worker-1"} {
		c.AddNode(n)
		c.Put("namespaces", "", "kube-node-lease", kubetest.Object{})
		c.Put("leases", "kube-node-lease", n, kubetest.Object{"spec": kubetest.Object{"renewTime": time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")}})
	}
	main := w.old["ca"][0]
	conf, err := kubeadm.WithAuthority([]byte(c.Kubeconfig()), []byte(main))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range pki.Authorities() {
		m.Write(a.CertPath, 0o644, w.old[a.Name][0])
		m.Write(a.KeyPath, 0o600, w.old[a.Name][1])
	}
	for _, x := range pki.AllManaged() {
		ca := w.old[x.CA.Name]
		cert, key := kubetest.Sign(ca[0], ca[1], x.Name, time.Now().AddDate(0, 1, 0), "127.0.0.1", "10.0.0.100")
		switch {
		case x.Name == "super-admin.conf" && name != "cp-1", x.Name == "apiserver-etcd-client": // nobody can ask this etcd
		case x.Kubeconfig():
			m.Write(x.Path, 0o600, kubetest.WithClient(string(conf), cert, key))
		default:
			m.Write(x.Path, 0o644, cert)
			m.Write(strings.TrimSuffix(x.Path, ".crt")+".key", 0o600, key)
		}
	}
	for _, pod := range []string{"etcd", "kube-apiserver", "kube-scheduler"} {
		m.Write(kubeadm.ManifestsDir+"/"+pod+".yaml", 0o600, pod)
	}
	m.Write(certs.ControllerManagerManifest, 0o600, "    - --cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt\n    - --cluster-signing-key-file=/etc/kubernetes/pki/ca.key\n    - --root-ca-file=/etc/kubernetes/pki/ca.crt\n")
	p := kubetest.StartPods(m)
	w.pods[name] = p
	c.Present = func() (tls.Certificate, bool) { return p.Loaded("6443") }
	c.Put("configmaps", "kube-public", "cluster-info", kubetest.Object{"data": kubetest.Object{"kubeconfig": string(conf)}})
	c.Put("configmaps", "kube-system", "extension-apiserver-authentication", kubetest.Object{"data": kubetest.Object{"client-ca-file": main, "requestheader-client-ca-file": w.old["front-proxy-ca"][0]}})
	c.AddCoreDNS()
	c.Put("pods", "default", "app", kubetest.Object{
		"spec":   kubetest.Object{"volumes": []any{kubetest.Object{"name": "t", "projected": kubetest.Object{"sources": []any{kubetest.Object{"configMap": kubetest.Object{"name": "kube-root-ca.crt"}}}}}}},
		"status": kubetest.Object{"phase": "Running", "containerStatuses": []any{kubetest.Object{"name": "a", "state": kubetest.Object{"running": kubetest.Object{"startedAt": "2020-01-01T00:00:00Z"}}}}},
	})
	mirror := c.Refresh
	c.Refresh = func() { mirror(); w.controllers(m, c) }
}

// controllers does what the controller manager and the API server do with the CAs that
// they were told.
func (w *rotated) controllers(m *hosttest.Machine, c *kubetest.Cluster) {
	line, _ := m.Read("/proc/102/cmdline")
	_, root, _ := strings.Cut(line, "--root-ca-file=")
	root, _, _ = strings.Cut(root, "\x00")
	if text, ok := m.Read(root); ok {
		for _, ns := range []string{"default", "kube-system"} {
			if have := c.Get("configmaps", ns, "kube-root-ca.crt"); have == nil || fmt.Sprint(have["data"]) != fmt.Sprint(kubetest.Object{"ca.crt": text}) {
				c.Put("configmaps", ns, "kube-root-ca.crt", kubetest.Object{"data": kubetest.Object{"ca.crt": text}, "metadata": kubetest.Object{"managedFields": []any{kubetest.Object{"time": time.Now().UTC().Format(time.RFC3339)}}}})
			}
		}
	}
	o := c.Get("configmaps", "kube-system", "extension-apiserver-authentication")
	data, _ := o["data"].(kubetest.Object)
	changed := false
	for key, file := range map[string]string{"client-ca-file": kubeadm.CACertPath, "requestheader-client-ca-file": pki.Dir + "/front-proxy-ca.crt"} {
		text, _ := m.Read(file)
		all, err := pki.All([]byte(text))
		if err != nil {
			continue
		}
		for _, ca := range all {
			if one := string(pki.Encode(ca)); !strings.Contains(fmt.Sprint(data[key]), one) {
				data[key], changed = fmt.Sprint(data[key])+one, true
			}
		}
	}
	if changed {
		c.Put("configmaps", "kube-system", "extension-apiserver-authentication", o)
	}
}

// done fails the test where anything is not of one new CA.
func (w *rotated) done(t *testing.T) {
	t.Helper()
	for _, a := range pki.Authorities() {
		text, _ := w.hosts["cp-1"].Read(a.CertPath)
		all, err := pki.All([]byte(text))
		if err != nil || len(all) != 1 || text == w.old[a.Name][0] {
			t.Fatalf("%s: %d CAs, %v", a.CertPath, len(all), err)
		}
		for n, m := range w.hosts {
			here, _ := m.Read(a.CertPath)
			if (m != w.hosts["worker-1"] || a.Name == "ca") && here != text {
				t.Errorf("%s of %s is another CA", a.CertPath, n)
			}
			if key, ok := m.Read(a.KeyPath); ok != (n != "worker-1") || ok && !pki.Pair([]byte(text), []byte(key)) {
				t.Errorf("%s of %s: %t", a.KeyPath, n, ok)
			}
		}
		for n, p := range w.pods {
			for _, x := range pki.AllManaged() {
				if x.CA != a || x.Port == "" {
					continue
				}
				if pair, ok := p.Loaded(x.Port); !ok || pair.Leaf.CheckSignatureFrom(all[0]) != nil {
					t.Errorf("%s serves %s of the old CA", n, x.Name)
				}
			}
		}
	}
	for n, m := range w.hosts {
		for _, f := range m.Files() {
			text, _ := m.Read(f)
			if strings.Contains(f, "/rotation") && !strings.Contains(f, "/var/lib/kocli/") || strings.HasPrefix(f, "/etc/kubernetes/") && strings.Contains(text, "rotation") {
				t.Errorf("%s of %s is left", f, n)
			}
			for _, x := range w.old {
				if strings.Contains(text, strings.TrimSpace(x[1])) {
					t.Errorf("%s of %s has the key of an old CA", f, n)
				}
			}
		}
	}
}

var dates = regexp.MustCompile(`\d{4}-\d\d-\d\d`)

func all(pause string) RotateOptions { return RotateOptions{CA: "all", PauseAfter: pause} }

func TestRotateCA_inOneRun(t *testing.T) {
	t.Parallel()
	w := newRotated(t)
	s := certSession(t, w.hosts)
	var plan string
	ro := all("")
	ro.Confirm = func(p *Preview, told *RotateResult) error {
		for _, c := range p.Changes {
			plan += dates.ReplaceAllString(fmt.Sprintf("%s on %s: %s %s\n", c.Phase, c.Node, c.Step, c), "DATE")
		}
		if fmt.Sprint(told.Pods) != "[default/app]" || fmt.Sprint(told.CAs) != "[kubernetes etcd front-proxy]" {
			t.Errorf("told: %+v", told)
		}
		return nil
	}
	res, err := s.rotateCA(t.Context(), ro)
	if err != nil {
		t.Fatal(err)
	}
	w.done(t)
	goldenPlan(t, "rotate-ca", plan)
	if fmt.Sprint(res.Pods) != "[default/app]" || res.PausedAfter != "" || res.Changed == 0 {
		t.Errorf("%+v", res)
	}
	for n, p := range w.pods {
		if got := fmt.Sprint(p.Killed()); got != "["+strings.TrimSpace(strings.Repeat("etcd kube-apiserver kube-scheduler ", 3))+"]" {
			t.Errorf("restarted on %s: %s", n, got)
		}
	}
	kept, err := os.ReadFile(s.dir.Kubeconfig())
	now, _ := w.hosts["cp-1"].Read(kube.AdminConf())
	a, _, err1 := kubeadm.ClientCertificateOf(kept)
	b, _, err2 := kubeadm.ClientCertificateOf([]byte(now))
	if errors.Join(err, err1, err2) != nil || string(a) != string(b) {
		t.Errorf("the kubeconfig that is kept is an old one: %v", errors.Join(err, err1, err2))
	}
}

// goldenPlan compares a plan with its file; -update writes it.
func goldenPlan(t *testing.T, name, got string) {
	t.Helper()
	file := "testdata/plans/" + name + ".golden"
	if f := flag.Lookup("update"); f != nil && f.Value.String() == "true" {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != got {
		t.Errorf("%v: the plan is another one (accept with -update):\n%s", err, got)
	}
}

// Wherever a run is cut off, the next one goes on, and ends with the same single new
// CAs everywhere: none is made twice.
func TestRotateCA_cutOffAnywhereGoesOn(t *testing.T) {
	t.Parallel()
	for host, step := range map[string]int{"cp-1": 7, "cp-2": 11, "cp-3": 13, "worker-1": 3} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			cut := 1
			for cutOff(t, host, cut) {
				cut += step
			}
			if cut < 3*step {
				t.Errorf("a run makes only %d writes", cut)
			}
		})
	}
}

// cutOff loses a host after so many writes, and runs again. It reports whether a run
// makes so many.
func cutOff(t *testing.T, host string, cut int) bool {
	t.Helper()
	w := newRotated(t)
	w.hosts[host].CutAfter(cut)
	_, err := certSession(t, w.hosts).rotateCA(t.Context(), all(""))
	if !w.hosts[host].Lost() {
		return false
	}
	first := map[string]bool{}
	for _, m := range w.hosts {
		cert, ok := m.Read(pki.RotationDir + "/ca.crt")
		if key, _ := m.Read(pki.RotationDir + "/ca.key"); ok && pki.Pair([]byte(cert), []byte(key)) {
			first[cert] = true
		}
	}
	w.hosts[host].CutBefore(0)
	if _, again := certSession(t, w.hosts).rotateCA(t.Context(), all("")); again != nil {
		t.Errorf("%s after write %d: %v; then %v", host, cut, err, again)
		return true
	}
	if now, _ := w.hosts["cp-1"].Read(kubeadm.CACertPath); len(first) > 1 || len(first) == 1 && !first[now] {
		t.Errorf("%s after write %d: %d CAs were made, or another one is used", host, cut, len(first))
	}
	w.done(t)
	return true
}

func TestRotateCA_pausesAndIsResumed(t *testing.T) {
	t.Parallel()
	w := newRotated(t)
	res, err := certSession(t, w.hosts).rotateCA(t.Context(), all("trust"))
	if err != nil || res.PausedAfter != "trust" || fmt.Sprint(res.Pods) != "[default/app]" {
		t.Fatalf("%v, %+v", err, res)
	}
	key, _ := w.hosts["cp-2"].Read(pki.Dir + "/ca.key")
	if key != w.old["ca"][1] {
		t.Error("the new CA signs already")
	}
	s := certSession(t, w.hosts)
	for name, err := range map[string]error{
		"create": s.rotationBegun(t.Context()),
		"renew":  func() error { _, err := s.certsRenew(t.Context(), CertsOptions{All: true}); return err }(),
		"one CA": func() error { _, err := s.rotateCA(t.Context(), RotateOptions{CA: "etcd"}); return err }(),
	} {
		if err == nil || !strings.Contains(fault.HintOf(err), "kocli certs rotate-ca") {
			t.Errorf("%s in between: %v; %s", name, err, fault.HintOf(err))
		}
	}
	// A second run with the same pause has nothing to do.
	if res, err := certSession(t, w.hosts).rotateCA(t.Context(), all("trust")); err != nil || res.Changed > 0 {
		t.Errorf("%v, %+v", err, res)
	}
	if res, err = certSession(t, w.hosts).rotateCA(t.Context(), all("sign")); err != nil || res.PausedAfter != "sign" {
		t.Fatalf("%v, %+v", err, res)
	}
	text, _ := w.hosts["worker-1"].Read(kubeadm.CACertPath)
	if certs, err := pki.All([]byte(text)); err != nil || len(certs) != 2 {
		t.Errorf("the old CA is gone before the pause ends: %v, %v", certs, err)
	}
	if _, err := certSession(t, w.hosts).rotateCA(t.Context(), all("")); err != nil {
		t.Fatal(err)
	}
	w.done(t)
	if err := s.rotationBegun(t.Context()); err != nil {
		t.Error(err)
	}
}

// A run that is killed when all is done but for the removal of what it kept begins no
// other rotation.
func TestRotateCA_leftoversAreRemovedAndNoMore(t *testing.T) {
	t.Parallel()
	w := newRotated(t)
	w.hosts["cp-3"].Write(pki.RotationDone+"/ca.old.key", 0o600, "x")
	res, err := certSession(t, w.hosts).rotateCA(t.Context(), all(""))
	if err != nil || res.Changed != 1 {
		t.Errorf("%v, %+v", err, res)
	}
	if text, _ := w.hosts["cp-1"].Read(kubeadm.CACertPath); text != w.old["ca"][0] {
		t.Error("another CA was made")
	}
}

func TestRotateCA_refusesBeforeAnythingIsChanged(t *testing.T) {
	t.Parallel()
	other, _ := kubetest.Issue("ca", time.Now().AddDate(1, 0, 0))
	for name, x := range map[string]struct {
		ro     RotateOptions
		damage func(*rotated)
		code   fault.Code
		want   string
		hint   string
	}{
		"a CA of nothing":     {RotateOptions{CA: "kubelet"}, nil, fault.Usage, `"kubelet"`, "kubernetes, etcd, front-proxy, all"},
		"a pause of nothing":  {all("new"), nil, fault.Usage, `"new"`, "--pause-after trust"},
		"a host that is away": {all(""), func(w *rotated) { delete(w.hosts, "worker-1") }, fault.Unreachable, "no route to host", ""},
		"a host that has not joined": {all(""), func(w *rotated) { w.hosts["worker-1"].Delete(pki.KubeletConfPath) }, fault.Preflight,
			"worker-1 is not a node of the cluster", "kocli scale"},
		"an external CA": {all(""), func(w *rotated) { w.hosts["cp-2"].Delete(pki.Dir + "/front-proxy-ca.key") }, fault.Preflight, "external one", "Manual Rotation of CA Certificates"},
		"different CAs":  {all(""), func(w *rotated) { w.hosts["cp-3"].Write(kubeadm.CACertPath, 0o644, other) }, fault.Preflight, "others than that of cp-1", "the same single CA"},
		"a bundle of a user's": {all(""), func(w *rotated) {
			for _, n := range []string{"cp-1", "cp-2", "cp-3"} {
				w.hosts[n].Write(kubeadm.CACertPath, 0o644, w.old["ca"][0]+other)
			}
		}, fault.Preflight, "holds 2 CAs", "the same single CA"},
		"signers of a user's": {all(""), func(w *rotated) {
			text, _ := w.hosts["cp-2"].Read(certs.ControllerManagerManifest)
			w.hosts["cp-2"].Write(certs.ControllerManagerManifest, 0o600, text+"    - --cluster-signing-kubelet-client-cert-file=/x\n")
		}, fault.Preflight, "signers of its own", "kubeadm's own flags"},
		"an API that is away": {all(""), func(w *rotated) {
			w.hosts["cp-2"].OnDial(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") })
		}, fault.Preflight, "API server of cp-2", "kocli status"},
		"pods of the cluster that are not ready": {all(""), func(w *rotated) {
			for _, c := range w.clusters {
				c.Put("deployments", "kube-system", "addon", kubetest.Object{"spec": kubetest.Object{"replicas": 1}, "status": kubetest.Object{"observedGeneration": 9}})
			}
		}, fault.Preflight, "deployment kube-system/addon: 0 of 1 replicas are ready", "kocli status"},
		"a node of nobody's": {all(""), func(w *rotated) { w.clusters["cp-1"].AddNode("stranger") }, fault.Preflight, "node stranger of the cluster is not in the YAML", "spec.hosts"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newRotated(t)
			if x.damage != nil {
				x.damage(w)
			}
			x.ro.Confirm = func(*Preview, *RotateResult) error { return errors.New("asked") }
			_, err := certSession(t, w.hosts).rotateCA(t.Context(), x.ro)
			if err == nil || fault.CodeOf(err) != x.code || !strings.Contains(err.Error(), x.want) || !strings.Contains(fault.HintOf(err), x.hint) {
				t.Errorf("%d %v; %s", fault.CodeOf(err), err, fault.HintOf(err))
			}
			for n, m := range w.hosts {
				if len(m.Log()) > 0 {
					t.Errorf("%s was changed: %v", n, m.Log())
				}
			}
		})
	}
}

// The CA of an etcd outside the cluster is not the cluster's: it is refused by name, and
// left out of all.
func TestRotateCA_externalEtcd(t *testing.T) {
	t.Parallel()
	c, err := config.Load("../../examples/cluster-external-etcd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chosenCAs(inv, RotateOptions{CA: "etcd"}); fault.CodeOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "spec.etcd.external") {
		t.Errorf("%v; %s", err, fault.HintOf(err))
	}
	got, err := chosenCAs(inv, all(""))
	if err != nil || slices.ContainsFunc(got, func(a pki.CA) bool { return a.Name == "etcd-ca" }) || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

// A backup that is made while both CAs are trusted has bundles, and a controller manager
// does not start with one. What it restores is the CA whose key it has.
func TestRestore_ofABackupInTheMiddleOfARotation(t *testing.T) {
	t.Parallel()
	w := newRotated(t)
	cert, err := pki.First([]byte(w.old["ca"][0]))
	if err != nil {
		t.Fatal(err)
	}
	x, err := pki.Successor(cert, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[pki.Stage]pki.Stage{pki.Before: pki.Before, pki.Trusted: pki.Before, pki.Signing: pki.After, pki.After: pki.After} {
		b := &localBackup{contents: &backup.Contents{Small: map[string][]byte{
			backup.FilesPrefix + kubeadm.CACertPath: x.Bundle(s), backup.FilesPrefix + pki.Dir + "/sa.pub": []byte("public"),
		}}}
		files, err := b.files(certSession(t, w.hosts).inv)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text := string(x.Bundle(want))
			if f.Path != kubeadm.CACertPath {
				text = "public"
			}
			if f.SHA256 != host.Bytes(f.Path, 0o600, []byte(text)).SHA256 {
				t.Errorf("%s: %s is restored as something else", s, f.Path)
			}
		}
	}
}

// A rotation of one CA that is not finished is not made one of all: who was restarted for
// the one would not be for the others.
func TestRotateCA_ofOneAndThenOfAll(t *testing.T) {
	t.Parallel()
	w := newRotated(t)
	one := RotateOptions{CA: "front-proxy", PauseAfter: "trust"}
	if res, err := certSession(t, w.hosts).rotateCA(t.Context(), one); err != nil || fmt.Sprint(res.CAs) != "[front-proxy]" {
		t.Fatalf("%v, %+v", err, res)
	}
	if _, err := certSession(t, w.hosts).rotateCA(t.Context(), all("")); fault.CodeOf(err) != fault.Usage || !strings.Contains(err.Error(), "without the CA kubernetes") || fault.HintOf(err) != "finish it: kocli certs rotate-ca --ca front-proxy -f cluster.yaml" {
		t.Errorf("%v; %s", err, fault.HintOf(err))
	}
	one.PauseAfter = ""
	if _, err := certSession(t, w.hosts).rotateCA(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if text, _ := w.hosts["cp-2"].Read(kubeadm.CACertPath); text != w.old["ca"][0] {
		t.Error("another CA was replaced as well")
	}
	for _, x := range []string{"front-proxy-ca.crt", "front-proxy-ca.key"} {
		a, _ := w.hosts["cp-1"].Read(pki.Dir + "/" + x)
		b, _ := w.hosts["cp-3"].Read(pki.Dir + "/" + x)
		if a != b || slices.Contains([]string{w.old["front-proxy-ca"][0], w.old["front-proxy-ca"][1]}, a) {
			t.Errorf("%s is an old one, or another one on cp-3", x)
		}
	}
	for n, p := range w.pods {
		if got := fmt.Sprint(p.Killed()); got != "[kube-apiserver kube-apiserver kube-apiserver]" {
			t.Errorf("restarted on %s: %s", n, got)
		}
	}
}

// A node that somebody joined past kocli in a pause would be lost with the old CA.
func TestRotateCA_refusesAStrangerInAPause(t *testing.T) {
	t.Parallel()
	w := newRotated(t)
	if _, err := certSession(t, w.hosts).rotateCA(t.Context(), all("sign")); err != nil {
		t.Fatal(err)
	}
	for _, c := range w.clusters {
		c.AddNode("stranger")
	}
	if _, err := certSession(t, w.hosts).rotateCA(t.Context(), all("")); fault.CodeOf(err) != fault.Preflight || !strings.Contains(err.Error(), "node stranger") {
		t.Errorf("got %v", err)
	}
	text, _ := w.hosts["cp-1"].Read(kubeadm.CACertPath)
	if certs, err := pki.All([]byte(text)); err != nil || len(certs) != 2 {
		t.Errorf("the old CA is gone: %v, %v", certs, err)
	}
}
