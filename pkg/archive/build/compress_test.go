package build_test

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/build"
)

func TestBuild_storesCompressedWhatShrinks(t *testing.T) {
	u := newUpstream(t)
	noise := make([]byte, 100_000)
	must(rand.Read(noise))
	u.file("/dl.k8s.io/v1.36.3/bin/linux/amd64/kubelet", string(noise))
	o := u.options()
	kocli := strings.Repeat("kocli itself ", 100_000)
	if err := os.WriteFile(o.KocliBinaries["amd64"], []byte(kocli), 0o600); err != nil {
		t.Fatal(err)
	}
	_, b, err := u.build(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range b.Items(archive.Filter{}) {
		want := map[string]bool{"runc": true, "kocli": true}[it.Name]
		if (it.Stored != nil) != want {
			t.Errorf("%s of %d bytes: stored as %+v", it.Label(), it.Size, it.Stored)
		}
		raw := filepath.Join(o.CacheDir, "blobs", "sha256", strings.TrimPrefix(it.Digest, "sha256:"))
		if _, err := os.Stat(raw); it.Kind == archive.KindBinary && (err == nil) == want {
			t.Errorf("%s: the cache has the content itself: %v", it.Label(), err == nil)
		}
	}
	o.Progress = func(p build.Progress) {
		if p.Stage == build.StageCompress || p.Stage == build.StageDownload {
			t.Errorf("the second build did %s %s again", p.Stage, p.Item)
		}
	}
	if _, _, err := u.build(o); err != nil {
		t.Fatal(err)
	}
	tarball := filepath.Join(o.CacheDir, "blobs", "sha256", hexSum(u.files["/github.com/containerd/v2.2.9/containerd-amd64.tar.gz"]))
	if _, err := os.Stat(tarball); err == nil {
		t.Error("the cache has the tarball beside its programs")
	}
}

func TestBuild_notesOfTheCacheThatAreWrongDoNoHarm(t *testing.T) {
	u := newUpstream(t)
	o := u.options()
	_, b, err := u.build(o)
	if err != nil {
		t.Fatal(err)
	}
	want := b.Digest()
	notes := must(filepath.Glob(filepath.Join(o.CacheDir, "notes", "*", "*")))
	if len(notes) < 3 {
		t.Fatalf("%q", notes)
	}
	for _, text := range []string{"", "{", "[]", `{"size":1,"stored":{"digest":"sha256:` + hex.EncodeToString(make([]byte, 32)) + `","size":1}}`} {
		for _, n := range notes {
			if err := os.WriteFile(n, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, b, err := u.build(o)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if b.Digest() != want {
			t.Fatalf("%q: another bundle", text)
		}
	}
}

func TestBuild_takesDownloadsOutOfTheCacheWhenAsked(t *testing.T) {
	u := newUpstream(t)
	o := u.options()
	_, b, err := u.build(o)
	if err != nil {
		t.Fatal(err)
	}
	want := b.Digest()
	o.DropCache = true
	for range 2 { // from a full cache, and from what that left
		_, b, err := u.build(o)
		if err != nil || b.Digest() != want {
			t.Fatalf("%v", err)
		}
		for _, it := range b.Items(archive.Filter{}) {
			digests := []string{it.Digest}
			if it.Stored != nil {
				digests = append(digests, it.Stored.Digest)
			}
			for _, d := range it.Blobs {
				digests = append(digests, d.Digest)
			}
			for _, d := range digests {
				if _, err := os.Stat(filepath.Join(o.CacheDir, "blobs", "sha256", strings.TrimPrefix(d, "sha256:"))); err == nil {
					t.Errorf("%s: %s is still in the cache", it.Label(), d)
				}
			}
		}
		if _, err := os.Stat(o.KocliBinaries["amd64"]); err != nil {
			t.Fatalf("a file of the user was removed: %v", err)
		}
	}
}

func TestBuild_aFileThatIsALayerToo(t *testing.T) {
	u := newUpstream(t)
	layer := strings.Repeat("docker.io/library/single:1amd64", 2000) // as newUpstream makes it
	u.put("/files.example.test/layer", layer)
	o := u.options(func(s *archive.Spec) {
		s.Spec.ExtraImages = []archive.ExtraImage{{Ref: "docker.io/library/single:1", Role: archive.RoleAll}}
		s.Spec.ExtraFiles = []archive.ExtraFile{{URL: "https://files.example.test/layer", SHA256: hexSum([]byte(layer)), Name: "layer", Role: archive.RoleAll}}
	})
	for range 2 {
		_, b, err := u.build(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range b.Items(archive.Filter{}) {
			if it.Name == "layer" && (it.Stored == nil || string(contentOf(t, b, it.Digest)) != layer) {
				t.Fatalf("%+v", it)
			}
		}
	}
}
