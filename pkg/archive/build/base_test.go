package build_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/build"
	"github.com/kocli/kocli/pkg/fault"
)

// based builds a bundle, and returns its path and the options of a build that
// has an empty cache and this bundle as its base.
func based(t *testing.T, u *upstream, change ...func(*archive.Spec)) (string, build.Options) {
	t.Helper()
	o := u.options(change...)
	if _, _, err := u.build(o); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(u.dir, "base.tar")
	if err := os.Rename(o.Output, base); err != nil {
		t.Fatal(err)
	}
	o.CacheDir, o.Base = filepath.Join(u.dir, "fresh"), base
	return base, o
}

func TestBuild_withABaseAndTheLockNothingIsDownloaded(t *testing.T) {
	u := newUpstream(t)
	base, o := based(t, u)
	before := u.count("/")
	o.Locked = true
	r, _, err := u.build(o)
	if err != nil {
		t.Fatal(err)
	}
	if n := u.count("/") - before; n != 0 || r.Downloaded != 0 {
		t.Errorf("%d requests, %d bytes", n, r.Downloaded)
	}
	if !bytes.Equal(must(os.ReadFile(base)), must(os.ReadFile(o.Output))) {
		t.Error("the same lock gave other bytes")
	}
}

func TestBuild_withABaseOnlyWhatIsNewIsDownloaded(t *testing.T) {
	u := newUpstream(t)
	_, o := based(t, u)
	o.LockPath = ""
	o.Spec.Spec.Kubernetes = []string{"v1.36.3", "v1.37.2"}
	_, b, err := u.build(o)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		runcPath: 1, // when the base was built
		"/github.com/containerd/v2.2.9/containerd-amd64.tar.gz": 1,
		"/dl.k8s.io/v1.37.2/bin/linux/amd64/kubelet":            1,
	} {
		u.mu.Lock()
		n := u.hits[path]
		u.mu.Unlock()
		if n != want {
			t.Errorf("%s was fetched %d times", path, n)
		}
	}
	// The same without a base.
	whole := o
	whole.Base, whole.CacheDir = "", filepath.Join(u.dir, "another")
	with := must(os.ReadFile(o.Output))
	if _, _, err := u.build(whole); err != nil || !bytes.Equal(with, must(os.ReadFile(whole.Output))) {
		t.Errorf("the base shows in the bundle: %v", err)
	}
	if !slices.Contains(itemNames(b), "kubelet v1.37.2 (amd64)") {
		t.Error(itemNames(b))
	}
}

// lastBlob is where the content of the last blob of a bundle begins.
func lastBlob(t *testing.T, data []byte) int {
	t.Helper()
	r := bytes.NewReader(data)
	at := 0
	for tr := tar.NewReader(r); ; at = len(data) - r.Len() {
		if _, err := tr.Next(); errors.Is(err, io.EOF) {
			return at
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestBuild_aBaseThatIsDamagedIsNotBelieved(t *testing.T) {
	u := newUpstream(t)
	base, o := based(t, u)
	want := must(os.ReadFile(base))
	data := bytes.Clone(want)
	data[lastBlob(t, data)] ^= 1
	if err := os.WriteFile(base, data, 0o600); err != nil {
		t.Fatal(err)
	}
	r, _, err := u.build(o)
	if err != nil || r.Downloaded == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if !bytes.Equal(want, must(os.ReadFile(o.Output))) {
		t.Error("the bundle is another")
	}
	o.Base = filepath.Join(u.dir, "none.tar")
	if _, _, err := u.build(o); fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "none.tar") {
		t.Errorf("no base: %v", err)
	}
}
