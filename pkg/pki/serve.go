package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
)

// serveTimeout is how long a component is given to show its certificate.
const serveTimeout = 10 * time.Second

// Served returns the certificate that is shown at host:port, reached from a node.
// It is looked at and not trusted. A server that wants a certificate of ours and
// gets none has shown its own by then.
func Served(ctx context.Context, r host.Reader, address string) (*x509.Certificate, error) {
	t, ok := r.(host.Tunnel)
	if !ok {
		return nil, fmt.Errorf("%s cannot open connections", r.Name())
	}
	ctx, cancel := context.WithTimeout(ctx, serveTimeout)
	defer cancel()
	conn, err := t.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // only looked at
	var shown *x509.Certificate
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	c := tls.Client(conn, &tls.Config{
		ServerName: name, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // nothing is sent: what is shown is the question
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) == 0 {
				return errors.New("no certificate was shown")
			}
			var err error
			shown, err = x509.ParseCertificate(raw[0])
			return err
		},
	})
	if err := c.HandshakeContext(ctx); err != nil && shown == nil {
		return nil, err
	}
	return shown, nil
}

// Address is where a certificate of kubeadm's is served on a node; "" where it is
// not. A member of etcd listens for the others at the node's address only.
func (m Managed) Address(n inventory.Node) string {
	switch m.Port {
	case "":
		return ""
	case "2380":
		return net.JoinHostPort(n.IP, m.Port)
	}
	return net.JoinHostPort("127.0.0.1", m.Port)
}

// server is a component that shows a certificate.
type server struct{ name, address string }

// servers lists who serves on a node. The controller manager and the scheduler make
// a certificate of their own in memory when they start, and no file has it.
func servers(inv *inventory.Inventory, n inventory.Node) []server {
	at := func(port string) string { return net.JoinHostPort("127.0.0.1", port) }
	out := []server{{"kubelet-serving", at("10250")}}
	if !n.ControlPlane {
		return out
	}
	for _, m := range AllManaged() {
		if m.Port != "" && (inv.ExternalEtcd() == nil || m.CA.Name != "etcd-ca") {
			out = append(out, server{m.Name, m.Address(n)})
		}
	}
	return append(out, server{"controller-manager-serving", at("10257")}, server{"scheduler-serving", at("10259")}, server{EndpointName, inv.Endpoint()})
}

// EndpointName is what the certificate is called that is shown at the endpoint.
const EndpointName = "endpoint"
