// Package atomicfile replaces large files: whatever happens, a path holds the
// old file or the whole new one. It imports nothing of kocli.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ErrBusy is in the chain of the error when another process writes the file.
var ErrBusy = errors.New("another process writes it")

// partPath is where a file is written before it is whole. The name is fixed, so
// that what a killed process left is written over by the next.
func partPath(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".part")
}

// Replace replaces a file by what write writes: under another name in the same
// folder first, synced, then renamed. After an error nothing is left behind.
// Two processes cannot write the same file: the second gets ErrBusy.
func Replace(path string, write func(*os.File) error) (err error) {
	f, err := lock(partPath(path))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
		err = errors.Join(err, f.Close())
	}()
	if err := f.Truncate(0); err != nil {
		return err
	}
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncFolder(filepath.Dir(path))
}

// lock opens and locks the file at path. One that was renamed by its writer in
// between is a finished file, and left alone.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	busy := fmt.Errorf("%s: %w", path, ErrBusy)
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(busy, f.Close())
	}
	mine, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if now, err := os.Stat(path); err != nil || !os.SameFile(mine, now) {
		return nil, errors.Join(busy, f.Close())
	}
	return f, nil
}

// SyncFolder makes new names in a folder last.
func SyncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Free is how many bytes can be written into the folder.
func Free(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(uint64(st.Bavail) * uint64(st.Bsize)), nil //nolint:gosec,unconvert // the types differ between systems
}
