package build_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// gzipped is a layer in gzip.
func gzipped(t *testing.T, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	must(io.WriteString(w, content))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// packedImage pushes an image of layers, as Docker makes it, and returns its digest.
func (u *upstream) packedImage(ref string, layers ...v1.Layer) string {
	u.t.Helper()
	img := must(mutate.AppendLayers(empty.Image, layers...))
	cfg := must(img.ConfigFile()).DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Author = "linux", "amd64", ref
	img = must(mutate.ConfigFile(img, cfg))
	if err := remote.Write(must(name.ParseReference(strings.TrimPrefix(u.url, "http://")+"/"+ref, name.Insecure)), img); err != nil {
		u.t.Fatal(err)
	}
	return must(img.Digest()).String()
}

// layersOf returns what the layers of an image unpack to, and their media types.
func layersOf(t *testing.T, b *archive.Bundle, it archive.Item) (contents, mediaTypes []string) {
	t.Helper()
	var m v1.Manifest
	if err := json.Unmarshal(contentOf(t, b, it.Digest), &m); err != nil {
		t.Fatal(err)
	}
	for _, l := range m.Layers {
		data := contentOf(t, b, l.Digest.String())
		var r io.Reader = must(gzip.NewReader(bytes.NewReader(gzipped(t, "not unpacked"))))
		switch {
		case strings.HasSuffix(string(l.MediaType), "zstd"):
			r = must(zstd.NewReader(bytes.NewReader(data)))
		case strings.HasSuffix(string(l.MediaType), "gzip"):
			r = must(gzip.NewReader(bytes.NewReader(data)))
		}
		contents, mediaTypes = append(contents, string(must(io.ReadAll(r)))), append(mediaTypes, string(l.MediaType))
	}
	return contents, append(mediaTypes, string(m.MediaType), string(m.Config.MediaType))
}

func TestBuild_packsLayersAnewOnlyOfImagesThatAreReferencedByTag(t *testing.T) {
	u := newUpstream(t)
	large := strings.Repeat("the content of a layer, ", 1_000_000) // of several frames
	layers := []v1.Layer{static.NewLayer(gzipped(t, "base"), types.DockerLayer), static.NewLayer(gzipped(t, large), types.DockerLayer)}
	tagged, pinned := "docker.io/library/tagged:1", "docker.io/library/pinned"
	published := u.packedImage(tagged, layers...)
	pinned += "@" + u.packedImage(pinned+":1", layers...)
	foreign := u.packedImage("docker.io/library/foreign:1", static.NewLayer(gzipped(t, large), types.DockerForeignLayer))
	o := u.options(func(s *archive.Spec) {
		s.Spec.ImageLayers = archive.LayersZstd
		s.Spec.Kubernetes, s.Spec.CNI, s.Spec.OSPackages = []string{"v1.36.3"}, nil, nil
		for _, ref := range []string{tagged, pinned, "docker.io/library/foreign:1"} {
			s.Spec.ExtraImages = append(s.Spec.ExtraImages, archive.ExtraImage{Ref: ref, Role: archive.RoleAll})
		}
	})
	o.Catalogue.Images = nil // theirs are no gzip
	_, b, err := u.build(o)
	if err != nil {
		t.Fatal(err)
	}
	items := map[string]archive.Item{}
	for _, it := range b.Items(archive.Filter{}) {
		items[it.Name] = it
	}
	it := items[tagged]
	contents, mediaTypes := layersOf(t, b, it)
	if it.Digest == published || it.SourceDigest != published || len(contents) != 2 || contents[0] != "base" || contents[1] != large {
		t.Errorf("%s, made of %s: %d layers", it.Digest, it.SourceDigest, len(contents))
	}
	if want := "[application/vnd.oci.image.layer.v1.tar+zstd application/vnd.oci.image.layer.v1.tar+zstd application/vnd.oci.image.manifest.v1+json application/vnd.oci.image.config.v1+json]"; fmt.Sprint(mediaTypes) != want {
		t.Errorf("media types %v", mediaTypes)
	}
	if it := items[pinned]; !strings.HasSuffix(pinned, it.Digest) || it.SourceDigest != "" {
		t.Errorf("pinned: %s", it.Digest)
	}
	if it := items["docker.io/library/foreign:1"]; it.Digest != foreign || it.SourceDigest != "" {
		t.Errorf("with a layer of a kind that is left alone: %s", it.Digest)
	}
	if err := b.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}

	// The same bytes again, without asking anybody, and from an empty cache.
	first, before := must(os.ReadFile(o.Output)), u.count("/")
	if _, _, err := u.build(o); err != nil || u.count("/") != before || !bytes.Equal(first, must(os.ReadFile(o.Output))) {
		t.Errorf("again: %d requests, %v", u.count("/")-before, err)
	}
	o.CacheDir, o.Locked = filepath.Join(u.dir, "fresh"), true
	if _, _, err := u.build(o); err != nil || !bytes.Equal(first, must(os.ReadFile(o.Output))) {
		t.Errorf("from an empty cache: %v", err)
	}
	// What upstream published is what the lock holds.
	if lock := string(must(os.ReadFile(o.LockPath))); !strings.Contains(lock, published) || strings.Contains(lock, it.Digest) {
		t.Errorf("the lock has another digest than upstream:\n%s", lock)
	}
}

func TestBuild_aLayerInTheCacheThatIsDamagedIsNotPackedAnew(t *testing.T) {
	u := newUpstream(t)
	layer := gzipped(t, strings.Repeat("content ", 100_000))
	u.packedImage("docker.io/library/tagged:1", static.NewLayer(layer, types.DockerLayer))
	o := u.options(func(s *archive.Spec) {
		s.Spec.CNI, s.Spec.OSPackages = nil, nil
		s.Spec.ExtraImages = []archive.ExtraImage{{Ref: "docker.io/library/tagged:1", Role: archive.RoleAll}}
	})
	o.Catalogue.Images = nil
	if _, _, err := u.build(o); err != nil {
		t.Fatal(err)
	}
	o.Spec.Spec.ImageLayers = archive.LayersZstd
	other := gzipped(t, strings.Repeat("CONTENT ", 100_000))
	if err := os.WriteFile(filepath.Join(o.CacheDir, "blobs", "sha256", hexSum(layer)), other, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := u.build(o); fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "was damaged") {
		t.Fatalf("got %v", err)
	}
	if _, _, err := u.build(o); err != nil {
		t.Errorf("fetched anew: %v", err)
	}
}
