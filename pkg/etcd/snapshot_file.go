package etcd

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/google/renameio/v2"
)

// Here returns nil when the member of the view's own node answers and knows a leader.
func (v *View) Here(ctx context.Context) error { return v.status(ctx, local) }

// SnapshotFile is Snapshot into a file with mode 0600. The file has its name only when
// all of it is on the disk. It returns the size, in bytes.
func (v *View) SnapshotFile(ctx context.Context, to string) (int64, error) {
	return toFile(to, func(begin func(int64) (io.Writer, error)) error { return v.Snapshot(ctx, begin) })
}

func toFile(to string, take func(begin func(size int64) (io.Writer, error)) error) (size int64, err error) {
	f, err := renameio.NewPendingFile(to, renameio.WithPermissions(0o600))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Cleanup()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := take(func(n int64) (io.Writer, error) { size = n; return w, nil }); err != nil {
		return 0, err
	}
	return size, errors.Join(w.Flush(), f.CloseAtomicallyReplace())
}
