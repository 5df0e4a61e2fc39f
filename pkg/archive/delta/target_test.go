package delta

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/fault"
)

// A delta stands for the bundle that it leads to: the same items under the same
// digest and signature, with the bytes of what it holds whole.
func TestOpen_aDeltaStandsForItsTarget(t *testing.T) {
	old := release(t, "v1", 0, nil)
	next := release(t, "v2", 0x30, func(m *archive.Manifest, c archivetest.Content) {
		it := c.File(archive.KindBinary, "zipped", "2", "zipped", archive.RoleAll, program(newRand(7), 30_000, 0x30))
		c.Compress(&it)
		m.Items = append(m.Items, it)
	})
	key := sign(t, next)
	path, _ := mustMake(t, old, next)
	whole, err := Open(next, []archive.PublicKey{key})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = whole.Close() }()
	if _, ok := whole.Delta(); ok {
		t.Error("a bundle says that it is a delta")
	}
	b, err := Open(path, []archive.PublicKey{key})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	if _, ok := b.Delta(); !ok || b.Digest() != whole.Digest() || len(b.Items(archive.Filter{})) != len(whole.Items(archive.Filter{})) {
		t.Fatalf("digest %s, should be %s", b.Digest(), whole.Digest())
	}
	if err := b.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	m := whole.Manifest()
	var held, patched, neither int
	for _, d := range m.Contents() {
		_, isPatch := b.Patched(d.Digest)
		s, ok := b.Section(d.Digest)
		switch {
		case ok && s.Size() == d.Size && !isPatch:
			held++
			continue
		case isPatch && !ok:
			patched++
		case !isPatch && !ok:
			neither++
		default:
			t.Errorf("%s: patched %v, held %v", d.Digest, isPatch, ok)
		}
		if _, err := b.OpenBlob(d.Digest); err == nil || !strings.Contains(err.Error(), "does not hold it whole") || fault.CodeOf(err) != fault.Bundle || !strings.Contains(fault.HintOf(err), "--only") {
			t.Errorf("%s: %v", d.Digest, err)
		}
	}
	if held < 2 || patched < 10 || neither != 2 {
		t.Errorf("%d whole, %d patched, %d in the base alone", held, patched, neither)
	}
	for _, it := range m.Items { // by the digest of its content
		if it.Name == "zipped" {
			if _, err := b.OpenBlob(it.Digest); (err == nil) != b.Has(it.Stored.Digest) {
				t.Errorf("content: %v", err)
			}
		}
	}
}

func TestOpen_refusesDeltasThatCannotStandForABundle(t *testing.T) {
	old, next := release(t, "v1", 0, nil), release(t, "v2", 0x30, nil)
	unsigned, _ := mustMake(t, old, next)
	signer := sign(t, next)
	path, _ := mustMake(t, old, next)
	other := sign(t, release(t, "v3", 0x60, nil))
	if _, err := Open(path, []archive.PublicKey{other}); fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "is signed by") {
		t.Errorf("another key: %v", err)
	}
	if _, err := Open(unsigned, []archive.PublicKey{signer}); fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("no signature: %v", err)
	}
	for name, change := range map[string]func(m *archive.DeltaManifest, put func([]byte) archive.Descriptor){
		"no manifest":    func(m *archive.DeltaManifest, _ func([]byte) archive.Descriptor) { m.Manifest = m.Target.Digest },
		"another target": func(m *archive.DeltaManifest, _ func([]byte) archive.Descriptor) { m.Target.Digest = m.Base.Digest },
		"another bundle manifest": func(m *archive.DeltaManifest, put func([]byte) archive.Descriptor) {
			for i, b := range m.Blobs {
				if b.Digest == m.Manifest {
					m.Blobs[i].Stored = put(zstdOf(t, []byte(`{"format":1,"name":"x","builtBy":"x","kubernetes":null,"architectures":null,"items":[]}`)))
					m.Blobs[i].Stored.MediaType = ""
					m.Blobs[i].Frames = []archive.DeltaFrame{{Size: m.Blobs[i].Stored.Size, Bytes: b.Size}}
				}
			}
		},
	} {
		bad, err := forged(t, path, change)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := Open(bad, nil); !errors.Is(err, archive.ErrDamaged) || fault.CodeOf(err) != fault.Bundle {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none"), nil); fault.CodeOf(err) != fault.Bundle {
		t.Errorf("no file: %v", err)
	}
}

// The content of a file that is stored compressed is a base too: that is how the
// file is once it is installed.
func TestMake_namesTheContentOfCompressedFiles(t *testing.T) {
	file := func(version string, shift uint32) string {
		return release(t, version, shift, func(m *archive.Manifest, c archivetest.Content) {
			it := c.File(archive.KindBinary, "zipped", version, "zipped", archive.RoleAll, program(newRand(7), 30_000, shift))
			c.Compress(&it)
			m.Items = append(m.Items, it)
		})
	}
	old, next := file("v1", 0), file("v2", 0x30)
	path, _ := mustMake(t, old, next)
	b, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	for _, it := range b.Items(archive.Filter{}) {
		if it.Name != "zipped" {
			continue
		}
		p, ok := b.Patched(it.Stored.Digest)
		if !ok || p.BaseContent != digestOf(program(newRand(7), 30_000, 0)) || p.BaseForm != formZstd {
			t.Errorf("%v %+v", ok, p)
		}
		return
	}
	t.Error("the file is not there")
}

// Deltas without digests of contents are read as before; those of a later kocli
// say so.
func TestOpen_deltasOfOtherFormats(t *testing.T) {
	old, next := release(t, "v1", 0, nil), release(t, "v2", 0x30, nil)
	path, _ := mustMake(t, old, next)
	for format, want := range map[string]string{"1": "", "3": "newer than this kocli", "0": "not known"} {
		d, err := archive.OpenDelta(path)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := json.Marshal(d.Manifest())
		if err = errors.Join(err, d.Close()); err != nil {
			t.Fatal(err)
		}
		other := bytes.Replace(doc, []byte(`{"format":2,`), []byte(`{"format":`+format+`,`), 1)
		data := read(t, path)
		if bytes.Equal(other, doc) || !bytes.Contains(data, doc) {
			t.Fatal("the document is not there")
		}
		// All digests on the way to the document follow.
		for from, to := doc, other; ; {
			data = bytes.Replace(data, from, to, 1)
			was, is := []byte(digestOf(from)), []byte(digestOf(to))
			data = renamed(t, data, was[7:], is[7:])
			at := bytes.Index(data, was)
			if at < 0 {
				break
			}
			begin := bytes.LastIndexByte(data[:at], 0) + 1
			end := at + bytes.IndexByte(data[at:], 0)
			if begin < 0 || end < at {
				t.Fatal("no entry")
			}
			from = bytes.Clone(data[begin:end])
			to = bytes.ReplaceAll(from, was, is)
		}
		bad := filepath.Join(t.TempDir(), "other.tar")
		if err := os.WriteFile(bad, data, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := Open(bad, nil)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("format %s: %v", format, err)
		}
		if err == nil {
			_ = b.Close()
		}
	}
}

// renamed gives the entry of a tar that is called by a digest another, and its
// header the sum that belongs to it.
func renamed(t *testing.T, data, was, is []byte) []byte {
	t.Helper()
	at := bytes.Index(data, append([]byte("blobs/sha256/"), was...))
	if at < 0 {
		return data // index.json
	}
	head := data[at : at+512]
	copy(head[len("blobs/sha256/"):], is)
	copy(head[148:156], "        ")
	sum := 0
	for _, c := range head {
		sum += int(c)
	}
	copy(head[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return data
}
