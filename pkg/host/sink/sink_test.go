package sink_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/host/sink"
)

// files are a small one, a large one and an empty one.
func files() []host.File {
	return []host.File{
		host.Bytes("/etc/a b/it's", 0o640, []byte("small\n\x00\xff")),
		host.Bytes("/usr/bin/large", 0o755, bytes.Repeat([]byte("0123456789abcdef"), 100_000)),
		host.Bytes("/etc/empty", 0o600, nil),
		host.Bytes("/etc/there", 0o600, []byte("kocli's")),
	}
}

// fromHere says that the host has nothing of a file.
func fromHere(host.File) bool { return false }

func stream(t *testing.T, files []host.File) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := sink.Write(&b, files, fromHere, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// root is a host's file system with one file on it.
func root(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/there"), []byte("original"), 0o640); err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t *testing.T, root, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// holds fails the test unless the files are there, whole, and nothing that was
// left half-way.
func holds(t *testing.T, root string, files []host.File) {
	t.Helper()
	for _, f := range files {
		if got := read(t, root, f.Path); host.Bytes(f.Path, f.Mode, []byte(got)).SHA256 != f.SHA256 {
			t.Errorf("%s holds %d bytes of something else", f.Path, len(got))
		}
		if info, err := os.Stat(filepath.Join(root, f.Path)); err != nil || info.Mode().Perm() != f.Mode {
			t.Errorf("%s: %v, %v", f.Path, info, err)
		}
	}
	nothingLeft(t, root)
}

func nothingLeft(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(p), ".kocli") || strings.HasSuffix(p, ".new") {
			t.Errorf("%s was left", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func book(t *testing.T, root string) ledger.Book {
	t.Helper()
	return ledger.Parse([]byte(read(t, root, ledger.Path())))
}

func TestReceive_makesTheFilesBeThereAndKeepsWhatWas(t *testing.T) {
	dir := root(t)
	for range 2 { // the second time replaces kocli's own
		if err := sink.Receive(t.Context(), bytes.NewReader(stream(t, files())), dir); err != nil {
			t.Fatal(err)
		}
		holds(t, dir, files())
	}
	if got := read(t, dir, ledger.OriginalPath("/etc/there")); got != "original" {
		t.Errorf("the original is %q", got)
	}
	b := book(t, dir)
	if n := len(b.Of(ledger.FileAbsent)); n != 3 || len(b.Of(ledger.FileKept)) != 1 || !b.Has("/usr/bin/large", ledger.Content) || b.Has("/etc/empty", ledger.Content) {
		t.Errorf("the ledger holds %v", b)
	}
	newest := map[string]ledger.Entry{}
	for _, e := range b {
		if e.Kind == ledger.Content {
			newest[e.Name] = e
		}
	}
	for _, e := range newest {
		info, err := os.Stat(filepath.Join(dir, e.Name))
		if err != nil || info.Size() != e.Size || info.ModTime().Unix() != e.ModTime {
			t.Errorf("%+v, %v", e, err)
		}
	}
}

func TestReceive_cutAnywhereLeavesWholeFilesAndGoesOn(t *testing.T) {
	whole := stream(t, files())
	for _, n := range []int{0, 1, 50, 150, 300, len(whole) / 2, len(whole) - 200, len(whole) - 1} {
		dir := root(t)
		err := sink.Receive(t.Context(), bytes.NewReader(whole[:n]), dir)
		if n > 0 && err == nil {
			t.Errorf("cut at %d: no error", n)
		}
		for _, f := range files() {
			data, err := os.ReadFile(filepath.Join(dir, f.Path))
			if err == nil && int64(len(data)) != f.Size && string(data) != "original" {
				t.Errorf("cut at %d: %s holds %d bytes", n, f.Path, len(data))
			}
		}
		nothingLeft(t, dir)
		if err := sink.Receive(t.Context(), bytes.NewReader(whole), dir); err != nil {
			t.Errorf("cut at %d, again: %v", n, err)
		}
		holds(t, dir, files())
	}
}

func TestReceive_refusesWhatIsNotWhatItSays(t *testing.T) {
	good := files()[3:]
	flipped := stream(t, good)
	flipped[len(flipped)-1] ^= 1
	for name, in := range map[string][]byte{
		"another content": flipped,
		"no header":       []byte("nonsense\n"),
		"a path upwards":  bytes.ReplaceAll(stream(t, good), []byte("/etc/there"), []byte("/../../etc")),
		"a relative path": bytes.ReplaceAll(stream(t, good), []byte("/etc/there"), []byte("etc/there0")),
		"a negative size": []byte(`{"path":"/x","mode":420,"size":-1,"sha256":"x"}` + "\n"),
	} {
		dir := root(t)
		if err := sink.Receive(t.Context(), bytes.NewReader(in), dir); err == nil {
			t.Errorf("%s: no error", name)
		}
		if got := read(t, dir, "/etc/there"); got != "original" {
			t.Errorf("%s: the file holds %q", name, got)
		}
		nothingLeft(t, dir)
	}
}

func TestWrite_refusesASourceThatIsNotAsAnnounced(t *testing.T) {
	for name, src := range map[string]io.Reader{
		"short": strings.NewReader("shor"), "long": strings.NewReader("too long by far"), "broken": io.MultiReader(strings.NewReader("sh"), broken{}),
	} {
		f := host.Bytes("/x", 0o600, []byte("short"))
		f.Open = func() (io.ReadCloser, error) { return io.NopCloser(src), nil }
		if err := sink.Write(io.Discard, []host.File{f}, fromHere, func(int64) {}); err == nil || !strings.Contains(err.Error(), "/x") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }

// receiver runs the far end for a machine in memory.
func receiver(t *testing.T, calls *int) hosttest.Program {
	t.Helper()
	return func(ctx context.Context, m *hosttest.Machine, argv []string, stdin []byte) (hosttest.Reply, bool) {
		if argv[0] != "/kocli" {
			return hosttest.Reply{}, false
		}
		*calls++
		if _, ok := m.Read("/kocli"); !ok {
			return hosttest.Reply{Stderr: "/kocli: not found", Code: 127}, true
		}
		dir := t.TempDir()
		for _, p := range m.Files() {
			text, _ := m.Read(p)
			info, err := m.Stat(ctx, p)
			if err = errors.Join(err, os.MkdirAll(filepath.Dir(filepath.Join(dir, p)), 0o755), os.WriteFile(filepath.Join(dir, p), []byte(text), info.Mode())); err != nil {
				t.Error(err)
			}
		}
		if err := sink.Receive(ctx, bytes.NewReader(stdin), dir); err != nil {
			return hosttest.Reply{Stderr: err.Error(), Code: 1}, true
		}
		err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			m.Write(strings.TrimPrefix(p, dir), info.Mode(), read(t, "", p))
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return hosttest.Reply{}, true
	}
}

func TestPutAll_sendsWhatDiffersInOneStream(t *testing.T) {
	m := hosttest.New("n")
	calls := 0
	m.Install(receiver(t, &calls))
	m.Write("/kocli", 0o755, "")
	m.Write("/etc/there", 0o600, "kocli's")
	list := files()
	step := converge.Files{Name: "x", List: func(context.Context, host.Reader) ([]host.File, error) { return list, nil }}
	h := func() *sink.Host {
		return sink.Wrap(ledger.Wrap(m), host.NewBatch("n", m, time.Millisecond), "/kocli")
	}
	for i := range 2 {
		if err := step.Apply(t.Context(), h()); err != nil || calls != 1 {
			t.Fatalf("time %d: %v, %d streams", i+1, err, calls)
		}
		if changes, err := step.Check(t.Context(), m); err != nil || len(changes) > 0 {
			t.Errorf("time %d: %v, %v", i+1, changes, err)
		}
	}
	b, err := ledger.Read(t.Context(), m)
	if err != nil || b.Has("/etc/there", ledger.FileKept, ledger.FileAbsent) {
		t.Errorf("a file that was right was touched: %v, %v", b, err)
	}
	// A source that breaks is an error and no file.
	list = []host.File{host.Bytes("/usr/bin/large", 0o755, bytes.Repeat([]byte("x"), 2<<20))}
	list[0].Open = func() (io.ReadCloser, error) { return io.NopCloser(broken{}), nil }
	if err := step.Apply(t.Context(), h()); err == nil {
		t.Error("a broken source is no error")
	}
	m.Cut()
	if err := step.Apply(t.Context(), h()); !errors.Is(err, hosttest.ErrCut) {
		t.Errorf("a lost host: %v", err)
	}
}

func TestPutAll_fallsBackWhereThereIsNoKocli(t *testing.T) {
	m := hosttest.New("n")
	calls := 0
	m.Install(receiver(t, &calls))
	h := sink.Wrap(ledger.Wrap(m), host.NewBatch("n", m, time.Millisecond), "/kocli")
	if err := h.PutAll(t.Context(), files(), func(int64) {}); !errors.Is(err, host.ErrNoBulk) {
		t.Errorf("got %v", err)
	}
	step := converge.Files{Name: "x", Width: 4, List: func(context.Context, host.Reader) ([]host.File, error) { return files(), nil }}
	if err := step.Apply(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if changes, err := step.Check(t.Context(), m); err != nil || len(changes) > 0 || calls != 2 {
		t.Errorf("%v, %v, %d calls", changes, err, calls)
	}
}
