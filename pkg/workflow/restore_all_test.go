package workflow_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/etcd/datadir"
	"github.com/kocli/kocli/pkg/etcd/etcdtest"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/workflow"
)

const pki = "/etc/kubernetes/pki/"

// issuer is a CA and what makes certificates of it.
type issuer struct {
	pem  string
	cert *x509.Certificate
	key  any
}

func newIssuer(t *testing.T) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Unix(4_000_000_000, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), cert, key}
}

// etcdIssuer is the CA of an etcd in the test's process.
func etcdIssuer(t *testing.T, e *etcdtest.Cluster) issuer {
	t.Helper()
	c := e.Credentials()
	pair, err := tls.X509KeyPair(c.Cert, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return issuer{string(c.CA), cert, pair.PrivateKey}
}

func (i issuer) leaf(t *testing.T, n inventory.Node, sans ...string) string {
	t.Helper()
	form := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Unix(4_000_000_000, 0), DNSNames: []string{n.Name}}
	for _, s := range append(sans, n.IP, "127.0.0.1") {
		if ip := net.ParseIP(s); ip != nil {
			form.IPAddresses = append(form.IPAddresses, ip)
		} else {
			form.DNSNames = append(form.DNSNames, s)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, form, i.cert, i.cert.PublicKey, i.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// disaster is a cluster whose control planes have lost all, while the API stands for
// what the backup holds.
type disaster struct {
	*lab
	etcd *etcdtest.Cluster
	ca   issuer

	mu  sync.Mutex
	ran []string // what happened, in order
}

func newDisaster(t *testing.T) *disaster {
	t.Helper()
	example, err := os.ReadFile("../../examples/cluster-external-lb.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cluster.yaml") // at addresses that the etcd of tests has certificates for
	if err := os.WriteFile(file, bytes.ReplaceAll(example, []byte("10.10.0."), []byte("10.0.0.")), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &disaster{lab: newLab(t, file), etcd: etcdtest.New(t), ca: newIssuer(t)}
	d.create(t, plan.Options{})
	for _, n := range d.inv.Workers() { // they live, and wait for their API
		f := d.cluster.Facts[n.Name]
		f.Kubernetes = []string{"/etc/kubernetes/kubelet.conf"}
		d.cluster.Facts[n.Name] = f
	}
	etcdCA := etcdIssuer(t, d.etcd)
	for _, n := range d.inv.ControlPlanes() {
		m := d.hosts[n.Name]
		for _, p := range []string{"/etc/kubernetes", "/var/lib/kubelet", "/var/lib/etcd"} {
			m.Delete(p)
		}
		m.OnDial(func(ctx context.Context, network, address string) (net.Conn, error) {
			if etcdtest.Serves(address) {
				return d.etcd.Dial(ctx, network, address)
			}
			return d.api.Dial(ctx, network, address)
		})
		m.Handle(func(m *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
			_, runs := m.Read("/run/kubelet-runs")
			ours := strings.Join(argv, " ") == "systemctl is-active kubelet.service"
			if !runs {
				return "inactive\n", 3, ours
			}
			return "active\n", 0, ours
		})
		m.Install(d.phases(t, n, etcdCA), d.data(n), func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
			return hosttest.Reply{}, len(argv) > 3 && argv[0] == "/usr/local/bin/ctr" && (argv[3] == "tasks" || argv[3] == "containers") // nothing runs
		})
	}
	return d
}

func (d *disaster) did(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ran = append(d.ran, what)
}

// phases does what phases of kubeadm init do on a node.
func (d *disaster) phases(t *testing.T, n inventory.Node, etcdCA issuer) hosttest.Program {
	return func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		if len(argv) < 9 || !slices.Contains(argv, kubeadm.RestoreConfigPath) {
			return hosttest.Reply{}, false
		}
		i := slices.Index(argv, "phase")
		name := strings.Join(argv[i+1:len(argv)-2], " ")
		d.did(name)
		put := func(p, text string) { m.Write(p, 0o600, text) }
		switch name {
		case "certs all":
			for _, l := range []string{"apiserver", "apiserver-kubelet-client", "front-proxy-client"} {
				put(pki+l+".key", "key")
				put(pki+l+".crt", d.ca.leaf(t, n, kubeadm.CertSANs(d.inv)...))
			}
			for _, l := range []string{"etcd/server", "etcd/peer", "etcd/healthcheck-client"} {
				put(pki+l+".key", "key")
				put(pki+l+".crt", etcdCA.leaf(t, n))
			}
			d.etcd.Install(m)
		case "kubeconfig admin", "kubeconfig super-admin", "kubeconfig controller-manager", "kubeconfig scheduler", "kubeconfig kubelet":
			conf := strings.Replace(d.api.Kubeconfig(), "https://127.0.0.1:6443", "https://"+d.inv.Endpoint(), 1)
			mark := "certificate-authority-data: " // the cluster's CA, and that of the API server of tests
			put("/etc/kubernetes/"+strings.TrimPrefix(name, "kubeconfig ")+".conf", strings.Replace(conf, mark, mark+base64.StdEncoding.EncodeToString([]byte(padded(d.ca.pem))), 1))
		case "etcd local":
			put(kubeadm.EtcdManifestPath, "etcd")
			d.etcd.Add(n.Name, n.IP)
		case "kubelet-start":
			put("/run/kubelet-runs", "")
			put("/var/lib/kubelet/config.yaml", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n")
		case "control-plane apiserver":
			put(kubeadm.APIServerManifestPath, "api")
		case "control-plane controller-manager", "control-plane scheduler":
			put(kubeadm.ManifestsDir+"/kube-"+strings.TrimPrefix(name, "control-plane ")+".yaml", name)
		default:
			return hosttest.Reply{Stderr: "error: no phase " + name, Code: 1}, true
		}
		return hosttest.Reply{}, true
	}
}

// padded is a text whose base64 can be gone on with.
func padded(text string) string { return text + strings.Repeat("\n", (3-len(text)%3)%3) }

// data makes data directories.
func (d *disaster) data(n inventory.Node) hosttest.Program {
	return func(_ context.Context, m *hosttest.Machine, argv []string, stdin []byte) (hosttest.Reply, bool) {
		if len(argv) < 3 || argv[1] != "node" || argv[2] != "restore" {
			return hosttest.Reply{}, false
		}
		var rq datadir.Request
		if err := json.Unmarshal(stdin, &rq); err != nil || rq.Member.Name != n.Name {
			return hosttest.Reply{Stderr: fmt.Sprintf("error: %s, %v", stdin, err), Code: 1}, true
		}
		if text, _ := m.Read(rq.Snapshot); text != "snapshot" {
			return hosttest.Reply{Stderr: "error: no snapshot", Code: 1}, true
		}
		d.did("data")
		m.Write(datadir.MarkerPath(rq.Dir), 0o600, string(datadir.Marker(rq.ID)))
		return hosttest.Reply{}, true
	}
}

func (d *disaster) restore(t *testing.T) (*plan.Plan, error) {
	t.Helper()
	var files []host.File
	for p, text := range map[string]string{"ca.crt": d.ca.pem, "front-proxy-ca.crt": d.ca.pem, "etcd/ca.crt": string(d.etcd.Credentials().CA), "ca.key": "key", "sa.key": "key", "sa.pub": "key", "front-proxy-ca.key": "key", "etcd/ca.key": "key"} {
		files = append(files, host.Bytes(pki+p, 0o600, []byte(text)))
	}
	files = append(files, host.Bytes(kubeadm.EncryptionConfigPath, 0o600, []byte("the key of the backup")))
	phases, err := workflow.RestorePhases(d.cluster, "id", files, host.Bytes("", 0o600, []byte("snapshot")))
	if err != nil {
		return nil, err
	}
	return plan.Compile(phases, plan.Options{})
}

// All control planes have lost all that they had. The restore ends with a cluster on
// which create has nothing to do, and so does one that lost its connections midway.
func TestRestore_endsWithAClusterThatCreateLeavesAlone(t *testing.T) {
	t.Parallel()
	for _, cut := range []int{0, 1, 4, 8, 12, 16, 20, 24} { // the write at which the second host is lost
		t.Run(fmt.Sprintf("cut at write %d", cut), func(t *testing.T) {
			t.Parallel()
			d := newDisaster(t)
			if cut > 0 {
				d.hosts["cp-2"].CutAfter(cut)
				p, err := d.restore(t)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				if _, err := p.Execute(ctx, d, nil); err == nil {
					t.Error("a host was lost, and nobody says so")
				}
				cancel()
				d.hosts["cp-2"].CutBefore(0)
			}
			p, err := d.restore(t)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Execute(t.Context(), d, nil); err != nil {
				t.Fatal(err)
			}
			p, err = d.restore(t)
			if err != nil {
				t.Fatal(err)
			}
			changes, err := p.Preview(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			if len(changes) > 0 {
				t.Errorf("a restore again would do %v", changes)
			}
			if got := d.preview(t); got != "nothing to do\n" {
				t.Errorf("create would do\n%s", got)
			}
			first := func(what string) int { return slices.Index(d.ran, what) }
			last := func(what string) int {
				for i := len(d.ran) - 1; i >= 0; i-- {
					if d.ran[i] == what {
						return i
					}
				}
				return -1
			}
			if last("data") > first("etcd local") || last("etcd local") > first("control-plane apiserver") || last("control-plane apiserver") > first("control-plane controller-manager") {
				t.Errorf("out of order: %v", d.ran)
			}
			if text, _ := d.hosts["cp-1"].Read(kubeadm.EncryptionConfigPath); text != "the key of the backup" {
				t.Errorf("what encrypts Secrets is %q", text)
			}
			if n := strings.Count(strings.Join(d.ran, ","), "data"); n != 3 {
				t.Errorf("data was restored %d times", n)
			}
		})
	}
}
