//go:build e2e && long

package e2e

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
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
