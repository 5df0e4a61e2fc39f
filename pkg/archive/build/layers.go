package build

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/fetch"
	"github.com/kocli/kocli/pkg/archive/frames"
)

// repack gives the images that are referenced by tag layers in zstd, where the
// spec asks for it: smaller, and quicker to unpack. Such an image has another
// manifest than the one that upstream publishes, whose digest is kept beside it;
// what the layers hold, and so the image's configuration, stays the same.
func (b *builder) repack(ctx context.Context, parts []*part) error {
	if b.opts.Spec.Spec.ImageLayers != archive.LayersZstd {
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(frames.Workers())
	for _, p := range parts {
		for i := range p.items {
			it := &p.items[i]
			if it.Kind != archive.KindImage || strings.Contains(it.Name, "@") {
				continue
			}
			g.Go(func() error {
				if err := b.repackImage(gctx, it); err != nil {
					return fmt.Errorf("layers of %s: %w", it.Label(), err)
				}
				return nil
			})
		}
	}
	return g.Wait()
}

func (b *builder) repackImage(ctx context.Context, it *archive.Item) error {
	raw, err := b.client.Cache.Read(it.Digest, it.Blobs[0].Size)
	if err != nil {
		return err
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	changed := false
	for i := range m.Layers {
		l := &m.Layers[i]
		switch l.MediaType {
		case types.OCILayer, types.DockerLayer:
			l.MediaType = types.OCILayer
		case types.OCILayerZStd:
			continue
		default: // what containerd would not fetch, or nobody knows
			return nil
		}
		z, err := b.repacked(ctx, l.Digest.String())
		if err != nil {
			return fmt.Errorf("%s: %w", l.Digest, err)
		}
		if z.Stored == nil {
			continue
		}
		if l.Digest, err = v1.NewHash(z.Stored.Digest); err != nil {
			return err
		}
		l.MediaType, l.Size, changed = types.OCILayerZStd, z.Stored.Size, true
	}
	if !changed {
		return nil
	}
	m.MediaType, m.Config.MediaType = types.OCIManifestSchema1, types.OCIConfigJSON
	if raw, err = json.Marshal(m); err != nil {
		return err
	}
	digest, err := b.client.Cache.Put(raw)
	if err != nil {
		return err
	}
	blobs, err := archive.ImageBlobs(raw, string(m.MediaType))
	if err != nil {
		return err
	}
	it.SourceDigest, it.Digest, it.Blobs, it.Size = it.Digest, digest, blobs, archive.ImageSize(blobs)
	return nil
}

// repacked returns the form in zstd of a layer that is stored in gzip, from the
// cache or by making it; none where that is not smaller.
func (b *builder) repacked(ctx context.Context, digest string) (fetch.Compressed, error) {
	v, err, _ := b.flight.Do("layer "+digest, func() (any, error) {
		if z, ok := b.client.Cache.Layer(digest); ok {
			return z, nil
		}
		b.slots <- struct{}{}
		defer func() { <-b.slots }()
		return b.makeRepacked(ctx, digest)
	})
	z, _ := v.(fetch.Compressed)
	return z, err
}

func (b *builder) makeRepacked(ctx context.Context, digest string) (z fetch.Compressed, err error) {
	cache := b.client.Cache
	f, err := os.Open(cache.Path(digest))
	if err != nil {
		return z, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return z, err
	}
	sum := sha256.New()
	packed := io.TeeReader(f, io.MultiWriter(sum, counter(func(n int) { b.meter.add(StageCompress, digest, int64(n)) })))
	pr, pw := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { pw.CloseWithError(b.repackLayer(ctx, pw, packed, &z.Size)) })
	stored, size, err := cache.PutFrom(pr)
	err = errors.Join(err, pr.Close())
	wg.Wait()
	if err == nil {
		_, err = io.Copy(io.Discard, packed) // what follows the gzip stream counts for the digest
	}
	if err != nil {
		return z, err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != digest {
		return z, b.damaged(digest, "", got)
	}
	if size >= st.Size() {
		return z, errors.Join(cache.Remove(stored), cache.KeepLayer(digest, z))
	}
	z.Stored = &archive.Descriptor{Digest: stored, Size: size}
	return z, cache.KeepLayer(digest, z)
}

// repackLayer unpacks gzip and writes zstd.
func (b *builder) repackLayer(ctx context.Context, w io.Writer, packed io.Reader, unpacked *int64) error {
	r, err := gzip.NewReader(packed)
	if err != nil {
		return err
	}
	bounded := &budget{r: r, left: archive.MaxBlobSize}
	return b.codec.Write(ctx, w, io.TeeReader(bounded, counter(func(n int) { *unpacked += int64(n) })))
}
