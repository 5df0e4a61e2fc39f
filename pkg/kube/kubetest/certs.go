package kubetest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/host/hosttest"
)

// Issue returns a certificate that signs itself, and its key, in PEM. Each is another
// one.
func Issue(name string, notAfter time.Time, sans ...string) (cert, key string) {
	return issue(nil, nil, name, notAfter, sans)
}

// Sign returns a certificate that a CA signs, and its key, in PEM. The CA is the first
// of its file, as kubeadm has it.
func Sign(ca, caKey, name string, notAfter time.Time, sans ...string) (cert, key string) {
	pair, err := tls.X509KeyPair([]byte(ca), []byte(caKey))
	if err != nil {
		panic(fmt.Sprintf("the CA and its key: %v", err)) // as kubeadm would end
	}
	return issue(pair.Leaf, pair.PrivateKey, name, notAfter, sans)
}

// issue has a CA sign, or the certificate itself where there is none.
func issue(ca *x509.Certificate, caKey any, name string, notAfter time.Time, sans []string) (cert, key string) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // there is no randomness
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic(err) // as above
	}
	form := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: notAfter.AddDate(-1, 0, 0), NotAfter: notAfter, IsCA: strings.HasSuffix(name, "ca"), BasicConstraintsValid: true}
	for _, s := range sans {
		if ip := net.ParseIP(s); ip != nil {
			form.IPAddresses = append(form.IPAddresses, ip)
		} else {
			form.DNSNames = append(form.DNSNames, s)
		}
	}
	if ca == nil {
		ca, caKey = form, private
	}
	der, err := x509.CreateCertificate(rand.Reader, form, ca, public, caKey)
	if err != nil {
		panic(err) // of fixed parts
	}
	pkcs, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		panic(err) // it was just made
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs}))
}

// WithClient returns a kubeconfig whose user has this certificate and key.
func WithClient(kubeconfig, cert, key string) string {
	conf := Object{}
	if err := yaml.Unmarshal([]byte(kubeconfig), &conf); err != nil {
		panic(err) // kubetest made it
	}
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	conf["users"] = []any{Object{"name": "u", "user": Object{"client-certificate-data": encode(cert), "client-key-data": encode(key)}}}
	out, err := yaml.Marshal(conf)
	if err != nil {
		panic(err) // it came from YAML
	}
	return string(out)
}

// withFirstCA returns a kubeconfig that trusts what it trusted, but where a rotation has
// put two CAs into the file: then kubeadm writes the first of them alone.
func withFirstCA(kubeconfig, file string) string {
	if strings.Count(file, "BEGIN CERTIFICATE") < 2 {
		return kubeconfig
	}
	block, _ := pem.Decode([]byte(file))
	conf := Object{}
	if err := yaml.Unmarshal([]byte(kubeconfig), &conf); err != nil {
		panic(err) // kubetest made it
	}
	cluster, _ := conf["clusters"].([]any)[0].(Object)["cluster"].(Object)
	cluster["certificate-authority-data"] = base64.StdEncoding.EncodeToString(pem.EncodeToMemory(block))
	out, err := yaml.Marshal(conf)
	if err != nil {
		panic(err) // it came from YAML
	}
	return string(out)
}

// renewable is where kubeadm has what it renews, without the ending of certificates.
func renewable(name string) (file, caKey string, ok bool) {
	const dir = "/etc/kubernetes/pki/"
	if strings.HasSuffix(name, ".conf") {
		return "/etc/kubernetes/" + name, dir + "ca.key", true
	}
	switch name {
	case "apiserver", "apiserver-kubelet-client":
		return dir + name, dir + "ca.key", true
	case "apiserver-etcd-client":
		return dir + name, dir + "etcd/ca.key", true
	case "front-proxy-client":
		return dir + name, dir + "front-proxy-ca.key", true
	case "etcd-server", "etcd-peer", "etcd-healthcheck-client":
		return dir + "etcd/" + strings.TrimPrefix(name, "etcd-"), dir + "etcd/ca.key", true
	}
	return "", "", false
}

// renew is "kubeadm certs renew": the key first, then the certificate. What is not
// there, or cannot be signed, is said on stdout and is no error.
func (c *Cluster) renew(m *hosttest.Machine, name string) hosttest.Reply {
	file, caKey, ok := renewable(name)
	if !ok {
		return hosttest.Reply{Stderr: "error: unknown command " + name, Code: 1}
	}
	signKey, ok := m.Read(caKey)
	if !ok {
		return hosttest.Reply{Stdout: "Detected external ca, " + name + " can't be renewed\n"}
	}
	ca, _ := m.Read(strings.TrimSuffix(caKey, ".key") + ".crt")
	if _, err := tls.X509KeyPair([]byte(ca), []byte(signKey)); err != nil {
		return hosttest.Reply{Stderr: "error: failed to renew certificate " + name + ": " + err.Error(), Code: 1}
	}
	cert, key := Sign(ca, signKey, name, time.Now().AddDate(1, 0, 0), "127.0.0.1", m.Name())
	if text, ok := m.Read(file); ok && strings.HasSuffix(name, ".conf") {
		c.run(m, []effect{func() { m.Write(file, 0o600, WithClient(withFirstCA(text, ca), cert, key)) }})
		return hosttest.Reply{Stdout: name + " renewed\n"}
	}
	if _, ok := m.Read(file + ".crt"); !ok {
		return hosttest.Reply{Stdout: "MISSING! " + name + "\n"}
	}
	c.run(m, []effect{func() { m.Write(file+".key", 0o600, key) }, func() { m.Write(file+".crt", 0o644, cert) }})
	return hosttest.Reply{Stdout: name + " renewed\n"}
}

// user is "kubeadm kubeconfig user".
func (c *Cluster) user(m *hosttest.Machine, args []string) hosttest.Reply {
	caKey, ok := m.Read("/etc/kubernetes/pki/ca.key")
	if !ok {
		return hosttest.Reply{Stderr: "error: the ca.key is not there", Code: 1}
	}
	ca, _ := m.Read("/etc/kubernetes/pki/ca.crt")
	name := ""
	for i, a := range args {
		if a == "--client-name" && i+1 < len(args) {
			name = args[i+1]
		}
	}
	cert, key := Sign(ca, caKey, name, time.Now().AddDate(1, 0, 0))
	return hosttest.Reply{Stdout: WithClient(c.conf(), cert, key), Stderr: fmt.Sprintf("[endpoint] WARNING for %s\n", name)}
}
