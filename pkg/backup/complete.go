package backup

import (
	"bytes"
	"slices"

	"github.com/kocli/kocli/pkg/kubeadm"
)

// PKI is where kubeadm keeps certificates.
const PKI = "/etc/kubernetes/pki/"

// Shared are the files that all control planes of a cluster have in common and that
// nothing can be made anew from but a backup: its CAs and the key that signs service
// account tokens.
func Shared() []string {
	return []string{
		PKI + "ca.crt", PKI + "ca.key", PKI + "sa.key", PKI + "sa.pub", PKI + "front-proxy-ca.crt", PKI + "front-proxy-ca.key",
		PKI + "etcd/ca.crt", PKI + "etcd/ca.key",
	}
}

// Missing lists the files without which this backup could not be restored.
func (c *Contents) Missing() []string {
	want := slices.Concat(Shared(), []string{kubeadm.APIServerManifestPath, kubeadm.EtcdManifestPath})
	if m, ok := c.File(kubeadm.APIServerManifestPath); ok {
		for _, p := range []string{kubeadm.EncryptionConfigPath, kubeadm.AuditPolicyPath} {
			if bytes.Contains(m, []byte(p)) {
				want = append(want, p)
			}
		}
	}
	out := []string{}
	for _, p := range want {
		if data, ok := c.File(p); !ok || len(data) == 0 {
			out = append(out, p)
		}
	}
	if len(c.Small[SpecEntry]) == 0 {
		out = append(out, SpecEntry)
	}
	return out
}
