package etcd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A real etcd, where one was built on this machine, and etcdutl as the judge.
func TestSnapshot_ofARealEtcd(t *testing.T) {
	cache := os.Getenv("KOCLI_CACHE")
	if home, err := os.UserHomeDir(); cache == "" && err == nil {
		cache = filepath.Join(home, ".cache", "kocli")
	}
	found, _ := filepath.Glob(filepath.Join(cache, "upstream", "etcd", "*", "etcdutl"))
	if len(found) == 0 {
		t.Skip("no etcd was built on this machine: scripts/upstream/build.sh builds one")
	}
	bin, dir := filepath.Dir(found[0]), t.TempDir()
	client, peer := freeURL(t), freeURL(t)
	c := exec.Command(filepath.Join(bin, "etcd"), "--data-dir", filepath.Join(dir, "data"), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(c.Process.Kill(), c.Wait()) })
	cl, err := clientv3.New(clientv3.Config{Endpoints: []string{client}, DialTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Close() })
	for i := range 500 {
		if _, err := cl.Put(t.Context(), fmt.Sprint("/registry/", i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "etcd.db")
	if _, err := snapshot(t.Context(), cl, file); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(found[0], "snapshot", "status", file, "-w", "json").CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"totalKey":500`) {
		t.Errorf("%v\n%s", err, out)
	}
}

// freeURL is an address that nobody listens on.
func freeURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return "http://" + l.Addr().String()
}
