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
	"github.com/kocli/kocli/pkg/archive/fetch"
	"github.com/kocli/kocli/pkg/fault"
)

// Bounds of upstream's tarballs when they are unpacked: bytes, and bytes for each
// byte of the tarball. The largest known has 200 MB, and shrinks to a third.
const (
	maxUnpacked = 4 << 30
	maxRatio    = 50
	minUnpacked = 16 << 20 // never less than this
)

// budget is a reader that fails where more comes than anybody can mean.
type budget struct {
	r    io.Reader
	left int64
}

func (b *budget) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errors.New("it unpacks to more than a tarball of its size holds: it is damaged, or made to fill the disk")
	}
	return n, err
}

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

// members are the programs of a tarball.
func (b *builder) members(ctx context.Context, it archive.Item) (out []archive.Item, err error) {
	list, ok := b.client.Cache.Members(it.Digest)
	if !ok {
		if list, err = b.unpack(ctx, it); err != nil {
			return nil, err
		}
		if err := b.client.Cache.KeepMembers(it.Digest, list); err != nil {
			return nil, err
		}
	}
	for _, x := range list {
		m := it
		m.Kind, m.Name, m.File, m.Digest, m.Size, m.SourceDigest = archive.KindBinary, x.Name, x.Name, x.Digest, x.Size, it.Digest
		out = append(out, m)
	}
	return out, nil
}

// unpack puts the programs of a tarball into the cache.
func (b *builder) unpack(ctx context.Context, it archive.Item) (out []fetch.Member, err error) {
	f, err := b.client.Cache.Open(it.Digest)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	sum := sha256.New() // the cache is checked when it is read, like every other blob
	tee := io.TeeReader(f, sum)
	z, err := gzip.NewReader(tee)
	if err != nil {
		return nil, err
	}
	bounded := &budget{r: z, left: min(maxUnpacked, max(minUnpacked, st.Size()*maxRatio))}
	for t := tar.NewReader(bounded); ; {
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
		digest, size, err := b.client.Cache.PutFrom(t)
		if err != nil {
			return nil, err
		}
		out = append(out, fetch.Member{Name: name, Digest: digest, Size: size})
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return nil, err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != it.Digest {
		return nil, errors.Join(fault.New(fault.Bundle, "type the command again: it will be fetched anew",
			fmt.Errorf("cached %s was damaged, and is removed", it.Digest)), b.client.Cache.Forget(it.Digest))
	}
	if len(out) == 0 {
		return nil, errors.New("there is no program in it")
	}
	return out, nil
}
