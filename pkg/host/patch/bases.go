package patch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/fanout"
)

// bases are the blobs that a host holds.
type bases struct {
	root  string   // of kocli's content store
	also  []string // folders of others that hold blobs under their digests
	files map[string]string
}

// place is where a blob, or an installed file, stands.
func (b bases) place(digest string) (string, bool) {
	places := []string{fanout.Path(b.root, digest)}
	for _, dir := range b.also {
		places = append(places, filepath.Join(dir, strings.TrimPrefix(digest, "sha256:")))
	}
	if f, ok := b.files[digest]; ok {
		places = append(places, f)
	}
	for _, p := range places {
		if st, err := os.Lstat(p); err == nil && st.Mode().IsRegular() {
			return p, true
		}
	}
	return "", false
}

// Has reports whether a blob is there.
func (b bases) Has(digest string) bool {
	_, ok := b.place(digest)
	return ok
}

// OpenBlob opens a blob. Its reader returns io.EOF only after the content matched
// the digest. One in kocli's own store that does not match leaves it.
func (b bases) OpenBlob(digest string) (io.ReadCloser, error) {
	p, ok := b.place(digest)
	if !ok {
		return nil, fmt.Errorf("%s is not on this host", digest)
	}
	return b.open(p, digest)
}

// stored opens what the delta stores.
func (b bases) stored(digest string) (io.ReadCloser, error) {
	return b.open(fanout.Path(b.root, digest), digest)
}

func (b bases) open(path, digest string) (io.ReadCloser, error) {
	f, err := os.Open(path) //nolint:gosec // names that were checked before
	if err != nil {
		return nil, err
	}
	return &verified{f: f, sum: sha256.New(), want: digest, own: path == fanout.Path(b.root, digest)}, nil
}

// verified is a file that ends only if it is what its digest says.
type verified struct {
	f    *os.File
	sum  hash.Hash
	want string
	own  bool // it is kocli's, and may be removed
}

// Read turns the end of a file that is wrong into an error.
func (v *verified) Read(p []byte) (int, error) {
	n, err := v.f.Read(p)
	v.sum.Write(p[:n])
	if !errors.Is(err, io.EOF) || "sha256:"+hex.EncodeToString(v.sum.Sum(nil)) == v.want {
		return n, err
	}
	if !v.own {
		return n, fault.New(fault.Bundle, "", fmt.Errorf("%w: %s on this host is not what its digest says", archive.ErrDamaged, v.f.Name()))
	}
	return n, errors.Join(fault.New(fault.Bundle, "", fmt.Errorf("%w: %s on this host was not what its digest says, and is removed", archive.ErrDamaged, v.f.Name())), os.Remove(v.f.Name()))
}

// Close closes it.
func (v *verified) Close() error { return v.f.Close() }
