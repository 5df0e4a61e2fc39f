package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// maxDocument is the largest manifest or other small entry, and maxSmall what all of
// them have together, in bytes: they are read before the signature was.
const (
	maxDocument = 16 << 20
	maxSmall    = 64 << 20
)

// Contents is an archive that was read to its end and found to be what its
// manifest says.
type Contents struct {
	Manifest
	Signer archive.PublicKey
	// Small are the entries but for the snapshot, by name.
	Small map[string][]byte
}

// File returns a file of the control plane that the backup was made of.
func (c *Contents) File(path string) ([]byte, bool) {
	data, ok := c.Small[FilesPrefix+path]
	return data, ok
}

// Entry describes an entry of the archive.
func (c *Contents) Entry(name string) (File, bool) {
	i := slices.IndexFunc(c.Files, func(f File) bool { return f.Name == name })
	if i < 0 {
		return File{}, false
	}
	return c.Files[i], true
}

// Read reads an archive to its end: decrypts it, holds every entry against the
// manifest, and the manifest against its signature. The snapshot goes to db, which
// may be nil. An error carries fault.Backup where the archive is not good, and
// fault.BackupKey where it cannot be decrypted with the identities.
func Read(ctx context.Context, r io.Reader, identities []age.Identity, db io.Writer) (*Contents, error) {
	c := &Contents{Small: map[string][]byte{}}
	var seen []File
	if db == nil {
		db = io.Discard
	}
	out := &sink{w: db}
	var small int64
	err := walk(r, identities, func(h *tar.Header, body io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if h.Name == SnapshotEntry {
			n := newCounter(out)
			if _, err := io.Copy(n, body); err != nil {
				return err
			}
			seen = append(seen, File{Name: h.Name, Size: n.n, SHA256: n.sum()})
			return nil
		}
		if small += h.Size; h.Size > maxDocument || small > maxSmall {
			return damaged(fmt.Errorf("up to %s it has %d bytes of configuration, which no cluster has", h.Name, small))
		}
		var b bytes.Buffer
		n := newCounter(&b)
		if _, err := io.Copy(n, body); err != nil {
			return err
		}
		c.Small[h.Name] = b.Bytes()
		seen = append(seen, File{Name: h.Name, Size: n.n, SHA256: n.sum()})
		return c.early(h.Name, len(seen), b.Bytes())
	})
	if out.err != nil {
		return nil, fmt.Errorf("write the snapshot: %w", out.err)
	}
	if err != nil {
		return nil, err
	}
	return c, c.judge(seen)
}

// sink and source keep the error of what is written to and read from: it is none of
// the archive's.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// early refuses what this kocli cannot read, before all of it is read.
func (c *Contents) early(name string, nth int, data []byte) error {
	if nth > 1 {
		return nil
	}
	if name != headerEntry {
		return damaged(fmt.Errorf("its first entry is %q", name))
	}
	var h Header
	if err := json.Unmarshal(data, &h); err != nil {
		return damaged(err)
	}
	return h.check()
}

// judge holds what was read against the manifest.
func (c *Contents) judge(seen []File) error {
	last := len(seen) - 1
	if last < 0 || seen[last].Name != manifestEntry {
		return damaged(errors.New("it has no manifest at its end"))
	}
	var err error
	if c.Signer, err = open(manifestContext, c.Small[manifestEntry], &c.Manifest); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	if len(seen)-1 != len(c.Files) {
		return damaged(fmt.Errorf("it has %d entries, and its manifest names %d", len(seen)-1, len(c.Files)))
	}
	for i, want := range c.Files {
		got := seen[i]
		if got.Name != want.Name || got.Size != want.Size || got.SHA256 != want.SHA256 {
			return damaged(fmt.Errorf("entry %s is not what its manifest says", got.Name))
		}
	}
	if _, ok := c.Entry(SnapshotEntry); !ok {
		return damaged(errors.New("it has no snapshot of etcd"))
	}
	return nil
}

// Snapshot returns the snapshot in an archive that was proved by Read before.
func Snapshot(r io.Reader, identities []age.Identity) io.ReadCloser {
	pr, pw := io.Pipe()
	go func() {
		err := walk(r, identities, func(h *tar.Header, body io.Reader) error {
			if h.Name != SnapshotEntry {
				return nil
			}
			if _, err := io.Copy(pw, body); err != nil {
				return err
			}
			return errDone
		})
		if err == nil {
			err = damaged(errors.New("it has no snapshot of etcd"))
		}
		if errors.Is(err, errDone) {
			err = nil
		}
		pw.CloseWithError(err)
	}()
	return pr
}

var errDone = errors.New("the rest is not needed")

// What an archive begins with.
const (
	ageMagic  = "age-encryption.org/"
	zstdMagic = "\x28\xb5\x2f\xfd"
)

// walk calls each for every entry.
func walk(r io.Reader, identities []age.Identity, each func(*tar.Header, io.Reader) error) error {
	from := &source{r: r}
	err := walkAll(from, identities, each)
	if err != nil && from.err != nil {
		return fmt.Errorf("read the backup: %w", from.err)
	}
	return err
}

func walkAll(r io.Reader, identities []age.Identity, each func(*tar.Header, io.Reader) error) error {
	b := bufio.NewReaderSize(r, 1<<20)
	head, err := b.Peek(len(ageMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	var clear io.Reader
	switch {
	case string(head) == ageMagic:
		if clear, err = decrypt(b, identities); err != nil {
			return err
		}
	case strings.HasPrefix(string(head), zstdMagic):
		clear = b
	default:
		return fault.New(fault.Backup, "name a file that kocli backup create made", errors.New("this is not a backup of kocli's, or its beginning is damaged"))
	}
	z, err := zstd.NewReader(clear, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return damaged(err)
	}
	defer z.Close()
	t := tar.NewReader(z)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			// To the end of the stream: a sealed one proves its end only there.
			if _, err := io.Copy(io.Discard, z); err != nil {
				return cutOrDamaged(err)
			}
			if _, err := io.Copy(io.Discard, clear); err != nil {
				return cutOrDamaged(err)
			}
			return nil
		}
		if err != nil {
			return cutOrDamaged(err)
		}
		if err := each(h, t); err != nil {
			return cutOrDamaged(err)
		}
	}
}

// cutOrDamaged tells an archive that ends too soon from one that was changed.
func cutOrDamaged(err error) error {
	var f *fault.Error
	if errors.As(err, &f) || errors.Is(err, errDone) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged(fmt.Errorf("it is cut short: %w", err))
	}
	return damaged(err)
}

func decrypt(r io.Reader, identities []age.Identity) (io.Reader, error) {
	const hint = "give the file of the private key (AGE-SECRET-KEY-...) that belongs to one of its recipients: --identity FILE"
	if len(identities) == 0 {
		return nil, fault.New(fault.BackupKey, hint, errors.New("the backup is encrypted, and no key was given"))
	}
	out, err := age.Decrypt(r, identities...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, fault.New(fault.BackupKey, hint, errors.New("the backup is encrypted for other keys than the one that was given"))
	}
	if err != nil {
		return nil, damaged(err)
	}
	return out, nil
}
