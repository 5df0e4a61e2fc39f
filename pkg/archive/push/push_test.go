package push_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/archive/push"
	"github.com/kocli/kocli/pkg/fault"
)

// server is a registry that counts, and that a test can have misbehave.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	seen   map[string]int // requests, by method and path
	before func(w http.ResponseWriter, r *http.Request, nth int) bool
}

func serve(t *testing.T, tls bool) *server {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	s := &server{seen: map[string]int{}}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		key := r.Method + " " + r.URL.Path
		if at := strings.Index(key, "/uploads/"); at > 0 {
			key = key[:at+len("/uploads/")] // of every upload
		}
		s.seen[key]++
		nth, before := s.seen[key], s.before
		s.mu.Unlock()
		if before != nil && before(w, r, nth) {
			return
		}
		inner.ServeHTTP(w, r)
	})
	if tls {
		s.Server = httptest.NewTLSServer(h)
	} else {
		s.Server = httptest.NewServer(h)
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	return s
}

// writes counts the requests that are not GET or HEAD, whose path contains part.
func (s *server) writes(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for key, count := range s.seen {
		if method, path, _ := strings.Cut(key, " "); method != http.MethodGet && method != http.MethodHead && strings.Contains(path, part) {
			n += count
		}
	}
	return n
}

// asked is the number of requests.
func (s *server) asked() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.seen) }

func (s *server) forget() { s.mu.Lock(); defer s.mu.Unlock(); clear(s.seen) }

func (s *server) misbehave(f func(w http.ResponseWriter, r *http.Request, nth int) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

// bundle is the sample for both architectures, with a chart.
func bundle(t *testing.T, change func(*archive.Manifest, archivetest.Content)) *archive.Bundle {
	t.Helper()
	b, err := open(packed(t, change))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func open(data []byte) (*archive.Bundle, error) {
	return archive.NewReader(bytes.NewReader(data), int64(len(data)))
}

func packed(t *testing.T, change func(*archive.Manifest, archivetest.Content)) []byte {
	t.Helper()
	m, c := archivetest.Sample()
	archivetest.AddArch(m, c, "arm64")
	config := []byte(`{"name":"app","version":"1.2.3"}`)
	content := c.Put(archive.TypeChartContent, []byte("a packed chart"))
	c.Put("", config)
	raw, err := archive.ChartArtifact("app", "1.2.3", config, content)
	if err != nil {
		t.Fatal(err)
	}
	const media = "application/vnd.oci.image.manifest.v1+json"
	d := c.Put(media, raw)
	blobs, err := archive.ImageBlobs(raw, media)
	if err != nil {
		t.Fatal(err)
	}
	m.Items = append(m.Items, archive.Item{Kind: archive.KindChart, Name: "charts.example.com/stable/app:1.2.3", Version: "1.2.3",
		Arch: archive.ArchAll, Role: archive.RoleAll, Digest: d.Digest, Blobs: blobs, Size: archive.ImageSize(blobs)})
	if change != nil {
		change(m, c)
	}
	var b bytes.Buffer
	if _, _, err := archive.Write(&b, m, c.Open); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func options(b *archive.Bundle, s *server) push.Options {
	return push.Options{Bundle: b, Registry: s.URL + "/kocli", PlainHTTP: true, Pause: time.Millisecond}
}

// arrived wants every item of the bundle to be in the registry, byte for byte.
func arrived(t *testing.T, b *archive.Bundle, r *push.Result) {
	t.Helper()
	found := map[string]bool{}
	for _, im := range r.Images {
		ref, err := name.ParseReference(im.Target, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		d, err := remote.Get(ref)
		if err != nil {
			t.Fatal(err)
		}
		if d.Digest.String() != im.Digest {
			t.Errorf("%s is %s, want %s", im.Target, d.Digest, im.Digest)
		}
		for _, arch := range im.Arches {
			img, err := d.Image()
			if d.MediaType.IsIndex() {
				img, err = remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
			}
			if err != nil {
				t.Fatalf("%s for %s: %v", im.Target, arch, err)
			}
			digest, err := img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			found[im.Source+" "+arch+" "+digest.String()] = true
			layers, err := img.Layers()
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range layers {
				rc, err := l.Compressed() // checks the digest
				if err == nil {
					_, err = io.Copy(io.Discard, rc)
				}
				if err != nil {
					t.Errorf("%s: %v", im.Target, err)
				}
			}
		}
	}
	n := 0
	for _, it := range b.Items(archive.Filter{}) {
		if it.Kind != archive.KindImage && it.Kind != archive.KindChart {
			continue
		}
		n++
		if !found[it.Name+" "+it.Arch+" "+it.Digest] {
			t.Errorf("%s did not arrive with its digest", it.Label())
		}
	}
	if n != 23 || len(found) != n {
		t.Errorf("%d items of the bundle, %d in the registry", n, len(found))
	}
}

func TestPush_everythingArrivesAndASecondPushSendsNothing(t *testing.T) {
	s, b := serve(t, false), bundle(t, nil)
	var mu sync.Mutex
	var last, total int64
	o := options(b, s)
	o.Progress = func(done, all int64) { mu.Lock(); defer mu.Unlock(); last, total = done, all }
	r, err := push.Push(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	arrived(t, b, r)
	if r.Pushed != 12 || r.Skipped != 0 || r.Sent == 0 || r.Sent > r.Total || last != r.Total || total != r.Total {
		t.Errorf("%d pushed, %d skipped, %d of %d bytes; progress %d of %d", r.Pushed, r.Skipped, r.Sent, r.Total, last, total)
	}
	s.forget()
	again, err := push.Push(t.Context(), options(b, s))
	if err != nil {
		t.Fatal(err)
	}
	if n := s.writes(""); n > 0 || again.Sent > 0 || again.Pushed > 0 || again.Skipped != 12 {
		t.Errorf("the second push: %d writes, %d bytes, %d pushed, %d skipped", n, again.Sent, again.Pushed, again.Skipped)
	}
}

func TestPush_oneArchitectureNeedsNoIndex(t *testing.T) {
	s := serve(t, false)
	b := bundle(t, func(m *archive.Manifest, _ archivetest.Content) {
		m.Items = m.Items[:9] // images of amd64
	})
	r, err := push.Push(t.Context(), options(b, s))
	if err != nil {
		t.Fatal(err)
	}
	for _, im := range r.Images {
		ref, err := name.ParseReference(im.Target, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		d, err := remote.Head(ref)
		if err != nil || d.MediaType.IsIndex() || d.Digest.String() != im.Digest {
			t.Errorf("%s: %v, %v", im.Target, d, err)
		}
	}
}

func TestPush_goesOnWhereItWasInterrupted(t *testing.T) {
	s, b := serve(t, false), bundle(t, nil)
	var mu sync.Mutex
	committed := map[string]bool{} // blobs
	full := true
	s.misbehave(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		mu.Lock()
		defer mu.Unlock()
		if digest := r.URL.Query().Get("digest"); r.Method == http.MethodPut && digest != "" {
			if full && len(committed) >= 6 {
				http.Error(w, "disk full", http.StatusInsufficientStorage)
				return true
			}
			if committed[digest] {
				t.Errorf("%s is sent twice", digest)
			}
			committed[digest] = true
		}
		return false
	})
	r, err := push.Push(t.Context(), options(b, s))
	if err == nil || r == nil || !strings.Contains(fault.HintOf(err), "is not sent again") {
		t.Fatalf("got %v, hint %q", err, fault.HintOf(err))
	}
	if len(committed) != 6 || s.writes("/manifests/") >= 10 {
		t.Fatalf("%d blobs and %d manifests before the interruption", len(committed), s.writes("/manifests/"))
	}
	mu.Lock()
	full = false
	mu.Unlock()
	r, err = push.Push(t.Context(), options(b, s))
	if err != nil {
		t.Fatal(err)
	}
	arrived(t, b, r)
	if r.Sent >= r.Total {
		t.Errorf("%d of %d bytes were sent again", r.Sent, r.Total)
	}
}

func TestPush_triesAgainAfterServerErrors(t *testing.T) {
	s, b := serve(t, false), bundle(t, nil)
	s.misbehave(func(w http.ResponseWriter, r *http.Request, nth int) bool {
		if nth > 1 || r.URL.Path == "/v2/" {
			return false
		}
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return true
	})
	r, err := push.Push(t.Context(), options(b, s))
	if err != nil {
		t.Fatal(err)
	}
	s.misbehave(nil)
	arrived(t, b, r)
	s.misbehave(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		http.Error(w, "never", http.StatusInternalServerError)
		return true
	})
	if _, err := push.Push(t.Context(), options(b, s)); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("a registry that only fails: %v", err)
	}
}

func TestPush_loginComesFromDockersConfiguration(t *testing.T) {
	s, b := serve(t, false), bundle(t, nil)
	const user, password = "robot", "canary-7f3a9c51"
	s.misbehave(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if u, p, ok := r.BasicAuth(); ok && u == user && p == password {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
		return true
	})
	host := strings.TrimPrefix(s.URL, "http://")
	_, err := push.Push(t.Context(), options(b, s))
	if fault.CodeOf(err) != fault.Unreachable || !strings.Contains(fault.HintOf(err), "docker login "+host) {
		t.Errorf("got %v, code %d, hint %q", err, fault.CodeOf(err), fault.HintOf(err))
	}
	login := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	file := filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, login), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := push.Push(t.Context(), options(b, s)); err != nil {
		t.Errorf("with the login: %v", err)
	}
	s.misbehave(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Method == http.MethodPost {
			http.Error(w, `{"errors":[{"code":"DENIED"}]}`, http.StatusForbidden)
			return true
		}
		if r.Method != http.MethodGet {
			http.NotFound(w, r)
			return true
		}
		return false
	})
	_, err = push.Push(t.Context(), options(b, s))
	if fault.CodeOf(err) != fault.Unreachable || !strings.Contains(fault.HintOf(err), "may push to "+host+"/kocli/") || strings.Contains(fmt.Sprint(err), password) {
		t.Errorf("got %v, code %d, hint %q", err, fault.CodeOf(err), fault.HintOf(err))
	}
}

func TestPush_noticesARegistryThatLies(t *testing.T) {
	zeros := "sha256:" + strings.Repeat("0", 64)
	for what, lie := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"about the digest of a tag": func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodHead || !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.Header().Set("Docker-Content-Digest", zeros)
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Content-Length", "2")
			return true
		},
		"about what it took": func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.WriteHeader(http.StatusCreated)
			return true
		},
	} {
		t.Run(what, func(t *testing.T) {
			s, b := serve(t, false), bundle(t, nil)
			if _, err := push.Push(t.Context(), options(b, s)); err != nil && what == "about the digest of a tag" {
				t.Fatal(err)
			}
			if what == "about what it took" {
				s = serve(t, false)
			}
			s.misbehave(func(w http.ResponseWriter, r *http.Request, _ int) bool { return lie(w, r) })
			_, err := push.Push(t.Context(), options(b, s))
			if err == nil || !strings.Contains(err.Error(), "not to be trusted") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPush_contactsNobodyElse(t *testing.T) {
	other := serve(t, false)
	s, b := serve(t, false), bundle(t, nil)
	s.misbehave(func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Method != http.MethodPost {
			return false
		}
		w.Header().Set("Location", other.URL+"/upload/1")
		w.WriteHeader(http.StatusAccepted)
		return true
	})
	o := options(b, s)
	_, err := push.Push(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "is not the registry") || !strings.Contains(fault.HintOf(err), "--allow-host") {
		t.Errorf("got %v, hint %q", err, fault.HintOf(err))
	}
	if other.asked() > 0 {
		t.Error("the other host was asked")
	}
	o.AlsoHosts = []string{strings.TrimPrefix(other.URL, "http://")}
	if _, err := push.Push(t.Context(), o); err == nil || other.asked() == 0 {
		t.Errorf("the other host was not asked although it is allowed: %v", err)
	}
}

func TestPush_overTLS(t *testing.T) {
	s, b := serve(t, true), bundle(t, nil)
	o := push.Options{Bundle: b, Registry: s.URL + "/a/b", Pause: time.Millisecond}
	_, err := push.Push(t.Context(), o)
	if fault.CodeOf(err) != fault.Unreachable || !strings.Contains(fault.HintOf(err), "--ca-file") {
		t.Errorf("without the CA: %v, code %d, hint %q", err, fault.CodeOf(err), fault.HintOf(err))
	}
	o.CAFile = filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(o.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := push.Push(t.Context(), o); err != nil || r.Pushed != 12 {
		t.Errorf("with the CA: %+v, %v", r, err)
	}
	plain := serve(t, false)
	_, err = push.Push(t.Context(), push.Options{Bundle: b, Registry: "https" + strings.TrimPrefix(plain.URL, "http"), Pause: time.Millisecond})
	if !strings.Contains(fault.HintOf(err), "--plain-http") || plain.asked() > 0 {
		t.Errorf("plain HTTP that was not asked for: %v, hint %q", err, fault.HintOf(err))
	}
}

func TestPush_endsARequestInWhichNothingMoves(t *testing.T) {
	s, b := serve(t, false), bundle(t, nil)
	s.misbehave(func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Method != http.MethodPatch {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		return true
	})
	o := options(b, s)
	o.Stall = 20 * time.Millisecond
	if _, err := push.Push(t.Context(), o); err == nil || !strings.Contains(err.Error(), "nothing moved") {
		t.Errorf("got %v", err)
	}
}

func TestPush_ctrlC(t *testing.T) {
	s, b := serve(t, false), bundle(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	s.misbehave(func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		if r.Method == http.MethodPatch {
			cancel()
		}
		return false
	})
	if _, err := push.Push(ctx, options(b, s)); !errors.Is(err, context.Canceled) || fault.CodeOf(err) != fault.Interrupted {
		t.Errorf("got %v, code %d", err, fault.CodeOf(err))
	}
}

func TestPush_damageIsFoundOnTheWay(t *testing.T) {
	s, data := serve(t, false), packed(t, nil)
	at := bytes.Index(data, []byte("layer of registry.k8s.io/etcd"))
	if at < 0 {
		t.Fatal("the layer was not found")
	}
	data[at] ^= 1
	b, err := open(data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := push.Push(t.Context(), options(b, s)); fault.CodeOf(err) != fault.Bundle || !errors.Is(err, archive.ErrDamaged) {
		t.Errorf("got %v, code %d", err, fault.CodeOf(err))
	}
}
