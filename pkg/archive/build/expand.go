package build

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// maxMember bounds one file of upstream's tarballs; the largest known has 60 MB.
const maxMember = 1 << 30

// expand replaces upstream's tarballs by the programs in them, each a blob of
// its own: hosts then need nothing unpacked, a program that did not change
// between two versions is not sent again, and its digest can be checked where
// it is installed. The lock keeps the digest of the tarball, which is what
// upstream publishes.
func (b *builder) expand(ctx context.Context, parts []*part) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for _, p := range parts {
		g.Go(func() error {
			var items []archive.Item
			for _, it := range p.items {
				if it.Kind != archive.KindArchive {
					items = append(items, it)
					continue
				}
				members, err := b.members(ctx, it)
				if err != nil {
					return fmt.Errorf("unpack %s: %w", it.File, err)
				}
				items = append(items, members...)
			}
			p.items = items
			return nil
		})
	}
	return g.Wait()
}

// members puts the programs of a tarball into the cache.
func (b *builder) members(ctx context.Context, it archive.Item) (out []archive.Item, err error) {
	f, err := b.client.Cache.Open(it.Digest)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New() // the cache is checked when it is read, like every other blob
	tee := io.TeeReader(f, sum)
	z, err := gzip.NewReader(tee)
	if err != nil {
		return nil, err
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := path.Base(path.Clean("/" + h.Name))
		if h.Typeflag != tar.TypeReg || h.Mode&0o111 == 0 || strings.HasPrefix(name, ".") {
			continue // folders, licences, readmes
		}
		if h.Size > maxMember {
			return nil, fmt.Errorf("%s has %d bytes", h.Name, h.Size)
		}
		digest, err := b.client.Cache.PutFrom(io.LimitReader(t, h.Size))
		if err != nil {
			return nil, err
		}
		m := it
		m.Kind, m.Name, m.File, m.Digest, m.Size, m.SourceDigest = archive.KindBinary, name, name, digest, h.Size, it.Digest
		out = append(out, m)
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return nil, err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != it.Digest {
		return nil, errors.Join(fault.New(fault.Bundle, "type the command again: it will be fetched anew",
			fmt.Errorf("cached %s was damaged, and is removed", it.Digest)), b.client.Cache.Remove(it.Digest))
	}
	if len(out) == 0 {
		return nil, errors.New("there is no program in it")
	}
	return out, nil
}
