package kubetest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/host/hosttest"
)

// settings are what the fake kubeadm reads of its ClusterConfiguration.
type settings struct {
	Kind                 string `json:"kind"`
	ControlPlaneEndpoint string `json:"controlPlaneEndpoint"`
	KubernetesVersion    string `json:"kubernetesVersion"`
	APIServer            struct {
		CertSANs []string `json:"certSANs"`
	} `json:"apiServer"`
}

func parse1(doc string) settings {
	var s settings
	_ = yaml.Unmarshal([]byte(doc), &s) // what is not one has no kind
	return s
}

// document is the one of that kind in a --config.
func document(config, kind string) string {
	for _, doc := range strings.Split(config, "---\n") {
		if parse1(doc).Kind == kind {
			return doc
		}
	}
	return ""
}

// kubeletConfig writes the configuration of a kubelet: the cluster's, and the
// patch of the host over it.
func (c *Cluster) kubeletConfig(m *hosttest.Machine) effect {
	return func() {
		conf := Object{}
		if cm := c.Get("configmaps", "kube-system", "kubelet-config"); cm != nil {
			text, _ := cm["data"].(Object)["kubelet"].(string)
			_ = yaml.Unmarshal([]byte(text), &conf) // written by kubeadm init
		}
		if text, ok := m.Read(kubeletPatch); ok {
			patch := Object{}
			_ = yaml.Unmarshal([]byte(text), &patch)
			merge(conf, patch)
		}
		raw, err := yaml.Marshal(conf)
		if err != nil {
			panic(err) // it came from YAML
		}
		m.Write("/var/lib/kubelet/config.yaml", 0o644, string(raw))
	}
}

const kubeletPatch = "/etc/kubernetes/kocli/patches/kubeletconfiguration+merge.yaml"

// remembered is what kubeadm init was told.
func (c *Cluster) remembered() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.config
}

// conf is a kubeconfig that leads to the endpoint of the cluster.
func (c *Cluster) conf() string {
	e := parse1(c.remembered()).ControlPlaneEndpoint
	if e == "" {
		return c.Kubeconfig()
	}
	return strings.Replace(c.Kubeconfig(), "https://127.0.0.1:6443", "https://"+e, 1)
}

// certificate makes the certificate of an API server, where there is none.
func (c *Cluster) certificate(m *hosttest.Machine, config string) effect {
	return func() {
		const p = "/etc/kubernetes/pki/apiserver.crt"
		if _, ok := m.Read(p); ok {
			return // kubeadm uses what is there
		}
		s := parse1(document(config, "ClusterConfiguration"))
		host, _, err := net.SplitHostPort(s.ControlPlaneEndpoint)
		if err != nil {
			host = "kubernetes"
		}
		m.Write(p, 0o644, Certificate(append(s.APIServer.CertSANs, host, m.Name())...))
	}
}

// Certificate is one for names and addresses, in PEM. The same ones give the same.
func Certificate(sans ...string) string {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(4_000_000_000, 0)}
	for _, s := range sans {
		if ip := net.ParseIP(s); ip != nil {
			form.IPAddresses = append(form.IPAddresses, ip)
		} else {
			form.DNSNames = append(form.DNSNames, s)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		panic(err) // of fixed parts
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
