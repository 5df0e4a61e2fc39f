// Package pki knows which certificates a node of a cluster made with kubeadm has:
// in files, in kubeconfigs, and in what its components serve. It only looks.
// Renewing is steps/certs'.
package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
)

// Dir is where kubeadm keeps certificates, and KubeletDir where the kubelet does.
const (
	Dir        = "/etc/kubernetes/pki"
	KubeletDir = "/var/lib/kubelet/pki"
	// KubeletClientPath is a link to the certificate and key that the kubelet uses.
	KubeletClientPath = KubeletDir + "/kubelet-client-current.pem"
	// KubeletConfPath is the kubelet's kubeconfig.
	KubeletConfPath = "/etc/kubernetes/kubelet.conf"
)

// CA signs certificates of kubeadm's.
type CA struct{ Name, CertPath, KeyPath string }

// Managed is a certificate that kubeadm renews on a control plane.
type Managed struct {
	Name string // as "kubeadm certs renew" takes it
	Path string
	CA   CA
	// Pod is the static pod that uses it; "" where none does.
	Pod string
	// Port is where that pod serves it; "" where it does not.
	Port string
}

// Kubeconfig reports whether the certificate is inside a kubeconfig.
func (m Managed) Kubeconfig() bool { return m.Path == "/etc/kubernetes/"+m.Name }

// AllManaged lists what kubeadm renews on a control plane, in its own names.
func AllManaged() []Managed {
	main := CA{"ca", kubeadm.CACertPath, Dir + "/ca.key"}
	etcd := CA{"etcd-ca", Dir + "/etcd/ca.crt", Dir + "/etcd/ca.key"}
	front := CA{"front-proxy-ca", Dir + "/front-proxy-ca.crt", Dir + "/front-proxy-ca.key"}
	const api, member = "kube-apiserver", "etcd"
	conf := func(name, pod string) Managed { return Managed{name, "/etc/kubernetes/" + name, main, pod, ""} }
	return []Managed{
		{"apiserver", Dir + "/apiserver.crt", main, api, "6443"},
		{"apiserver-kubelet-client", Dir + "/apiserver-kubelet-client.crt", main, api, ""},
		{"apiserver-etcd-client", Dir + "/apiserver-etcd-client.crt", etcd, api, ""},
		{"front-proxy-client", Dir + "/front-proxy-client.crt", front, api, ""},
		{"etcd-server", Dir + "/etcd/server.crt", etcd, member, "2379"},
		{"etcd-peer", Dir + "/etcd/peer.crt", etcd, member, "2380"},
		{"etcd-healthcheck-client", Dir + "/etcd/healthcheck-client.crt", etcd, member, ""},
		conf("admin.conf", ""), conf("super-admin.conf", ""),
		conf("controller-manager.conf", "kube-controller-manager"), conf("scheduler.conf", "kube-scheduler"),
	}
}

// Select returns the certificates of those names, in the order of AllManaged. The
// error names those that kubeadm does not know.
func Select(names []string) ([]Managed, error) {
	var out []Managed
	for _, m := range AllManaged() {
		if slices.Contains(names, m.Name) {
			out = append(out, m)
		}
	}
	for _, n := range names {
		if !slices.ContainsFunc(out, func(m Managed) bool { return m.Name == n }) {
			return nil, fmt.Errorf("kubeadm renews no certificate called %q", n)
		}
	}
	return out, nil
}

// Names lists certificates by name.
func Names(all []Managed) []string {
	var out []string
	for _, m := range all {
		out = append(out, m.Name)
	}
	return out
}

// Pods lists the static pods that use certificates, in the order in which they are
// to be restarted: etcd before its client, the API server before its clients.
func Pods(all []Managed) []string {
	var out []string
	for _, pod := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		if slices.ContainsFunc(all, func(m Managed) bool { return m.Pod == pod }) {
			out = append(out, pod)
		}
	}
	return out
}

// Facts are what matters of a certificate. Its JSON is stable.
type Facts struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serial"` // hexadecimal
	SHA256    string    `json:"sha256"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	SANs      []string  `json:"sans,omitempty"`
	CA        bool      `json:"ca,omitempty"`
}

// FactsOf describes a certificate.
func FactsOf(c *x509.Certificate) *Facts {
	f := &Facts{
		Subject: c.Subject.String(), Issuer: c.Issuer.String(), NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(),
		Serial: c.SerialNumber.Text(16), SANs: slices.Clone(c.DNSNames), CA: c.IsCA,
	}
	sum := sha256.Sum256(c.Raw)
	f.SHA256 = hex.EncodeToString(sum[:])
	for _, ip := range c.IPAddresses {
		f.SANs = append(f.SANs, ip.String())
	}
	return f
}

// First returns the first certificate of a PEM text, which may hold keys as well.
func First(text []byte) (*x509.Certificate, error) {
	all, err := All(text)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// All returns the certificates of a PEM text: at least one, or an error.
func All(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	return out, nil
}

// WarnBefore is how long before its end a certificate is warned of.
const WarnBefore = 30 * 24 * time.Hour

// Soon reports whether a certificate ends within WarnBefore. One that is made for
// less than ten times that is warned of in the last tenth of its time: whoever has
// certificates of a week does not want to hear of them every day.
func (f *Facts) Soon(now time.Time) bool {
	return f.NotAfter.Sub(now) <= min(WarnBefore, f.NotAfter.Sub(f.NotBefore)/10)
}

// Expired reports whether a certificate has ended.
func (f *Facts) Expired(now time.Time) bool { return !now.Before(f.NotAfter) }

// file is where a certificate is on a node.
type file struct {
	name, path string
	conf       bool // a kubeconfig
	needed     bool // its absence is worth a word
}

// files lists where a node may have certificates.
func files(inv *inventory.Inventory, n inventory.Node) []file {
	out := []file{{"ca", kubeadm.CACertPath, false, true}}
	if n.ControlPlane {
		local := inv.ExternalEtcd() == nil
		out = append(out, file{"front-proxy-ca", Dir + "/front-proxy-ca.crt", false, true})
		if local {
			out = append(out, file{"etcd-ca", Dir + "/etcd/ca.crt", false, true})
		} else {
			out = append(out, file{"external-etcd-ca", kubeadm.EtcdCAPath, false, true}, file{"external-etcd-client", kubeadm.EtcdCertPath, false, true})
		}
		for _, m := range AllManaged() {
			if !local && m.CA.Name == "etcd-ca" {
				continue
			}
			out = append(out, file{m.Name, m.Path, m.Kubeconfig(), m.Name != "super-admin.conf"}) // only where init ran
		}
	}
	return append(out,
		file{"kubelet.conf", KubeletConfPath, true, true}, file{"kubelet-client", KubeletClientPath, false, true},
		file{"kubelet-serving", KubeletDir + "/kubelet-server-current.pem", false, false}, file{"kubelet-serving", KubeletDir + "/kubelet.crt", false, false})
}
