package etcd

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestSnapshotFile_isThereOnlyWhenAllOfItIs(t *testing.T) {
	for name, fails := range map[string]error{"whole": nil, "what came is damaged": ErrSnapshot} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			to := filepath.Join(dir, "etcd.db")
			size, err := toFile(to, func(begin func(int64) (io.Writer, error)) error {
				w, err := begin(5)
				if err == nil {
					_, err = w.Write([]byte("pages"))
				}
				return errors.Join(err, fails)
			})
			left, _ := os.ReadDir(dir)
			if fails != nil {
				if !errors.Is(err, fails) || len(left) != 0 {
					t.Errorf("%v, %v", err, left)
				}
				return
			}
			data, rerr := os.ReadFile(to)
			info, serr := os.Stat(to)
			if err != nil || rerr != nil || serr != nil || size != 5 || string(data) != "pages" || info.Mode().Perm() != 0o600 || len(left) != 1 {
				t.Errorf("%d %v %v %v %q %v", size, err, rerr, serr, data, left)
			}
		})
	}
}
