package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/fetch"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/internal/atomicfile"
)

// finish writes the bundle and the lock.
func (b *builder) finish(ctx context.Context, parts []*part) (*Report, error) {
	m, local, err := b.manifest(parts)
	if err != nil {
		return nil, err
	}
	r := &Report{Output: b.opts.Output, Items: len(m.Items), Lock: b.opts.LockPath, Downloaded: b.meter.done(StageDownload)}
	for _, it := range m.Items {
		if it.Stored != nil {
			b.meter.expect(StageWrite, it.Stored.Size)
		} else {
			b.meter.expect(StageWrite, it.Size)
		}
	}
	open := func(digest string) (io.ReadCloser, error) {
		if path, ok := local[digest]; ok {
			return os.Open(path)
		}
		f, err := b.client.Cache.Open(digest)
		if err != nil || !b.opts.DropCache {
			return f, err
		}
		return dropped{f}, nil
	}
	err = replaceFile(b.opts.Output, func(f *os.File) error {
		w := counting{ctx: ctx, w: f, add: func(n int64) { b.meter.add(StageWrite, "", n) }}
		r.Digest, r.Size, err = archive.WriteAt(ctx, w, m, open)
		if err != nil {
			return b.blame(err, m, local)
		}
		check, err := archive.NewReader(f, r.Size)
		if err != nil {
			return err
		}
		return check.Close()
	})
	if err != nil {
		return nil, fmt.Errorf("write bundle: %w", err)
	}
	if r.LockChanged, err = b.writeLock(); err != nil {
		return nil, fmt.Errorf("write lock: %w", err)
	}
	return r, nil
}

// manifest is the bundle manifest; local are the files outside of the cache, by
// digest.
func (b *builder) manifest(parts []*part) (m *archive.Manifest, local map[string]string, err error) {
	m = &archive.Manifest{Name: b.opts.Spec.Metadata.Name, BuiltBy: b.opts.Version, Architectures: slices.Clone(b.archs), CNI: slices.Clone(b.opts.Spec.Spec.CNI)}
	for _, r := range b.release {
		m.Kubernetes = append(m.Kubernetes, archive.Release{Version: r.Kubernetes, Components: r.Components})
	}
	for _, o := range b.opts.Spec.Spec.OSPackages {
		m.Distributions = append(m.Distributions, archive.Distribution{ID: o.Distribution, Version: o.Version})
	}
	local = map[string]string{}
	for _, p := range parts {
		for _, it := range p.items {
			if it.Size < 0 {
				n, ok := b.client.Cache.Size(it.Digest)
				if !ok {
					return nil, nil, fmt.Errorf("%s: %s is not in the cache", it.Label(), it.Digest)
				}
				it.Size = n
			}
			if p.local != "" {
				local[it.Digest] = p.local
			}
			m.Items = append(m.Items, it)
		}
	}
	return m, local, nil
}

// blame drops a blob that turned out to be damaged from the cache, so that the
// next build fetches it again.
func (b *builder) blame(err error, m *archive.Manifest, local map[string]string) error {
	var be *archive.BlobError
	if !errors.As(err, &be) {
		return err
	}
	if path, ok := local[be.Digest]; ok {
		return fmt.Errorf("%s changed while it was read: %w", path, err)
	}
	label := be.Digest
	for _, it := range m.Items {
		if it.Digest == be.Digest || (it.Stored != nil && it.Stored.Digest == be.Digest) || slices.ContainsFunc(it.Blobs, func(d archive.Descriptor) bool { return d.Digest == be.Digest }) {
			label = it.Label()
		}
	}
	return &fault.Error{
		Op: "read cache", Code: fault.Bundle, Hint: "type the command again: the damaged file was removed from the cache and will be fetched anew",
		Err: errors.Join(fmt.Errorf("%s: %w", label, err), b.client.Cache.Forget(be.Digest)),
	}
}

// dropped is a file of the cache that nobody needs once it was read. A build that
// fails after that fetches it again.
type dropped struct{ *os.File }

// Close removes the file.
func (d dropped) Close() error { return errors.Join(d.File.Close(), os.Remove(d.Name())) }

// counting writes, reports what it wrote, and stops when ctx ends.
type counting struct {
	ctx context.Context
	w   io.WriterAt
	add func(int64)
}

func (c counting) WriteAt(p []byte, at int64) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.w.WriteAt(p, at)
	c.add(int64(n))
	return n, err
}

// replaceFile replaces a file by what write writes: path is the old or the whole
// new file, whatever happens.
func replaceFile(path string, write func(*os.File) error) error {
	err := atomicfile.Replace(path, write)
	if errors.Is(err, atomicfile.ErrBusy) {
		return fault.New(fault.Locked, "wait until the other build has ended", err)
	}
	return fetch.DiskError(err)
}
