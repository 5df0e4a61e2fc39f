package delta

import (
	"bytes"
	stdgzip "compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/fault"
)

type gzipWriter interface {
	io.WriteCloser
	Flush() error
}

// packed packs data in one of many ways.
func packed(t testing.TB, way string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch way {
	case "go 6", "flushed", "two members":
		w, err = stdgzip.NewWriterLevel(&b, 6)
	case "go 1":
		w, err = stdgzip.NewWriterLevel(&b, 1)
	case "go 9 with a header":
		z, zerr := stdgzip.NewWriterLevel(&b, 9)
		z.Name, z.Comment, z.Extra, z.ModTime, z.OS = "layer.tar", "c", []byte{1, 2, 0, 0}, time.Unix(1_700_000_000, 0), 3
		w, err = z, zerr
	case "klauspost 5":
		w, err = gzip.NewWriterLevel(&b, 5)
	case "zstd":
		w, err = packer(&b, &archive.Recipe{Form: formZstd, Library: libKlauspost, Level: int(zstd.SpeedDefault)})
	default:
		return data
	}
	if err != nil {
		t.Fatal(err)
	}
	half := data[:len(data)/2]
	if way == "flushed" || way == "two members" {
		if _, err := w.Write(half); err != nil {
			t.Fatal(err)
		}
		if err := w.(gzipWriter).Flush(); err != nil {
			t.Fatal(err)
		}
		data = data[len(half):]
	}
	if way == "two members" {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		w = stdgzip.NewWriter(&b)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// ways are those of packed that have a recipe.
func ways() []string {
	return []string{"plain", "go 6", "go 1", "go 9 with a header", "klauspost 5", "zstd"}
}

func noWays() []string { return []string{"flushed", "two members"} }

// release writes a bundle of programs that were built again: the same seed and
// another shift is the next version.
func release(t testing.TB, version string, shift uint32, change func(m *archive.Manifest, c archivetest.Content)) string {
	t.Helper()
	c := archivetest.Content{}
	m := &archive.Manifest{Name: "b-" + version, BuiltBy: "test", Architectures: []string{"amd64"}}
	base := packed(t, "go 6", program(newRand(99), 20_000, 0))
	for i, way := range append(ways(), noWays()...) {
		name := strings.ReplaceAll(way, " ", "-")
		code := program(newRand(uint64(i)), 24_000, shift)
		m.Items = append(m.Items, c.Image("example.test/"+name+":"+version, archive.RoleAll, base, packed(t, way, code)))
		m.Items = append(m.Items, c.File(archive.KindBinary, name, version, name, archive.RoleAll, packed(t, way, program(newRand(uint64(100+i)), 12_000, shift))))
	}
	m.Items = append(m.Items, c.File(archive.KindBinary, "same", "1", "same", archive.RoleAll, []byte("the same in all")))
	if change != nil {
		change(m, c)
	}
	var b bytes.Buffer
	if _, _, err := archive.Write(&b, m, c.Open); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), version+".tar")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func sign(t testing.TB, path string) archive.PublicKey {
	t.Helper()
	file, _, pub, err := archive.GenerateKey(filepath.Join(t.TempDir(), "k"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := archive.ReadPrivateKey(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := archive.Sign(path, k); err != nil {
		t.Fatal(err)
	}
	return pub
}

func mustMake(t testing.TB, base, target string) (string, *Report) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "d.tar")
	r, err := Make(t.Context(), Options{Base: base, Input: target, Output: out, Version: "v0.0.0-test"})
	if err != nil {
		t.Fatal(err)
	}
	return out, r
}

// apply makes a bundle and returns its path.
func apply(t testing.TB, base, delta string) (string, error) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.tar")
	_, err := Apply(t.Context(), Options{Base: base, Input: delta, Output: out})
	if err != nil {
		if left, rerr := os.ReadDir(filepath.Dir(out)); rerr != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, rerr)
		}
	}
	return out, err
}

func TestApply_givesTheTargetByteForByte(t *testing.T) {
	old := release(t, "v1", 0, nil)
	next := release(t, "v2", 0x30, func(m *archive.Manifest, c archivetest.Content) {
		m.Items = append(m.Items, c.File(archive.KindBinary, "fresh", "1", "fresh", archive.RoleAll, program(newRand(7), 30_000, 0)))
	})
	for name, prepare := range map[string]func() (base, target string, key *archive.PublicKey){
		"next version": func() (string, string, *archive.PublicKey) { return old, next, nil },
		"and back":     func() (string, string, *archive.PublicKey) { return next, old, nil },
		"to itself":    func() (string, string, *archive.PublicKey) { return next, next, nil },
		"signed": func() (string, string, *archive.PublicKey) {
			signed := release(t, "v2", 0x30, nil)
			k := sign(t, signed)
			return old, signed, &k
		},
		"signed base": func() (string, string, *archive.PublicKey) {
			signed := release(t, "v1", 0, nil)
			sign(t, signed)
			return signed, next, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			base, target, key := prepare()
			d, r := mustMake(t, base, target)
			got, err := apply(t, base, d)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(read(t, got), read(t, target)) {
				t.Fatal("it is another bundle")
			}
			if key != nil {
				b, err := archive.OpenSigned(got, []archive.PublicKey{*key})
				if err != nil {
					t.Fatal(err)
				}
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if again, _ := mustMake(t, base, target); !bytes.Equal(read(t, again), read(t, d)) {
				t.Error("making the delta again gave another file")
			}
			if name == "next version" && (r.Patched < 2*len(ways()) || r.Whole < 2*len(noWays())) {
				t.Errorf("%+v", r)
			}
		})
	}
}

// Content that has a recipe costs a fraction, packed in whatever way.
func TestMake_patchesWhatHasARecipe(t *testing.T) {
	old, next := release(t, "v1", 0, nil), release(t, "v2", 0x30, nil)
	path, _ := mustMake(t, old, next)
	d, err := archive.OpenDelta(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	b, err := archive.Open(next)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	blobs := map[string]archive.DeltaBlob{}
	for _, x := range d.Manifest().Blobs {
		blobs[x.Digest] = x
	}
	seen := 0
	for _, it := range b.Manifest().Items {
		name := strings.TrimSuffix(strings.TrimPrefix(it.Name, "example.test/"), ":v2")
		way := strings.ReplaceAll(name, "-", " ")
		digest, size := it.Digest, it.Size
		if it.Kind == archive.KindImage {
			l := it.Blobs[len(it.Blobs)-1]
			digest, size = l.Digest, l.Size
		}
		x, ok := blobs[digest]
		switch {
		case slices.Contains(ways(), way):
			seen++
			if !ok || x.Base == "" || (x.Recipe != nil) != (way != "plain") || x.Stored.Size > size/4 {
				t.Errorf("%s: %+v of %d bytes", it.Name, x, size)
			}
		case slices.Contains(noWays(), way):
			seen++
			if !ok || len(x.Frames) > 0 {
				t.Errorf("%s: %+v", it.Name, x)
			}
		}
	}
	if seen != 2*len(ways())+2*len(noWays()) {
		t.Fatalf("%d items were looked at", seen)
	}
}

// Content of several frames, whose base is longer, shorter and elsewhere.
func TestFrames_roundTripWithinTheirLimits(t *testing.T) {
	const frameSize = 200_000
	enc, err := newEncoder(frameSize, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	dec, err := newDecoder()
	if err != nil {
		t.Fatal(err)
	}
	fill := func(data []byte) *scratch {
		s, err := newScratch(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		if err := s.fill(t.Context(), bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		return s
	}
	long := program(newRand(5), 2*frameSize+12345, 0)
	base := fill(slices.Concat(program(newRand(6), 90_000, 0), long))
	content := fill(long)
	var out bytes.Buffer
	frames, err := enc.encode(&out, content, base)
	if err != nil || len(frames) != 3 {
		t.Fatalf("%d frames, %v", len(frames), err)
	}
	if out.Len() > len(long)/20 {
		t.Errorf("%d bytes for content that is in the base", out.Len())
	}
	for _, f := range frames {
		if f.Bytes > archive.MaxDeltaFrame || f.Dict > archive.MaxDeltaDict {
			t.Errorf("%+v is above the limits", f)
		}
	}
	var got bytes.Buffer
	if err := dec.decode(&got, bytes.NewReader(out.Bytes()), frames, base); err != nil || !bytes.Equal(got.Bytes(), long) {
		t.Fatalf("%v, %d bytes", err, got.Len())
	}
	if err := dec.decode(io.Discard, bytes.NewReader(append(out.Bytes(), 0)), frames, base); !errors.Is(err, errFrame) {
		t.Errorf("a byte too much: %v", err)
	}
	if err := dec.decode(io.Discard, bytes.NewReader(out.Bytes()[:out.Len()-1]), frames, base); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a byte too few: %v", err)
	}
}

func TestMake_cancelledLeavesWhatWasThere(t *testing.T) {
	old, next := release(t, "v1", 0, nil), release(t, "v2", 0x30, nil)
	dir := t.TempDir()
	out := filepath.Join(dir, "d.tar")
	if err := os.WriteFile(out, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Make(ctx, Options{Base: old, Input: next, Output: out, Each: func(int64, int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	d, _ := mustMake(t, old, next)
	ctx, cancel = context.WithCancel(t.Context())
	_, err = Apply(ctx, Options{Base: old, Input: d, Output: out, Each: func(int64, int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if l, err := os.ReadDir(dir); err != nil || len(l) != 1 || string(read(t, out)) != "before" {
		t.Fatalf("%v %v", l, err)
	}
}

func TestApply_namesWhatIsNowhere(t *testing.T) {
	old, next := release(t, "v1", 0, nil), release(t, "v2", 0x30, nil)
	d, _ := mustMake(t, old, next)
	lacking := release(t, "v1", 0, func(m *archive.Manifest, _ archivetest.Content) {
		m.Items = slices.DeleteFunc(m.Items, func(it archive.Item) bool { return it.Name == "same" || it.Name == "plain" })
	})
	_, err := apply(t, lacking, d)
	var me *MissingError
	if !errors.As(err, &me) || fault.CodeOf(err) != fault.Bundle || !strings.Contains(fault.HintOf(err), "b-v1") {
		t.Fatalf("got %v", err)
	}
	var items []string
	for _, b := range me.Blobs {
		items = append(items, b.Items...)
	}
	slices.Sort(items)
	if !slices.Equal(items, []string{"plain v2 (amd64)", "same 1 (amd64)"}) {
		t.Fatalf("nowhere: %v", items)
	}
	if got, err := apply(t, next, d); err != nil || !bytes.Equal(read(t, got), read(t, next)) {
		t.Fatalf("a base that has all already: %v", err)
	}
	if _, err := apply(t, archivetest.Write(t), d); !errors.As(err, &me) || len(me.Blobs) < 10 {
		t.Fatalf("a strange base: %v", err)
	}
}

func TestApply_refusesOtherFiles(t *testing.T) {
	old, next := release(t, "v1", 0, nil), release(t, "v2", 0x30, nil)
	d, _ := mustMake(t, old, next)
	if _, err := archive.Open(d); !errors.Is(err, archive.ErrDelta) || fault.CodeOf(err) != fault.Bundle || !strings.Contains(fault.HintOf(err), "kocli bundle apply --base") {
		t.Errorf("a delta as bundle: %v (%s)", err, fault.HintOf(err))
	}
	if _, err := apply(t, old, next); fault.CodeOf(err) != fault.Bundle {
		t.Errorf("a bundle as delta: %v", err)
	}
	if _, err := apply(t, d, d); !errors.Is(err, archive.ErrDelta) {
		t.Errorf("a delta as base: %v", err)
	}
	if _, err := apply(t, old, filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) || fault.CodeOf(err) != fault.Bundle {
		t.Errorf("no delta: %v", err)
	}
	data := read(t, old)
	data[bytes.Index(data, program(newRand(100), 12_000, 0)[:50])+1000] ^= 1
	if err := os.WriteFile(old, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := apply(t, old, d); !errors.Is(err, archive.ErrDamaged) || fault.CodeOf(err) != fault.Bundle {
		t.Errorf("a damaged base: %v", err)
	}
	if _, err := Make(t.Context(), Options{Base: old, Input: next, Output: filepath.Join(t.TempDir(), "d")}); !errors.Is(err, archive.ErrDamaged) {
		t.Errorf("a delta from a damaged base: %v", err)
	}
}

func TestApply_refusesADamagedDelta(t *testing.T) {
	old, next := release(t, "v1", 0, nil), release(t, "v2", 0x30, nil)
	d, _ := mustMake(t, old, next)
	data := read(t, d)
	bad := filepath.Join(t.TempDir(), "bad.tar")
	try := func(what string, data []byte) {
		t.Helper()
		if err := os.WriteFile(bad, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := apply(t, old, bad); !errors.Is(err, archive.ErrDamaged) || fault.CodeOf(err) != fault.Bundle || fault.HintOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range 50 {
		at := i*len(data)/50 + i*7
		flipped := slices.Clone(data)
		flipped[at] ^= 1 << (i % 8)
		try(fmt.Sprintf("byte %d flipped", at), flipped)
	}
	for i := range 12 {
		try("truncated", data[:i*len(data)/12])
	}
	try("longer", append(slices.Clone(data), make([]byte, 512)...))
}

// forged writes a delta to next whose document was changed.
func forged(t testing.TB, path string, change func(m *archive.DeltaManifest, put func(data []byte) archive.Descriptor)) (string, error) {
	t.Helper()
	d, err := archive.OpenDelta(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	m := d.Manifest()
	m.Blobs = slices.Clone(m.Blobs)
	more := archivetest.Content{}
	change(&m, func(data []byte) archive.Descriptor { return more.Put("", data) })
	var b bytes.Buffer
	_, err = archive.WriteDelta(&b, &m, func(digest string) (io.ReadCloser, error) {
		if _, ok := more[digest]; ok {
			return more.Open(digest)
		}
		return d.OpenBlob(digest)
	})
	out := filepath.Join(t.TempDir(), "forged.tar")
	if werr := os.WriteFile(out, b.Bytes(), 0o600); werr != nil {
		t.Fatal(werr)
	}
	return out, err
}

func zstdOf(t testing.TB, data []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return z.EncodeAll(data, nil)
}

// A document that is consistent, and lies: a bomb, a base that is too short, a
// recipe that does not exist.
func TestApply_refusesForgedDeltas(t *testing.T) {
	old, next := release(t, "v1", 0, nil), release(t, "v2", 0x30, nil)
	path, _ := mustMake(t, old, next)
	patched := func(m *archive.DeltaManifest, recipe bool) *archive.DeltaBlob {
		i := slices.IndexFunc(m.Blobs, func(b archive.DeltaBlob) bool {
			return b.Base != "" && (b.Recipe != nil) == recipe && len(b.Frames) == 1 && b.Size > 10_000
		})
		m.Blobs[i].Frames = slices.Clone(m.Blobs[i].Frames)
		return &m.Blobs[i]
	}
	store := func(b *archive.DeltaBlob, put func([]byte) archive.Descriptor, data []byte) {
		b.Stored = put(data)
		b.Frames[0].Size = b.Stored.Size
	}
	for name, change := range map[string]func(m *archive.DeltaManifest, put func([]byte) archive.Descriptor){
		"patch that expands beyond its size": func(m *archive.DeltaManifest, put func([]byte) archive.Descriptor) {
			store(patched(m, false), put, zstdOf(t, make([]byte, 200<<20)))
		},
		"content that expands beyond its size": func(m *archive.DeltaManifest, put func([]byte) archive.Descriptor) {
			b := patched(m, false)
			b.Base, b.BaseForm, b.Frames[0].Dict, b.Frames[0].From = "", "", 0, 0
			store(b, put, zstdOf(t, make([]byte, 200<<20)))
		},
		"content that expands and is packed again": func(m *archive.DeltaManifest, put func([]byte) archive.Descriptor) {
			b := patched(m, true)
			b.Base, b.BaseForm, b.Frames[0].Dict, b.Frames[0].From = "", "", 0, 0
			b.Frames[0].Bytes = archive.MaxDeltaFrame
			b.Recipe = &archive.Recipe{Form: formGzip, Library: libGo, Level: 0}
			store(b, put, zstdOf(t, make([]byte, archive.MaxDeltaFrame)))
		},
		"frame that is no zstd": func(m *archive.DeltaManifest, put func([]byte) archive.Descriptor) {
			store(patched(m, false), put, []byte("no zstd"))
		},
		"patch that is none": func(m *archive.DeltaManifest, put func([]byte) archive.Descriptor) {
			store(patched(m, false), put, zstdOf(t, []byte("no patch")))
		},
		"slice beyond the end of the base": func(m *archive.DeltaManifest, _ func([]byte) archive.Descriptor) {
			patched(m, false).Frames[0].From = 1 << 20
		},
		"form that the base has not": func(m *archive.DeltaManifest, _ func([]byte) archive.Descriptor) {
			patched(m, false).BaseForm = formGzip
		},
		"library that does not exist": func(m *archive.DeltaManifest, _ func([]byte) archive.Descriptor) {
			b := patched(m, true)
			r := *b.Recipe
			r.Library = "other"
			b.Recipe = &r
		},
		"level that does not exist": func(m *archive.DeltaManifest, _ func([]byte) archive.Descriptor) {
			b := patched(m, true)
			r := *b.Recipe
			r.Level = 99
			b.Recipe = &r
		},
		"another recipe": func(m *archive.DeltaManifest, _ func([]byte) archive.Descriptor) {
			b := patched(m, true)
			b.Recipe = &archive.Recipe{Form: formGzip, Library: libGo, Level: 2}
		},
		"no manifest": func(m *archive.DeltaManifest, _ func([]byte) archive.Descriptor) {
			m.Manifest = m.Target.Digest
		},
		"another target": func(m *archive.DeltaManifest, _ func([]byte) archive.Descriptor) { m.Target.Digest = m.Base.Digest },
		"another size":   func(m *archive.DeltaManifest, _ func([]byte) archive.Descriptor) { m.Target.Size++ },
	} {
		t.Run(name, func(t *testing.T) {
			bad, err := forged(t, path, change)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := apply(t, old, bad); err == nil {
				t.Fatal("accepted")
			} else if fault.CodeOf(err) != fault.Bundle {
				t.Fatalf("got %v", err)
			}
		})
	}
	for name, change := range map[string]func(m *archive.DeltaManifest){
		"frame of gigabytes":       func(m *archive.DeltaManifest) { patched(m, false).Frames[0].Bytes = 1 << 32 },
		"slice of gigabytes":       func(m *archive.DeltaManifest) { patched(m, false).Frames[0].Dict = 1 << 32 },
		"negative offset":          func(m *archive.DeltaManifest) { patched(m, false).Frames[0].From = -1 },
		"frames too many":          func(m *archive.DeltaManifest) { b := patched(m, false); b.Frames = append(b.Frames, b.Frames[0]) },
		"slice without a base":     func(m *archive.DeltaManifest) { patched(m, false).Base = "" },
		"no digest":                func(m *archive.DeltaManifest) { m.Blobs[0].Digest = "../x" },
		"blob twice":               func(m *archive.DeltaManifest) { m.Blobs = append(m.Blobs, m.Blobs[0]) },
		"neither whole nor made":   func(m *archive.DeltaManifest) { patched(m, false).Frames = nil },
		"signatures that are none": func(m *archive.DeltaManifest) { m.Signatures = []archive.Signature{{KeyID: "x"}} },
		"size of everything":       func(m *archive.DeltaManifest) { m.Target.Size = 1 << 62 },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := forged(t, path, func(m *archive.DeltaManifest, _ func([]byte) archive.Descriptor) { change(m) })
			if err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func FuzzOpenDelta(f *testing.F) {
	old, next := release(f, "v1", 0, nil), release(f, "v2", 0x30, nil)
	path, _ := mustMake(f, old, next)
	data := read(f, path)
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add([]byte{})
	for i := range 20 {
		bad := slices.Clone(data)
		bad[i*3000/20] ^= 0x10
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := archive.NewDeltaReader(bytes.NewReader(in), int64(len(in)))
		if err != nil {
			if !errors.Is(err, archive.ErrDamaged) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		m := d.Manifest()
		var out bytes.Buffer
		if _, err := archive.WriteDelta(&out, &m, d.OpenBlob); err == nil && !bytes.Equal(out.Bytes(), in) {
			t.Fatal("accepted a file that is not canonical")
		}
	})
}
