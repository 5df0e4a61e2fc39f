package loadbalancer_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/steps/loadbalancer"
)

// freePorts are two free ports, the second after the first.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		a, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := a.Addr().(*net.TCPAddr).Port
		b, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		_ = a.Close()
		if err == nil {
			_ = b.Close()
			return port
		}
	}
	t.Fatal("no two free ports in a row")
	return 0
}

// live is a haproxy that runs with the configuration of an inventory, its API
// servers replaced by ones of the test.
type live struct {
	t    *testing.T
	path string
	port int
	cmd  *exec.Cmd
	log  bytes.Buffer
}

// load writes the configuration with the given API servers and returns the name
// by which it is recognised.
func (l *live) load(servers ...*httptest.Server) string {
	l.t.Helper()
	inv := cluster(l.t, fmt.Sprintf("{mode: local, port: %d}", l.port), len(servers))
	config, fingerprint, err := loadbalancer.HAProxyConfig(inv)
	if err != nil {
		l.t.Fatal(err)
	}
	text := string(config)
	for i, s := range servers {
		text = strings.ReplaceAll(text, inv.Nodes[i].APIServer(), s.Listener.Addr().String())
	}
	if err := os.WriteFile(l.path, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return fingerprint
}

func (l *live) start() {
	l.t.Helper()
	l.cmd = exec.Command("/usr/sbin/haproxy", "-W", "-db", "-f", l.path)
	l.cmd.Stdout, l.cmd.Stderr = &l.log, &l.log
	if err := l.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		_ = l.cmd.Process.Signal(syscall.SIGTERM)
		_ = l.cmd.Wait()
		if l.t.Failed() {
			l.t.Log(l.log.String())
		}
	})
}

// shows reports whether the kernel shows the name.
func shows(fingerprint string) bool {
	table, err := os.ReadFile("/proc/net/unix")
	return err == nil && strings.Contains(string(table), "@"+fingerprint)
}

// loaded waits until the kernel shows the name.
func (l *live) loaded(fingerprint string) {
	l.t.Helper()
	until(l.t, fingerprint+" is listened on", func() bool { return shows(fingerprint) })
}

// reload tells haproxy to load its configuration, until it has: a signal that comes
// while it still starts is lost.
func (l *live) reload(fingerprint string) {
	l.t.Helper()
	for i := range 300 {
		if i%40 == 0 {
			if err := l.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
				l.t.Fatal(err)
			}
		}
		if shows(fingerprint) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	l.t.Fatal(fingerprint + " was not loaded")
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 300 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("it did not happen that %s", what)
}

// apiServer answers with its name, and is ready or not.
func apiServer(t *testing.T, name string, ready func() bool) *httptest.Server {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" && !ready() {
			http.Error(w, "not ready", http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprint(w, name)
	}))
	s.Config.ErrorLog = nil
	t.Cleanup(s.Close)
	return s
}

func yes() bool { return true }

// get asks over a new connection.
func get(ctx context.Context, url string) (string, int, error) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // the test's own server
	}}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", 0, err
	}
	r, err := c.Do(q)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = r.Body.Close() }()
	var b bytes.Buffer
	_, err = b.ReadFrom(r.Body)
	return b.String(), r.StatusCode, err
}

// A haproxy of Debian's, asked all the time while API servers come and go: no
// request fails, and a connection from before a reload is still good after it.
func TestHAProxy_reloadDropsNoConnection(t *testing.T) {
	a, b, c := apiServer(t, "a", yes), apiServer(t, "b", yes), apiServer(t, "c", yes)
	l := &live{t: t, path: t.TempDir() + "/haproxy.cfg", port: freePorts(t)}
	first := l.load(a)
	l.start()
	l.loaded(first)
	api, health := fmt.Sprintf("https://127.0.0.1:%d/", l.port), fmt.Sprintf("http://127.0.0.1:%d", l.port+1)

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen, failed := map[string]int{}, 0
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				name, _, err := get(ctx, api)
				mu.Lock()
				if seen[name]++; err != nil && ctx.Err() == nil {
					failed++
					t.Log(err)
				}
				mu.Unlock()
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	old, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", l.port), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, servers := range [][]*httptest.Server{{a, b, c}, {b, c}, {a, b, c}} {
		l.reload(l.load(servers...))
	}
	until(t, "all API servers are asked", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return seen["a"] > 0 && seen["b"] > 0 && seen["c"] > 0
	})
	stop()
	wg.Wait()
	if failed > 0 {
		t.Errorf("%d requests failed, answered were %v", failed, seen)
	}
	if _, err := fmt.Fprint(old, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(old); err != nil || !strings.Contains(answer.String(), "200 OK") {
		t.Errorf("the connection from before: %q, %v", answer.String(), err)
	}
	if body, code, err := get(t.Context(), health+"/healthz"); err != nil || code != 200 || body != "ok" {
		t.Errorf("%q %d %v", body, code, err)
	}
}

// One that is not ready gets no connection while another is; with none ready,
// they are asked all the same, and the health of haproxy says so.
func TestHAProxy_prefersWhoIsReady(t *testing.T) {
	var mu sync.Mutex
	ready := map[string]bool{"a": true}
	is := func(name string) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return ready[name] }
	}
	a, b := apiServer(t, "a", is("a")), apiServer(t, "b", is("b"))
	gone := httptest.NewTLSServer(nil)
	gone.Close() // refuses connections
	l := &live{t: t, path: t.TempDir() + "/haproxy.cfg", port: freePorts(t)}
	name := l.load(a, b, gone)
	l.start()
	l.loaded(name)
	api, health := fmt.Sprintf("https://127.0.0.1:%d/", l.port), fmt.Sprintf("http://127.0.0.1:%d", l.port+1)
	only := func(want string) func() bool {
		return func() bool {
			for range 6 {
				if got, _, err := get(t.Context(), api); err != nil || got != want {
					return false
				}
			}
			return true
		}
	}
	until(t, "only a is asked", only("a"))
	if _, code, err := get(t.Context(), health+"/readyz"); err != nil || code != http.StatusOK {
		t.Error(code, err)
	}
	open, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", l.port), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // what is asked is who answers
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }() // the load balancer has closed it
	mu.Lock()
	ready = map[string]bool{"b": true}
	mu.Unlock()
	until(t, "only b is asked", only("b"))
	// Who is connected to an API server whose etcd is away waits for nothing: kubelets did
	// until their nodes counted as lost.
	if err := open.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection to a is kept: %v", err)
	}
	mu.Lock()
	ready = nil
	mu.Unlock()
	until(t, "health says that none is ready", func() bool {
		_, code, err := get(t.Context(), health+"/readyz")
		return err == nil && code == http.StatusServiceUnavailable
	})
	for range 6 {
		if got, _, err := get(t.Context(), api); err != nil || got == "" {
			t.Errorf("%q, %v", got, err)
		}
	}
	if _, code, err := get(t.Context(), health+"/healthz"); err != nil || code != http.StatusOK {
		t.Error(code, err)
	}
}
