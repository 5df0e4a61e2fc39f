package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Differs reports in a few words how the machine's file differs from f: "" when
// it does not, "absent", "content", "mode 0644", "owner a:b".
func Differs(ctx context.Context, r Reader, f File) (string, error) {
	info, sum, err := describe(ctx, r, f)
	if errors.Is(err, fs.ErrNotExist) {
		return "absent", nil
	}
	if err != nil {
		return "", err
	}
	mode, owner := f.want()
	switch {
	case !info.Mode().IsRegular():
		return "not a regular file", nil
	case info.Size() != f.Size || sum != f.SHA256:
		return "content", nil
	case info.Mode().Perm() != mode:
		return fmt.Sprintf("mode %04o", info.Mode().Perm()), nil
	case info.Sys() != owner:
		return fmt.Sprintf("owner %v", info.Sys()), nil
	}
	return "", nil
}

// describe asks for metadata and digest at the same time, so that both travel
// in one batch.
func describe(ctx context.Context, r Reader, f File) (fs.FileInfo, string, error) {
	type answer struct {
		out Output
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		out, err := r.Query(ctx, Command("sha256sum", "--", f.Path))
		ch <- answer{out, err}
	}()
	info, err := r.Stat(ctx, f.Path)
	a := <-ch
	if err != nil {
		return nil, "", err
	}
	if a.err != nil {
		if info.Mode().IsRegular() {
			return nil, "", AsNotExist("read", f.Path, a.err)
		}
		return info, "", nil
	}
	sum, _, _ := strings.Cut(strings.TrimPrefix(a.out.Text(), `\`), " ")
	return info, sum, nil
}

// want returns the mode and owner that f asks for, with defaults.
func (f File) want() (fs.FileMode, string) {
	mode, owner := f.Mode.Perm(), f.Owner
	if mode == 0 {
		mode = 0o644
	}
	if owner == "" {
		owner = "root:root"
	}
	return mode, owner
}

// Want returns the mode and owner that f asks for, with defaults filled in.
func (f File) Want() (fs.FileMode, string) { return f.want() }
