package kubeadm

import (
	"bytes"
	"errors"
	"fmt"

	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

// CAOf returns the CA that a kubeconfig trusts, in PEM; nil where it holds none.
func CAOf(kubeconfig []byte) ([]byte, error) {
	var c clientcmdv1.Config
	if err := yaml.Unmarshal(kubeconfig, &c); err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	if len(c.Clusters) == 0 {
		return nil, nil
	}
	return c.Clusters[0].Cluster.CertificateAuthorityData, nil
}

// ClientCertificateOf returns the client certificate in a kubeconfig, in PEM, or the
// path of the file that it names instead.
func ClientCertificateOf(kubeconfig []byte) (data []byte, file string, err error) {
	u, err := userOf(kubeconfig)
	if err != nil {
		return nil, "", err
	}
	return u.ClientCertificateData, u.ClientCertificate, nil
}

// ClientPairOf returns the client certificate and the key in a kubeconfig as one PEM
// text, as the kubelet keeps its own.
func ClientPairOf(kubeconfig []byte) ([]byte, error) {
	u, err := userOf(kubeconfig)
	if err != nil {
		return nil, err
	}
	if len(u.ClientCertificateData) == 0 || len(u.ClientKeyData) == 0 {
		return nil, errors.New("the kubeconfig holds no client certificate with its key")
	}
	return bytes.Join([][]byte{bytes.TrimSpace(u.ClientCertificateData), bytes.TrimSpace(u.ClientKeyData), nil}, []byte("\n")), nil
}

// WithClientFile returns a kubeconfig whose users have certificate and key in a file,
// and whose clusters are at server.
func WithClientFile(kubeconfig []byte, file, server string) ([]byte, error) {
	var c clientcmdv1.Config
	if err := yaml.Unmarshal(kubeconfig, &c); err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	for i := range c.AuthInfos {
		c.AuthInfos[i].AuthInfo = clientcmdv1.AuthInfo{ClientCertificate: file, ClientKey: file}
	}
	for i := range c.Clusters {
		c.Clusters[i].Cluster.Server = server
	}
	return yaml.Marshal(c)
}

// AuthorityOf returns the CAs that a kubeconfig trusts, in PEM, or the path of the file
// that it names instead.
func AuthorityOf(kubeconfig []byte) (data []byte, file string, err error) {
	var c clientcmdv1.Config
	if err := yaml.Unmarshal(kubeconfig, &c); err != nil {
		return nil, "", fmt.Errorf("read kubeconfig: %w", err)
	}
	if len(c.Clusters) == 0 {
		return nil, "", errors.New("the kubeconfig has no cluster")
	}
	return c.Clusters[0].Cluster.CertificateAuthorityData, c.Clusters[0].Cluster.CertificateAuthority, nil
}

// WithAuthority returns a kubeconfig whose clusters are trusted by these CAs, in PEM.
func WithAuthority(kubeconfig, ca []byte) ([]byte, error) {
	var c clientcmdv1.Config
	if err := yaml.UnmarshalStrict(kubeconfig, &c); err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	for i := range c.Clusters {
		c.Clusters[i].Cluster.CertificateAuthorityData, c.Clusters[i].Cluster.CertificateAuthority = ca, ""
	}
	return yaml.Marshal(c)
}

// userOf is the first user of a kubeconfig; kubeadm writes one.
func userOf(kubeconfig []byte) (clientcmdv1.AuthInfo, error) {
	var c clientcmdv1.Config
	if err := yaml.Unmarshal(kubeconfig, &c); err != nil {
		return clientcmdv1.AuthInfo{}, fmt.Errorf("read kubeconfig: %w", err)
	}
	if len(c.AuthInfos) == 0 {
		return clientcmdv1.AuthInfo{}, errors.New("the kubeconfig has no user")
	}
	return c.AuthInfos[0].AuthInfo, nil
}
