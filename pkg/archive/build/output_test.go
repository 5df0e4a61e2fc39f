package build

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/fault"
)

func TestReplaceFile_aFullDiskLeavesTheOldBundle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.tar")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := replaceFile(path, func(*os.File) error {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = full.Close() }()
		m, c := archivetest.Sample()
		_, _, err = archive.WriteAt(t.Context(), full, m, c.Open)
		return err
	})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(fault.HintOf(err), "make room") {
		t.Fatalf("%v, hint %q", err, fault.HintOf(err))
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "old" {
		t.Fatalf("%q %v", data, err)
	}
	if list, err := os.ReadDir(filepath.Dir(path)); err != nil || len(list) != 1 {
		t.Fatalf("left behind: %v %v", list, err)
	}
}
