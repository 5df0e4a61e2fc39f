package fetch

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// serve starts a server for one test.
func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func (c *Client) holds(t *testing.T, data []byte) {
	t.Helper()
	if got, err := os.ReadFile(c.Cache.Path(digestOf(data))); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes in the cache, %v", len(got), err)
	}
}

func TestBlob_aLineThatIsCutOftenBringsItAll(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 5000)
	var asked atomic.Int64
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		from := 0
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(data[from:min(from+6000, len(data))])
		w.(http.Flusher).Flush()
		if from+6000 < len(data) {
			panic(http.ErrAbortHandler)
		}
	})
	c := newClient(t)
	c.Tries = 2
	if err := c.Blob(t.Context(), s.URL, digestOf(data), -1, nil); err != nil {
		t.Fatal(err)
	}
	c.holds(t, data)
	if asked.Load() < 9 {
		t.Fatalf("asked %d times", asked.Load())
	}
}

func TestBlob_aLineThatIsCutAtTheSamePlaceEnds(t *testing.T) {
	var asked atomic.Int64
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { // knows no ranges
		asked.Add(1)
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write(make([]byte, 500))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	c := newClient(t)
	c.Tries = 3
	err := c.Blob(t.Context(), s.URL, digestOf(make([]byte, 1000)), 1000, nil)
	if err == nil || asked.Load() > 4 {
		t.Fatalf("%v after %d", err, asked.Load())
	}
}

func TestBlob_aServerThatStallsInTheMiddleIsAskedForTheRest(t *testing.T) {
	data := bytes.Repeat([]byte("stall"), 2000)
	var ranges []string
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) == 1 {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:4000])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	c := newClient(t)
	c.Stall = 300 * time.Millisecond
	if err := c.Blob(t.Context(), s.URL, digestOf(data), -1, nil); err != nil {
		t.Fatal(err)
	}
	c.holds(t, data)
	if len(ranges) < 2 || ranges[0] != "" || ranges[1] != "bytes=4000-" {
		t.Fatalf("%q", ranges)
	}
}

func TestBlob_aRangeThatWasNotAskedForIsRefused(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 1000)
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes 0-999/1000")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(data)
	})
	c := newClient(t)
	if err := os.WriteFile(c.Cache.partial(digestOf(data)), data[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Blob(t.Context(), s.URL, digestOf(data), 1000, nil); err == nil || !strings.Contains(err.Error(), "not asked for") {
		t.Fatalf("got %v", err)
	}
}

func TestBlob_aFullDiskIsNotTheServersFault(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = full.Close() }()
	d := download{f: full, hash: sha256.New(), limit: 100}
	n := 0
	err = newClient(t).retry(t.Context(), func() error {
		n++
		_, err := d.Write([]byte("x"))
		return err
	})
	if !errors.Is(err, syscall.ENOSPC) || n != 1 || !strings.Contains(fault.HintOf(err), "--cache") {
		t.Fatalf("%v (hint %q) after %d", err, fault.HintOf(err), n)
	}
}

func TestRetryAfter_isHonoured(t *testing.T) {
	for header, want := range map[string]string{"7": "retry after 7s", "99999": "retry after 2m0s"} {
		if err := retryAfter(&http.Response{Header: http.Header{"Retry-After": {header}}}); err == nil || err.Error() != want {
			t.Errorf("%s: %v", header, err)
		}
	}
	for _, header := range []string{"", "-1", "Mon, 01 Jan 2035 00:00:00 GMT"} {
		if err := retryAfter(&http.Response{Header: http.Header{"Retry-After": {header}}}); err != nil {
			t.Errorf("%s: %v", header, err)
		}
	}
}

func TestRedirect_onlyToHTTPSOrTheSameServer(t *testing.T) {
	hello := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }
	plain := serve(t, hello)
	secure := httptest.NewTLSServer(http.HandlerFunc(hello))
	t.Cleanup(secure.Close)
	to := ""
	redirect := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/here" {
			hello(w, r)
			return
		}
		http.Redirect(w, r, to, http.StatusFound)
	}
	fromPlain := serve(t, redirect)
	fromSecure := httptest.NewTLSServer(http.HandlerFunc(redirect))
	t.Cleanup(fromSecure.Close)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name, from, to string
		ok             bool
	}{
		{"https to another https", fromSecure.URL, secure.URL, true},
		{"http to https", fromPlain.URL, secure.URL, true},
		{"http to the same server", fromPlain.URL, "/here", true},
		{"http to another server", fromPlain.URL, plain.URL, false},
		{"https to http", fromSecure.URL, plain.URL, false},
		{"http to a file", fromPlain.URL, "file://" + file, false},
	} {
		c := newClient(t)
		c.HTTP = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		to = x.to
		got, err := c.Small(t.Context(), x.from, 100)
		if (err == nil) != x.ok || (x.ok && string(got) != "hello") || (!x.ok && !strings.Contains(err.Error(), "refused")) {
			t.Errorf("%s: %q, %v", x.name, got, err)
		}
	}
}

func TestErrors_showNoPasswordOfAMirror(t *testing.T) {
	s := serve(t, http.NotFound)
	c := newClient(t)
	c.Mirrors = must(NewMirrors([]string{strings.Replace(s.URL, "http://", "http://me:canary-1@", 1)}))
	_, err := c.Small(t.Context(), "https://dl.k8s.io/x", 100)
	if err == nil || strings.Contains(err.Error(), "canary-1") {
		t.Fatalf("got %v", err)
	}
	s.Close()
	if _, err := c.Small(t.Context(), "https://dl.k8s.io/x", 100); err == nil || strings.Contains(err.Error(), "canary-1") {
		t.Fatalf("got %v", err)
	}
}

// testImage is an image of one layer.
func testImage() (v1.Image, []byte) {
	layer := []byte(strings.Repeat("layer", 3000))
	img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	return must(mutate.AppendLayers(img, static.NewLayer(layer, types.OCILayer))), layer
}

func TestImage_logsInWithDockersConfigAndKeepsItToItself(t *testing.T) {
	const user, password = "me", "canary-2"
	img, layer := testImage()
	cdn := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("the CDN was sent %q", r.Header.Get("Authorization"))
		}
		_, _ = w.Write(layer)
	}))
	t.Cleanup(cdn.Close)
	reg := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var refused, logins atomic.Int64
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
			refused.Add(1)
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/v2/" {
			logins.Add(1)
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, digestOf(layer)) {
			http.Redirect(w, r, cdn.URL, http.StatusTemporaryRedirect)
			return
		}
		reg.ServeHTTP(w, r)
	})
	host := strings.TrimPrefix(s.URL, "http://")
	if err := remote.Write(must(name.ParseReference(host+"/a/b:1")), img, remote.WithAuth(&authn.Basic{Username: user, Password: password})); err != nil {
		t.Fatal(err)
	}
	docker := t.TempDir()
	t.Setenv("DOCKER_CONFIG", docker)
	c := newClient(t)
	c.HTTP = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	_, err := c.Manifest(t.Context(), host+"/a/b:1", "amd64")
	if err == nil || !strings.Contains(fault.HintOf(err), "docker login "+host) {
		t.Fatalf("without a login: %v, hint %q", err, fault.HintOf(err))
	}
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	if err := os.WriteFile(filepath.Join(docker, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	blobs, err := c.Manifest(t.Context(), host+"/a/b:1", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	before := refused.Load()
	for _, d := range blobs[1:] {
		if err := c.ImageBlob(t.Context(), host+"/a/b:1", d, nil); err != nil {
			t.Fatal(err)
		}
	}
	c.holds(t, layer)
	if n := refused.Load() - before; n > 1 {
		t.Errorf("asked %d times without a login for two blobs of one repository", n)
	}
}

func TestImage_aRegistryThatStallsIsAskedAgain(t *testing.T) {
	img, layer := testImage()
	reg := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var manifests, blobs atomic.Int64
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		get := r.Method == http.MethodGet
		if (get && strings.Contains(r.URL.Path, "/manifests/") && manifests.Add(1) == 1) ||
			(get && strings.Contains(r.URL.Path, digestOf(layer)) && blobs.Add(1) == 1) {
			w.Header().Set("Content-Length", "100")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		reg.ServeHTTP(w, r)
	})
	ref := strings.TrimPrefix(s.URL, "http://") + "/a/b:1"
	if err := remote.Write(must(name.ParseReference(ref)), img); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	c := newClient(t)
	c.Stall = 300 * time.Millisecond
	list, err := c.Manifest(t.Context(), ref, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list[1:] {
		if err := c.ImageBlob(t.Context(), ref, d, nil); err != nil {
			t.Fatal(err)
		}
	}
	c.holds(t, layer)
	if manifests.Load() < 2 || blobs.Load() < 2 {
		t.Fatalf("%d manifests, %d blobs", manifests.Load(), blobs.Load())
	}
}

func TestMirror_aFolderServesFilesAndImages(t *testing.T) {
	dir := t.TempDir()
	data := bytes.Repeat([]byte("kubelet"), 1000)
	file := filepath.Join(dir, "dl.k8s.io", "v1.36.3", "kubelet")
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o750), os.WriteFile(file, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	img, layer := testImage()
	l := must(layout.Write(filepath.Join(dir, "registry.k8s.io", "pause"), empty.Index))
	idx := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	if err := l.AppendIndex(idx, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "3.10"})); err != nil {
		t.Fatal(err)
	}
	c := newClient(t)
	for _, mirror := range []string{dir, "file://" + dir + "/"} {
		c.Mirrors = must(NewMirrors([]string{mirror}))
		if got, err := c.Small(t.Context(), "https://dl.k8s.io/v1.36.3/kubelet", 1<<20); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s: %d bytes, %v", mirror, len(got), err)
		}
	}
	part := c.Cache.partial(digestOf(data))
	if err := os.WriteFile(part, data[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Blob(t.Context(), "https://dl.k8s.io/v1.36.3/kubelet", digestOf(data), -1, nil); err != nil {
		t.Fatal(err)
	}
	c.holds(t, data)
	blobs, err := c.Manifest(t.Context(), "registry.k8s.io/pause:3.10", "arm64")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range blobs[1:] {
		if err := c.ImageBlob(t.Context(), "registry.k8s.io/pause:3.10", d, nil); err != nil {
			t.Fatal(err)
		}
	}
	c.holds(t, layer)
	for what, err := range map[string]error{
		"a folder":             c.Blob(t.Context(), "https://dl.k8s.io/v1.36.3", digestOf(nil), -1, nil),
		"a file that is none":  c.Blob(t.Context(), "https://dl.k8s.io/none", digestOf([]byte("x")), -1, nil),
		"another tag":          second(c.Manifest(t.Context(), "registry.k8s.io/pause:3.11", "arm64")),
		"another repository":   second(c.Manifest(t.Context(), "registry.k8s.io/none:3.10", "arm64")),
		"another architecture": second(c.Manifest(t.Context(), "registry.k8s.io/pause:3.10", "amd64")),
		"a blob that is none":  c.ImageBlob(t.Context(), "registry.k8s.io/pause:3.10", archive.Descriptor{Digest: digestOf([]byte("y"))}, nil),
	} {
		if err == nil {
			t.Errorf("%s: found", what)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestCache_whatAKilledBuildWasWritingIsSweptUp(t *testing.T) {
	dir := t.TempDir()
	c := must(OpenCache(dir))
	stale := filepath.Join(dir, "partial", "put-123")
	part := c.partial(digestOf([]byte("x")))
	for _, f := range []string{stale, part} {
		if err := os.WriteFile(f, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = must(OpenCache(dir))
	defer func() { _ = c.Close() }()
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Error("still there")
	}
	if _, err := os.Stat(part); err != nil {
		t.Errorf("a download to continue was removed: %v", err)
	}
}

func TestRepositoryPath_withoutTagAndDigest(t *testing.T) {
	for ref, want := range map[string]string{
		"registry.k8s.io/pause:3.10": "registry.k8s.io/pause", "127.0.0.1:5000/a/b": "127.0.0.1:5000/a/b",
		"ghcr.io/a/b:1@sha256:" + strings.Repeat("a", 64): "ghcr.io/a/b",
	} {
		if got := repositoryPath(ref); got != want {
			t.Errorf("%s: %s", ref, got)
		}
	}
	if _, err := url.Parse(fileURL("/a b")); err != nil || fileURL("/a b") != "file:///a%20b" {
		t.Error(fileURL("/a b"))
	}
}
