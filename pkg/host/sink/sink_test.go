package sink_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/host/sink"
)

// stream is what the operator's side sends for files.
func stream(t *testing.T, files ...host.File) []byte {
	t.Helper()
	var w bytes.Buffer
	if err := sink.Write(&w, files, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	return w.Bytes()
}

func read(t *testing.T, root, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func book(t *testing.T, root string) ledger.Book {
	t.Helper()
	return ledger.Parse([]byte(read(t, root, ledger.Path())))
}

// leftovers are temporary files below root.
func leftovers(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(p), ".kocli.") {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReceive_writesFilesAndTheLedger(t *testing.T) {
	root := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "etc"), 0o755), os.WriteFile(filepath.Join(root, "etc/old"), []byte("theirs"), 0o644)); err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("x"), 3<<20)
	in := stream(t, host.Bytes("/etc/old", 0o600, []byte("ours")), host.Bytes("/usr/bin/big", 0o755, big), host.Bytes("/etc/empty", 0o644, nil))
	if err := sink.Receive(context.Background(), bytes.NewReader(in), root); err != nil {
		t.Fatal(err)
	}
	if read(t, root, "/etc/old") != "ours" || read(t, root, "/usr/bin/big") != string(big) || read(t, root, "/etc/empty") != "" {
		t.Error("content")
	}
	if st, err := os.Stat(filepath.Join(root, "etc/old")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	b := book(t, root)
	if !b.Has("/etc/old", ledger.FileKept) || !b.Has("/usr/bin/big", ledger.FileAbsent) || !b.Has("/usr/bin/big", ledger.Content) || b.Has("/etc/old", ledger.Content) {
		t.Errorf("%+v", b)
	}
	if read(t, root, ledger.OriginalPath("/etc/old")) != "theirs" {
		t.Error("the original was not kept")
	}
	// Again, with other content: the original stays what it was.
	again := stream(t, host.Bytes("/etc/old", 0o600, []byte("newer")))
	if err := sink.Receive(context.Background(), bytes.NewReader(again), root); err != nil {
		t.Fatal(err)
	}
	if read(t, root, "/etc/old") != "newer" || read(t, root, ledger.OriginalPath("/etc/old")) != "theirs" || len(book(t, root).Of(ledger.FileKept)) != 1 {
		t.Error("a second write kept the wrong original")
	}
}

func TestReceive_cutOrChangedOnTheWay(t *testing.T) {
	whole := stream(t, host.Bytes("/etc/a", 0o644, []byte("first file")), host.Bytes("/etc/b", 0o644, []byte("second file")))
	changed := bytes.Replace(whole, []byte("second"), []byte("sEcond"), 1)
	tests := map[string][]byte{
		"in the content": whole[:len(whole)-3], "in a header": whole[:bytes.LastIndex(whole, []byte("sha256"))], "a changed byte": changed,
		"a relative path":  []byte(`{"path":"etc/a","size":0}` + "\n"),
		"a path with dots": []byte(`{"path":"/etc/../a","size":0}` + "\n"),
		"a negative size":  []byte(`{"path":"/etc/a","size":-1}` + "\n"),
		"no header at all": []byte("hello\n"),
	}
	for name, in := range tests {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if err := sink.Receive(context.Background(), bytes.NewReader(in), root); err == nil {
				t.Error("taken")
			}
			if _, err := os.Stat(filepath.Join(root, "etc/b")); err == nil {
				t.Error("half a file got its name")
			}
			if left := leftovers(t, root); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestWrite_aSourceThatLies(t *testing.T) {
	f := host.Bytes("/etc/a", 0o644, []byte("0123456789"))
	for name, text := range map[string]string{"shorter": "0123", "longer": "0123456789abc"} {
		f.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
		if err := sink.Write(io.Discard, []host.File{f}, func(int64) {}); err == nil {
			t.Errorf("%s than it says: sent", name)
		}
	}
}
