package build_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/build"
	"github.com/kocli/kocli/pkg/fault"
)

const runcPath = "/github.com/runc/v1.4.3/runc.amd64"

func TestBuild_bringsWhatTheSpecAsksFor(t *testing.T) {
	u := newUpstream(t)
	o := u.options()
	stages := map[build.Stage]build.Progress{}
	o.Progress = func(p build.Progress) { stages[p.Stage] = p }
	r, b, err := u.build(o)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"conntrack 1:1.0-1 (amd64)", "containerd 2.2.9 (amd64)", "ctr 2.2.9 (amd64)", "ghcr.io/flannel-io/flannel:v1 (amd64)", "kocli v0.1.0 (amd64)", "kubelet v1.36.3 (amd64)", "libmnl0 1:1.0-1 (amd64)",
		"registry.k8s.io/kube-apiserver:v1.36.3 (amd64)", "registry.k8s.io/pause:3.10 (amd64)", "runc 1.4.3 (amd64)",
	}
	if got := itemNames(b); !slices.Equal(got, want) {
		t.Fatalf("got %q", got)
	}
	if r.Items != len(want) || r.Size != b.Size() || r.Digest != b.Digest() || !r.LockChanged || r.Downloaded == 0 {
		t.Fatalf("%+v", r)
	}
	for _, s := range []build.Stage{build.StageResolve, build.StageDownload} {
		if p := stages[s]; p.Done != p.Total || p.Total == 0 {
			t.Errorf("%s ended at %d of %d", s, p.Done, p.Total)
		}
	}
	for _, it := range b.Items(archive.Filter{}) {
		if it.Name == "ctr" && (it.Kind != archive.KindBinary || it.Component != "containerd" || it.SourceDigest != "sha256:"+hexSum(u.files["/github.com/containerd/v2.2.9/containerd-amd64.tar.gz"])) {
			t.Errorf("%+v", it)
		}
	}
	p := b.Packages("debian", "12", archive.Filter{Role: archive.RoleWorker})
	if len(p) != 2 || !p[0].Package.Requested || p[0].Package.Commands[0] != "conntrack" || p[1].Package.RequiredBy[0] != "conntrack" {
		t.Fatalf("%+v", p)
	}
	if src := b.Items(archive.Filter{})[0].Source; strings.Contains(src, "127.0.0.1") {
		t.Errorf("the mirror is recorded as source: %s", src)
	}
	if l := u.leftovers(); len(l) != 1 {
		t.Errorf("left behind: %q", l)
	}
}

func TestBuild_twiceGivesTheSameBytesWithoutNetwork(t *testing.T) {
	u := newUpstream(t)
	o := u.options()
	if _, _, err := u.build(o); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(o.Output)
	if err != nil {
		t.Fatal(err)
	}
	before := u.count("/")
	r, _, err := u.build(o)
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(o.Output)
	if err != nil || !bytes.Equal(first, second) {
		t.Fatalf("the second build differs (%v)", err)
	}
	if n := u.count("/") - before; n != 0 || r.LockChanged || r.Downloaded != 0 {
		t.Fatalf("%d requests, %+v", n, r)
	}
	o.CacheDir = filepath.Join(u.dir, "another")
	o.Locked = true
	if _, _, err := u.build(o); err != nil {
		t.Fatal(err)
	}
	if third, err := os.ReadFile(o.Output); err != nil || !bytes.Equal(first, third) {
		t.Fatalf("a build from an empty cache differs (%v)", err)
	}
}

func TestBuild_severalVersionsAndArchitectures(t *testing.T) {
	u := newUpstream(t)
	_, b, err := u.build(u.options(func(s *archive.Spec) {
		s.Spec.Kubernetes = []string{"v1.37.2", "v1.36.3"}
		s.Spec.Architectures = []string{"arm64", "amd64"}
		s.Spec.CNI = nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	var refs []string
	for _, im := range b.Images(archive.Filter{Kubernetes: "v1.37.2", Arch: "arm64"}) {
		refs = append(refs, im.Ref)
	}
	if got := strings.Join(refs, " "); got != "registry.k8s.io/kube-apiserver:v1.37.2 registry.k8s.io/pause:3.11" {
		t.Fatal(got)
	}
	if n := len(b.Files(archive.Filter{Kubernetes: "v1.37.2", Arch: "arm64"})); n != 4 {
		t.Fatalf("%d files", n)
	}
}

func TestBuild_extraImageWithoutIndex(t *testing.T) {
	u := newUpstream(t)
	_, b, err := u.build(u.options(func(s *archive.Spec) {
		s.Spec.ExtraImages = []archive.ExtraImage{{Ref: "docker.io/library/single:1", Role: archive.RoleWorker}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(itemNames(b), "docker.io/library/single:1 (amd64)") {
		t.Fatal(itemNames(b))
	}
}

func TestBuild_goesOnAfterFaultsOfTheServer(t *testing.T) {
	for name, fail := range map[string]func(tries *atomic.Int64, full []byte) func(http.ResponseWriter, *http.Request) bool{
		"500, then 200": func(n *atomic.Int64, _ []byte) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, _ *http.Request) bool {
				if n.Add(1) > 2 {
					return false
				}
				w.WriteHeader(http.StatusInternalServerError)
				return true
			}
		},
		"cut in the middle, then resumed": func(n *atomic.Int64, full []byte) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if n.Add(1) > 1 {
					if r.Header.Get("Range") != fmt.Sprintf("bytes=%d-", len(full)/2) {
						t.Errorf("asked for %q", r.Header.Get("Range"))
					}
					return false
				}
				cut(w, full)
				return true
			}
		},
		"cut, then a server that ignores ranges": func(n *atomic.Int64, full []byte) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if n.Add(1) > 1 {
					r.Header.Del("Range")
					return false
				}
				cut(w, full)
				return true
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			var tries atomic.Int64
			u.interceptRunc(fail(&tries, u.files[runcPath]))
			if _, _, err := u.build(u.options()); err != nil {
				t.Fatal(err)
			}
			if tries.Load() < 2 {
				t.Fatal("the fault was not met")
			}
		})
	}
}

// cut answers with the first half of a file and drops the connection.
func cut(w http.ResponseWriter, full []byte) {
	w.Header().Set("Content-Length", fmt.Sprint(len(full)))
	_, _ = w.Write(full[:len(full)/2])
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	panic(http.ErrAbortHandler)
}

func TestBuild_resumesWhatAnEarlierBuildLeft(t *testing.T) {
	u := newUpstream(t)
	full := u.files[runcPath]
	o := u.options()
	partial := filepath.Join(o.CacheDir, "partial", hexSum(full))
	if err := os.MkdirAll(filepath.Dir(partial), 0o750); err != nil {
		t.Fatal(err)
	}
	for name, left := range map[string][]byte{
		"half":                    full[:len(full)/2],
		"all":                     full,
		"something else":          bytes.Repeat([]byte("x"), 1000),
		"something else, as long": bytes.Repeat([]byte("x"), len(full)),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.RemoveAll(filepath.Join(o.CacheDir, "blobs")); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(partial, left, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err := u.build(o); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestBuild_refusesWhatIsNotAsPublished(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(u *upstream, o *build.Options)
		code   fault.Code
		want   string
	}{
		{"content with another checksum", func(u *upstream, _ *build.Options) { u.put(runcPath, "evil") }, fault.Bundle, "runc 1.4.3 (amd64)"},
		{"checksum file without this file", func(u *upstream, _ *build.Options) {
			u.put("/github.com/runc/v1.4.3/runc.sha256sum", strings.Repeat("a", 64)+"  runc.s390x\n")
		}, fault.Failure, "no sha256 of runc.amd64"},
		{"no checksum file", func(u *upstream, _ *build.Options) {
			delete(u.files, "/dl.k8s.io/v1.36.3/bin/linux/amd64/kubelet.sha256")
		}, fault.Failure, "404"},
		{"checksum that is none", func(u *upstream, _ *build.Options) {
			u.put("/dl.k8s.io/v1.36.3/bin/linux/amd64/kubelet.sha256", "<html>")
		}, fault.Failure, "no sha256 of kubelet"},
		{"no such file", func(u *upstream, _ *build.Options) { delete(u.files, runcPath) }, fault.Failure, "404"},
		{"server that always fails", func(u *upstream, _ *build.Options) {
			u.interceptRunc(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true })
		}, fault.Failure, "503"},
		{"no such image", func(_ *upstream, o *build.Options) {
			o.Spec.Spec.ExtraImages = []archive.ExtraImage{{Ref: "docker.io/library/none:1", Role: archive.RoleAll}}
		}, fault.Failure, "docker.io/library/none:1"},
		{"image without this architecture", func(u *upstream, o *build.Options) {
			u.image("docker.io/library/arm:1", "arm64", "s390x")
			o.Spec.Spec.ExtraImages = []archive.ExtraImage{{Ref: "docker.io/library/arm:1", Role: archive.RoleAll}}
		}, fault.Failure, "no image for linux/amd64"},
		{"package that does not exist", func(_ *upstream, o *build.Options) { o.Spec.Spec.OSPackages[0].Extra = []string{"vim"} }, fault.Usage, "package vim"},
		{"archive signed by another key", func(u *upstream, _ *build.Options) {
			old := must(os.ReadFile(filepath.Join(u.dir, "keyring.gpg")))
			u.signer = nil
			u.debian()
			if err := os.WriteFile(filepath.Join(u.dir, "keyring.gpg"), old, 0o600); err != nil {
				u.t.Fatal(err)
			}
		}, fault.Bundle, "signature cannot be trusted"},
		{"no keyring", func(_ *upstream, o *build.Options) { o.Spec.Spec.OSPackages[0].Keyring = "" }, fault.Usage, "/nowhere"},
		{"changed package index", func(u *upstream, _ *build.Options) {
			u.put("/ftp.debian.org/debian/dists/bookworm/main/binary-amd64/Packages.gz", "evil")
		}, fault.Bundle, "has digest"},
		{"changed package", func(u *upstream, _ *build.Options) {
			u.put("/ftp.debian.org/debian/pool/main/libmnl0_1.0_amd64.deb", "deb of libmnl0amd65")
		}, fault.Bundle, "has digest"},
		{"tarball that is none", func(u *upstream, _ *build.Options) {
			u.file("/github.com/containerd/v2.2.9/containerd-amd64.tar.gz", "no tarball")
		}, fault.Failure, "unpack containerd-amd64.tar.gz"},
		{"tarball without programs", func(u *upstream, _ *build.Options) {
			u.file("/github.com/containerd/v2.2.9/containerd-amd64.tar.gz", tarball(map[string]string{"README.md": "x"}))
		}, fault.Failure, "no program"},
		{"tarball made to fill the disk", func(u *upstream, _ *build.Options) {
			u.file("/github.com/containerd/v2.2.9/containerd-amd64.tar.gz", tarball(map[string]string{"bin/containerd": strings.Repeat("0", 20<<20)}))
		}, fault.Failure, "made to fill the disk"},
		{"version that is not in the catalogue", func(_ *upstream, o *build.Options) { o.Spec.Spec.Kubernetes = []string{"v1.0.0"} }, fault.Usage, "v1.0.0"},
		{"CNI that is not in the catalogue", func(_ *upstream, o *build.Options) { o.Spec.Spec.CNI = []string{"weave"} }, fault.Usage, "weave"},
		{"mirror that is no URL", func(_ *upstream, o *build.Options) { o.Mirrors = []string{"ftp://x"} }, fault.Usage, "ftp://x"},
		{"architecture that is not known", func(_ *upstream, o *build.Options) { o.Arch = []string{"amd65"} }, fault.Usage, "amd65"},
		{"kocli binary that is missing", func(_ *upstream, o *build.Options) { o.KocliBinaries = map[string]string{"amd64": "/none"} }, fault.Usage, "/none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUpstream(t)
			o := u.options()
			c.change(u, &o)
			_, _, err := u.build(o)
			if err == nil || fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v (exit %d), want exit %d and %q", err, fault.CodeOf(err), c.code, c.want)
			}
			if l := u.leftovers(); len(l) != 0 {
				t.Errorf("left behind: %q", l)
			}
			if _, err := os.Stat(o.LockPath); err == nil {
				t.Error("a failed build wrote the lock")
			}
		})
	}
}

func TestBuild_withoutSignatureOnlyWhenAsked(t *testing.T) {
	u := newUpstream(t)
	_, _, err := u.build(u.options(func(s *archive.Spec) {
		s.Spec.OSPackages[0].Keyring = "/none"
		s.Spec.OSPackages[0].InsecureSkipSignature = true
	}))
	if err != nil {
		t.Fatal(err)
	}
}

func TestBuild_asksMirrorsInTurn(t *testing.T) {
	empty, full := newUpstream(t), newUpstream(t)
	clear(empty.files)
	o := full.options()
	o.Mirrors = []string{empty.url, full.url}
	if _, _, err := full.build(o); err != nil {
		t.Fatal(err)
	}
	if empty.count(runcPath) == 0 && empty.count("/github.com") == 0 {
		t.Fatal("the first mirror was not asked")
	}
}

func TestBuild_lockIsEnforced(t *testing.T) {
	u := newUpstream(t)
	o := u.options()
	if _, _, err := u.build(o); err != nil {
		t.Fatal(err)
	}
	old := must(os.ReadFile(o.LockPath))
	u.file("/dl.k8s.io/v1.36.3/bin/linux/amd64/kubelet", "kubelet, built again")
	u.image("registry.k8s.io/pause:3.10", "amd64", "s390x", "arm64")
	o.CacheDir = filepath.Join(u.dir, "fresh")
	_, _, err := u.build(o)
	if fault.CodeOf(err) != fault.Bundle || !strings.Contains(fault.HintOf(err), "--update-lock") {
		t.Fatalf("got %v, hint %q", err, fault.HintOf(err))
	}
	for _, want := range []string{"kubelet v1.36.3 amd64", "sha256:" + hexSum([]byte("kubelet v1.36.3amd64")), "sha256:" + hexSum([]byte("kubelet, built again"))} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "pause") {
		t.Errorf("the image of this architecture is the same: %v", err)
	}
	if !bytes.Equal(old, must(os.ReadFile(o.LockPath))) {
		t.Error("the lock was changed")
	}
	o.UpdateLock = true
	r, _, err := u.build(o)
	if err != nil || !r.LockChanged {
		t.Fatalf("%+v %v", r, err)
	}
	o.UpdateLock, o.Locked = false, true
	if _, _, err := u.build(o); err != nil {
		t.Fatal(err)
	}
	o.Spec.Spec.ExtraImages = []archive.ExtraImage{{Ref: "docker.io/library/single:1", Role: archive.RoleAll}}
	if _, _, err := u.build(o); fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "single:1") {
		t.Fatalf("an item that is not in the lock: %v", err)
	}
	o.Locked = false
	if r, _, err := u.build(o); err != nil || !r.LockChanged {
		t.Fatalf("a new item: %+v %v", r, err)
	}
	if err := os.WriteFile(o.LockPath, []byte("kind: Bundle\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := u.build(o); fault.CodeOf(err) != fault.Usage {
		t.Fatalf("a lock that is none: %v", err)
	}
}

func TestBuild_damagedCacheIsNoticedAndMended(t *testing.T) {
	u := newUpstream(t)
	o := u.options()
	raw := filepath.Join(o.CacheDir, "blobs", "sha256", hexSum(u.files[runcPath]))
	if err := errors.Join(os.MkdirAll(filepath.Dir(raw), 0o750), os.WriteFile(raw, []byte("damaged"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := u.build(o); fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "runc") {
		t.Fatalf("a damaged download: got %v", err)
	}
	_, b, err := u.build(o)
	if err != nil {
		t.Fatalf("the next build: %v", err)
	}
	for _, it := range b.Items(archive.Filter{}) {
		if it.Name != "runc" && it.Kind != archive.KindImage {
			continue
		}
		digest := it.Digest
		if it.Name == "runc" {
			digest = it.Stored.Digest
		}
		blob := filepath.Join(o.CacheDir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
		data := must(os.ReadFile(blob))
		data[10] ^= 1
		if err := os.WriteFile(blob, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := u.build(o); err == nil || (it.Name == "runc" && (fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "runc"))) {
			t.Fatalf("%s: got %v", it.Name, err)
		}
		if _, _, err := u.build(o); err != nil {
			t.Fatalf("%s, the next build: %v", it.Name, err)
		}
	}
}

func TestBuild_oneAtATime(t *testing.T) {
	u := newUpstream(t)
	o := u.options()
	if err := os.MkdirAll(o.CacheDir, 0o750); err != nil {
		t.Fatal(err)
	}
	f := must(os.Create(filepath.Join(o.CacheDir, "lock")))
	defer f.Close() //nolint:errcheck // a test
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, _, err := u.build(o); fault.CodeOf(err) != fault.Locked {
		t.Fatalf("got %v", err)
	}
}

func TestBuild_cancelledLeavesTheOldBundle(t *testing.T) {
	u := newUpstream(t)
	o := u.options()
	if err := os.WriteFile(o.Output, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(p build.Progress) {
		if p.Stage == build.StageWrite && p.Done > 1000 {
			cancel()
		}
	}
	_, err := build.Build(ctx, o)
	if !errors.Is(err, context.Canceled) || fault.CodeOf(err) != fault.Interrupted {
		t.Fatalf("got %v", err)
	}
	if data := must(os.ReadFile(o.Output)); string(data) != "old" || len(u.leftovers()) != 1 {
		t.Fatalf("%q, %q", data, u.leftovers())
	}
	ctx, cancel = context.WithCancel(t.Context())
	u.interceptRunc(func(http.ResponseWriter, *http.Request) bool { cancel(); return false })
	o.CacheDir = filepath.Join(u.dir, "fresh")
	o.Progress = nil
	if _, err := build.Build(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}
