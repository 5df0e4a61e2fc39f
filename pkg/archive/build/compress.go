package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/fetch"
	"github.com/kocli/kocli/pkg/archive/frames"
	"github.com/kocli/kocli/pkg/fault"
)

// minSaved is the part of a file, in per cent, that has to be saved for it to be
// stored compressed.
const minSaved = 5

// compresses reports whether a file is tried. OS packages and charts are
// compressed as upstream made them.
func compresses(k archive.Kind) bool {
	return k == archive.KindBinary || k == archive.KindKocli || k == archive.KindArchive || k == archive.KindFile
}

// compress finds the compressed form of each file, in the cache or by making
// it. The cache remembers it by the digest of the content.
func (b *builder) compress(ctx context.Context, parts []*part) error {
	codec, err := frames.New()
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(frames.Workers())
	seen := map[string][]*archive.Item{}
	for _, p := range parts {
		for i := range p.items {
			it := &p.items[i]
			if compresses(it.Kind) {
				seen[it.Digest] = append(seen[it.Digest], it)
			}
		}
	}
	for _, p := range parts {
		for i := range p.items {
			list := seen[p.items[i].Digest]
			if len(list) == 0 || list[0] != &p.items[i] {
				continue // not a file, or one that came before
			}
			g.Go(func() error {
				z, err := b.compressed(ctx, codec, list[0], p.local)
				if err != nil {
					return fmt.Errorf("compress %s: %w", list[0].Label(), err)
				}
				for _, it := range list {
					it.Size = z.Size
					if z.Stored != nil {
						it.Compress(z.Stored.Digest, z.Stored.Size)
					}
				}
				return nil
			})
		}
	}
	return g.Wait()
}

// compressed returns the compressed form of a file.
func (b *builder) compressed(ctx context.Context, codec *frames.Codec, it *archive.Item, local string) (z fetch.Compressed, err error) {
	cache := b.client.Cache
	known, ok := cache.Compressed(it.Digest)
	if ok || (local != "" && known.Size > 0 && known.Stored == nil) {
		return known, nil
	}
	path := local
	if path == "" {
		path = cache.Path(it.Digest)
	}
	f, err := os.Open(path)
	if err != nil {
		return z, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	r := io.TeeReader(f, io.MultiWriter(sum, counter(func(n int) {
		z.Size += int64(n)
		b.meter.add(StageCompress, it.Label(), int64(n))
	})))
	pr, pw := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { pw.CloseWithError(codec.Write(ctx, pw, r)) })
	digest, size, err := cache.PutFrom(pr)
	err = errors.Join(err, pr.Close())
	wg.Wait()
	if err != nil {
		return z, err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != it.Digest {
		return z, b.damaged(it.Digest, local, got)
	}
	if size > z.Size*(100-minSaved)/100 {
		return z, errors.Join(cache.Remove(digest), cache.KeepCompressed(it.Digest, z))
	}
	z.Stored = &archive.Descriptor{Digest: digest, Size: size}
	return z, cache.KeepCompressed(it.Digest, z)
}

// damaged is the refusal of a file whose content changed, which is dropped from
// the cache.
func (b *builder) damaged(digest, local, got string) error {
	if local != "" {
		return fmt.Errorf("%s changed while it was read", local)
	}
	return errors.Join(fault.New(fault.Bundle, "type the command again: it will be fetched anew",
		fmt.Errorf("cached %s was damaged (its content has digest %s), and is removed", digest, got)), b.client.Cache.Forget(digest))
}

// counter is a writer that counts.
type counter func(n int)

func (c counter) Write(p []byte) (int, error) {
	c(len(p))
	return len(p), nil
}
