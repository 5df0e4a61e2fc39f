package delta

import (
	"errors"
	"fmt"
	"io"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// Open opens a bundle, or a delta as the bundle that it leads to: that knows all
// items, and has the bytes of what the delta holds whole. Where there are keys,
// one of them has to have signed the bundle. The caller closes it.
func Open(path string, keys []archive.PublicKey) (*archive.Bundle, error) {
	b, err := archive.OpenSigned(path, keys)
	if !errors.Is(err, archive.ErrDelta) {
		return b, err
	}
	d, err := archive.OpenDelta(path)
	if err != nil {
		return nil, err
	}
	b, err = target(d)
	if err == nil && len(keys) > 0 {
		err = b.VerifySignature(keys...)
	}
	if err != nil {
		return nil, errors.Join(&fault.Error{Op: "open delta " + path, Err: err}, d.Close())
	}
	return b, nil
}

// target is the bundle that a delta leads to.
func target(d *archive.Delta) (*archive.Bundle, error) {
	doc := d.Manifest()
	for _, b := range doc.Blobs {
		if b.Digest == doc.Manifest {
			dec, err := newDecoder()
			if err != nil {
				return nil, err
			}
			m, err := manifestOf(&Builder{stored: d.OpenBlob, dec: dec}, b)
			if err != nil {
				return nil, err
			}
			return d.Target(*m)
		}
	}
	return nil, errNoManifest()
}

func errNoManifest() error { return damaged(errors.New("the delta has no bundle manifest")) }

// manifestOf makes the bundle manifest of the target. It needs no base.
func manifestOf(m *Builder, b archive.DeltaBlob) (*archive.Manifest, error) {
	if b.Size > archive.MaxManifestSize || b.Base != "" {
		return nil, errNoManifest()
	}
	r, err := m.start(b)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(r, archive.MaxManifestSize))
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, damaged(err)
	}
	if got := digestOf(raw); got != b.Digest {
		return nil, damaged(fmt.Errorf("the bundle manifest has digest %s, should be %s", got, b.Digest))
	}
	out, err := archive.DecodeManifest(raw)
	if err != nil {
		return nil, damaged(err)
	}
	return &out, nil
}
