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
				z, err := b.compressed(ctx, list[0], p.local)
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

// shrink makes what is to be made of a part as soon as it was downloaded: while
// others are, and so that the disk need not hold all of them as they came. The
// cache remembers it.
func (b *builder) shrink(ctx context.Context, p *part) error {
	for i := range p.items {
		list := []archive.Item{p.items[i]}
		if p.items[i].Kind == archive.KindArchive {
			var err error
			if list, err = b.members(ctx, p.items[i]); err != nil {
				return fmt.Errorf("unpack %s: %w", p.items[i].File, err)
			}
		}
		for j := range list {
			if !compresses(list[j].Kind) {
				continue
			}
			if _, err := b.compressed(ctx, &list[j], ""); err != nil {
				return fmt.Errorf("compress %s: %w", list[j].Label(), err)
			}
		}
	}
	return nil
}

// compressed returns the compressed form of a file.
func (b *builder) compressed(ctx context.Context, it *archive.Item, local string) (fetch.Compressed, error) {
	v, err, _ := b.flight.Do(it.Digest, func() (any, error) {
		known, ok := b.client.Cache.Compressed(it.Digest)
		if ok || (local != "" && known.Size > 0 && known.Stored == nil) {
			return known, nil
		}
		b.slots <- struct{}{}
		defer func() { <-b.slots }()
		return b.makeCompressed(ctx, it, local)
	})
	z, _ := v.(fetch.Compressed)
	return z, err
}

func (b *builder) makeCompressed(ctx context.Context, it *archive.Item, local string) (z fetch.Compressed, err error) {
	cache := b.client.Cache
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
	wg.Go(func() { pw.CloseWithError(b.codec.Write(ctx, pw, r)) })
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
		return z, errors.Join(cache.Remove(digest), cache.KeepCompressed(it.Digest, z, b.asItIs[it.Digest]))
	}
	z.Stored = &archive.Descriptor{Digest: digest, Size: size}
	return z, cache.KeepCompressed(it.Digest, z, b.asItIs[it.Digest])
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
