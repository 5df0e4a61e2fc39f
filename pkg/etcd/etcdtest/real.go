package etcdtest

import (
	"context"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/kocli/kocli/pkg/host/hosttest"
)

// Real is a member of etcd itself, in the test's process: what is snapshot, hashed
// and restored is real.
type Real struct {
	// Stop ends the member. It may be called again.
	Stop func()

	etcd  *embed.Etcd
	creds *Cluster
}

// NewReal starts an etcd of one member on a data directory, which may be restored
// or not be there yet. It ends with the test, or with Stop.
func NewReal(t *testing.T, dir, name, peerURL string) *Real {
	t.Helper()
	c := &Cluster{down: map[string]bool{}, files: map[string]string{}, next: 1}
	_, _ = c.certificates(t)
	certs := t.TempDir()
	file := func(p string) string {
		dst := filepath.Join(certs, filepath.Base(p))
		if err := os.WriteFile(dst, []byte(c.files["/etc/kubernetes/pki/"+p]), 0o600); err != nil {
			t.Fatal(err)
		}
		return dst
	}
	listen := func(s string) []url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return []url.URL{*u}
	}
	conf := embed.NewConfig()
	conf.Name, conf.Dir = name, dir
	conf.ListenClientUrls, conf.AdvertiseClientUrls = listen("https://127.0.0.1:0"), listen("https://127.0.0.1:2379")
	conf.ListenPeerUrls, conf.AdvertisePeerUrls = listen("http://127.0.0.1:0"), listen(peerURL)
	conf.InitialCluster = name + "=" + peerURL
	conf.ClientTLSInfo = transport.TLSInfo{
		CertFile: file("apiserver-etcd-client.crt"), KeyFile: file("apiserver-etcd-client.key"), TrustedCAFile: file("etcd/ca.crt"), ClientCertAuth: true,
	}
	conf.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	conf.UnsafeNoFsync = true
	e, err := embed.StartEtcd(conf)
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(e.Close)
	t.Cleanup(stop)
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(time.Minute):
		t.Fatal("etcd is not ready")
	}
	return &Real{Stop: stop, etcd: e, creds: c}
}

// Install gives a machine what a client of etcd needs, and the way to it.
func (r *Real) Install(m *hosttest.Machine) {
	r.creds.Install(m)
	m.OnDial(r.Dial)
}

// Dial leads to the member, whatever the address.
func (r *Real) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", r.etcd.Clients[0].Addr().String())
}

// Client is one that writes.
func (r *Real) Client(t *testing.T) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + r.etcd.Clients[0].Addr().String()}, TLS: must(r.creds.Credentials().Config()), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
