package etcd

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
)

// Here returns nil when the member of the view's own node answers and knows a leader.
func (v *View) Here(ctx context.Context) error { return v.status(ctx, local) }

// Local returns a view of the member on this very machine, for kocli as it runs on a
// control plane.
func Local() (*View, error) {
	var c Credentials
	for p, into := range map[string]*[]byte{caPath: &c.CA, certPath: &c.Cert, keyPath: &c.Key} {
		data, err := os.ReadFile(p) //nolint:gosec // constants
		if errors.Is(err, os.ErrNotExist) {
			return nil, ErrNone
		}
		if err != nil {
			return nil, err
		}
		*into = data
	}
	conf, err := c.Config()
	if err != nil {
		return nil, err
	}
	return &View{node: "this host", tls: conf, dial: (&net.Dialer{}).DialContext}, nil
}

// SnapshotFile is Snapshot into a file with mode 0600. The file has its name only when
// all of it is on the disk. It returns the size, in bytes.
func (v *View) SnapshotFile(ctx context.Context, to string) (int64, error) {
	return toFile(to, func(begin func(int64) (io.Writer, error)) error { return v.Snapshot(ctx, begin) })
}

func toFile(to string, take func(begin func(size int64) (io.Writer, error)) error) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(to), ".snapshot-*")
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	if err = take(func(n int64) (io.Writer, error) { size = n; return w, nil }); err != nil {
		return 0, err
	}
	if err = errors.Join(w.Flush(), f.Sync()); err != nil {
		return 0, err
	}
	if err = os.Rename(f.Name(), to); err != nil {
		return 0, err
	}
	return size, f.Close()
}
