package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"

	"golang.org/x/sync/errgroup"
)

// copySize is the buffer of copies, in bytes.
const copySize = 512 << 10

// Write writes a bundle with this manifest to w. open is asked once for each
// blob that comes from outside, in the order of the tar; what it returns is
// checked against digest and size while it is copied. The manifest is sorted in
// place. The same manifest always gives the same bytes. On an error, what
// was written is not a bundle. The digest of the bundle is returned.
func Write(w io.Writer, m *Manifest, open func(digest string) (io.ReadCloser, error)) (digest string, size int64, err error) {
	l, err := m.layout()
	if err != nil {
		return "", 0, err
	}
	buf := make([]byte, copySize)
	for _, e := range l.entries {
		n, err := writeEntry(w, e, open, buf)
		if err != nil {
			return "", 0, err
		}
		size += n
	}
	if _, err := w.Write(make([]byte, 2*blockSize)); err != nil {
		return "", 0, err
	}
	return digestOf(l.index), size + 2*blockSize, nil
}

// writers is how many blobs WriteAt copies at once.
const writers = 2

// WriteAt writes what Write writes, several blobs at once: open is called
// concurrently. It ends early when ctx does.
func WriteAt(ctx context.Context, w io.WriterAt, m *Manifest, open func(digest string) (io.ReadCloser, error)) (digest string, size int64, err error) {
	l, err := m.layout()
	if err != nil {
		return "", 0, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for _, e := range l.entries {
		at := size
		size += blockSize + e.size + padding(e.size)
		g.Go(func() error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			_, err := writeEntry(io.NewOffsetWriter(w, at), e, open, make([]byte, min(copySize, e.size+1)))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", 0, err
	}
	if _, err := w.WriteAt(make([]byte, 2*blockSize), size); err != nil {
		return "", 0, err
	}
	return digestOf(l.index), size + 2*blockSize, nil
}

// layout sorts and checks the manifest, and derives the tar from it.
func (m *Manifest) layout() (layout, error) {
	m.Format = FormatVersion
	m.normalise()
	if err := m.validate(); err != nil {
		return layout{}, err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return layout{}, err
	}
	if len(raw) > MaxManifestSize {
		return layout{}, fmt.Errorf("bundle manifest of %d bytes is too large", len(raw))
	}
	return newLayout(m, raw)
}

func writeEntry(w io.Writer, e entry, open func(string) (io.ReadCloser, error), buf []byte) (int64, error) {
	head, err := header(e.name, e.size)
	if err != nil {
		return 0, err
	}
	if _, err := w.Write(head); err != nil {
		return 0, err
	}
	if e.inline != nil {
		_, err = w.Write(e.inline)
	} else {
		err = copyBlob(w, e, open, buf)
	}
	if err != nil {
		return 0, err
	}
	_, err = w.Write(make([]byte, padding(e.size)))
	return blockSize + e.size + padding(e.size), err
}

// BlobError is a blob that, while a bundle was written, turned out not to have
// the content that its digest says.
type BlobError struct {
	Digest string
	Got    string // digest of what came instead; "" when the size was wrong
}

// Error names both digests.
func (e *BlobError) Error() string {
	if e.Got == "" {
		return fmt.Sprintf("content of %s has another size than expected", e.Digest)
	}
	return fmt.Sprintf("content of %s has digest %s", e.Digest, e.Got)
}

func copyBlob(w io.Writer, e entry, open func(string) (io.ReadCloser, error), buf []byte) (err error) {
	r, err := open(e.digest)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := r.Close(); err == nil {
			err = cerr
		}
	}()
	h := sha256.New()
	n, err := io.CopyBuffer(hashingWriter{w, h}, io.LimitReader(r, e.size+1), buf)
	if err != nil {
		return fmt.Errorf("copy %s: %w", e.digest, err)
	}
	if n != e.size {
		return &BlobError{Digest: e.digest}
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != e.digest {
		return &BlobError{Digest: e.digest, Got: got}
	}
	return nil
}

// hashingWriter writes and hashes. It hides ReaderFrom of the writer, so that
// copies go through the given buffer.
type hashingWriter struct {
	w io.Writer
	h hash.Hash
}

func (w hashingWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.h.Write(p[:n])
	return n, err
}
