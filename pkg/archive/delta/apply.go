package delta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// MissingError lists blobs that are neither in the delta nor in the base.
type MissingError struct {
	Blobs []Missing
}

// Missing is a blob that is nowhere.
type Missing struct {
	Digest string   `json:"digest"`
	Items  []string `json:"items"` // labels of the items that need it
}

// Error names each blob with its items.
func (e *MissingError) Error() string {
	var parts []string
	for _, b := range e.Blobs {
		parts = append(parts, fmt.Sprintf("%s of %s", b.Digest, strings.Join(b.Items, ", ")))
	}
	return fmt.Sprintf("%d blobs are neither in the delta nor in the base: %s", len(e.Blobs), strings.Join(parts, "; "))
}

// Apply makes the bundle that the delta o.Input leads to from o.Base, byte for
// byte, with its signatures. Every blob is checked against its digest, and the
// whole against the digest that the delta names. The file appears when it is
// whole. The error for a base that lacks blobs has a *MissingError in its chain.
func Apply(ctx context.Context, o Options) (archive.Side, error) {
	d, err := archive.OpenDelta(o.Input)
	if err != nil {
		return archive.Side{}, err
	}
	defer func() { _ = d.Close() }()
	base, err := archive.Open(o.Base)
	if err != nil {
		return archive.Side{}, err
	}
	defer func() { _ = base.Close() }()
	doc := d.Manifest()
	err = replace("apply delta", o.Output, doc.Target.Size, func(f *os.File) error {
		a := &applier{ctx: ctx, o: o, delta: d, base: base, side: base.Digest(), doc: doc, blobs: map[string]archive.DeltaBlob{}}
		for _, b := range doc.Blobs {
			a.blobs[b.Digest] = b
		}
		err := a.open()
		if err == nil {
			err = a.write(f)
		}
		return errors.Join(err, a.close())
	})
	return doc.Target, err
}

// applier makes one bundle.
type applier struct {
	ctx   context.Context
	o     Options
	delta *archive.Delta
	base  Base
	side  string // digest of the base, for the error
	doc   archive.DeltaManifest
	blobs map[string]archive.DeltaBlob
	build *Builder
	done  int64
}

func (a *applier) open() (err error) {
	a.build, err = NewBuilder(a.base, a.delta.OpenBlob, filepath.Dir(a.o.Output), archive.MaxBlobSize)
	return err
}

func (a *applier) close() error {
	if a.build == nil {
		return nil
	}
	return a.build.Close()
}

func (a *applier) write(f *os.File) error {
	manifest, err := a.manifest()
	if err != nil {
		return err
	}
	if err := a.missing(manifest); err != nil {
		return err
	}
	digest, size, err := archive.Write(&progress{a, f}, manifest, a.blob)
	if err != nil {
		return a.blame(err)
	}
	if len(a.doc.Signatures) > 0 {
		if size, err = archive.AppendSignatures(f, size, a.doc.Signatures); err != nil {
			return err
		}
	}
	if digest != a.doc.Target.Digest || size != a.doc.Target.Size {
		return damaged(fmt.Errorf("what came out has digest %s and %d bytes, it should be %s and %d", digest, size, a.doc.Target.Digest, a.doc.Target.Size))
	}
	check, err := archive.NewReader(f, size)
	if err != nil {
		return err
	}
	return check.Close()
}

// progress writes, reports, and stops when ctx ends.
type progress struct {
	a *applier
	w io.Writer
}

func (p *progress) Write(b []byte) (int, error) {
	if p.a.ctx.Err() != nil {
		return 0, context.Cause(p.a.ctx)
	}
	n, err := p.w.Write(b)
	if p.a.done += int64(n); p.a.o.Each != nil {
		p.a.o.Each(p.a.done, p.a.doc.Target.Size)
	}
	return n, err
}

// manifest makes the bundle manifest of the target.
func (a *applier) manifest() (*archive.Manifest, error) {
	b, ok := a.blobs[a.doc.Manifest]
	if !ok {
		return nil, errNoManifest()
	}
	return manifestOf(a.build, b)
}

// missing refuses a base that lacks what the target needs.
func (a *applier) missing(m *archive.Manifest) error {
	nowhere := map[string]bool{}
	for _, d := range m.Contents() {
		b, ok := a.blobs[d.Digest]
		if !a.base.Has(d.Digest) && (!ok || !Builds(b, a.base)) {
			nowhere[d.Digest] = true
		}
	}
	if len(nowhere) == 0 {
		return nil
	}
	e := &MissingError{}
	for _, d := range m.Contents() {
		if !nowhere[d.Digest] {
			continue
		}
		one := Missing{Digest: d.Digest}
		for _, it := range m.Items {
			if it.Holds(d.Digest) {
				one.Items = append(one.Items, it.Label())
			}
		}
		e.Blobs = append(e.Blobs, one)
	}
	return &fault.Error{
		Code: fault.Bundle, Err: e,
		Hint: fmt.Sprintf("this delta was made from %s with digest %s; --base %s has digest %s", a.doc.Base.Name, a.doc.Base.Digest, a.o.Base, a.side),
	}
}

// blob opens a blob of the target. Whoever reads it checks its digest.
func (a *applier) blob(digest string) (io.ReadCloser, error) {
	b, ok := a.blobs[digest]
	if !ok || a.base.Has(digest) {
		return a.base.OpenBlob(digest)
	}
	return a.build.Open(a.ctx, b)
}

// blame words an error of a blob that came out wrong.
func (a *applier) blame(err error) error {
	var be *archive.BlobError
	switch {
	case errors.As(err, &be) && a.blobs[be.Digest].Recipe != nil:
		return fault.New(fault.Bundle, "apply it with kocli "+a.doc.BuiltBy+", which made the delta and may compress in another way; otherwise copy the delta again", err)
	case errors.As(err, &be), Damaged(err):
		return damaged(err)
	}
	return err
}

// damaged is an error about a delta that cannot be relied on.
func damaged(err error) error { return archive.DamagedDelta("", err) }
