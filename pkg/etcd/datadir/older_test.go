package datadir_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/kocli/kocli/pkg/etcd/datadir"
)

// older starts the etcd that Kubernetes 1.34 to 1.36 come with, as scripts/upstream
// builds it, on a data directory.
func older(t *testing.T, dir, name, peer string, more ...string) *clientv3.Client {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(cache, "kocli", "upstream", "etcd", "v3.6.8", "etcd")
	if _, err := os.Stat(bin); err != nil {
		t.Skip("there is no etcd 3.6: scripts/upstream/build.sh kubernetes v1.36.3 makes it")
	}
	at := "http://" + free(t)
	cmd := exec.CommandContext(t.Context(), bin, append([]string{"--name", name, "--data-dir", dir, "--listen-client-urls", at, "--advertise-client-urls", at,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", name + "=" + peer, "--log-level", "error"}, more...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{at}, DialTimeout: 20 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// What this kocli's library of etcd 3.7 makes has to start under the etcd of the
// cluster, three members with one history.
func TestRestore_startsUnderTheEtcdOfOlderClusters(t *testing.T) {
	first := older(t, t.TempDir(), "old", "http://"+free(t))
	put(t, first, 0, 25)
	db := filepath.Join(t.TempDir(), "snapshot.db")
	r, err := first.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(db)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	peers := []string{"http://" + free(t), "http://" + free(t), "http://" + free(t)}
	cluster := "a=" + peers[0] + ",b=" + peers[1] + ",c=" + peers[2]
	var c *clientv3.Client
	for i, n := range []string{"a", "b", "c"} {
		dir := filepath.Join(t.TempDir(), n)
		if err := datadir.Restore(db, dir, datadir.Member{Name: n, PeerURL: peers[i], Cluster: cluster, Token: "new"}, false); err != nil {
			t.Fatal(err)
		}
		c = older(t, dir, n, peers[i])
	}
	got, err := c.Get(t.Context(), "/registry/", clientv3.WithPrefix())
	if err != nil || len(got.Kvs) != 25 || got.Header.Revision < datadir.RevisionBump {
		t.Fatalf("%+v, %v", got, err)
	}
	m, err := c.MemberList(t.Context())
	if err != nil || len(m.Members) != 3 {
		t.Errorf("%+v, %v", m, err)
	}
	p, err := c.Put(t.Context(), "/registry/new", "x")
	if err != nil || p.Header.Revision <= got.Header.Revision {
		t.Errorf("%+v, %v", p, err)
	}
	w := <-c.Watch(t.Context(), "/registry/", clientv3.WithPrefix(), clientv3.WithRev(5))
	if w.CompactRevision == 0 || len(w.Events) > 0 {
		t.Errorf("a watch from before gets %d events, %v", len(w.Events), w.Err())
	}
}
