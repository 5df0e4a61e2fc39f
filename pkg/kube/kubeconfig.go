package kube

import (
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
)

// WithServer returns a kubeconfig whose clusters are reached at host:port.
func WithServer(kubeconfig []byte, server string) ([]byte, error) {
	c, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	for _, cluster := range c.Clusters {
		cluster.Server = "https://" + server
	}
	return clientcmd.Write(*c)
}
