package atomicfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/kocli/kocli/pkg/internal/atomicfile"
)

func names(t *testing.T, dir string) int {
	t.Helper()
	l, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}

func TestReplace_isAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	put := func(text string, fail error) error {
		return atomicfile.Replace(path, func(f *os.File) error {
			if _, err := f.WriteString(text); err != nil {
				return err
			}
			return fail
		})
	}
	// What a killed process left is longer than what comes.
	if err := os.WriteFile(filepath.Join(dir, ".f.part"), []byte("a long rest of something"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := put("old", nil); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	if err := put("new", boom); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "old" || names(t, dir) != 1 {
		t.Fatalf("%q %v, %d files", data, err, names(t, dir))
	}
	if err := put("new", nil); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "new" || names(t, dir) != 1 {
		t.Fatalf("%q %v, %d files", data, err, names(t, dir))
	}
}

func TestReplace_refusesASecondWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	err := atomicfile.Replace(path, func(f *os.File) error {
		if _, err := f.WriteString("first"); err != nil {
			return err
		}
		inner := atomicfile.Replace(path, func(*os.File) error { return errors.New("must not run") })
		if !errors.Is(inner, atomicfile.ErrBusy) {
			t.Errorf("second writer: %v", inner)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "first" {
		t.Fatalf("%q %v", data, err)
	}
}

func TestFree_ofAFolder(t *testing.T) {
	if n, err := atomicfile.Free(t.TempDir()); err != nil || n <= 0 {
		t.Fatalf("%d %v", n, err)
	}
	if _, err := atomicfile.Free(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}
