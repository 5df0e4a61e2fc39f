package split_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/archive/split"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/internal/atomicfile"
)

const partSize = 40_000

// parts splits the sample and returns its bytes, the folder and the parts.
func parts(t *testing.T) (data []byte, dir string, p *split.Parts) {
	t.Helper()
	path := archivetest.Write(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	var last, total int64
	file, p, err := split.Split(t.Context(), path, dir, partSize, func(d, n int64) { last, total = d, n })
	if err != nil {
		t.Fatal(err)
	}
	if file != filepath.Join(dir, "sample.tar.parts.json") || len(p.Parts) < 4 || last != int64(len(data)) || total != last {
		t.Fatalf("%s, %d parts, %d of %d", file, len(p.Parts), last, total)
	}
	return data, dir, p
}

func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	l, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range l {
		out = append(out, f.Name())
	}
	return out
}

func TestJoin_givesTheSameBytes(t *testing.T) {
	data, dir, p := parts(t)
	if got := files(t, dir); len(got) != len(p.Parts)+1 || got[0] != "sample.tar.001" {
		t.Fatalf("%v", got)
	}
	for _, from := range []string{dir, filepath.Join(dir, "sample.tar.parts.json")} {
		out := filepath.Join(t.TempDir(), "b.tar")
		path, _, err := split.Join(t.Context(), from, out, nil)
		if err != nil || path != out {
			t.Fatal(path, err)
		}
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes, want %d: %v", len(got), len(data), err)
		}
	}
}

func TestSplit_againRepeatsWhatWasInterrupted(t *testing.T) {
	path := archivetest.Write(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := split.Split(ctx, path, dir, partSize, func(done, _ int64) {
		if done > 2*partSize {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if got := files(t, dir); slices.Contains(got, "sample.tar.parts.json") || len(got) < 2 || strings.HasPrefix(got[0], ".") {
		t.Fatalf("left behind: %v", got)
	}
	if _, _, err := split.Split(t.Context(), path, dir, partSize, nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := split.Join(t.Context(), dir, filepath.Join(t.TempDir(), "b.tar"), nil); err != nil {
		t.Fatal(err)
	}
}

func TestJoin_namesEveryBadPartAtOnceAndWorksAfterRepair(t *testing.T) {
	data, dir, p := parts(t)
	out := filepath.Join(t.TempDir(), "b.tar")
	at := func(i int) string { return filepath.Join(dir, p.Parts[i].Name) }
	keep := map[int][]byte{}
	for i := range p.Parts {
		raw, err := os.ReadFile(at(i))
		if err != nil {
			t.Fatal(err)
		}
		keep[i] = raw
	}
	try := func(want ...int) {
		t.Helper()
		_, _, err := split.Join(t.Context(), dir, out, nil)
		var pe *split.PartsError
		if !errors.As(err, &pe) || fault.CodeOf(err) != fault.Bundle {
			t.Fatalf("got %v", err)
		}
		var names []string
		for _, i := range want {
			names = append(names, p.Parts[i].Name)
			if !strings.Contains(fault.HintOf(err), p.Parts[i].Name) {
				t.Errorf("hint %q does not name %s", fault.HintOf(err), p.Parts[i].Name)
			}
		}
		if !slices.Equal(pe.Names(), names) {
			t.Errorf("%v named, want %v", pe.Names(), names)
		}
		if l := files(t, filepath.Dir(out)); len(l) != 0 {
			t.Errorf("left behind: %v", l)
		}
	}
	write := func(i int, data []byte) {
		t.Helper()
		if err := os.WriteFile(at(i), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flipped := func(i int) []byte {
		d := slices.Clone(keep[i])
		d[len(d)/2] ^= 1
		return d
	}
	write(0, flipped(0))
	write(2, flipped(2))
	try(0, 2)
	if err := os.Remove(at(1)); err != nil { // what can be seen without reading comes first
		t.Fatal(err)
	}
	write(3, keep[3][:10])
	try(1, 3)
	write(1, keep[0]) // parts that were swapped
	write(3, keep[3])
	try(0, 1, 2)
	for i, d := range keep {
		write(i, d)
	}
	if _, _, err := split.Join(t.Context(), dir, out, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, data) {
		t.Fatal("joined to another file")
	}
}

func TestJoin_refusesHostilePartsFiles(t *testing.T) {
	_, dir, _ := parts(t)
	file := filepath.Join(dir, "sample.tar.parts.json")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(p *split.Parts){
		"name with a slash":         func(p *split.Parts) { p.Name = "../sample.tar" },
		"hidden name":               func(p *split.Parts) { p.Name = ".sample.tar" },
		"part with a slash":         func(p *split.Parts) { p.Parts[1].Name = "/etc/passwd" },
		"part of another name":      func(p *split.Parts) { p.Parts[1].Name = "sample.tar.009" },
		"part twice":                func(p *split.Parts) { p.Parts[1] = p.Parts[0] },
		"overlap":                   func(p *split.Parts) { p.Parts[1].Size++ },
		"negative size":             func(p *split.Parts) { p.Size = -1 },
		"negative part":             func(p *split.Parts) { p.Parts[0].Size = -1 },
		"size of everything":        func(p *split.Parts) { p.Size = 1 << 62 },
		"part size zero":            func(p *split.Parts) { p.PartSize = 0 },
		"parts of one byte":         func(p *split.Parts) { p.PartSize = 1 },
		"no parts":                  func(p *split.Parts) { p.Parts = nil },
		"one part too few":          func(p *split.Parts) { p.Parts = p.Parts[1:] },
		"digest of the whole":       func(p *split.Parts) { p.Digest = "md5:0" },
		"another digest of a whole": func(p *split.Parts) { p.Digest = "sha256:" + strings.Repeat("0", 64) },
		"digest of a part":          func(p *split.Parts) { p.Parts[0].Digest = "" },
		"newer format":              func(p *split.Parts) { p.Format = 2 },
		"no format":                 func(p *split.Parts) { p.Format = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			var p split.Parts
			if err := json.Unmarshal(good, &p); err != nil {
				t.Fatal(err)
			}
			change(&p)
			raw, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, dir, file, raw)
		})
	}
	for name, raw := range map[string][]byte{
		"empty": nil, "no JSON": []byte("x"), "null": []byte("null"), "two documents": append(slices.Clone(good), good...),
		"unknown field": bytes.Replace(good, []byte(`"format"`), []byte(`"x":1,"format"`), 1), "huge": append(slices.Clone(good), bytes.Repeat([]byte(" "), 2<<20)...),
	} {
		t.Run(name, func(t *testing.T) { refused(t, dir, file, raw) })
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "b.parts.json"), good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := split.Join(t.Context(), dir, filepath.Join(t.TempDir(), "b"), nil); fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "2 files") {
		t.Fatalf("two parts files: %v", err)
	}
}

func refused(t *testing.T, dir, file string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "b.tar")
	_, _, err := split.Join(t.Context(), dir, out, nil)
	if fault.CodeOf(err) != fault.Bundle || fault.HintOf(err) == "" {
		t.Fatalf("got %v", err)
	}
	if l := files(t, filepath.Dir(out)); len(l) != 0 {
		t.Fatalf("left behind: %v", l)
	}
}

// Parts that fit each other and are no bundle.
func TestJoin_refusesWhatIsNoBundle(t *testing.T) {
	_, dir, p := parts(t)
	junk := bytes.Repeat([]byte("junk"), 200)
	sum := "sha256:8a1e1c5e1ba3c1a3c9ba7ab9cb86b9a1bbdf9cf4b3e4f5ae4e1c1a9c1ce3c3d2"
	p.Name, p.Size, p.PartSize, p.Digest = "junk.tar", int64(len(junk)), 1000, sum
	p.Parts = []split.Part{{Name: "junk.tar.001", Size: int64(len(junk)), Digest: sum}}
	// The digests follow from the error of a first attempt.
	for range 2 {
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "junk.tar.parts.json"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "junk.tar.001"), junk, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err = split.Join(t.Context(), filepath.Join(dir, "junk.tar.parts.json"), filepath.Join(t.TempDir(), "out"), nil)
		if fault.CodeOf(err) != fault.Bundle {
			t.Fatalf("got %v", err)
		}
		if i := strings.Index(err.Error(), "damaged: digest "); i >= 0 {
			got := err.Error()[i+len("damaged: digest "):][:71]
			p.Digest, p.Parts[0].Digest = got, got
			continue
		}
		if !strings.Contains(err.Error(), "not a bundle") {
			t.Fatalf("got %v", err)
		}
		return
	}
	t.Fatal("never got as far as the bundle")
}

func TestSplit_refuses(t *testing.T) {
	path := archivetest.Write(t)
	for _, size := range []int64{0, -1, 1, 200} {
		if _, _, err := split.Split(t.Context(), path, t.TempDir(), size, nil); fault.CodeOf(err) != fault.Usage || fault.HintOf(err) == "" {
			t.Errorf("parts of %d bytes: %v", size, err)
		}
	}
	if _, _, err := split.Split(t.Context(), path, filepath.Join(path, "none"), partSize, nil); err == nil {
		t.Error("a folder below a file: nothing was said")
	}
	if _, _, err := split.Split(t.Context(), t.TempDir(), t.TempDir(), partSize, nil); fault.CodeOf(err) != fault.Bundle {
		t.Errorf("a folder: %v", err)
	}
	odd := filepath.Join(t.TempDir(), "a b.tar")
	if err := os.Rename(path, odd); err != nil {
		t.Fatal(err)
	}
	if _, _, err := split.Split(t.Context(), odd, t.TempDir(), partSize, nil); fault.CodeOf(err) != fault.Usage {
		t.Errorf("a name with a space: %v", err)
	}
}

func TestJoin_aSecondOneIsRefused(t *testing.T) {
	_, dir, _ := parts(t)
	out := filepath.Join(t.TempDir(), "b.tar")
	err := atomicfile.Replace(out, func(*os.File) error {
		_, _, err := split.Join(t.Context(), dir, out, nil)
		return err
	})
	if fault.CodeOf(err) != fault.Locked || fault.HintOf(err) == "" {
		t.Fatalf("got %v", err)
	}
}

func FuzzJoin(f *testing.F) {
	f.Add([]byte(`{"format":1,"name":"a.tar","size":1,"digest":"sha256:` + strings.Repeat("0", 64) + `","partSize":1,"parts":[{"name":"a.tar.001","size":1,"digest":"sha256:` + strings.Repeat("0", 64) + `"}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		file := filepath.Join(dir, "x.parts.json")
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := split.Join(t.Context(), file, filepath.Join(dir, "out"), nil)
		if fault.CodeOf(err) != fault.Bundle {
			t.Fatal(fmt.Errorf("without parts: %w", err))
		}
	})
}
