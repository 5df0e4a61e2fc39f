// Package delta makes deltas between two bundles, and makes bundles of them.
//
// A delta holds what the base bundle has not: for each blob, the content (of a
// gzip layer: what it unpacks to) in frames, each a patch against a slice of the
// blob that it follows, and the recipe that packs it again to the very same
// bytes. The recipe is tried when the delta is made; a blob that no recipe makes
// is held whole. Frames and slices are small, so that neither side needs more
// memory than a few of them, however large the blobs are; contents are put into
// temporary files without a name beside the output.
//
// Where the base is not a bundle but what a host holds, a Builder makes single
// blobs; Open lets the delta stand for the bundle meanwhile.
//
// The package must not import anything that stands above pkg/archive.
package delta

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/internal/atomicfile"
)

const copySize = 512 << 10 // bytes of the buffer of copies

// scratch is a temporary file that has no name: it is gone with the process.
type scratch struct {
	*os.File
	size  int64
	limit int64 // bytes that it may take
}

func newScratch(dir string) (*scratch, error) {
	f, err := os.CreateTemp(dir, ".kocli-delta-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &scratch{File: f, limit: archive.MaxBlobSize}, nil
}

// fill replaces the content by what r holds.
func (s *scratch) fill(ctx context.Context, r io.Reader) (err error) {
	if err := s.Truncate(0); err != nil {
		return err
	}
	if _, err := s.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s.size, err = io.CopyBuffer(onlyWriter{s.File}, &limited{ctx: ctx, r: r, left: s.limit}, make([]byte, copySize))
	return err
}

// limited reads until ctx ends, and refuses what is longer than left.
type limited struct {
	ctx  context.Context
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.ctx.Err() != nil {
		return 0, context.Cause(l.ctx)
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, ErrTooLarge
	}
	return n, err
}

// ErrTooLarge says that a base unpacks to more than there may be.
var ErrTooLarge = errors.New("the content is larger than it may be")

// content fills s with the content of a blob: unpacked where it is packed in a
// form that is known, otherwise as it is. An error of the blob itself is returned.
func (s *scratch) content(ctx context.Context, open func() (io.ReadCloser, error)) (form string, head gzip.Header, err error) {
	blob, err := open()
	if err != nil {
		return "", head, err
	}
	defer func() { _ = blob.Close() }()
	br := bufio.NewReaderSize(blob, copySize)
	if form = formOf(br); form != "" {
		head, err = s.unpacked(ctx, br, form)
		if err == nil || errors.Is(err, archive.ErrDamaged) || ctx.Err() != nil || s.limit < archive.MaxBlobSize && errors.Is(err, ErrTooLarge) {
			return form, head, err
		}
		// It only begins like one.
		again, err := open()
		if err != nil {
			return "", head, err
		}
		defer func() { _ = again.Close() }()
		br.Reset(again)
	}
	return "", head, s.fill(ctx, br)
}

// unpacked fills s with what r unpacks to, and reads r to its end, where its
// digest is checked.
func (s *scratch) unpacked(ctx context.Context, r io.Reader, form string) (head gzip.Header, err error) {
	z, head, err := unpack(r, form)
	if err != nil {
		return head, err
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	if err := s.fill(ctx, z); err != nil {
		return head, err
	}
	_, err = io.Copy(io.Discard, r)
	return head, err
}

// replace writes a file as atomicfile does, with the errors of kocli.
func replace(op, path string, need int64, write func(*os.File) error) error {
	free, err := atomicfile.Free(filepath.Dir(path))
	if err != nil {
		return &fault.Error{Op: op, Hint: "choose another place with --to", Err: err}
	}
	if free < need {
		return &fault.Error{
			Op: op, Hint: "make room, or choose another place with --to",
			Err: fmt.Errorf("%d MiB are free in %s, %d MiB are needed", free>>20, filepath.Dir(path), need>>20+1),
		}
	}
	err = atomicfile.Replace(path, write)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, atomicfile.ErrBusy):
		return &fault.Error{Op: op, Code: fault.Locked, Hint: "wait until it is done", Err: err}
	}
	return &fault.Error{Op: op, Err: err}
}
