package etcd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Here returns nil when the member of the view's own node answers and knows a leader.
func (v *View) Here(ctx context.Context) error {
	return v.status(ctx, "https://"+net.JoinHostPort("127.0.0.1", Port))
}

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
	conf, err := c.config()
	if err != nil {
		return nil, err
	}
	return &View{node: "this host", tls: conf, dial: (&net.Dialer{}).DialContext}, nil
}

// Snapshot writes the data of the view's own member to a file with mode 0600, as it is
// at one moment, and holds it against the digest that etcd sends behind it. The file
// has its name only when all of it is on the disk. It returns the size, in bytes.
func (v *View) Snapshot(ctx context.Context, to string) (int64, error) {
	c, err := v.client("https://" + net.JoinHostPort("127.0.0.1", Port))
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }() // nothing is pending
	return snapshot(ctx, c, to)
}

func snapshot(ctx context.Context, c clientv3.Maintenance, to string) (size int64, err error) {
	r, err := c.Snapshot(ctx)
	if err != nil {
		return 0, fmt.Errorf("snapshot of etcd: %w", err)
	}
	defer func() { _ = r.Close() }() // only read
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
	if size, err = copyChecked(w, r); err != nil {
		return 0, fmt.Errorf("snapshot of etcd: %w", err)
	}
	if err = errors.Join(w.Flush(), f.Sync()); err != nil {
		return 0, err
	}
	if err = os.Rename(f.Name(), to); err != nil {
		return 0, err
	}
	return size, f.Close()
}

// page is what the size of etcd's data is a multiple of, in bytes.
const page = 512

var errDamaged = errors.New("what arrived is not what etcd sent: its digest differs")

// copyChecked copies a snapshot, digest and all, and verifies it.
func copyChecked(w io.Writer, r io.Reader) (int64, error) {
	h := sha256.New()
	var size int64
	held := make([]byte, 0, sha256.Size) // the last bytes so far: the digest, in the end
	buf := make([]byte, 1<<20)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return 0, err
			}
			size += int64(n)
			held = append(held, buf[:n]...)
			if extra := len(held) - sha256.Size; extra > 0 {
				h.Write(held[:extra])
				held = append(held[:0], held[extra:]...)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
	}
	if size%page != sha256.Size || !bytes.Equal(h.Sum(nil), held) {
		return 0, errDamaged
	}
	return size, nil
}
