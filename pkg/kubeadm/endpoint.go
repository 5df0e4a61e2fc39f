package kubeadm

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"

	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/inventory"
)

// Server is the API's URL as nodes and clients use it.
func Server(inv *inventory.Inventory) string { return "https://" + inv.Endpoint() }

// ServerOf returns the API's URL in a kubeconfig; empty where it has none.
func ServerOf(kubeconfig []byte) (string, error) {
	var c clientcmdv1.Config
	if err := yaml.Unmarshal(kubeconfig, &c); err != nil {
		return "", fmt.Errorf("read kubeconfig: %w", err)
	}
	if len(c.Clusters) == 0 {
		return "", nil
	}
	return c.Clusters[0].Cluster.Server, nil
}

// WithServer returns a kubeconfig whose clusters are all at server.
func WithServer(kubeconfig []byte, server string) ([]byte, error) {
	var c clientcmdv1.Config
	if err := yaml.UnmarshalStrict(kubeconfig, &c); err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	for i := range c.Clusters {
		c.Clusters[i].Cluster.Server = server
	}
	return yaml.Marshal(c)
}

// EndpointOf returns what kubeadm remembers as the address of the API, host:port.
func EndpointOf(clusterConfiguration string) (string, error) {
	var c v1beta4.ClusterConfiguration
	if err := yaml.Unmarshal([]byte(clusterConfiguration), &c); err != nil {
		return "", fmt.Errorf("read kubeadm's ClusterConfiguration: %w", err)
	}
	return c.ControlPlaneEndpoint, nil
}

// WithEndpoint returns kubeadm's ClusterConfiguration with the address and the
// names of the API as the inventory has them, and all else as it is.
func WithEndpoint(clusterConfiguration string, inv *inventory.Inventory) (string, error) {
	var c map[string]any
	if err := yaml.Unmarshal([]byte(clusterConfiguration), &c); err != nil {
		return "", fmt.Errorf("read kubeadm's ClusterConfiguration: %w", err)
	}
	if c["kind"] != "ClusterConfiguration" {
		return "", errors.New("kubeadm's configuration in the cluster has another form than ClusterConfiguration")
	}
	c["controlPlaneEndpoint"] = inv.Endpoint()
	api, ok := c["apiServer"].(map[string]any)
	if !ok {
		api = map[string]any{}
		c["apiServer"] = api
	}
	api["certSANs"] = CertSANs(inv)
	out, err := yaml.Marshal(c)
	return string(out), err
}

// MissingSANs lists the names and addresses of the API that its certificate on a
// control plane has to have and lacks.
func MissingSANs(certificate []byte, inv *inventory.Inventory, n inventory.Node) ([]string, error) {
	block, _ := pem.Decode(certificate)
	if block == nil {
		return nil, errors.New("there is no certificate in it")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(inv.Endpoint())
	if err != nil {
		return nil, err
	}
	var out []string
	for _, san := range append([]string{"127.0.0.1", host, n.IP, n.Name}, inv.Spec.Kubernetes.APIServer.CertSANs...) {
		has := slices.Contains(cert.DNSNames, san)
		if ip := net.ParseIP(san); ip != nil {
			has = slices.ContainsFunc(cert.IPAddresses, ip.Equal)
		}
		if !has && !slices.Contains(out, san) {
			out = append(out, san)
		}
	}
	return out, nil
}

// Certificate returns the configuration of "kubeadm init phase certs" on a node.
func Certificate(inv *inventory.Inventory, n inventory.Node) ([]byte, error) {
	ic := &v1beta4.InitConfiguration{
		TypeMeta: typeMeta("InitConfiguration"), LocalAPIEndpoint: localEndpoint(n), NodeRegistration: registration(inv, n, NodeOptions{}),
	}
	return render(document{&v1beta4.InitConfiguration{}, ic, nil, overridesPath().Child("initConfiguration")}, clusterDocument(inv))
}
