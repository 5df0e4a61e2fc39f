package delta

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// Base is where the blobs are that a delta builds on: a bundle, or what a host
// holds.
type Base interface {
	// Has reports whether a blob is there.
	Has(digest string) bool
	// OpenBlob opens one that is there. Its reader returns io.EOF only after the
	// content matched the digest.
	OpenBlob(digest string) (io.ReadCloser, error)
}

// Builds reports whether a blob can be made of what base has.
func Builds(b archive.DeltaBlob, base Base) bool {
	return b.Base == "" || base.Has(b.Base) || b.BaseContent != "" && base.Has(b.BaseContent)
}

// Builder makes blobs of what a delta stores and a base has. It keeps one
// temporary file without a name and about 80 MB of memory.
type Builder struct {
	base   Base
	stored func(digest string) (io.ReadCloser, error)
	dec    *decoder
	old    *scratch // content of the base blob at hand
}

// NewBuilder returns a builder. stored opens what the delta stores, by its
// digest; dir is the folder of the temporary file, which may take limit bytes.
func NewBuilder(base Base, stored func(digest string) (io.ReadCloser, error), dir string, limit int64) (*Builder, error) {
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	old, err := newScratch(dir)
	if err != nil {
		return nil, err
	}
	old.limit = min(limit, archive.MaxBlobSize)
	return &Builder{base: base, stored: stored, dec: dec, old: old}, nil
}

// Close frees the temporary file.
func (m *Builder) Close() error { return m.old.Close() }

// Open makes a blob. Whoever reads it checks its digest, and never more than its
// size. It has to be closed before the next one.
func (m *Builder) Open(ctx context.Context, b archive.DeltaBlob) (io.ReadCloser, error) {
	if b.Base != "" {
		if err := m.readBase(ctx, b); err != nil {
			return nil, err
		}
	}
	return m.start(b)
}

// start makes a blob whose base has been read.
func (m *Builder) start(b archive.DeltaBlob) (io.ReadCloser, error) {
	if len(b.Frames) == 0 {
		return m.stored(b.Digest)
	}
	stored, err := m.stored(b.Stored.Digest)
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	p := &pipe{PipeReader: r, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		err := m.rebuild(w, stored, b)
		_ = stored.Close()
		_ = w.CloseWithError(err) // nil is io.EOF to the reader
	}()
	return p, nil
}

// readBase fills the temporary file with the content of the base.
func (m *Builder) readBase(ctx context.Context, b archive.DeltaBlob) error {
	if !m.base.Has(b.Base) && b.BaseContent != "" {
		r, err := m.base.OpenBlob(b.BaseContent)
		if err != nil {
			return fmt.Errorf("base: %w", err)
		}
		if err := errors.Join(m.old.fill(ctx, r), r.Close()); err != nil {
			return fmt.Errorf("base: %w", err)
		}
		return nil
	}
	form, _, err := m.old.content(ctx, func() (io.ReadCloser, error) { return m.base.OpenBlob(b.Base) })
	if err != nil {
		return fmt.Errorf("base: %w", err)
	}
	if form != b.BaseForm {
		return damaged(fmt.Errorf("%s is packed as %q, the delta says %q", b.Base, form, b.BaseForm))
	}
	return nil
}

// rebuild writes a blob.
func (m *Builder) rebuild(w io.Writer, stored io.Reader, b archive.DeltaBlob) error {
	if b.Recipe == nil {
		return m.dec.decode(w, stored, b.Frames, m.old)
	}
	z, err := packer(w, b.Recipe)
	if err != nil {
		return fault.New(fault.Bundle, "use the kocli that made the delta", err)
	}
	if err := m.dec.decode(z, stored, b.Frames, m.old); err != nil {
		return err
	}
	return z.Close()
}

// pipe ends its writer when it is closed.
type pipe struct {
	*io.PipeReader
	done chan struct{}
}

// Close waits for the writer: its files are free then.
func (p *pipe) Close() error {
	err := p.PipeReader.Close()
	<-p.done
	return err
}

// Damaged reports whether what the delta stores is not what it says.
func Damaged(err error) bool {
	return errors.Is(err, errFrame) || errors.Is(err, errPatch) || errors.Is(err, io.ErrUnexpectedEOF)
}
