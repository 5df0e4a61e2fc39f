package patch

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/archive/delta"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/fanout"
)

// code is content of which the next version differs in a byte here and there.
func code(seed uint64, size, version int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]byte, size)
	for i := range out {
		out[i] = byte(r.Uint32())
	}
	for i := 100; i < size; i += 1000 {
		out[i] += byte(version)
	}
	return out
}

func zipped(data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(data)
	if err = errors.Join(err, z.Close()); err != nil {
		panic(err) // into memory
	}
	return b.Bytes()
}

// files are two bundles, and the delta from one to the other: made once.
var files = sync.OnceValues(func() (paths [3]string, err error) {
	dir, err := os.MkdirTemp("", "kocli-patch-*")
	if err != nil {
		return paths, err
	}
	paths = [3]string{filepath.Join(dir, "v1.tar"), filepath.Join(dir, "v2.tar"), filepath.Join(dir, "d.tar")}
	if err := errors.Join(bundle(paths[0], "v1", 0), bundle(paths[1], "v2", 3)); err != nil {
		return paths, err
	}
	_, err = delta.Make(context.Background(), delta.Options{Base: paths[0], Input: paths[1], Output: paths[2], Version: "v0.0.0-test"})
	return paths, err
})

// bundle writes a bundle of two images, a compressed program and a plain file.
func bundle(path, name string, version int) error {
	c := archivetest.Content{}
	program := c.File(archive.KindBinary, "kubelet", name, "kubelet", archive.RoleAll, code(1, 300_000, version))
	c.Compress(&program)
	m := &archive.Manifest{Name: name, BuiltBy: "test", Architectures: []string{"amd64"}, Items: []archive.Item{
		c.Image("example.test/a:"+name, archive.RoleAll, zipped(code(9, 50_000, 0)), zipped(code(2, 200_000, version))),
		c.Image("example.test/b:"+name, archive.RoleAll, zipped(code(9, 50_000, 0)), zipped(code(3, 200_000, version))),
		program, c.File(archive.KindFile, "plain", name, "plain", archive.RoleAll, code(4, 100_000, version)),
	}}
	var b bytes.Buffer
	if _, _, err := archive.Write(&b, m, c.Open); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o600)
}

// world is a host with the blobs of one bundle, to which a delta has come.
type world struct {
	root   string
	base   *archive.Bundle
	whole  *archive.Bundle // the target
	target *archive.Bundle // as the delta has it
	order  Order
}

func newWorld(t testing.TB) *world {
	t.Helper()
	paths, err := files()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{root: filepath.Join(t.TempDir(), "content")}
	for i, b := range []**archive.Bundle{&w.base, &w.whole, &w.target} {
		if *b, err = delta.Open(paths[i], nil); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = (*b).Close() })
	}
	release, err := fanout.Hold(w.root) // makes the folders
	if err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	base, m := w.base.Manifest(), w.whole.Manifest()
	for _, x := range base.Contents() {
		w.put(t, w.base, x.Digest)
	}
	for _, x := range m.Contents() {
		if b, ok := w.target.Patched(x.Digest); ok {
			w.order.Blobs = append(w.order.Blobs, b)
			w.order.Drop = append(w.order.Drop, b.Stored.Digest)
			w.put(t, w.target, b.Stored.Digest)
		}
	}
	w.order.BuiltBy = "v0.0.0-test"
	return w
}

// put brings a blob of a bundle to the host.
func (w *world) put(t testing.TB, b *archive.Bundle, digest string) {
	t.Helper()
	s, ok := b.Section(digest)
	if !ok {
		t.Fatalf("%s is not there", digest)
	}
	data, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, digest, data)
}

func (w *world) write(t testing.TB, digest string, data []byte) {
	t.Helper()
	if err := os.WriteFile(fanout.Path(w.root, digest), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *world) raw(t testing.TB) []byte {
	t.Helper()
	raw, err := json.Marshal(w.order)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// apply runs the order.
func (w *world) apply(t testing.TB, also ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := Apply(t.Context(), bytes.NewReader(w.raw(t)), &out, w.root, also...)
	return strings.ReplaceAll(out.String(), "{\"bytes\":0}\n", ""), err
}

// check wants every blob that is made to be there, and neither patches nor rests.
func (w *world) check(t testing.TB) {
	t.Helper()
	for _, b := range w.order.Blobs {
		got, err := os.ReadFile(fanout.Path(w.root, b.Digest))
		s, _ := w.whole.Section(b.Digest)
		want, rerr := io.ReadAll(s)
		if err = errors.Join(err, rerr); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v, or it is another", b.Digest, err)
		}
		if _, err := os.Stat(fanout.Path(w.root, b.Stored.Digest)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the patch %s is still there: %v", b.Stored.Digest, err)
		}
	}
	w.clean(t)
}

func (w *world) clean(t testing.TB) {
	t.Helper()
	if left, err := os.ReadDir(filepath.Join(w.root, "part")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestApply_makesTheBlobsOfWhatTheHostHas(t *testing.T) {
	w := newWorld(t)
	if len(w.order.Blobs) < 8 {
		t.Fatalf("only %d blobs are patches", len(w.order.Blobs))
	}
	out, err := w.apply(t)
	if err != nil || strings.Count(out, "bytes") != len(w.order.Blobs) {
		t.Fatalf("%v, %q", err, out)
	}
	w.check(t)
	if out, err := w.apply(t); err != nil || out != "" {
		t.Errorf("again: %v, %q", err, out)
	}
}

// After an install, layers are containerd's and programs are where they run.
func TestApply_takesBasesFromWhereTheyAre(t *testing.T) {
	w := newWorld(t)
	theirs, bin := t.TempDir(), filepath.Join(t.TempDir(), "kubelet")
	base := w.base.Manifest()
	for _, it := range base.Items {
		if it.Name == "kubelet" {
			w.order.Files = map[string]string{it.Digest: bin}
			if err := os.Remove(fanout.Path(w.root, it.Stored.Digest)); err != nil {
				t.Fatal(err)
			}
		}
		for _, b := range it.Blobs {
			if err := os.Rename(fanout.Path(w.root, b.Digest), filepath.Join(theirs, b.Digest[7:])); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	if _, err := w.apply(t, theirs); fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "is not on this host") {
		t.Fatalf("without the program: %v", err)
	}
	if err := os.WriteFile(bin, code(1, 300_000, 0), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := w.apply(t, theirs); err != nil {
		t.Fatal(err)
	}
	w.check(t)
}

func TestApply_doesNothingWhereSomethingIsNotThere(t *testing.T) {
	for name, spoil := range map[string]func(w *world, b archive.DeltaBlob) string{
		"base":  func(w *world, b archive.DeltaBlob) string { return fanout.Path(w.root, b.Base) },
		"patch": func(w *world, b archive.DeltaBlob) string { return fanout.Path(w.root, b.Stored.Digest) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			last := w.order.Blobs[len(w.order.Blobs)-1]
			if err := os.Remove(spoil(w, last)); err != nil {
				t.Fatal(err)
			}
			out, err := w.apply(t)
			if fault.CodeOf(err) != fault.Bundle || out != "" || !strings.Contains(err.Error(), last.Digest) || fault.HintOf(err) == "" {
				t.Fatalf("%v, %q", err, out)
			}
			for _, b := range w.order.Blobs {
				if _, err := os.Stat(fanout.Path(w.root, b.Digest)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s was made", b.Digest)
				}
			}
		})
	}
}

// A base or a patch that is not what its digest says makes no blob.
func TestApply_refusesWhatIsDamaged(t *testing.T) {
	for _, what := range []string{"base", "patch"} {
		t.Run(what, func(t *testing.T) {
			for i := range newWorld(t).order.Blobs {
				w := newWorld(t)
				b := w.order.Blobs[i]
				w.order.Blobs = []archive.DeltaBlob{b}
				digest := b.Stored.Digest
				if what == "base" {
					digest = b.Base
				}
				if digest == "" {
					continue
				}
				data, err := os.ReadFile(fanout.Path(w.root, digest))
				if err != nil {
					t.Fatal(err)
				}
				data[len(data)/2] ^= 4
				w.write(t, digest, data)
				_, err = w.apply(t)
				if fault.CodeOf(err) != fault.Bundle || !errors.Is(err, archive.ErrDamaged) {
					t.Errorf("%d: %v", i, err)
				}
				if _, err := os.Stat(fanout.Path(w.root, b.Digest)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%d: something was made", i)
				}
				w.clean(t)
			}
		})
	}
}

// A delta that is consistent, and lies.
func TestApply_refusesForgedOrders(t *testing.T) {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := archivetest.Content{}
	for name, x := range map[string]struct {
		change func(o *Order, b *archive.DeltaBlob) []byte // what is stored instead; nil: as it is
		want   string
	}{
		"a patch that expands endlessly": {func(_ *Order, b *archive.DeltaBlob) []byte {
			return z.EncodeAll(make([]byte, 300<<20), nil)
		}, "frame"},
		"content that expands endlessly": {func(_ *Order, b *archive.DeltaBlob) []byte {
			b.Base, b.BaseForm, b.BaseContent, b.Recipe = "", "", "", &archive.Recipe{Form: "gzip", Library: "go", Level: 0}
			b.Frames[0].Dict, b.Frames[0].From, b.Frames[0].Bytes = 0, 0, archive.MaxDeltaFrame
			return z.EncodeAll(make([]byte, archive.MaxDeltaFrame), nil)
		}, "more than"},
		"another digest": {func(_ *Order, b *archive.DeltaBlob) []byte {
			b.Digest = "sha256:" + strings.Repeat("0", 64)
			return nil
		}, "what came out has digest"},
		"a digest that leads elsewhere": {func(_ *Order, b *archive.DeltaBlob) []byte {
			b.Digest = "sha256:../../../../etc/passwd"
			return nil
		}, "not valid"},
		"a patch that is elsewhere": {func(_ *Order, b *archive.DeltaBlob) []byte {
			b.Stored.Digest = "/etc/passwd"
			return nil
		}, "not valid"},
		"a base that is elsewhere": {func(_ *Order, b *archive.DeltaBlob) []byte {
			b.Base = "sha256:/etc/passwd"
			return nil
		}, "not sha256"},
		"a file that is elsewhere": {func(o *Order, b *archive.DeltaBlob) []byte {
			o.Files = map[string]string{b.Base: "/usr/../etc/passwd"}
			return nil
		}, "not valid"},
		"something else to drop": {func(o *Order, _ *archive.DeltaBlob) []byte {
			o.Drop = append(o.Drop, "sha256:../lock")
			return nil
		}, "not valid"},
		"a blob that is not made": {func(_ *Order, b *archive.DeltaBlob) []byte {
			*b = archive.DeltaBlob{Digest: b.Digest, Size: b.Size, Stored: archive.Descriptor{Digest: b.Digest, Size: b.Size}}
			return nil
		}, "none that is made"},
		"frames of gigabytes": {func(_ *Order, b *archive.DeltaBlob) []byte {
			b.Frames[0].Bytes = 1 << 40
			return nil
		}, "frame of"},
		"a base beyond all disks": {func(_ *Order, b *archive.DeltaBlob) []byte {
			b.Size, b.Frames[0].From = archive.MaxBlobSize, archive.MaxBlobSize-1
			return nil
		}, ""},
		"a library that does not exist": {func(_ *Order, b *archive.DeltaBlob) []byte {
			b.Recipe = &archive.Recipe{Form: "gzip", Library: "none"}
			return nil
		}, "cannot pack"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			i := slices.IndexFunc(w.order.Blobs, func(b archive.DeltaBlob) bool { return b.Base != "" && b.Size > 100_000 && b.Recipe != nil })
			b := &w.order.Blobs[i]
			b.Frames = slices.Clone(b.Frames)
			w.order.Drop = nil
			before := b.Digest
			if data := x.change(&w.order, b); data != nil {
				b.Stored = c.Put("", data)
				b.Frames[0].Size = b.Stored.Size
				w.write(t, b.Stored.Digest, data)
			}
			w.order.Blobs = []archive.DeltaBlob{*b}
			_, err := w.apply(t)
			if err == nil || !strings.Contains(err.Error(), x.want) {
				t.Fatalf("got %v", err)
			}
			for _, d := range []string{before, b.Digest} {
				if _, err := os.Stat(fanout.Path(w.root, d)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s was made", d)
				}
			}
			w.clean(t)
		})
	}
}

func TestApply_oneAtATime(t *testing.T) {
	w := newWorld(t)
	release, err := fanout.Hold(w.root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.apply(t); fault.CodeOf(err) != fault.Locked {
		t.Errorf("got %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := Apply(t.Context(), strings.NewReader("{"), io.Discard, w.root); err == nil {
		t.Error("an order that was cut off")
	}
}

// deaf hears nothing.
type deaf struct{ err error }

func (d deaf) Write([]byte) (int, error) { return 0, d.err }

// A process that nobody hears any more keeps the content store from nobody.
func TestApply_endsWithItsSession(t *testing.T) {
	gone := errors.New("gone")
	v := &voice{to: json.NewEncoder(deaf{gone})}
	ctx, end := v.beat(t.Context())
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	end()
	w := newWorld(t)
	if err := Apply(t.Context(), bytes.NewReader(w.raw(t)), deaf{gone}, w.root); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	if _, err := w.apply(t); err != nil {
		t.Fatal(err)
	}
	w.check(t)
}
