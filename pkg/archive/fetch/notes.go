package fetch

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/frames"
)

// What was made out of a blob is noted under the blob's digest: its compressed
// form, or the programs in a tarball. The blob itself is not needed any more
// then, and is dropped: the cache holds about what the bundle does.

// Compressed is the compressed form of a blob.
type Compressed struct {
	Size   int64               `json:"size"`             // of the content
	Stored *archive.Descriptor `json:"stored,omitempty"` // nil: it does not shrink
}

// Member is a program of a tarball.
type Member struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// Kinds of notes. Each is a folder; what depends on how a thing was made has
// that in its name.
const (
	noteCompressed = "zstd-" + frames.Form
	noteMembers    = "programs-v1"
	noteLayer      = "layer-zstd-" + frames.Form
)

func (c *Cache) note(kind, digest string) string {
	return filepath.Join(c.dir, "notes", kind, strings.TrimPrefix(digest, "sha256:"))
}

func (c *Cache) writeNote(kind, digest string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	path := c.note(kind, digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return DiskError(renameio.WriteFile(path, data, 0o644))
}

// readNote reports whether there is a note that can be read.
func (c *Cache) readNote(kind, digest string, v any) bool {
	if !archive.ValidDigest(digest) {
		return false
	}
	data, err := os.ReadFile(c.note(kind, digest))
	return err == nil && json.Unmarshal(data, v) == nil
}

// Compressed returns what is noted of a blob's compressed form. ok is false
// when nothing is, or when the blob that it tells of is gone.
func (c *Cache) Compressed(digest string) (z Compressed, ok bool) {
	if !c.readNote(noteCompressed, digest, &z) {
		return Compressed{}, false
	}
	have := digest
	if z.Stored != nil {
		have = z.Stored.Digest
	}
	_, ok = c.Size(have)
	return z, ok
}

// KeepCompressed notes the compressed form of a blob, and drops the blob where
// that form takes its place, unless it is needed as it is.
func (c *Cache) KeepCompressed(digest string, z Compressed, asItIs bool) error {
	if err := c.writeNote(noteCompressed, digest, z); err != nil || z.Stored == nil || asItIs {
		return err
	}
	return c.drop(digest)
}

// Members returns the programs that are noted of a tarball. ok is false when
// nothing is, or when one of them is gone.
func (c *Cache) Members(digest string) (list []Member, ok bool) {
	if !c.readNote(noteMembers, digest, &list) || len(list) == 0 {
		return nil, false
	}
	for _, m := range list {
		if !c.Has(m.Digest) {
			return nil, false
		}
	}
	return list, true
}

// KeepMembers notes the programs of a tarball, and drops the tarball.
func (c *Cache) KeepMembers(digest string, list []Member) error {
	if err := c.writeNote(noteMembers, digest, list); err != nil {
		return err
	}
	return c.drop(digest)
}

// Layer returns what is noted of the form in zstd of a layer that is stored in
// gzip. ok is false when nothing is, or when the blob that it tells of is gone.
func (c *Cache) Layer(digest string) (z Compressed, ok bool) {
	if !c.readNote(noteLayer, digest, &z) {
		return Compressed{}, false
	}
	if z.Stored == nil {
		return z, true
	}
	_, ok = c.Size(z.Stored.Digest)
	return z, ok
}

// KeepLayer notes the form in zstd of a layer. The layer stays: whether an image
// is as published can be seen without asking anybody.
func (c *Cache) KeepLayer(digest string, z Compressed) error {
	return c.writeNote(noteLayer, digest, z)
}

// Has reports whether the cache has the content of a blob, in either form.
func (c *Cache) Has(digest string) bool {
	if _, ok := c.Size(digest); ok {
		return true
	}
	_, ok := c.Compressed(digest)
	return ok
}

// Forget drops a blob that is damaged and every note of it.
func (c *Cache) Forget(digest string) error {
	var err error
	for _, path := range []string{c.note(noteCompressed, digest), c.note(noteMembers, digest), c.note(noteLayer, digest), c.Path(digest)} {
		if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("cache: %w", rerr))
		}
	}
	return err
}

func (c *Cache) drop(digest string) error {
	if err := os.Remove(c.Path(digest)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
