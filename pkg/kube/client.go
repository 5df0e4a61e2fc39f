// Package kube talks to the Kubernetes API of a cluster through the SSH
// connection to one of its control planes, with TLS verified end to end. It is
// the only importer of client-go. A client made from a host.Reader can only
// read: its transport refuses every other method.
package kube

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kocli/kocli/pkg/host"
)

// AdminConf is where kubeadm leaves the administrator's kubeconfig.
func AdminConf() string { return "/etc/kubernetes/admin.conf" }

// ErrNoCluster says that the node has no control plane yet.
var ErrNoCluster = errors.New("there is no control plane on this node yet")

// ErrReadOnly is returned for every request of a reader's client that would
// change something.
var ErrReadOnly = errors.New("this client only reads")

// FieldManager owns the fields that kocli sets.
const FieldManager = "kocli"

// Client is a connection to one cluster.
type Client struct {
	Typed   kubernetes.Interface
	dynamic dynamic.Interface
	mapper  meta.RESTMapper
	asked   nodeQuestions
	config  *rest.Config // for libraries that make clients of their own
}

// Config returns a configuration for libraries that make clients of their own. They
// share this client's connection, and what it may do.
func (c *Client) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Access hands out clients, one for each control plane and kind of access, so
// that the checks of a run share a connection.
type Access struct {
	mu      sync.Mutex
	clients map[string]*entry
}

// entry is a client that is being made, or has been.
type entry struct {
	once   sync.Once
	client *Client
	err    error
}

// NewAccess returns an empty Access.
func NewAccess() *Access { return &Access{clients: map[string]*entry{}} }

// Look returns a client that can only read.
func (a *Access) Look(ctx context.Context, r host.Reader) (*Client, error) {
	return a.get(ctx, r, true)
}

// Dial returns a client that can write.
func (a *Access) Dial(ctx context.Context, h host.Host) (*Client, error) {
	return a.get(ctx, h, false)
}

func (a *Access) get(ctx context.Context, r host.Reader, readOnly bool) (*Client, error) {
	conf, err := r.ReadFile(ctx, AdminConf())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoCluster
	}
	if err != nil {
		return nil, err
	}
	t, ok := r.(host.Tunnel)
	if !ok {
		return nil, fmt.Errorf("%s cannot open connections", r.Name())
	}
	key := fmt.Sprintf("%s %t %x", r.Name(), readOnly, sha256.Sum256(conf))
	a.mu.Lock()
	e := a.clients[key]
	if e == nil {
		e = &entry{}
		a.clients[key] = e
	}
	a.mu.Unlock()
	e.once.Do(func() {
		if e.client, e.err = local(conf, t.DialContext, readOnly); e.err == nil {
			// The first request opens the connection that all others share; were
			// they to start together, each would open one of its own. What is wrong
			// with it, the next request says.
			_ = e.client.Ready(ctx) // only opens the connection
		}
	})
	return e.client, e.err
}

// localServer is the API server of the control plane that is asked: whoever asks
// through a node wants to know of that node, whatever stands before all of them.
const localServer = "https://127.0.0.1:6443"

// local returns a client for the API server on the node whose administrator's
// kubeconfig it is. Connections are opened by dial.
func local(kubeconfig []byte, dial func(ctx context.Context, network, address string) (net.Conn, error), readOnly bool) (*Client, error) {
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	cfg.Host = localServer
	cfg.Dial = dial
	cfg.Timeout = 30 * time.Second
	cfg.QPS, cfg.Burst = 100, 200
	cfg.UserAgent = "kocli"
	cfg.WarningHandler = rest.NoWarnings{}
	if readOnly {
		cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper { return reader{rt} })
	}
	hc, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	typed, err := kubernetes.NewForConfigAndClient(cfg, hc)
	if err != nil {
		return nil, err
	}
	dyn, err := dynamic.NewForConfigAndClient(cfg, hc)
	if err != nil {
		return nil, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(typed.Discovery()))
	return &Client{Typed: typed, dynamic: dyn, mapper: mapper, config: &rest.Config{
		Host: localServer, Transport: hc.Transport, QPS: cfg.QPS, Burst: cfg.Burst, UserAgent: cfg.UserAgent, WarningHandler: cfg.WarningHandler,
	}}, nil
}

// reader refuses every request that could change something.
type reader struct{ http.RoundTripper }

// RoundTrip lets GET and HEAD pass.
func (r reader) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.Method != http.MethodGet && q.Method != http.MethodHead {
		return nil, fmt.Errorf("%s %s: %w", q.Method, q.URL.Path, ErrReadOnly)
	}
	return r.RoundTripper.RoundTrip(q)
}

// Ready reports nil when the API server says that it is ready.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.Typed.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	return err
}

// ReadyAt returns nil when an API server that has a certificate of the CA says at
// endpoint ("10.0.0.1:6443") that it is ready. It asks as nobody.
func ReadyAt(ctx context.Context, endpoint string, ca []byte, dial func(ctx context.Context, network, address string) (net.Conn, error)) error {
	c, err := kubernetes.NewForConfig(&rest.Config{Host: "https://" + endpoint, TLSClientConfig: rest.TLSClientConfig{CAData: ca}, Dial: dial, UserAgent: "kocli"})
	if err != nil {
		return err
	}
	return (&Client{Typed: c}).Ready(ctx)
}

// API gives steps access to the cluster without saying through which control
// plane. Look's client can only read. Both return ErrNoCluster before there is
// one.
type API struct {
	Look func(ctx context.Context) (*Client, error)
	Dial func(ctx context.Context) (*Client, error)
}
