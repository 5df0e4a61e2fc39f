package delta

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// Options are what Make and Apply need.
type Options struct {
	Base    string                  // the bundle that the other side has
	Input   string                  // of Make the new bundle, of Apply the delta
	Output  string                  // the file to write
	Version string                  // of kocli
	Each    func(done, total int64) // told the bytes done of the total; may be nil
}

// Report is what came of Make.
type Report struct {
	Output   string       `json:"output"`
	Size     int64        `json:"size"` // bytes of the delta
	Base     archive.Side `json:"base"`
	Target   archive.Side `json:"target"`
	NewBytes int64        `json:"newBytes"` // of the blobs that the base has not
	Patched  int          `json:"patched"`  // blobs that are patches against the base
	Packed   int          `json:"packed"`   // blobs without a predecessor, compressed
	Whole    int          `json:"whole"`    // blobs that nothing made smaller
}

// Make writes the delta that makes the bundle o.Input of the bundle o.Base. All
// that it reads is checked against its digest, and every recipe is tried. The
// file appears when it is whole.
func Make(ctx context.Context, o Options) (*Report, error) {
	base, err := archive.Open(o.Base)
	if err != nil {
		return nil, err
	}
	defer func() { _ = base.Close() }()
	target, err := archive.Open(o.Input)
	if err != nil {
		return nil, err
	}
	defer func() { _ = target.Close() }()
	r := &Report{Output: o.Output, Base: base.Side(), Target: target.Side()}
	err = replace("make delta", o.Output, 0, func(f *os.File) error {
		m := &maker{
			ctx: ctx, o: o, r: r, base: base, target: target, older: archive.Predecessors(base, target), held: map[string]section{}, files: map[string]string{},
		}
		for _, it := range base.Manifest().Items {
			if it.Stored != nil {
				m.files[it.Stored.Digest] = it.Digest
			}
		}
		err := m.open()
		if err == nil {
			err = m.write(f)
		}
		return errors.Join(err, m.close())
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// section is where something stands in the scratch file of patches.
type section struct{ offset, size int64 }

// maker makes one delta.
type maker struct {
	ctx          context.Context
	o            Options
	r            *Report
	base, target *archive.Bundle
	older        map[string]string
	files        map[string]string // digests of the base's files, by the blobs that hold them compressed
	enc          *encoder
	content      *scratch // of the blob at hand
	old          *scratch // content of its predecessor
	patches      *scratch
	held         map[string]section // patches by digest
	done, total  int64
}

func (m *maker) open() (err error) {
	if m.enc, err = newEncoder(frameSize, slack); err != nil {
		return err
	}
	for _, s := range []**scratch{&m.content, &m.old, &m.patches} {
		if *s, err = newScratch(filepath.Dir(m.o.Output)); err != nil {
			return err
		}
	}
	return nil
}

func (m *maker) close() error {
	var errs []error
	for _, s := range []*scratch{m.content, m.old, m.patches} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

func (m *maker) write(f *os.File) error {
	manifest := m.target.Manifest()
	raw, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	if digestOf(raw) != m.target.ManifestDigest() {
		return fault.New(fault.Bundle, "build it again with this kocli", fmt.Errorf("%s has a manifest that this kocli would write in another way", m.o.Input))
	}
	fresh := []archive.Descriptor{{Digest: digestOf(raw), Size: int64(len(raw))}}
	for _, d := range manifest.Contents() {
		if !m.base.Has(d.Digest) {
			fresh = append(fresh, d)
		}
	}
	for _, d := range fresh {
		m.total += d.Size
	}
	doc := &archive.DeltaManifest{
		BuiltBy: m.o.Version, Base: m.r.Base, Target: m.r.Target, Manifest: digestOf(raw), Signatures: m.target.Signatures(),
	}
	for _, d := range fresh {
		b, err := m.blob(d)
		if err != nil {
			return fmt.Errorf("%s: %w", d.Digest, err)
		}
		doc.Blobs = append(doc.Blobs, b)
		m.count(b)
		m.done += d.Size
		if m.o.Each != nil {
			m.o.Each(m.done, m.total)
		}
	}
	m.r.NewBytes = m.total
	m.r.Size, err = archive.WriteDelta(f, doc, func(digest string) (io.ReadCloser, error) {
		if s, ok := m.held[digest]; ok {
			return io.NopCloser(io.NewSectionReader(m.patches, s.offset, s.size)), nil
		}
		return m.target.OpenBlob(digest)
	})
	if err != nil {
		return err
	}
	check, err := archive.NewDeltaReader(f, m.r.Size)
	if err != nil {
		return err
	}
	return check.Close()
}

func (m *maker) count(b archive.DeltaBlob) {
	switch {
	case len(b.Frames) == 0:
		m.r.Whole++
	case b.Base != "":
		m.r.Patched++
	default:
		m.r.Packed++
	}
}

// blob makes the smallest form of one blob of the target.
func (m *maker) blob(d archive.Descriptor) (archive.DeltaBlob, error) {
	d.MediaType = ""
	whole := archive.DeltaBlob{Digest: d.Digest, Size: d.Size, Stored: d}
	open := func() (io.ReadCloser, error) { return m.target.OpenBlob(d.Digest) }
	form, head, err := m.content.content(m.ctx, open)
	if err != nil {
		return whole, err
	}
	out := archive.DeltaBlob{Digest: d.Digest, Size: d.Size}
	if form != "" {
		if out.Recipe, err = findRecipe(form, head, m.content, m.content.size, open); err != nil || out.Recipe == nil {
			return whole, err
		}
	}
	var old *scratch
	if older, ok := m.older[d.Digest]; ok {
		out.BaseForm, _, err = m.old.content(m.ctx, func() (io.ReadCloser, error) { return m.base.OpenBlob(older) })
		if err != nil {
			return whole, err
		}
		out.Base, old = older, m.old
		if out.BaseForm != "" {
			out.BaseContent = m.files[older]
		}
	}
	if _, err := m.patches.Seek(m.patches.size, io.SeekStart); err != nil {
		return whole, err
	}
	h := sha256.New()
	if out.Frames, err = m.enc.encode(io.MultiWriter(m.patches, h), m.content, old); err != nil {
		return whole, err
	}
	out.Stored.Digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	used := false
	for _, f := range out.Frames {
		out.Stored.Size += f.Size
		used = used || f.Dict > 0
	}
	if !used {
		out.Base, out.BaseForm, out.BaseContent = "", "", ""
	}
	if out.Stored.Size >= d.Size {
		return whole, nil
	}
	m.held[out.Stored.Digest] = section{m.patches.size, out.Stored.Size}
	m.patches.size += out.Stored.Size
	return out, nil
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
