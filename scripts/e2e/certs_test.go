//go:build e2e

package e2e

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/util/keyutil"
)

// shownCert is a line of "kocli certs list".
type shownCert struct {
	Name, Node, State string
	Differs           bool
	DaysLeft          int
	File, Served      *struct{ Serial string }
}

// listed runs "kocli certs list -o json" and returns it by name and node.
func listed(t *testing.T) map[string]shownCert {
	t.Helper()
	r := want(t, 0, "certs", "certs", "list", "-o", "json")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	var doc struct{ Certificates []shownCert }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &doc); err != nil {
		t.Fatalf("%v\n%s", err, r)
	}
	out := map[string]shownCert{}
	for _, c := range doc.Certificates {
		out[c.Name+" "+c.Node] = c
	}
	return out
}

// serial is what is in the file, or what is served where there is no file.
func (c shownCert) serial() string {
	switch {
	case c.File != nil:
		return c.File.Serial
	case c.Served != nil:
		return c.Served.Serial
	}
	return ""
}

// renewable are the certificates that kubeadm renews on every control plane.
func renewable() []string {
	return []string{"apiserver", "apiserver-kubelet-client", "apiserver-etcd-client", "front-proxy-client", "etcd-server", "etcd-peer",
		"etcd-healthcheck-client", "admin.conf", "controller-manager.conf", "scheduler.conf"}
}

func Test50_certificatesAreListedAndRenewedWhileTheClusterServes(t *testing.T) {
	allHosts(t)
	haYAML(t, "certs", "{mode: vip, address: "+vip(t)+"}", map[int]string{1: "control-plane", 2: "control-plane", 3: "control-plane", 4: "worker"})
	want(t, 0, "certs", "create")
	want(t, 0, "certs", "status", "--wait", "3m")
	before := listed(t)
	for _, name := range renewable() {
		for _, h := range []string{"host1", "host2", "host3"} {
			c, ok := before[name+" "+h]
			if !ok || c.Differs || c.DaysLeft < 363 || c.DaysLeft > 365 || c.State != "valid" {
				t.Errorf("%s on %s: %+v", name, h, c)
			}
		}
	}
	for _, name := range []string{"kubelet-client host4", "kubelet-serving host4", "ca host4", "controller-manager-serving host2", "scheduler-serving host3"} {
		if c := before[name]; c.State != "valid" || c.serial() == "" {
			t.Errorf("%s: %+v", name, c)
		}
	}
	// A plan, and nothing else.
	r := want(t, 0, "certs", "certs", "renew", "--all", "--dry-run")
	if !strings.Contains(r.out, "certificate etcd-peer") || !strings.Contains(r.out, "static pod kube-apiserver") {
		t.Errorf("the plan:\n%s", r)
	}
	if now := listed(t); now["apiserver host1"].serial() != before["apiserver host1"].serial() {
		t.Error("a dry run has renewed a certificate")
	}
	// kocli dies when the first control plane is restarted; the same command goes on,
	// and renews nothing twice.
	p := probe("https://" + vip(t) + ":8443")
	defer p.end()
	args := []string{"certs", "renew", "--all", "--yes"}
	first := ""
	signalAt(t, "certs", syscall.SIGKILL, func(e event) bool {
		if e.Kind == "step-started" && e.Step == "certs/restart" {
			first = e.Node
		}
		return first != ""
	}, args...)
	killed := sh(t, first, "sha256sum /etc/kubernetes/pki/*.crt /etc/kubernetes/pki/etcd/*.crt /etc/kubernetes/*.conf")
	r = want(t, 0, "certs", args...)
	figure(t, "certs.renew.3.seconds", r.took.Seconds())
	if now := sh(t, first, "sha256sum /etc/kubernetes/pki/*.crt /etc/kubernetes/pki/etcd/*.crt /etc/kubernetes/*.conf"); now != killed {
		t.Errorf("renewed twice on %s:\n%s", first, difference(killed, now))
	}
	if failed, gap := report(t, p, "certs.renew"); gap > 10*time.Second {
		t.Errorf("the API was away for %s (%d requests)", gap, failed)
	}
	after := listed(t)
	for _, name := range renewable() {
		for _, h := range []string{"host1", "host2", "host3"} {
			old, now := before[name+" "+h], after[name+" "+h]
			if now.serial() == old.serial() || now.Differs || now.DaysLeft < 364 {
				t.Errorf("%s on %s: %+v after %+v", name, h, now, old)
			}
			if now.Served != nil && now.Served.Serial == old.Served.Serial {
				t.Errorf("%s on %s still serves %s", name, h, old.Served.Serial)
			}
		}
	}
	for _, name := range []string{"controller-manager-serving host1", "scheduler-serving host1"} { // made when they start
		if after[name].serial() == before[name].serial() {
			t.Errorf("%s: not restarted", name)
		}
	}
	if after["ca host1"].serial() != before["ca host1"].serial() || after["kubelet-client host4"].serial() != before["kubelet-client host4"].serial() {
		t.Error("what was not asked for was renewed")
	}
	want(t, 0, "certs", "status", "--wait", "2m")
	if e := lastLine(t, want(t, 0, "certs", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
}

// signer is a CA of the cluster.
type signer struct {
	cert *x509.Certificate
	key  any
}

func ca(t *testing.T, host, base string) signer {
	t.Helper()
	block, _ := pem.Decode([]byte(sh(t, host, "cat "+base+".crt")))
	key, err := keyutil.ParsePrivateKeyPEM([]byte(sh(t, host, "cat "+base+".key")))
	if err != nil || block == nil {
		t.Fatalf("the CA %s: %v", base, err)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return signer{cert, key}
}

// ended returns a certificate for the same key and names that ended an hour ago.
func (s signer) ended(t *testing.T, text string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no certificate: %s", text)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	c.NotBefore, c.NotAfter = time.Now().Add(-365*24*time.Hour), time.Now().Add(-time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, c, s.cert, c.PublicKey, s.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

var (
	inConf  = regexp.MustCompile(`client-certificate-data: (\S+)`)
	inStore = regexp.MustCompile(`(?s)-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n`)
)

// expire has the certificates of a host have ended: those that kubeadm made, and the
// kubelet's own. Keys stay.
func expire(t *testing.T, host string, controlPlane bool, main, etcd, front signer) {
	t.Helper()
	put := func(path, text string) {
		f := filepath.Join(t.TempDir(), "cert")
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		copyTo(t, host, f, path, "600")
	}
	store := sh(t, host, "readlink -f /var/lib/kubelet/pki/kubelet-client-current.pem")
	text := sh(t, host, "cat "+store) + "\n"
	put(store, inStore.ReplaceAllStringFunc(text, func(c string) string { return main.ended(t, c) }))
	if !controlPlane {
		return
	}
	const dir = "/etc/kubernetes/pki/"
	for file, by := range map[string]signer{"apiserver": main, "apiserver-kubelet-client": main, "apiserver-etcd-client": etcd, "front-proxy-client": front, "etcd/server": etcd, "etcd/peer": etcd, "etcd/healthcheck-client": etcd} {
		put(dir+file+".crt", by.ended(t, sh(t, host, "cat "+dir+file+".crt")))
	}
	for _, f := range strings.Fields(sh(t, host, "ls /etc/kubernetes/admin.conf /etc/kubernetes/super-admin.conf /etc/kubernetes/controller-manager.conf /etc/kubernetes/scheduler.conf 2>/dev/null; true")) {
		put(f, inConf.ReplaceAllStringFunc(sh(t, host, "cat "+f)+"\n", func(field string) string {
			raw, err := base64.StdEncoding.DecodeString(inConf.FindStringSubmatch(field)[1])
			if err != nil {
				t.Fatal(err)
			}
			return "client-certificate-data: " + base64.StdEncoding.EncodeToString([]byte(main.ended(t, string(raw))))
		}))
	}
}

func Test51_certificatesThatHaveEndedAreRescued(t *testing.T) {
	const pki = "/etc/kubernetes/pki/"
	main, etcd, front := ca(t, "host1", pki+"ca"), ca(t, "host1", pki+"etcd/ca"), ca(t, "host1", pki+"front-proxy-ca")
	kubectlAt(t, "host1", "create configmap kept --from-literal=a=b")
	hosts := []string{"host1", "host2", "host3", "host4"}
	for _, h := range hosts {
		expire(t, h, h != "host4", main, etcd, front)
	}
	for _, h := range hosts { // nothing lives on what it had in memory
		lab(t, "reboot", "e2e", h)
	}
	time.Sleep(20 * time.Second)
	if r := want(t, 7, "certs", "status"); !strings.Contains(r.out, " ended on ") || !strings.Contains(r.err, "kocli certs rescue") {
		t.Errorf("status:\n%s", r)
	}
	if r := want(t, 7, "certs", "certs", "list"); !strings.Contains(r.out, "ENDED") {
		t.Errorf("list:\n%s", r)
	}
	if r := want(t, 3, "certs", "certs", "renew", "--all", "--yes"); !strings.Contains(r.err, "kocli certs rescue") {
		t.Errorf("renew:\n%s", r)
	}
	if r := want(t, 0, "certs", "certs", "rescue", "--dry-run"); !strings.Contains(r.out, "client certificate of the kubelet") {
		t.Errorf("the plan:\n%s", r)
	}
	// kocli dies in the middle.
	signalAt(t, "certs", syscall.SIGKILL, func(e event) bool { return e.Kind == "step-started" && e.Step == "certs/restart" }, "certs", "rescue", "--yes")
	r := want(t, 0, "certs", "certs", "rescue", "--yes")
	figure(t, "certs.rescue.3+1.seconds", r.took.Seconds())
	want(t, 0, "certs", "status", "--wait", "3m")
	for at, c := range listed(t) {
		if c.State != "valid" || c.Differs {
			t.Errorf("%s: %+v", at, c)
		}
	}
	if got := nodeNames(t, "host1"); got != strings.Join(hosts, " ") {
		t.Errorf("nodes: %s", got)
	}
	if got := kubectlAt(t, "host2", "get configmap kept -o jsonpath='{.data.a}'"); got != "b" {
		t.Errorf("what was stored: %q", got)
	}
	// The administrator's kubeconfig of this machine is the new one.
	if r := want(t, 0, "certs", "kubeconfig"); !strings.Contains(r.out, inConf.FindString(sh(t, "host1", "cat /etc/kubernetes/admin.conf"))) {
		t.Errorf("the kubeconfig is an old one")
	}
	if r := want(t, 0, "certs", "certs", "rescue", "--yes"); !strings.Contains(r.out, "nothing to renew") {
		t.Errorf("again:\n%s", r)
	}
	if e := lastLine(t, want(t, 0, "certs", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
	want(t, 0, "certs", "reset", "--yes")
	for i := range hosts {
		h := fmt.Sprintf("host%d", i+1)
		if now := sh(t, h, inventory); now != before[h] {
			t.Errorf("%s is not what it was:\n%s", h, difference(before[h], now))
		}
	}
}

// shownBy returns the certificate that is shown at an address, whoever signed it.
func shownBy(t *testing.T, address string) *x509.Certificate {
	t.Helper()
	var shown *x509.Certificate
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: &tls.Config{InsecureSkipVerify: true, VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
		var err error
		shown, err = x509.ParseCertificate(raw[0])
		return err
	}}}
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err == nil {
		_ = c.Close()
	}
	if shown == nil {
		t.Fatalf("%s shows no certificate: %v", address, err)
	}
	return shown
}

// alone is the only certificate of a file.
func alone(t *testing.T, host, file string) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode([]byte(sh(t, host, "cat "+file)))
	if block == nil || strings.Contains(string(rest), "BEGIN") {
		t.Fatalf("%s on %s does not hold one certificate", file, host)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A user's pod that talks to the API: CoreDNS is ready once it has read from there.
const client = `
apiVersion: v1
kind: ConfigMap
metadata: {name: client, namespace: default}
data:
  Corefile: |
    .:5353 {
        ready :8181
        kubernetes cluster.local
    }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: client}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:coredns"}
subjects: [{kind: ServiceAccount, name: default, namespace: default}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: default}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      tolerations: [{operator: Exists}]
      containers:
        - name: c
          image: IMAGE
          imagePullPolicy: Never
          args: ["-conf", "/etc/coredns/Corefile"]
          readinessProbe: {httpGet: {path: /ready, port: 8181}}
          volumeMounts: [{name: conf, mountPath: /etc/coredns}]
      volumes: [{name: conf, configMap: {name: client}}]
`

// Three control planes and a worker get new CAs while the API is asked ten times a
// second, and kocli is killed in every part.
func Test52_CAsAreReplacedWhileTheClusterServes(t *testing.T) {
	allHosts(t)
	haYAML(t, "certs", "{mode: vip, address: "+vip(t)+"}", map[int]string{1: "control-plane", 2: "control-plane", 3: "control-plane", 4: "worker"})
	want(t, 0, "certs", "create")
	want(t, 0, "certs", "status", "--wait", "3m")
	file := filepath.Join(t.TempDir(), "client.yaml")
	image := kubectlAt(t, "host1", "-n kube-system get deployment coredns -o jsonpath='{.spec.template.spec.containers[0].image}'")
	if err := os.WriteFile(file, []byte(strings.Replace(client, "IMAGE", image, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	copyTo(t, "host1", file, "/root/client.yaml", "600")
	kubectlAt(t, "host1", "apply -f /root/client.yaml")
	kubectlAt(t, "host1", "rollout status deployment/client --timeout=3m")
	sh(t, "host1", "cp /etc/kubernetes/admin.conf /root/old-admin.conf")
	const pki = "/etc/kubernetes/pki/"
	files := []string{pki + "ca.crt", pki + "etcd/ca.crt", pki + "front-proxy-ca.crt"}
	old := map[string]*x509.Certificate{}
	for _, f := range files {
		old[f] = alone(t, "host1", f)
	}
	manifest := sh(t, "host1", "cat /etc/kubernetes/manifests/kube-controller-manager.yaml")
	sa := sh(t, "host1", "sha256sum "+pki+"sa.key")

	if r := want(t, 0, "certs", "certs", "rotate-ca", "--dry-run"); !strings.Contains(r.out, "CA ca: ") || !strings.Contains(r.out, "certificate etcd-peer") {
		t.Errorf("the plan:\n%s", r)
	}
	if sh(t, "host1", "ls -d "+pki+"rotation 2>/dev/null; true") != "" || !alone(t, "host1", files[0]).Equal(old[files[0]]) {
		t.Error("a dry run has changed something")
	}
	p := probe("https://" + vip(t) + ":8443")
	defer p.end()
	// kill runs the command until a step begins, and kills it there.
	kill := func(step string, args ...string) {
		t.Helper()
		signalAt(t, "certs", syscall.SIGKILL, func(e event) bool { return e.Kind == "step-started" && e.Step == step }, append([]string{"certs", "rotate-ca", "--yes"}, args...)...)
		t.Logf("killed at %s", step)
	}
	for _, step := range []string{"certs/new-ca", "certs/trust", "certs/restart-trust", "certs/trust-cluster"} {
		kill(step, "--pause-after", "trust")
	}
	r := want(t, 0, "certs", "certs", "rotate-ca", "--yes", "--pause-after", "trust")
	if !strings.Contains(r.out, "default/client-") {
		t.Errorf("the user's pod is not listed:\n%s", r)
	}
	if failed, gap := report(t, p, "certs.rotate.trust"); gap > 10*time.Second {
		t.Errorf("the API was away for %s (%d requests)", gap, failed)
	}
	if r := want(t, 3, "certs", "create"); !strings.Contains(r.err, "kocli certs rotate-ca") {
		t.Errorf("create in between:\n%s", r)
	}
	kubectlAt(t, "host1", "rollout restart deployment/client")
	kubectlAt(t, "host1", "rollout status deployment/client --timeout=3m")
	for _, step := range []string{"certs/sign", "certs/restart-sign", "certs/kubelet"} { // the proof changes nothing
		kill(step)
	}
	want(t, 0, "certs", "certs", "rotate-ca", "--yes", "--pause-after", "sign")
	for _, step := range []string{"certs/remove-ca", "certs/restart-remove", "certs/remove-cluster", "certs/clean"} {
		kill(step)
	}
	r = want(t, 0, "certs", "certs", "rotate-ca", "--yes")
	figure(t, "certs.rotate.last.seconds", r.took.Seconds())
	if failed, gap := report(t, p, "certs.rotate.sign-and-remove"); gap > 10*time.Second {
		t.Errorf("the API was away for %s (%d requests)", gap, failed)
	}

	// One new CA each, everywhere, with its key on control planes alone.
	fresh := map[string]*x509.Certificate{}
	for _, f := range files {
		fresh[f] = alone(t, "host1", f)
		if fresh[f].Equal(old[f]) {
			t.Errorf("%s is the old one", f)
		}
		for _, h := range []string{"host2", "host3"} {
			if !alone(t, h, f).Equal(fresh[f]) {
				t.Errorf("%s of %s is another one", f, h)
			}
		}
	}
	if !alone(t, "host4", files[0]).Equal(fresh[files[0]]) {
		t.Error("the worker has another CA")
	}
	for i, h := range []string{"host1", "host2", "host3", "host4"} {
		keys := sh(t, h, "find "+pki+" -name 'ca.key' -printf '%m %P\\n' | sort | xargs")
		if want := map[bool]string{true: "600 ca.key 600 etcd/ca.key", false: ""}[i < 3]; keys != want {
			t.Errorf("keys of CAs on %s: %q", h, keys)
		}
		if left := sh(t, h, "ls -d "+pki+"rotation* 2>/dev/null; true"); left != "" {
			t.Errorf("left on %s: %s", h, left)
		}
		if i < 3 {
			for port, f := range map[string]string{"6443": files[0], "2379": files[1], "2380": files[1]} {
				if err := shownBy(t, net.JoinHostPort(hostAddress(t, i+1), port)).CheckSignatureFrom(fresh[f]); err != nil {
					t.Errorf("what %s shows at %s: %v", h, port, err)
				}
			}
		}
	}
	if now := sh(t, "host1", "cat /etc/kubernetes/manifests/kube-controller-manager.yaml"); now != manifest {
		t.Errorf("the controller manager's manifest:\n%s", difference(manifest, now))
	}
	if now := sh(t, "host1", "sha256sum "+pki+"sa.key"); now != sa {
		t.Error("the key of service accounts has changed")
	}
	for _, name := range []string{"-n kube-public get configmap cluster-info", "-n default get configmap kube-root-ca.crt", "-n kube-system get configmap extension-apiserver-authentication"} {
		text := kubectlAt(t, "host1", name+" -o yaml")
		first := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: old[files[0]].Raw}))
		if strings.Contains(text, first) || strings.Contains(strings.ReplaceAll(strings.ReplaceAll(text, "\n", ""), " ", ""), base64.StdEncoding.EncodeToString(old[files[0]].Raw)) {
			t.Errorf("%s still has the old CA", name)
		}
	}
	// Who has nothing but what the old CA signed is refused, though it trusts the new one.
	refused := sh(t, "host1", "cd /root; kubectl --kubeconfig old-admin.conf config view --raw >stale.conf; kubectl --kubeconfig stale.conf config set-cluster $(kubectl --kubeconfig stale.conf config get-clusters | tail -1) --certificate-authority=/etc/kubernetes/pki/ca.crt --embed-certs=true >/dev/null; kubectl --cache-dir /tmp/kube --kubeconfig stale.conf get nodes 2>&1; true")
	if strings.Contains(refused, "host1") || !strings.Contains(refused, "must be logged in") && !strings.Contains(refused, "Unauthorized") && !strings.Contains(refused, "provide credentials") {
		t.Errorf("the old administrator:\n%s", refused)
	}
	if r := want(t, 0, "certs", "kubeconfig"); !strings.Contains(r.out, inConf.FindString(sh(t, "host1", "cat /etc/kubernetes/admin.conf"))) {
		t.Error("the kubeconfig of this machine is an old one")
	}
	// A pod that was made before is restarted, and talks to the API.
	kubectlAt(t, "host1", "delete pod -l app=client")
	kubectlAt(t, "host1", "rollout status deployment/client --timeout=3m")
	want(t, 0, "certs", "status", "--wait", "3m")
	for at, c := range listed(t) {
		if c.State != "valid" || c.Differs {
			t.Errorf("%s: %+v", at, c)
		}
	}
	wantMembers(t, "host2", "host1", "host2", "host3")
	haYAML(t, "certs", "{mode: vip, address: "+vip(t)+"}", map[int]string{1: "control-plane", 2: "control-plane", 3: "control-plane", 4: "worker", 5: "worker"})
	want(t, 0, "certs", "scale", "--yes")
	want(t, 0, "certs", "status", "--wait", "3m")
	if got := nodeNames(t, "host1"); got != "host1 host2 host3 host4 host5" {
		t.Errorf("nodes: %s", got)
	}
	if e := lastLine(t, want(t, 0, "certs", "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
	sh(t, "host1", "rm -f /root/client.yaml /root/old-admin.conf /root/stale.conf")
	want(t, 0, "certs", "reset", "--yes")
	for i := 1; i <= 5; i++ {
		h := fmt.Sprintf("host%d", i)
		if now := sh(t, h, inventory); now != before[h] {
			t.Errorf("%s is not what it was:\n%s", h, difference(before[h], now))
		}
	}
}
