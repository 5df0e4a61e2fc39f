package certs_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/staticpod"
	"github.com/kocli/kocli/pkg/steps/certs"
)

const controllerFlags = `spec:
  containers:
  - command:
    - kube-controller-manager
    - --cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt
    - --cluster-signing-key-file=/etc/kubernetes/pki/ca.key
    - --root-ca-file=/etc/kubernetes/pki/ca.crt
`

// turn is a control plane and a worker whose CAs are replaced.
type turn struct {
	m, worker *hosttest.Machine
	p         *kubetest.StaticPods
	c         *kubetest.Cluster
	o, ow     certs.RotateOptions
	co        certs.ClusterOptions
	old       map[string][2]string // the old CAs, by name
	starting  atomic.Bool          // the kubelet listens to nobody yet
}

// clusterCAs are those of a cluster, with which certificates and keys are signed.
func newTurn(t *testing.T, only ...string) *turn {
	t.Helper()
	inv := cluster(t)
	w := &turn{m: hosttest.OS(hosttest.New("cp-1")), worker: hosttest.OS(hosttest.New("worker-1")), old: map[string][2]string{}}
	w.c = kubetest.NewCluster(w.m.Wire)
	later := time.Now().AddDate(0, 9, 0)
	for _, a := range pki.Authorities() {
		cert, key := kubetest.Issue(a.Name, later)
		w.old[a.Name] = [2]string{cert, key}
		w.m.Write(a.CertPath, 0o644, cert)
		w.m.Write(a.KeyPath, 0o600, key)
		parsed, err := pki.First([]byte(cert))
		if err != nil {
			t.Fatal(err)
		}
		x, err := pki.Successor(parsed, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		x.CA = a
		if len(only) == 0 || slices.Contains(only, a.Name) {
			w.o.Rotations = append(w.o.Rotations, x)
		}
	}
	main := w.old["ca"]
	conf, err := kubeadm.WithAuthority([]byte(w.c.Kubeconfig()), []byte(main[0]))
	if err != nil {
		t.Fatal(err)
	}
	soon := time.Now().AddDate(0, 6, 0)
	for _, x := range pki.AllManaged() {
		ca := w.old[x.CA.Name]
		cert, key := kubetest.Sign(ca[0], ca[1], x.Name, soon, "127.0.0.1", "10.0.0.1")
		switch {
		case x.Name == "super-admin.conf": // init ran elsewhere
		case x.Kubeconfig():
			w.m.Write(x.Path, 0o600, kubetest.WithClient(string(conf), cert, key))
		default:
			w.m.Write(x.Path, 0o644, cert)
			w.m.Write(strings.TrimSuffix(x.Path, ".crt")+".key", 0o600, key)
		}
	}
	w.worker.Write(kubeadm.CACertPath, 0o644, main[0])
	for _, m := range []*hosttest.Machine{w.m, w.worker} {
		cert, key := kubetest.Sign(main[0], main[1], "system:node:"+m.Name(), soon)
		m.Write(pki.KubeletDir+"/kubelet-client-1.pem", 0o600, cert+key)
		m.Link(pki.KubeletClientPath, pki.KubeletDir+"/kubelet-client-1.pem")
		kubelet, err := kubeadm.WithClientFile(conf, pki.KubeletClientPath, "https://10.0.0.1:6443")
		if err != nil {
			t.Fatal(err)
		}
		m.Write(pki.KubeletConfPath, 0o600, string(kubelet))
		m.Write("/etc/systemd/system/kubelet.service", 0o644, "[Service]\nExecStart=/usr/bin/kubelet\n")
		m.Install(linker)
	}
	for _, pod := range []string{"etcd", "kube-apiserver", "kube-scheduler"} {
		w.m.Write(kubeadm.ManifestsDir+"/"+pod+".yaml", 0o600, pod)
	}
	w.m.Write(certs.ControllerManagerManifest, 0o600, controllerFlags)
	w.p = kubetest.StartPods(w.m)
	w.c.Present = func() (tls.Certificate, bool) { return w.p.Loaded("6443") }
	w.m.Install(w.c.Kubeadm())
	w.m.OnDial(w.dial(t))
	w.worker.OnDial(w.dial(t))
	w.o.Inventory, w.o.Healthy = inv, func(context.Context) error { return nil }
	w.o.Node, _ = inv.Node("cp-1")
	w.ow = w.o
	w.ow.Node, _ = inv.Node("worker-1")
	access := kube.NewAccess()
	w.co = certs.ClusterOptions{Rotations: w.o.Rotations, Namespaces: []string{"kube-system"}, API: kube.API{
		Look: func(ctx context.Context) (*kube.Client, error) { return access.Look(ctx, w.m) },
		Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, w.m) },
	}}
	w.objects(main[0])
	return w
}

// objects is what the API has of the CAs.
func (w *turn) objects(ca string) {
	conf, err := kubeadm.WithAuthority([]byte(w.c.Kubeconfig()), []byte(ca))
	if err != nil {
		panic(err) // kubetest made it
	}
	w.c.Put("configmaps", "kube-public", "cluster-info", kubetest.Object{"data": kubetest.Object{"kubeconfig": string(conf), "jws-kubeconfig-abcdef": "x"}})
	w.c.Put("configmaps", "kube-system", "extension-apiserver-authentication", kubetest.Object{"data": kubetest.Object{
		"client-ca-file": ca, "requestheader-client-ca-file": w.old["front-proxy-ca"][0], "requestheader-group-headers": `["X-Remote-Group"]`}})
	w.publish(ca)
	w.c.Put("deployments", "kube-system", "coredns", kubetest.Object{"spec": kubetest.Object{"replicas": 1}, "status": kubetest.Object{"observedGeneration": 9, "updatedReplicas": 1, "availableReplicas": 1}})
	w.c.Put("daemonsets", "kube-system", "kube-proxy", kubetest.Object{"spec": kubetest.Object{"template": kubetest.Object{"metadata": kubetest.Object{}}}, "status": kubetest.Object{"observedGeneration": 9, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberAvailable": 1}})
	w.c.React = nil
}

// publish is what the controller manager does in all namespaces.
func (w *turn) publish(ca string) {
	for _, ns := range []string{"default", "kube-system"} {
		w.c.Put("configmaps", ns, "kube-root-ca.crt", kubetest.Object{"data": kubetest.Object{"ca.crt": ca}})
	}
}

// authenticate is what API servers do with the CAs that they trust.
func (w *turn) authenticate(add string) {
	o := w.c.Get("configmaps", "kube-system", "extension-apiserver-authentication")
	data, _ := o["data"].(kubetest.Object)
	data["client-ca-file"] = fmt.Sprint(data["client-ca-file"]) + add
	w.c.Put("configmaps", "kube-system", "extension-apiserver-authentication", o)
}

// dial leads to the API, to static pods, and to a kubelet that made its certificate.
func (w *turn) dial(t *testing.T) func(context.Context, string, string) (net.Conn, error) {
	t.Helper()
	cert, key := kubetest.Issue("kubelet", time.Now().AddDate(1, 0, 0))
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		switch {
		case w.m.Lost():
			return nil, hosttest.ErrCut
		case strings.HasSuffix(address, ":6443"):
			return w.c.Dial(ctx, network, address)
		case strings.HasSuffix(address, ":10250") && w.starting.Load():
			return nil, errors.New("ssh: rejected: connect failed (Connection refused)")
		case strings.HasSuffix(address, ":10250"):
			w.p.Serve("10250", pair)
		}
		return w.p.Dial(ctx, network, address)
	}
}

func (w *turn) main() pki.Rotation { return w.o.Rotations[0] }

// do applies steps of the control plane.
func (w *turn) do(t *testing.T, steps ...plan.Step) {
	t.Helper()
	for _, s := range steps {
		if err := s.Apply(t.Context(), ledger.Wrap(w.m)); err != nil {
			t.Fatalf("%s: %v", s.ID(), err)
		}
		w.settled(t, s)
	}
}

func (w *turn) settled(t *testing.T, steps ...plan.Step) {
	t.Helper()
	for _, s := range steps {
		if changes, err := s.Check(t.Context(), w.m); err != nil || len(changes) > 0 {
			t.Errorf("%s: %v, %v", s.ID(), changes, err)
		}
	}
}

func (w *turn) close() { w.c.Close() }

func (w *turn) random() []string {
	out := []string{pki.RotationDir + "/restarts.json", pki.KubeletConfPath, pki.KubeletDir + "/kubelet-client-1.pem", kubeadm.CACertPath + ".next"}
	for _, x := range w.o.Rotations {
		out = append(out, x.OldPath(), x.OldKeyPath(), x.NewPath(), x.NewKeyPath(), x.BundlePath(), x.CA.CertPath, x.CA.KeyPath, x.CA.KeyPath+".next")
	}
	for _, a := range pki.Authorities() {
		out = append(out, a.CertPath, a.KeyPath)
	}
	for _, x := range pki.AllManaged() {
		out = append(out, x.Path, strings.TrimSuffix(x.Path, ".crt")+".key")
	}
	return out
}

// rounds of a control plane, in the order of a run.
func (w *turn) trustRound() plan.Step  { return certs.Round(w.o, "certs/restart-trust", pki.Trusted) }
func (w *turn) signRound() plan.Step   { return certs.Round(w.o, "certs/restart-sign", pki.Signing) }
func (w *turn) removeRound() plan.Step { return certs.Round(w.o, "certs/restart-remove", pki.After) }

// upTo brings the control plane to where a step is next.
func (w *turn) upTo(t *testing.T, next string) {
	t.Helper()
	for _, s := range []plan.Step{certs.NewCA(w.o), certs.Trust(w.o), w.trustRound(), certs.Sign(w.o), w.signRound(), certs.Remove(w.o), w.removeRound(), certs.Clean()} {
		if s.ID() == next {
			return
		}
		w.do(t, s)
	}
}

func TestRotation_everyStepConverges(t *testing.T) {
	for name, only := range map[string][]string{"all CAs": nil, "that of etcd": {"etcd-ca"}, "that of Kubernetes": {"ca"}} {
		for _, step := range []func(*turn) plan.Step{
			func(w *turn) plan.Step { return certs.NewCA(w.o) },
			func(w *turn) plan.Step { return certs.Trust(w.o) },
			(*turn).trustRound,
			func(w *turn) plan.Step { return certs.Sign(w.o) },
			(*turn).signRound,
			func(w *turn) plan.Step { return certs.Remove(w.o) },
			(*turn).removeRound,
			func(*turn) plan.Step { return certs.Clean() },
		} {
			id := step(newTurn(t, only...)).ID()
			if only != nil && !strings.Contains("certs/trust certs/sign certs/remove-ca", id) {
				continue // the same code as for all of them
			}
			t.Run(name+" "+id, func(t *testing.T) {
				t.Parallel()
				plantest.Converges(t, func() plantest.World {
					w := newTurn(t, only...)
					w.upTo(t, id)
					w.m.Log()
					return plantest.World{Step: step(w), Host: w.m, Random: w.random(), State: w.p.State, Close: w.close}
				})
			})
		}
	}
}

func TestRotation_aWorkerConverges(t *testing.T) {
	for name, step := range map[string]func(certs.RotateOptions) plan.Step{"trust": certs.Trust, "remove": certs.Remove} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plantest.Converges(t, func() plantest.World {
				w := newTurn(t)
				if name == "remove" {
					if err := certs.Trust(w.ow).Apply(t.Context(), ledger.Wrap(w.worker)); err != nil {
						t.Fatal(err)
					}
				}
				return plantest.World{Step: step(w.ow), Host: w.worker, Random: w.random(), Close: w.close}
			})
		})
	}
}

func TestRotation_theClusterConverges(t *testing.T) {
	for name, step := range map[string]func(certs.ClusterOptions) plan.Step{"trust": certs.ClusterTrust, "remove": certs.ClusterRemove} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plantest.Converges(t, func() plantest.World {
				w := newTurn(t)
				both := string(w.main().Bundle(pki.Trusted))
				w.publish(both)
				w.authenticate(string(pki.Encode(w.main().New)))
				w.frontProxy(string(w.o.Rotations[2].Bundle(pki.Trusted)))
				if name == "remove" {
					if err := certs.ClusterTrust(w.co).Apply(t.Context(), w.m); err != nil {
						t.Fatal(err)
					}
					w.publish(string(w.main().Bundle(pki.After)))
				}
				return plantest.World{Step: step(w.co), Host: w.m, Random: append(w.random(), kube.AdminConf()), State: w.inAPI, Close: w.close}
			})
		})
	}
}

// inAPI is what the API has of the CAs, in the words of the rotation.
func (w *turn) inAPI() string {
	text := strings.NewReplacer("\\n", "\n").Replace(w.c.State())
	for i, x := range w.o.Rotations {
		text = strings.ReplaceAll(text, string(pki.Encode(x.Old)), fmt.Sprintf("old-%d ", i))
		text = strings.ReplaceAll(text, string(pki.Encode(x.New)), fmt.Sprintf("new-%d ", i))
	}
	for s := pki.Before; s <= pki.After; s++ {
		text = strings.ReplaceAll(text, base64.StdEncoding.EncodeToString(w.main().Bundle(s)), s.String())
		sum := sha256.Sum256(w.main().Bundle(s))
		text = strings.ReplaceAll(text, hex.EncodeToString(sum[:8]), s.String())
	}
	return text
}

func (w *turn) frontProxy(ca string) {
	o := w.c.Get("configmaps", "kube-system", "extension-apiserver-authentication")
	o["data"].(kubetest.Object)["requestheader-client-ca-file"] = ca
	w.c.Put("configmaps", "kube-system", "extension-apiserver-authentication", o)
}

// From the old CAs to the new ones on a control plane, in the order of a run. What is
// served follows, kubeconfigs trust what they have to at each point, and nothing of the
// old CAs is left, but in the ledger's copies.
func TestRotation_fromEndToEnd(t *testing.T) {
	w := newTurn(t)
	defer w.close()
	before, _ := w.m.Read(certs.ControllerManagerManifest)
	oldKey, _ := w.m.Read(pki.Dir + "/ca.key")
	w.do(t, certs.NewCA(w.o))
	for _, p := range []string{w.main().NewKeyPath(), w.main().OldKeyPath()} {
		info, err := w.m.Stat(t.Context(), p)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", p, info, err)
		}
	}
	w.do(t, certs.Trust(w.o), w.trustRound())
	w.trusts(t, pki.Trusted)
	if got := fmt.Sprint(w.p.Killed()); got != "[etcd kube-apiserver kube-scheduler]" {
		t.Errorf("restarted: %s", got)
	}
	if runs, err := staticpod.RunsWith(t.Context(), w.m, "kube-controller-manager", certs.ControllerFlags(w.main(), pki.Trusted)); err != nil || !runs {
		t.Errorf("the controller manager: %t, %v", runs, err)
	}
	if key, _ := w.m.Read(pki.Dir + "/ca.key"); key != oldKey {
		t.Error("the new CA signs before it is its turn")
	}
	w.do(t, certs.Sign(w.o))
	w.settled(t, certs.NewCA(w.o), certs.Trust(w.o), w.trustRound())
	if err := certs.Proof(w.o).Apply(short(t), w.m); fault.CodeOf(err) != fault.Unhealthy || !strings.Contains(err.Error(), "apiserver as it is served at 127.0.0.1:6443") || !strings.Contains(err.Error(), "client certificate of the kubelet") {
		t.Errorf("proof of what is not served yet: %v", err)
	}
	w.do(t, w.signRound(), certs.Kubelet(w.kubelet(t, w.m)))
	// A kubelet that has just been started anew listens to nobody yet: that is waited for.
	w.starting.Store(true)
	if c, err := certs.Proof(w.o).Check(t.Context(), w.m); err != nil || len(c) != 1 || !strings.Contains(c[0].From, "what the kubelet serves") {
		t.Errorf("with a kubelet that listens to nobody: %v, %v", c, err)
	}
	w.starting.Store(false)
	w.do(t, certs.Proof(w.o))
	w.trusts(t, pki.Signing)
	w.do(t, certs.Remove(w.o), w.removeRound())
	w.settled(t, certs.Trust(w.o), w.trustRound(), certs.Sign(w.o), w.signRound(), certs.Proof(w.o), certs.NewCA(w.o))
	w.trusts(t, pki.After)
	if now, _ := w.m.Read(certs.ControllerManagerManifest); now != before {
		t.Errorf("the manifest of the controller manager is not kubeadm's own:\n%s", now)
	}
	w.do(t, certs.Clean())
	w.settled(t, certs.NewCA(w.o), certs.Trust(w.o), w.trustRound(), certs.Sign(w.o), w.signRound(), certs.Remove(w.o), w.removeRound(), certs.Proof(w.o))
	for _, p := range w.m.Files() {
		text, _ := w.m.Read(p)
		if strings.Contains(text, strings.TrimSpace(oldKey)) || strings.Contains(p, "rotation") && !strings.Contains(p, "ledger") {
			t.Errorf("%s is left of the old CA", p)
		}
	}
	for _, l := range w.m.Log() {
		if strings.Contains(l, "PRIVATE") {
			t.Errorf("a key is in the arguments of a command: %s", l)
		}
	}
}

// trusts holds what is on the control plane against a stage.
func (w *turn) trusts(t *testing.T, at pki.Stage) {
	t.Helper()
	for _, x := range w.o.Rotations {
		text, _ := w.m.Read(x.CA.CertPath)
		if s, err := x.Stage([]byte(text)); err != nil || s != at {
			t.Errorf("%s: %s, %v", x.CA.CertPath, s, err)
		}
	}
	for _, p := range []string{"admin.conf", "scheduler.conf", "controller-manager.conf", "kubelet.conf"} {
		text, _ := w.m.Read("/etc/kubernetes/" + p)
		data, _, err := kubeadm.AuthorityOf([]byte(text))
		s, err2 := w.main().Stage(data)
		if err := errors.Join(err, err2); err != nil || (s == pki.After) != (at == pki.After) || s == pki.Before {
			t.Errorf("%s trusts %s at %s, %v", p, s, at, err)
		}
	}
	c, err := w.co.API.Dial(t.Context())
	if err == nil {
		err = c.Ready(t.Context())
	}
	if err != nil {
		t.Errorf("the API with the administrator's kubeconfig: %v", err)
	}
}

func (w *turn) kubelet(t *testing.T, m *hosttest.Machine) certs.KubeletOptions {
	t.Helper()
	n, ok := w.o.Inventory.Node(m.Name())
	if !ok {
		t.Fatal(m.Name())
	}
	signer := &certs.Signer{Inventory: w.o.Inventory, Node: w.o.Node, Dial: func(context.Context) (host.Host, error) { return ledger.Wrap(w.m), nil }}
	x := w.main()
	return certs.KubeletOptions{Inventory: w.o.Inventory, Node: n, Sign: signer.Sign, Now: time.Now, Rotation: &x}
}

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestKubelet_isSignedForByTheNewCA(t *testing.T) {
	w := newTurn(t)
	defer w.close()
	w.upTo(t, "certs/restart-sign")
	w.worker.Write(kubeadm.CACertPath, 0o644, string(w.main().Bundle(pki.Trusted)))
	ca := w.old["ca"]
	given, key := kubetest.Sign(ca[0], ca[1], "worker-1", time.Now().AddDate(1, 0, 0))
	w.worker.Write(pki.KubeletDir+"/kubelet-server-1.pem", 0o600, given+key)
	w.worker.Link(pki.KubeletDir+"/kubelet-server-current.pem", pki.KubeletDir+"/kubelet-server-1.pem")
	s := certs.Kubelet(w.kubelet(t, w.worker))
	changes, err := s.Check(t.Context(), w.worker)
	if err != nil || len(changes) != 3 || changes[0].From != "signed by the old CA" || !strings.Contains(changes[1].Object, "kubelet-server-current.pem") {
		t.Errorf("%v, %v", changes, err)
	}
	if err := s.Apply(t.Context(), ledger.Wrap(w.worker)); err != nil {
		t.Fatal(err)
	}
	text, err := w.worker.ReadFile(t.Context(), pki.KubeletClientPath)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := pki.First(text); err != nil || !w.main().Signed(c) || c.Subject.CommonName != "system:node:worker-1" {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := w.worker.Stat(t.Context(), pki.KubeletDir+"/kubelet-server-current.pem"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what the old CA signed for it to serve: %v", err)
	}
	if changes, err := s.Check(t.Context(), w.worker); err != nil || len(changes) > 0 {
		t.Errorf("again: %v, %v", changes, err)
	}
}

// A kubelet that has just joined has its certificate in its kubeconfig, which goes on
// trusting both CAs.
func TestKubelet_withItsCertificateInItsKubeconfig(t *testing.T) {
	w := newTurn(t)
	defer w.close()
	w.upTo(t, "certs/restart-sign")
	ca := w.old["ca"]
	cert, key := kubetest.Sign(ca[0], ca[1], "system:node:worker-1", time.Now().AddDate(1, 0, 0))
	conf, err := kubeadm.WithAuthority([]byte(w.c.Kubeconfig()), w.main().Bundle(pki.Trusted))
	if err != nil {
		t.Fatal(err)
	}
	w.worker.Write(pki.KubeletConfPath, 0o600, kubetest.WithClient(string(conf), cert, key))
	w.worker.Delete(pki.KubeletClientPath)
	s := certs.Kubelet(w.kubelet(t, w.worker))
	if err := s.Apply(t.Context(), ledger.Wrap(w.worker)); err != nil {
		t.Fatal(err)
	}
	now, _ := w.worker.Read(pki.KubeletConfPath)
	data, _, err1 := kubeadm.AuthorityOf([]byte(now))
	at, err2 := w.main().Stage(data)
	_, file, err3 := kubeadm.ClientCertificateOf([]byte(now))
	if err := errors.Join(err1, err2, err3); err != nil || at != pki.Trusted || file != pki.KubeletClientPath {
		t.Errorf("%s, %q, %v", at, file, err)
	}
}

func TestRotation_refusesAForeignCA(t *testing.T) {
	w := newTurn(t)
	defer w.close()
	other, _ := kubetest.Issue("other-ca", time.Now().AddDate(1, 0, 0))
	w.m.Write(kubeadm.CACertPath, 0o644, other)
	for _, s := range []plan.Step{certs.NewCA(w.o), certs.Trust(w.o), certs.Sign(w.o), certs.Remove(w.o), w.signRound()} {
		if _, err := s.Check(t.Context(), w.m); !errors.Is(err, pki.ErrForeign) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v", s.ID(), err)
		}
		if err := s.Apply(t.Context(), ledger.Wrap(w.m)); !errors.Is(err, pki.ErrForeign) {
			t.Errorf("%s: %v", s.ID(), err)
		}
	}
	if n := w.m.Writes(); n > 0 {
		t.Errorf("it wrote: %v", w.m.Log())
	}
}

// Pods are restarted one by one, each while the cluster is healthy.
func TestRound_waitsForAHealthyCluster(t *testing.T) {
	w := newTurn(t)
	defer w.close()
	w.upTo(t, "certs/restart-trust")
	w.o.Healthy = func(context.Context) error { return errors.New("etcd member cp-2: it knows no leader") }
	err := w.trustRound().Apply(short(t), ledger.Wrap(w.m))
	if err == nil || !strings.Contains(err.Error(), "it knows no leader") || len(w.p.Killed()) > 0 || fault.HintOf(err) == "" {
		t.Errorf("%v, restarted %v", err, w.p.Killed())
	}
}

// The controller manager hands the CAs out: the cluster's pods are not replaced before.
func TestClusterTrust_waitsUntilPodsWouldFindBoth(t *testing.T) {
	w := newTurn(t)
	defer w.close()
	w.frontProxy(string(w.o.Rotations[2].Bundle(pki.Trusted)))
	w.authenticate(string(pki.Encode(w.main().New)))
	err := certs.ClusterTrust(w.co).Apply(short(t), w.m)
	if err == nil || !strings.Contains(err.Error(), "kube-root-ca.crt of 2 namespaces: lacks the new CA in default") {
		t.Errorf("got %v", err)
	}
	if text := w.c.State(); strings.Contains(text, certs.CAMark) {
		t.Error("pods were replaced too early")
	}
	info, _ := w.c.Get("configmaps", "kube-public", "cluster-info")["data"].(kubetest.Object)
	data, _, err := kubeadm.AuthorityOf([]byte(fmt.Sprint(info["kubeconfig"])))
	if s, err2 := w.main().Stage(data); errors.Join(err, err2) != nil || s != pki.Trusted || info["jws-kubeconfig-abcdef"] != "x" {
		t.Errorf("cluster-info: %s, %v, %v", s, err, err2)
	}
}

// API servers add CAs to what they tell others, and never take one away.
func TestClusterRemove_takesTheOldCAsOutOfTheAPI(t *testing.T) {
	w := newTurn(t)
	defer w.close()
	foreign, _ := kubetest.Issue("users-ca", time.Now().AddDate(1, 0, 0))
	w.authenticate(string(pki.Encode(w.main().New)) + foreign)
	w.frontProxy(string(w.o.Rotations[2].Bundle(pki.Trusted)))
	w.publish(string(w.main().Bundle(pki.After)))
	if err := certs.ClusterRemove(w.co).Apply(t.Context(), w.m); err != nil {
		t.Fatal(err)
	}
	data, _ := w.c.Get("configmaps", "kube-system", "extension-apiserver-authentication")["data"].(kubetest.Object)
	if data["client-ca-file"] != string(w.main().Bundle(pki.After))+foreign || data["requestheader-client-ca-file"] != string(w.o.Rotations[2].Bundle(pki.After)) || data["requestheader-group-headers"] != `["X-Remote-Group"]` {
		t.Errorf("%v", data)
	}
	for _, s := range []plan.Step{certs.ClusterTrust(w.co), certs.ClusterRemove(w.co)} {
		if changes, err := s.Check(t.Context(), w.m); err != nil || len(changes) > 0 {
			t.Errorf("%s again: %v, %v", s.ID(), changes, err)
		}
	}
}
