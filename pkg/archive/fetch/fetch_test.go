package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/fault"
)

func TestParseChecksum_formsOfUpstream(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("B", 64)
	for _, c := range []struct{ name, text, want string }{
		{"a digest alone", a, a},
		{"a digest and a line feed", a + "\n", a},
		{"a line with the name", a + "  x.tar.gz\n", a},
		{"binary mode", a + " *x.tar.gz\n", a},
		{"a path", a + "  ./x.tar.gz\n", a},
		{"upper case, among others", a + "  y\n" + b + "  x.tar.gz\n", strings.ToLower(b)},
		{"another name", a + "  y\n", ""},
		{"a name that only ends so", a + "  evil/x.tar.gz\n", ""},
		{"two digests without names", a + "\n" + b, ""},
		{"short", a[:63], ""},
		{"no hex", strings.Repeat("g", 64), ""},
		{"nothing", "", ""},
	} {
		got, err := parseChecksum(c.text, "x.tar.gz")
		if want := strings.TrimSuffix("sha256:"+c.want, "sha256:"); (err == nil) != (c.want != "") || strings.TrimPrefix(got, "sha256:") != strings.TrimPrefix(want, "sha256:") {
			t.Errorf("%s: got %q, %v", c.name, got, err)
		}
	}
}

func TestMirrors_rewriteHosts(t *testing.T) {
	m, err := NewMirrors([]string{"http://127.0.0.1:5000/up/", Direct, "https://mirror.example"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range m {
		p := place{u}
		ref, plain := p.reference("registry.k8s.io/pause:3.10")
		got = append(got, p.url("https://dl.k8s.io/v1/x"), ref)
		if plain != (u != nil && u.Scheme == "http") {
			t.Errorf("%s: plain is %v", ref, plain)
		}
	}
	want := "http://127.0.0.1:5000/up/dl.k8s.io/v1/x 127.0.0.1:5000/up/registry.k8s.io/pause:3.10 " +
		"https://dl.k8s.io/v1/x registry.k8s.io/pause:3.10 https://mirror.example/dl.k8s.io/v1/x mirror.example/registry.k8s.io/pause:3.10"
	if s := strings.Join(got, " "); s != want {
		t.Fatal(s)
	}
	if m, err := NewMirrors(nil); err != nil || len(m) != 1 || m[0] != nil {
		t.Fatalf("no mirror means upstream: %v %v", m, err)
	}
	for _, bad := range []string{"", "x", "ftp://x", "http://", "http://x/?q=1", "/none", "file://host/x"} {
		if _, err := NewMirrors([]string{bad}); fault.CodeOf(err) != fault.Usage {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func newClient(t *testing.T) *Client {
	t.Helper()
	m, err := NewMirrors(nil)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cache.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Client{Mirrors: m, Cache: cache, Pause: time.Millisecond}
}

func TestSmall_refusesRedirectToPlainHTTP(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	defer plain.Close()
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer secure.Close()
	c := newClient(t)
	c.Tries = 1
	c.HTTP = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if _, err := c.Small(t.Context(), secure.URL, 100); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Fatalf("got %v", err)
	}
}

func TestSmall_boundsTheAnswer(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write(make([]byte, 101)); err != nil {
			t.Error(err)
		}
	}))
	defer s.Close()
	if _, err := newClient(t).Small(t.Context(), s.URL, 100); err == nil {
		t.Fatal("accepted")
	}
}

func TestSmall_aServerThatStallsIsAskedAgain(t *testing.T) {
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			w.Header().Set("Content-Length", "4")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		if _, err := w.Write([]byte("good")); err != nil {
			t.Error(err)
		}
	}))
	defer s.Close()
	c := newClient(t)
	c.Stall = 50 * time.Millisecond
	got, err := c.Small(t.Context(), s.URL, 100)
	if err != nil || string(got) != "good" || n.Load() != 2 {
		t.Fatalf("%q %v after %d", got, err, n.Load())
	}
}

func TestSmall_permanentErrorsAreNotRepeated(t *testing.T) {
	for status, want := range map[int]int64{404: 1, 403: 1, 500: 3, 429: 3} {
		var n atomic.Int64
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { n.Add(1); w.WriteHeader(status) }))
		c := newClient(t)
		c.Tries = 3
		_, err := c.Small(t.Context(), s.URL, 100)
		s.Close()
		var se *StatusError
		if !errors.As(err, &se) || se.Status != status || n.Load() != want || fault.HintOf(err) == "" {
			t.Errorf("status %d: %v after %d", status, err, n.Load())
		}
	}
}

func TestBlob_boundsWhatComes(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 100 {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}))
	defer s.Close()
	c := newClient(t)
	d := "sha256:" + strings.Repeat("0", 64)
	if err := c.Blob(t.Context(), s.URL, d, 1000, nil); err == nil || !strings.Contains(err.Error(), "1000") {
		t.Fatalf("got %v", err)
	}
	if st, err := os.Stat(c.Cache.partial(d)); err != nil || st.Size() != 0 {
		t.Fatalf("%v %v", st, err)
	}
}

func TestCache_readChecksTheDigest(t *testing.T) {
	c := newClient(t).Cache
	d, err := c.Put([]byte("data"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Read(d, 100); err != nil || string(got) != "data" {
		t.Fatalf("%q %v", got, err)
	}
	if err := os.WriteFile(c.Path(d), []byte("date"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(d, 100); err == nil {
		t.Fatal("accepted")
	}
	if _, ok := c.Size(d); ok {
		t.Fatal("the damaged blob is still there")
	}
}

func TestSmall_endsWhenCancelled(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := newClient(t).Small(ctx, s.URL, 100); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}
