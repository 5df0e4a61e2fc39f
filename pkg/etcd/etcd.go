// Package etcd speaks to the members of etcd that kubeadm runs on control planes, or
// to an etcd outside the cluster: the v3 API, through the SSH connection to a control
// plane, with TLS verified end to end, by the certificates that kubeadm left there
// or by the user's. It is the only importer of the
// etcd client. A View only looks; a Client is made from a host.Host.
package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/kocli/kocli/pkg/host"
)

// Port is where a member serves clients.
const Port = "2379"

// Where kubeadm leaves what a client of etcd needs, on every control plane.
const (
	caPath   = "/etc/kubernetes/pki/etcd/ca.crt"
	certPath = "/etc/kubernetes/pki/apiserver-etcd-client.crt"
	keyPath  = "/etc/kubernetes/pki/apiserver-etcd-client.key"
)

// callTimeout is how long one question may take. A member that does not answer
// within it is not healthy.
const callTimeout = 5 * time.Second

// speakTime is how long a member is given to speak after it was trusted.
const speakTime = 2 * time.Second

// ErrNone says that a node has no member of etcd: it is no control plane, or the
// cluster's etcd is elsewhere.
var ErrNone = errors.New("there is no etcd on this node")

// Member is one member of the cluster.
type Member struct {
	ID         uint64
	Name       string // of the node; empty until it has started
	PeerURLs   []string
	ClientURLs []string // empty until it has started
	Learner    bool     // does not vote yet
	Started    bool     // has run at least once
}

// At reports whether a member is the one of a node, by its name or, before it
// has started, by its address.
func (m Member) At(name, ip string) bool {
	if m.Name != "" {
		return m.Name == name
	}
	return slices.ContainsFunc(m.PeerURLs, func(s string) bool {
		u, err := url.Parse(s)
		return err == nil && u.Hostname() == ip
	})
}

// Health is a member, and why it is not healthy.
type Health struct {
	Member
	Err error // nil: it answers, and knows a leader
	// Size is what its data takes, and Quota what it may, in bytes; zero where it did
	// not say.
	Size, Quota int64
}

// View looks at etcd through one node.
type View struct {
	node string
	tls  *tls.Config
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Look returns a view through a control plane. ErrNone where it has no etcd.
func Look(ctx context.Context, r host.Reader) (*View, error) {
	paths := []string{caPath, certPath, keyPath}
	files, errs := make([][]byte, len(paths)), make([]error, len(paths))
	var wg sync.WaitGroup
	for i, p := range paths {
		wg.Go(func() { files[i], errs[i] = r.ReadFile(ctx, p) })
	}
	wg.Wait()
	err := errors.Join(errs...)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	conf, err := Credentials{CA: files[0], Cert: files[1], Key: files[2]}.Config()
	if err != nil {
		return nil, fmt.Errorf("read %s and %s on %s: %w", caPath, certPath, r.Name(), err)
	}
	return view(r, conf)
}

// Credentials are what a client of etcd needs, in PEM.
type Credentials struct{ CA, Cert, Key []byte }

// String hides the key.
func (c Credentials) String() string { return "***" }

// GoString hides the key.
func (c Credentials) GoString() string { return "***" }

// Verify returns an error where the parts are no certificates, or do not belong
// together.
func (c Credentials) Verify() error {
	_, err := c.Config()
	return err
}

// Config returns what TLS needs. An error where the parts are no certificates, or
// do not belong together.
func (c Credentials) Config() (*tls.Config, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(c.CA) {
		return nil, errors.New("the file of the CA holds no certificate")
	}
	pair, err := tls.X509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// Outside returns a view of an etcd outside the cluster, through a node. Of it
// only Ask makes sense: who its members are is not the cluster's to say.
func Outside(r host.Reader, c Credentials) (*View, error) {
	conf, err := c.Config()
	if err != nil {
		return nil, err
	}
	return view(r, conf)
}

func view(r host.Reader, conf *tls.Config) (*View, error) {
	t, ok := r.(host.Tunnel)
	if !ok {
		return nil, fmt.Errorf("%s cannot open connections", r.Name())
	}
	return &View{node: r.Name(), tls: conf, dial: t.DialContext}, nil
}

// Ask returns nil when the member at an endpoint, a URL with a port, answers and
// knows a leader. The error says how far it came: no connection, no trust, or a
// member that is not well.
func (v *View) Ask(ctx context.Context, endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	if err := v.handshake(ctx, u); err != nil {
		return err
	}
	return v.status(ctx, endpoint)
}

// registry is below what Kubernetes keeps its objects.
const registry = "/registry/"

// Objects counts what a cluster of Kubernetes keeps in the etcd at an endpoint.
func (v *View) Objects(ctx context.Context, endpoint string) (int64, error) {
	c, err := v.client(endpoint)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }() // nothing is pending
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := c.Get(ctx, registry, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("count the objects in etcd at %s: %w", endpoint, err)
	}
	return r.Count, nil
}

// handshake opens a connection and ends it. The client would keep trying, and say
// that it was given no answer in time.
func (v *View) handshake(ctx context.Context, u *url.URL) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := v.dial(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only looked at
	conf := v.tls.Clone()
	conf.ServerName, conf.NextProtos = u.Hostname(), []string{"h2"}
	c := tls.Client(conn, conf)
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	// With TLS 1.3 the other side judges our certificate after the handshake. It
	// speaks first in HTTP/2, so that there is something to read.
	speak, stop := context.WithTimeout(ctx, speakTime)
	defer stop()
	defer context.AfterFunc(speak, func() { _ = conn.Close() })() // a tunnel knows no deadlines
	if _, err := c.Read(make([]byte, 1)); err != nil && speak.Err() == nil {
		return fmt.Errorf("it does not take the client certificate: %w", err)
	}
	return nil
}

// client connects to one member. Nothing is retried: the caller asks again.
func (v *View) client(endpoint string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint}, TLS: v.tls, DialTimeout: callTimeout, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return v.dial(ctx, "tcp", address)
		})},
	})
}

// through asks the member of the view's own node.
func (v *View) through(ctx context.Context, ask func(context.Context, *clientv3.Client) error) error {
	c, err := v.client(local)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // nothing is pending
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return ask(ctx, c)
}

// Members lists the members, by name. It fails where etcd has no quorum.
func (v *View) Members(ctx context.Context) ([]Member, error) {
	var out []Member
	err := v.through(ctx, func(ctx context.Context, c *clientv3.Client) error {
		list, err := c.MemberList(ctx)
		if err != nil {
			return fmt.Errorf("list the members of etcd through %s: %w", v.node, err)
		}
		for _, m := range list.Members {
			out = append(out, Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner, Started: len(m.ClientURLs) > 0})
		}
		return nil
	})
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

// Health asks every member, all at once.
func (v *View) Health(ctx context.Context) ([]Health, error) {
	members, err := v.Members(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Health, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { out[i] = v.ask(ctx, m) })
	}
	wg.Wait()
	return out, ctx.Err()
}

// ask asks one member how it is.
func (v *View) ask(ctx context.Context, m Member) Health {
	h := Health{Member: m}
	if !m.Started {
		h.Err = errors.New("it has not started yet")
		return h
	}
	var s *clientv3.StatusResponse
	if s, h.Err = v.asked(ctx, m.ClientURLs[0]); s != nil {
		h.Size, h.Quota = s.DbSize, s.DbSizeQuota
	}
	return h
}

// status returns nil when the member at an endpoint is well.
func (v *View) status(ctx context.Context, endpoint string) error {
	_, err := v.asked(ctx, endpoint)
	return err
}

// asked asks the member at an endpoint how it is.
func (v *View) asked(ctx context.Context, endpoint string) (*clientv3.StatusResponse, error) {
	c, err := v.client(endpoint)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // nothing is pending
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := c.Status(ctx, endpoint)
	switch {
	case err != nil:
		return nil, err
	case len(s.Errors) > 0:
		return s, errors.New(strings.Join(s.Errors, "; "))
	case s.Leader == 0:
		return s, errors.New("it knows no leader")
	}
	return s, nil
}

// Healthy returns nil when every member that votes is healthy.
func (v *View) Healthy(ctx context.Context) error {
	all, err := v.Health(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range all {
		if h.Err != nil && !h.Learner {
			errs = append(errs, fmt.Errorf("etcd member %s: %w", h.label(), h.Err))
		}
	}
	return errors.Join(errs...)
}

// label is how a member is shown.
func (m Member) label() string {
	if m.Name != "" {
		return m.Name
	}
	return strings.Join(m.PeerURLs, ",")
}

// Client can change the members.
type Client struct{ *View }

// Dial returns a client through a control plane.
func Dial(ctx context.Context, h host.Host) (*Client, error) {
	v, err := Look(ctx, h)
	if err != nil {
		return nil, err
	}
	return &Client{v}, nil
}

// Remove takes a member out, and waits until no member is listed under its ID.
// One that is not there is no error. Whether it may go is Removable's to say.
func (c *Client) Remove(ctx context.Context, id uint64) error {
	members, err := c.Members(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(members, func(m Member) bool { return m.ID == id }) {
		return nil
	}
	return c.through(ctx, func(ctx context.Context, cl *clientv3.Client) error {
		if _, err := cl.MemberRemove(ctx, id); err != nil {
			return fmt.Errorf("remove etcd member %x: %w", id, err)
		}
		return nil
	})
}
