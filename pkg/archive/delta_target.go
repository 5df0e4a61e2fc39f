package archive

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kocli/kocli/pkg/fault"
)

// A delta has the whole manifest of its target, which names every digest. It can
// therefore stand for the target wherever somebody else has the rest: a Bundle
// that knows all items, and has the bytes of some.

// Target returns the bundle that d leads to. m is its manifest, out of the
// delta; the digest that the delta names is proved. Blobs that the delta holds
// whole can be read, and those that it holds as patches are told by Patched. d
// is closed with it.
func (d *Delta) Target(m Manifest) (*Bundle, error) {
	doc := &d.manifest
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	want, err := newLayout(&m, raw)
	if err != nil {
		return nil, DamagedDelta("", err)
	}
	if digestOf(raw) != doc.Manifest || digestOf(want.index) != doc.Target.Digest {
		return nil, DamagedDelta("", fmt.Errorf("its bundle manifest is of a bundle with digest %s, not %s", digestOf(want.index), doc.Target.Digest))
	}
	b := newBundle(d.b.r, d.b.size)
	b.close, b.manifest, b.index, b.blobs, b.order, b.signatures = d.b.close, m, want.index, d.b.blobs, d.b.order, doc.Signatures
	b.delta = doc
	b.patched = map[string]DeltaBlob{}
	for _, p := range doc.Blobs {
		if len(p.Frames) > 0 {
			b.patched[p.Digest] = p
		}
	}
	for _, it := range m.Items {
		if it.Stored != nil {
			b.stored[it.Digest] = it
		}
	}
	return b, nil
}

// Delta returns the document of the delta that stands for this bundle, and false
// of a bundle that is whole.
func (b *Bundle) Delta() (DeltaManifest, bool) {
	if b.delta == nil {
		return DeltaManifest{}, false
	}
	return *b.delta, true
}

// Patched returns how a blob is made that the bundle does not hold as it is; false
// where it does, or knows nothing of it.
func (b *Bundle) Patched(digest string) (DeltaBlob, bool) {
	p, ok := b.patched[digest]
	return p, ok
}

// errNotWhole is in the chain of the error when bytes are asked for that the
// delta, which stands for the bundle, does not have.
var errNotWhole = errors.New("the delta does not hold it whole")

// notWhole is the error of bytes that are not there.
func notWhole(digest string) error {
	return &fault.Error{
		Op: "open blob", Code: fault.Bundle, Err: fmt.Errorf("%s: %w, and it is not in the content store of the host", digest, errNotWhole),
		Hint: "leave out --only and --skip, so that the host makes it of what it has; or use the whole bundle: kocli bundle apply --base OLD.tar DELTA.tar --to NEW.tar",
	}
}
