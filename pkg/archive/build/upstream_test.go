package build_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/build"
	"github.com/kocli/kocli/pkg/archive/catalogue"
)

const testCatalogue = `apiVersion: kocli.io/v1alpha1
kind: Catalogue
files:
- {name: kubelet, component: kubernetes, kind: binary, role: all, licence: Apache-2.0, url: "https://dl.k8s.io/{version}/bin/linux/{arch}/kubelet", checksum: "https://dl.k8s.io/{version}/bin/linux/{arch}/kubelet.sha256"}
- {name: runc, component: runc, kind: binary, role: all, licence: Apache-2.0, url: "https://github.com/runc/v{version}/runc.{arch}", checksum: "https://github.com/runc/v{version}/runc.sha256sum"}
- {name: containerd, component: containerd, kind: archive, role: all, licence: Apache-2.0, url: "https://github.com/containerd/v{version}/containerd-{arch}.tar.gz", checksum: "https://github.com/containerd/v{version}/containerd-{arch}.tar.gz.sha256"}
images:
- {component: kubernetes, role: control-plane, licence: Apache-2.0, ref: "registry.k8s.io/kube-apiserver:{version}"}
- {component: pause, role: all, licence: Apache-2.0, ref: "registry.k8s.io/pause:{version}"}
- {component: flannel, cni: flannel, role: all, licence: Apache-2.0, ref: "ghcr.io/flannel-io/flannel:{version}"}
releases:
- {kubernetes: v1.36.3, components: {runc: 1.4.3, containerd: 2.2.9, pause: "3.10", flannel: v1}}
- {kubernetes: v1.37.2, components: {runc: 1.4.3, containerd: 2.2.9, pause: "3.11", flannel: v1}}
distributions:
- id: debian
  version: "12"
  manager: apt
  licence: see package
  archives: [{url: "http://ftp.debian.org/debian", suite: bookworm, components: [main]}]
  keyring: /nowhere
  packages: [{name: conntrack, commands: [conntrack]}]
- id: rocky
  version: "9"
  manager: dnf
  licence: see package
  archives: [{url: "https://rocky.test/BaseOS/{arch}/os"}, {url: "https://rocky.test/AppStream/{arch}/os"}]
  keyring: /nowhere
  base: [bash]
  packages: [{name: conntrack-tools, commands: [conntrack]}]
`

const testSpec = `apiVersion: kocli.io/v1alpha1
kind: Bundle
metadata: {name: test}
spec:
  kubernetes: [v1.36.3]
  architectures: [amd64]
  cni: [flannel]
  osPackages: [{distribution: debian, version: "12", keyring: keyring.gpg}]
`

// upstream stands for all servers of upstream: files by path and a registry.
type upstream struct {
	t     *testing.T
	dir   string // of the spec, its lock and keyring
	url   string
	mu    sync.Mutex
	files map[string][]byte
	hits  map[string]int
	// before, where it is set for a path, answers in place of the file while it
	// returns true.
	before map[string]func(w http.ResponseWriter, r *http.Request) bool
	signer *openpgp.Entity
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{t: t, dir: t.TempDir(), files: map[string][]byte{}, hits: map[string]int{}, before: map[string]func(http.ResponseWriter, *http.Request) bool{}}
	reg := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.hits[r.URL.Path]++
		data, ok := u.files[r.URL.Path]
		before := u.before[r.URL.Path]
		u.mu.Unlock()
		switch {
		case before != nil && before(w, r):
		case strings.HasPrefix(r.URL.Path, "/v2/"):
			reg.ServeHTTP(w, r)
		case ok:
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	u.url = s.URL
	for _, v := range []string{"v1.36.3", "v1.37.2"} {
		for _, arch := range []string{"amd64", "arm64"} {
			u.file("/dl.k8s.io/"+v+"/bin/linux/"+arch+"/kubelet", "kubelet "+v+arch)
		}
		u.image("registry.k8s.io/kube-apiserver:"+v, "amd64", "arm64")
	}
	sums := ""
	for _, arch := range []string{"amd64", "arm64"} {
		data := strings.Repeat("runc "+arch, 50_000)
		u.put("/github.com/runc/v1.4.3/runc."+arch, data)
		sums += hexSum([]byte(data)) + " *runc." + arch + "\n"
	}
	u.put("/github.com/runc/v1.4.3/runc.sha256sum", sums)
	for _, arch := range []string{"amd64", "arm64"} {
		u.file("/github.com/containerd/v2.2.9/containerd-"+arch+".tar.gz", tarball(map[string]string{
			"bin/containerd": "containerd " + arch, "bin/ctr": "ctr " + arch, "README.md": "read me",
		}))
	}
	for _, ref := range []string{"registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.11", "ghcr.io/flannel-io/flannel:v1"} {
		u.image(ref, "amd64", "arm64")
	}
	u.image("docker.io/library/single:1", "amd64")
	u.debian()
	return u
}

func (u *upstream) put(path, data string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files[path] = []byte(data)
}

// file serves a file with its checksum, as dl.k8s.io does.
func (u *upstream) file(path, data string) {
	u.put(path, data)
	u.put(path+".sha256", hexSum([]byte(data)))
}

func (u *upstream) interceptRunc(f func(w http.ResponseWriter, r *http.Request) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.before[runcPath] = f
}

func (u *upstream) count(prefix string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for p, c := range u.hits {
		if strings.HasPrefix(p, prefix) {
			n += c
		}
	}
	return n
}

// tarball holds these files; those under bin/ are executable.
func tarball(files map[string]string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mode := int64(0o644)
		if strings.HasPrefix(name, "bin/") {
			mode = 0o755
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(files[name])), Typeflag: tar.TypeReg}); err != nil {
			panic(err)
		}
		must(io.WriteString(w, files[name]))
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		panic(err)
	}
	return b.String()
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// image pushes an image: an index when there are several architectures.
func (u *upstream) image(ref string, archs ...string) {
	u.t.Helper()
	dst := must(name.ParseReference(strings.TrimPrefix(u.url, "http://")+"/"+ref, name.Insecure))
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var last v1.Image
	for _, arch := range archs {
		img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
		layers := []mutate.Addendum{
			{Layer: static.NewLayer([]byte("base layer"), types.OCILayer)},
			{Layer: static.NewLayer([]byte(strings.Repeat(ref+arch, 2000)), types.OCILayer)},
		}
		img = must(mutate.Append(img, layers...))
		cfg := must(img.ConfigFile()).DeepCopy()
		cfg.OS, cfg.Architecture = "linux", arch
		last = must(mutate.ConfigFile(img, cfg))
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: last, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	var err error
	if len(archs) > 1 {
		err = remote.WriteIndex(dst, idx)
	} else {
		err = remote.Write(dst, last)
	}
	if err != nil {
		u.t.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// debian serves a signed archive with conntrack and a library.
func (u *upstream) debian() {
	if u.signer == nil {
		u.signer = must(openpgp.NewEntity("archive", "", "a@example.test", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}))
		var ring bytes.Buffer
		if err := u.signer.Serialize(&ring); err != nil {
			u.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(u.dir, "keyring.gpg"), ring.Bytes(), 0o600); err != nil {
			u.t.Fatal(err)
		}
	}
	release := "Suite: oldstable\nCodename: bookworm\nSHA256:\n"
	for _, arch := range []string{"amd64", "arm64"} {
		var index strings.Builder
		for _, p := range []string{"conntrack", "libmnl0", "unwanted"} {
			deb := "deb of " + p + arch
			file := "pool/main/" + p + "_1.0_" + arch + ".deb"
			u.put("/ftp.debian.org/debian/"+file, deb)
			fmt.Fprintf(&index, "Package: %s\nVersion: 1:1.0-1\nArchitecture: %s\nFilename: %s\nSize: %d\nSHA256: %s\n", p, arch, file, len(deb), hexSum([]byte(deb)))
			if p == "conntrack" {
				index.WriteString("Depends: libmnl0\n")
			}
			index.WriteString("\n")
		}
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		must(io.WriteString(w, index.String()))
		if err := w.Close(); err != nil {
			u.t.Fatal(err)
		}
		path := "main/binary-" + arch + "/Packages.gz"
		u.put("/ftp.debian.org/debian/dists/bookworm/"+path, z.String())
		release += fmt.Sprintf(" %s %d %s\n", hexSum(z.Bytes()), z.Len(), path)
	}
	var signed bytes.Buffer
	w := must(clearsign.Encode(&signed, u.signer.PrivateKey, nil))
	must(io.WriteString(w, release))
	if err := w.Close(); err != nil {
		u.t.Fatal(err)
	}
	u.put("/ftp.debian.org/debian/dists/bookworm/InRelease", signed.String())
}

// options are those of a build of the test's spec.
func (u *upstream) options(change ...func(*archive.Spec)) build.Options {
	u.t.Helper()
	s := must(archive.DecodeSpec([]byte(testSpec)))
	for _, f := range change {
		f(s)
	}
	kocli := filepath.Join(u.dir, "kocli")
	if err := os.WriteFile(kocli, []byte("kocli itself"), 0o600); err != nil {
		u.t.Fatal(err)
	}
	return build.Options{
		Spec: s, SpecDir: u.dir, Catalogue: must(catalogue.Decode([]byte(testCatalogue))), Mirrors: []string{u.url},
		CacheDir: filepath.Join(u.dir, "cache"), Output: filepath.Join(u.dir, "out.tar"), Version: "v0.1.0",
		KocliBinaries: map[string]string{"amd64": kocli}, RetryPause: time.Millisecond,
		LockPath: build.LockPath(filepath.Join(u.dir, "bundle.yaml")),
	}
}

// buildOnly builds the test's spec, without looking at the result.
func buildOnly(u *upstream) (*build.Report, error) {
	return build.Build(context.Background(), u.options())
}

func (u *upstream) build(o build.Options) (*build.Report, *archive.Bundle, error) {
	u.t.Helper()
	r, err := build.Build(u.t.Context(), o)
	if err != nil {
		return nil, nil, err
	}
	b := must(archive.Open(o.Output))
	u.t.Cleanup(func() {
		if err := b.Close(); err != nil {
			u.t.Error(err)
		}
	})
	if err := b.Verify(u.t.Context(), nil); err != nil {
		u.t.Fatal(err)
	}
	return r, b, nil
}

// leftovers are the files beside the output that a build should have removed.
func (u *upstream) leftovers() []string {
	list := must(filepath.Glob(filepath.Join(u.dir, ".*.part")))
	return append(list, must(filepath.Glob(filepath.Join(u.dir, "out.tar")))...)
}

func itemNames(b *archive.Bundle) []string {
	names := map[string]bool{}
	for _, it := range b.Items(archive.Filter{}) {
		names[it.Label()] = true
	}
	return slices.Sorted(maps.Keys(names))
}
