package fetch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/kocli/kocli/pkg/fault"
)

// Cache is a folder of blobs that matched their digest when they were put
// there, and of downloads that are not complete. One process uses it at a time.
type Cache struct {
	dir  string
	lock *os.File
}

// OpenCache opens the cache in dir, which is created where it is missing, and
// locks it until Close. Errors carry fault.Locked when another process has it.
func OpenCache(dir string) (*Cache, error) {
	c := &Cache{dir: dir}
	for _, d := range []string{filepath.Dir(c.Path("sha256:x")), filepath.Dir(c.partial("sha256:x"))} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
	}
	f, err := LockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	c.lock = f
	stale, err := filepath.Glob(filepath.Join(dir, "partial", putPattern))
	for _, name := range stale { // of a build that was killed; nobody else is at work here
		err = errors.Join(err, os.Remove(name))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cache: %w", err), c.Close())
	}
	return c, nil
}

// putPattern names files that are written and have no digest yet.
const putPattern = "put-*"

// DiskError gives an error about a full disk its hint.
func DiskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.New(fault.Failure, "make room, or choose another disk with --cache and --to; what is complete is kept, typing the command again goes on", err)
	}
	return err
}

// LockFile opens a file, which is created where it is missing, and locks it
// until it is closed. Errors carry fault.Locked when another process has it.
func LockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		err = fault.New(fault.Locked, "wait until it is done, or use another --cache and output", fmt.Errorf("%s is in use by another build: %w", path, err))
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close unlocks the cache.
func (c *Cache) Close() error { return c.lock.Close() }

// Path is where a blob is, or would be.
func (c *Cache) Path(digest string) string {
	return filepath.Join(c.dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
}

func (c *Cache) partial(digest string) string {
	return filepath.Join(c.dir, "partial", strings.TrimPrefix(digest, "sha256:"))
}

// Size returns the size of a blob, and whether it is there.
func (c *Cache) Size(digest string) (int64, bool) {
	st, err := os.Stat(c.Path(digest))
	if err != nil || !st.Mode().IsRegular() {
		return 0, false
	}
	return st.Size(), true
}

// Open opens a blob. Its content is not checked again: whoever copies it does.
func (c *Cache) Open(digest string) (*os.File, error) { return os.Open(c.Path(digest)) }

// Read returns a small blob and checks it. A damaged one is removed, so that
// the next attempt fetches it again.
func (c *Cache) Read(digest string, limit int64) ([]byte, error) {
	f, err := c.Open(digest)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); "sha256:"+hex.EncodeToString(sum[:]) != digest {
		return nil, errors.Join(fmt.Errorf("cached %s was damaged, and is removed", digest), c.Remove(digest))
	}
	return data, nil
}

// Remove drops a blob.
func (c *Cache) Remove(digest string) error { return os.Remove(c.Path(digest)) }

// Put stores small content and returns its digest.
func (c *Cache) Put(data []byte) (string, error) {
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	if _, ok := c.Size(digest); ok {
		return digest, nil
	}
	f, err := os.OpenFile(c.partial(digest), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, bytes.NewReader(data))
	if err != nil {
		return "", errors.Join(DiskError(err), f.Close())
	}
	return digest, c.keep(f, digest)
}

// PutFrom stores what r holds and returns its digest and size. It does not wait
// for the disk: what a power cut takes is made again from what was downloaded,
// or noticed by its digest.
func (c *Cache) PutFrom(r io.Reader) (digest string, size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(c.partial("sha256:x")), putPattern)
	if err != nil {
		return "", 0, err
	}
	h := sha256.New()
	size, err = io.Copy(io.MultiWriter(f, h), r)
	digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	if err != nil || c.Has(digest) {
		return digest, size, errors.Join(DiskError(err), f.Close(), os.Remove(f.Name()))
	}
	if err := f.Close(); err != nil {
		return "", 0, errors.Join(DiskError(err), os.Remove(f.Name()))
	}
	return digest, size, os.Rename(f.Name(), c.Path(digest))
}

// keep makes a complete download a blob. It closes the file.
func (c *Cache) keep(f *os.File, digest string) error {
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return DiskError(err)
	}
	return os.Rename(c.partial(digest), c.Path(digest))
}
