package build

import (
	"errors"
	"fmt"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/fetch"
)

// openBase opens the older bundle that content is taken from.
func (b *builder) openBase() error {
	if b.opts.Base == "" {
		return nil
	}
	var err error
	if b.base, err = archive.Open(b.opts.Base); err != nil {
		return err
	}
	b.programs = map[string][]archive.Item{}
	m := b.base.Manifest()
	for _, it := range m.Items {
		if it.Kind == archive.KindBinary && it.SourceDigest != "" {
			b.programs[it.SourceDigest] = append(b.programs[it.SourceDigest], it)
		}
	}
	return nil
}

// fromBase brings into the cache what the base has of a digest: the content
// itself, or of a tarball its programs. Content is held against its digest on
// the way; what the base lacks, or has damaged, is downloaded like everything
// else. How it is compressed is decided anew, so that the bytes of the bundle do
// not depend on the kocli that built the base.
func (b *builder) fromBase(digest string, tarball bool) bool {
	if b.base == nil {
		return false
	}
	_, err, _ := b.flight.Do("base "+digest, func() (any, error) {
		if !tarball {
			return nil, b.takeFromBase(digest)
		}
		if len(b.programs[digest]) == 0 {
			return nil, errNotInBase
		}
		var list []fetch.Member
		for _, it := range b.programs[digest] {
			if err := b.takeFromBase(it.Digest); err != nil {
				return nil, err
			}
			list = append(list, fetch.Member{Name: it.Name, Digest: it.Digest, Size: it.Size})
		}
		return nil, b.client.Cache.KeepMembers(digest, list)
	})
	return err == nil
}

var errNotInBase = errors.New("not in the base")

func (b *builder) takeFromBase(digest string) error {
	if b.client.Cache.Has(digest) {
		return nil
	}
	r, err := b.base.OpenBlob(digest)
	if err != nil {
		return errors.Join(errNotInBase, err)
	}
	got, _, err := b.client.Cache.PutFrom(r)
	if err = errors.Join(err, r.Close()); err == nil && got != digest {
		err = fmt.Errorf("the base has %s in place of %s", got, digest)
	}
	return err
}
