package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// sender sends a snapshot.
type sender struct {
	clientv3.Maintenance
	data io.Reader
}

func (s sender) Snapshot(context.Context) (io.ReadCloser, error) { return io.NopCloser(s.data), nil }

// sent is a snapshot as etcd sends it: whole pages, and their digest.
func sent(pages int) []byte {
	data := bytes.Repeat([]byte{7}, pages*page)
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

func TestSnapshot_isThereOnlyWhenAllOfItIs(t *testing.T) {
	good := sent(5000)
	flipped := bytes.Clone(good)
	flipped[100]++
	for name, c := range map[string]struct {
		from io.Reader
		ok   bool
	}{
		"whole":                {bytes.NewReader(good), true},
		"in small pieces":      {iotest.OneByteReader(bytes.NewReader(sent(2))), true},
		"in halves":            {iotest.HalfReader(bytes.NewReader(good)), true},
		"a byte is another":    {bytes.NewReader(flipped), false},
		"cut in a page":        {bytes.NewReader(good[:len(good)-100]), false},
		"cut before a page":    {bytes.NewReader(good[:len(good)-page]), false},
		"nothing":              {bytes.NewReader(nil), false},
		"the connection fails": {io.MultiReader(bytes.NewReader(good[:9000]), iotest.ErrReader(errors.New("reset"))), false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			to := filepath.Join(dir, "etcd.db")
			_, err := snapshot(t.Context(), sender{data: c.from}, to)
			if (err == nil) != c.ok {
				t.Errorf("%v", err)
			}
			left, _ := os.ReadDir(dir)
			info, serr := os.Stat(to)
			if c.ok && (serr != nil || info.Mode().Perm() != 0o600 || len(left) != 1) || !c.ok && len(left) != 0 {
				t.Errorf("%v, %v, %v", info, serr, left)
			}
		})
	}
}
