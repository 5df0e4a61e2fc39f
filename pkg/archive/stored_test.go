package archive_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/klauspost/compress/zstd"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/fault"
)

// kubelet finds an item of the sample that is stored compressed.
func kubelet(t *testing.T, items []archive.Item) *archive.Item {
	t.Helper()
	for i := range items {
		if items[i].Name == "kubelet" {
			return &items[i]
		}
	}
	t.Fatal("there is no kubelet")
	return nil
}

func TestOpenBlob_givesTheContentOfACompressedFile(t *testing.T) {
	b := mustRead(t, sample(t))
	it := kubelet(t, b.Items(archive.Filter{}))
	if it.Stored == nil || it.Stored.Size >= it.Size || it.Stored.MediaType != "application/octet-stream+zstd" {
		t.Fatalf("%+v", it.Stored)
	}
	r, err := b.OpenBlob(it.Digest)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, bytes.Repeat([]byte("layer of kubelet "), 200)) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	raw, err := b.OpenBlob(it.Stored.Digest)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if plain, err := io.ReadAll(z); err != nil || !bytes.Equal(plain, got) {
		t.Fatalf("the blob, read as zstd: %d bytes, %v", len(plain), err)
	}
	for _, f := range b.Files(archive.Filter{}) {
		if f.Name == "kubelet" && (f.Digest != it.Digest || f.Size != it.Size) {
			t.Errorf("Files gives %+v", f)
		}
	}
	for _, l := range b.Inspect().Items {
		if l.Name == "kubelet" && (l.Size != it.Size || l.Stored != it.Stored.Size) {
			t.Errorf("Inspect gives %+v", l)
		}
	}
}

func TestOpenBlob_refusesCompressedContentThatIsNotWhatIsListed(t *testing.T) {
	other := bytes.Repeat([]byte("layer of KUBELET "), 200)
	for name, change := range map[string]func(c archivetest.Content, it *archive.Item){
		"other content of the same size": func(c archivetest.Content, it *archive.Item) {
			x := c.File(archive.KindBinary, "x", "1", "x", archive.RoleAll, other)
			c.Compress(&x)
			it.Stored = x.Stored
		},
		"content that is longer": func(c archivetest.Content, it *archive.Item) {
			x := c.File(archive.KindBinary, "x", "1", "x", archive.RoleAll, make([]byte, 64<<20))
			c.Compress(&x)
			it.Stored = x.Stored
		},
		"content that is shorter": func(_ archivetest.Content, it *archive.Item) { it.Size++ },
		"no zstd at all": func(c archivetest.Content, it *archive.Item) {
			d := c.Put("", []byte("not compressed"))
			it.Compress(d.Digest, d.Size)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, c := archivetest.Sample()
			it := kubelet(t, m.Items)
			change(c, it)
			digest, size := it.Digest, it.Size
			var w bytes.Buffer
			if _, _, err := archive.Write(&w, m, c.Open); err != nil {
				t.Fatal(err)
			}
			r, err := mustRead(t, w.Bytes()).OpenBlob(digest)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, r)
			if !errors.Is(err, archive.ErrDamaged) || fault.CodeOf(err) != fault.Bundle || n > size {
				t.Fatalf("%d bytes, %v", n, err)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestVerify_seesDamageInACompressedFile(t *testing.T) {
	data := sample(t)
	b := mustRead(t, data)
	it := kubelet(t, b.Items(archive.Filter{}))
	r, err := b.OpenBlob(it.Stored.Digest)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	data[bytes.Index(data, raw)+len(raw)/2] ^= 4
	err = mustRead(t, data).Verify(t.Context(), nil)
	var de *archive.DamageError
	if !errors.As(err, &de) || len(de.Blobs) != 1 || !strings.Contains(err.Error(), "kubelet") {
		t.Fatalf("got %v", err)
	}
	r, err = mustRead(t, data).OpenBlob(it.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, archive.ErrDamaged) {
		t.Fatalf("reading: %v", err)
	}
}

func TestWrite_refusesAFileInTwoForms(t *testing.T) {
	for name, change := range map[string]func(it *archive.Item){
		"a media type that is not ours": func(it *archive.Item) { it.Stored.MediaType = "application/gzip" },
		"its own digest":                func(it *archive.Item) { it.Stored.Digest = it.Digest },
		"no digest":                     func(it *archive.Item) { it.Stored.Digest = "sha256:x" },
		"a size beyond all bounds":      func(it *archive.Item) { it.Size = archive.MaxBlobSize + 1 },
		"another item without it": func(it *archive.Item) {
			d := *it.Stored
			it.Stored = &d
			it.Stored.Size++
		},
	} {
		m, c := archivetest.Sample()
		it := kubelet(t, m.Items)
		twin := *it
		twin.Name = "twin"
		change(it)
		m.Items = append(m.Items, twin)
		if _, _, err := archive.Write(io.Discard, m, c.Open); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOpen_aBundleFromBeforeFilesWereCompressed(t *testing.T) {
	f, err := os.Open(filepath.Join("testdata", "format1.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	b := mustRead(t, data)
	if err := b.Verify(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	it := kubelet(t, b.Items(archive.Filter{}))
	r, err := b.OpenBlob(it.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); err != nil || n != it.Size || it.Stored != nil {
		t.Fatalf("%d bytes, %v, %+v", n, err, it.Stored)
	}
	m := b.Manifest()
	var again bytes.Buffer
	if _, _, err := archive.Write(&again, &m, b.OpenBlob); err != nil || !bytes.Equal(again.Bytes(), data) {
		t.Fatalf("written again it differs (%v)", err)
	}
}

// memory is a file in memory.
type memory struct {
	mu   sync.Mutex
	data []byte
	full int64 // no byte from here on can be written; 0: no bound
}

func (f *memory) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if end := off + int64(len(p)); f.full > 0 && end > f.full {
		return 0, errors.New("disk full")
	} else if end > int64(len(f.data)) {
		f.data = append(f.data, make([]byte, end-int64(len(f.data)))...)
	}
	return copy(f.data[off:], p), nil
}

func TestWriteAt_writesWhatWriteWrites(t *testing.T) {
	want := sample(t)
	m, c := archivetest.Sample()
	var f memory
	_, n, err := archive.WriteAt(t.Context(), &f, m, c.Open)
	if err != nil || n != int64(len(want)) || !bytes.Equal(f.data, want) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	m, c = archivetest.Sample()
	if _, _, err := archive.WriteAt(t.Context(), &memory{full: 30_000}, m, c.Open); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m, c = archivetest.Sample()
	d := m.Items[0].Blobs[2].Digest
	if _, _, err := archive.WriteAt(ctx, &memory{}, m, c.Open); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	c[d] = append([]byte("x"), c[d][1:]...)
	var be *archive.BlobError
	if _, _, err := archive.WriteAt(t.Context(), &memory{}, m, c.Open); !errors.As(err, &be) || be.Digest != d {
		t.Errorf("got %v", err)
	}
}

func TestWrite_isReadByOCIPrograms(t *testing.T) {
	dir := t.TempDir()
	unpack(t, sample(t), dir)
	l, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := l.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	list, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, d := range list.Manifests {
		if d.Annotations["org.opencontainers.image.ref.name"] != "kocli.io/binary/kubelet:v1.36.3-amd64" {
			continue
		}
		found = true
		img, err := idx.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		man, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		blob, err := l.Bytes(man.Layers[0].Digest)
		if err != nil || int64(len(blob)) != man.Layers[0].Size || !strings.HasSuffix(string(man.Layers[0].MediaType), "+zstd") {
			t.Fatalf("%d bytes, %+v, %v", len(blob), man.Layers[0], err)
		}
	}
	if !found {
		t.Fatal("no artifact of kubelet")
	}
}

// unpack writes the files of a tar into a folder.
func unpack(t *testing.T, data []byte, dir string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		name := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(name), 0o750), os.WriteFile(name, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}
