// Package etcdtest is an etcd cluster as far as its list of members goes: a real
// gRPC server with TLS, whose members tests add, break and count. Only tests
// import it.
package etcdtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/host/hosttest"
)

// Cluster is the members of an etcd. Its zero value is not usable: see New.
type Cluster struct {
	pb.UnimplementedClusterServer
	pb.UnimplementedMaintenanceServer
	pb.UnimplementedKVServer
	// Wire counts removals as writes; nil counts none.
	Wire *hosttest.Wire

	listener net.Listener
	files    map[string]string

	mu      sync.Mutex
	members []*pb.Member
	down    map[string]bool // by address
	next    uint64
	keys    []string
}

// New starts a cluster without members.
func New(t *testing.T) *Cluster {
	t.Helper()
	c := &Cluster{down: map[string]bool{}, files: map[string]string{}, next: 1}
	pair, pool := c.certificates(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.listener = l
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	})))
	pb.RegisterClusterServer(s, c)
	pb.RegisterMaintenanceServer(s, c)
	pb.RegisterKVServer(s, c)
	go func() { _ = s.Serve(l) }() // ends with Stop
	t.Cleanup(s.Stop)
	return c
}

// certificates makes one that serves and asks, trusted by itself.
func (c *Cluster) certificates(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	for i := range 256 {
		form.IPAddresses = append(form.IPAddresses, net.IPv4(10, 0, 0, byte(i)))
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	secret := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))
	const pki = "/etc/kubernetes/pki/"
	c.files = map[string]string{pki + "etcd/ca.crt": cert, pki + "apiserver-etcd-client.crt": cert, pki + "apiserver-etcd-client.key": secret}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(cert))
	pair, err := tls.X509KeyPair([]byte(cert), []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return pair, pool
}

// Install gives a machine what a client of etcd needs.
func (c *Cluster) Install(m *hosttest.Machine) {
	for p, text := range c.files {
		m.Write(p, 0o600, text)
	}
}

// Credentials are what a client of an etcd outside the cluster is given.
func (c *Cluster) Credentials() etcd.Credentials {
	const pki = "/etc/kubernetes/pki/"
	return etcd.Credentials{
		CA: []byte(c.files[pki+"etcd/ca.crt"]), Cert: []byte(c.files[pki+"apiserver-etcd-client.crt"]), Key: []byte(c.files[pki+"apiserver-etcd-client.key"]),
	}
}

// Keep puts a key into the store, as an API server does.
func (c *Cluster) Keep(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys = append(c.keys, key)
}

// Range counts keys.
func (c *Cluster) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &pb.RangeResponse{Header: &pb.ResponseHeader{}}
	for _, k := range c.keys {
		if k >= string(r.Key) && k < string(r.RangeEnd) {
			out.Count++
		}
	}
	return out, nil
}

// Files are what Install writes: certificates, which differ from test to test.
func (c *Cluster) Files() []string { return slices.Sorted(maps.Keys(c.files)) }

// Dial leads to the member at an address; it fails where that is down.
func (c *Cluster) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	down := c.down[host]
	c.mu.Unlock()
	if down {
		return nil, errors.New("connection refused")
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", c.listener.Addr().String())
}

// Serves reports whether an address is a member's.
func Serves(address string) bool { return strings.HasSuffix(address, ":2379") }

// Add adds a member that runs, and returns its ID.
func (c *Cluster) Add(name, ip string) uint64 {
	return c.add(&pb.Member{Name: name, PeerURLs: []string{"https://" + ip + ":2380"}, ClientURLs: []string{"https://" + ip + ":2379"}})
}

// AddLearner adds a member that does not vote; one without a name has not started.
func (c *Cluster) AddLearner(name, ip string) uint64 {
	m := &pb.Member{Name: name, PeerURLs: []string{"https://" + ip + ":2380"}, IsLearner: true}
	if name != "" {
		m.ClientURLs = []string{"https://" + ip + ":2379"}
	}
	return c.add(m)
}

func (c *Cluster) add(m *pb.Member) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.ID = c.next
	c.next++
	c.members = append(c.members, m)
	return m.ID
}

// Down has the member at an address not answer, or answer again.
func (c *Cluster) Down(ip string, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down[ip] = down
}

// State describes the members in a line.
func (c *Cluster) State() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, m := range c.members {
		s := m.Name
		if m.IsLearner {
			s += "(learner)"
		}
		out = append(out, s)
	}
	return "etcd " + strings.Join(out, " ")
}

// MemberList answers as etcd does: not without a quorum.
func (c *Cluster) MemberList(context.Context, *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.quorum() {
		return nil, rpctypes.ErrGRPCNoLeader
	}
	return &pb.MemberListResponse{Header: &pb.ResponseHeader{}, Members: slices.Clone(c.members)}, nil
}

// quorum reports whether enough members are up. The lock is held.
func (c *Cluster) quorum() bool {
	voters, up := 0, 0
	for _, m := range c.members {
		if m.IsLearner {
			continue
		}
		voters++
		if len(m.ClientURLs) > 0 && !c.down[strings.TrimSuffix(strings.TrimPrefix(m.ClientURLs[0], "https://"), ":2379")] {
			up++
		}
	}
	return voters == 0 || up > voters/2
}

// MemberRemove takes a member out.
func (c *Cluster) MemberRemove(_ context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	remove := func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.quorum() {
			return rpctypes.ErrGRPCNoLeader
		}
		i := slices.IndexFunc(c.members, func(m *pb.Member) bool { return m.ID == r.ID })
		if i < 0 {
			return rpctypes.ErrGRPCMemberNotFound
		}
		c.members = slices.Delete(c.members, i, i+1)
		return nil
	}
	if c.Wire == nil {
		return &pb.MemberRemoveResponse{}, remove()
	}
	return &pb.MemberRemoveResponse{}, c.Wire.Do(fmt.Sprintf("etcd member remove %x", r.ID), remove)
}

// Status says that there is a leader.
func (c *Cluster) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Header: &pb.ResponseHeader{}, Leader: 1, Version: "3.6.8"}, nil
}
