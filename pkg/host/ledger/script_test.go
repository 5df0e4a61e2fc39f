package ledger

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run executes one of the package's scripts with a real shell.
func run(t *testing.T, stdin, script string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", script, "kocli"}, args...)...) //nolint:gosec // our own script
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAppendScript_appendsInOrderAndForNobodyElse(t *testing.T) {
	book := filepath.Join(t.TempDir(), "a b", "it's", "ledger.jsonl")
	for _, l := range []string{"one\n", "two\nthree\n"} {
		run(t, l, appendScript, book)
	}
	if got := text(t, book); got != "one\ntwo\nthree\n" {
		t.Errorf("got %q", got)
	}
	if info, err := os.Stat(book); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A line that was cut off by a loss of power must not swallow the next one.
func TestAppendScript_afterATornLine(t *testing.T) {
	book := filepath.Join(t.TempDir(), "ledger.jsonl")
	if err := os.WriteFile(book, []byte("{\"kind\":\"swap\",\"name\":\"/dev/a\"}\n{\"kind\":\"sw"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "{\"kind\":\"swap\",\"name\":\"/dev/b\"}\n", appendScript, book)
	preserve(t, filepath.Join(t.TempDir(), "absent"), book)
	if got := Parse([]byte(text(t, book))); len(got) != 3 || got[1].Name != "/dev/b" {
		t.Errorf("got %v from %q", got, text(t, book))
	}
	if err := os.WriteFile(book, []byte("{\"kind\":\"sw"), 0o600); err != nil {
		t.Fatal(err)
	}
	preserve(t, filepath.Join(t.TempDir(), "absent"), book)
	if got := Parse([]byte(text(t, book))); len(got) != 1 || got[0].Kind != FileAbsent {
		t.Errorf("got %v from %q", got, text(t, book))
	}
}

// preserve runs the script for a file and returns where its original is kept.
func preserve(t *testing.T, name, book string) string {
	t.Helper()
	keep := filepath.Join(filepath.Dir(book), "originals", name)
	run(t, "", preserveScript, name, keep, book, `{"kind":"file-absent","name":"x"}`, `{"kind":"file-kept","name":"x"}`)
	return keep
}

func TestPreserveScript(t *testing.T) {
	dir := t.TempDir()
	book := filepath.Join(dir, "state", "ledger.jsonl")
	file := filepath.Join(dir, "it's a file")
	if err := os.WriteFile(file, []byte("original"), 0o640); err != nil {
		t.Fatal(err)
	}
	keep := preserve(t, file, book)
	if text(t, keep) != "original" || !strings.HasSuffix(text(t, book), `{"kind":"file-kept","name":"x"}`+"\n") {
		t.Errorf("kept %q, noted %q", text(t, keep), text(t, book))
	}
	if info, err := os.Stat(keep); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the mode was not kept: %v, %v", info.Mode(), err)
	}
	// The second time, the file is kocli's own: the original stays.
	if err := os.WriteFile(file, []byte("kocli's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if preserve(t, file, book); text(t, keep) != "original" {
		t.Errorf("the original was replaced by %q", text(t, keep))
	}
	// A copy that was cut off is not taken for the original.
	if err := os.Rename(keep, keep+".new"); err != nil {
		t.Fatal(err)
	}
	if preserve(t, file, book); text(t, keep) != "kocli's" {
		t.Errorf("kept %q", text(t, keep))
	}
	// A link is kept as a link, also one that leads nowhere.
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/nowhere", link); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(preserve(t, link, book)); err != nil || to != "/nowhere" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if lines := bytes.Count([]byte(text(t, book)), []byte("file-kept")); lines != 4 {
		t.Errorf("%d lines", lines)
	}
}
