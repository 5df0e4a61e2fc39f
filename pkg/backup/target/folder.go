package target

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/internal/atomicfile"
)

// staleAfter is when what an upload that was killed has left is cleared away.
const staleAfter = 24 * time.Hour

// folder is a folder on the machine that kocli runs on.
type folder struct{ dir string }

// Folder returns a folder, which is made where it is missing.
func Folder(dir string) (Target, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fault.New(fault.Usage, hint, err)
	}
	return &folder{abs}, nil
}

func (f *folder) String() string { return f.dir }
func (f *folder) Close() error   { return nil }

// why says what to do about the errors that folders have.
func (f *folder) why(op string, err error) error {
	hint := "look at the folder: ls -la " + f.dir
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		hint = "make room there (kocli backup prune, df -h " + f.dir + "), then run the same command again; earlier backups are as they were"
	case errors.Is(err, fs.ErrPermission):
		hint = "let this user write there, or name another target with --to"
	}
	return failed(op, f, hint, err)
}

type folderUpload struct {
	f    *folder
	file *os.File
	name string
	done bool
}

func (f *folder) Create(_ context.Context, name string) (Upload, error) {
	if err := plain(name); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, f.why("make folder", err)
	}
	f.clear()
	file, err := os.OpenFile(filepath.Join(f.dir, partialPrefix+name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, f.why("write into", err)
	}
	return &folderUpload{f: f, file: file, name: name}, nil
}

// clear removes what killed uploads left long ago.
func (f *folder) clear() {
	left, err := filepath.Glob(filepath.Join(f.dir, partialPrefix+"*"))
	if err != nil {
		return
	}
	for _, p := range left {
		if st, err := os.Lstat(p); err == nil && time.Since(st.ModTime()) > staleAfter {
			_ = os.Remove(p) // the next upload tries again
		}
	}
}

func (u *folderUpload) Write(p []byte) (int, error) {
	n, err := u.file.Write(p)
	if err != nil {
		err = u.f.why("write into", err)
	}
	return n, err
}

func (u *folderUpload) Commit() error {
	if err := errors.Join(u.file.Sync(), u.file.Close()); err != nil {
		return u.f.why("write into", err)
	}
	if err := os.Rename(u.file.Name(), filepath.Join(u.f.dir, u.name)); err != nil {
		return u.f.why("write into", err)
	}
	u.done = true
	if err := atomicfile.SyncFolder(u.f.dir); err != nil {
		return u.f.why("write into", err)
	}
	return nil
}

func (u *folderUpload) Abort() error {
	if u.done {
		return nil
	}
	u.done = true
	_ = u.file.Close() // it is removed
	return os.Remove(u.file.Name())
}

func (f *folder) Open(_ context.Context, name string) (io.ReadCloser, error) {
	if err := plain(name); err != nil {
		return nil, err
	}
	r, err := os.Open(filepath.Join(f.dir, name))
	if err != nil {
		return nil, failed("read from", f, "kocli backup list shows what is there", err)
	}
	return r, nil
}

func (f *folder) List(context.Context) ([]Entry, error) {
	all, err := os.ReadDir(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, f.why("list", err)
	}
	var out []Entry
	for _, e := range all {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() || partial(e.Name()) {
			continue
		}
		if err != nil {
			return nil, f.why("list", err)
		}
		out = append(out, Entry{Name: e.Name(), Size: info.Size(), Modified: info.ModTime()})
	}
	return out, nil
}

func (f *folder) Remove(_ context.Context, name string) error {
	if err := plain(name); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(f.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f.why("remove from", err)
	}
	return nil
}
