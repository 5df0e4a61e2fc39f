package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/kocli/kocli/pkg/archive/frames"
	"github.com/kocli/kocli/pkg/fault"
)

// OpenBlob opens a blob, or the content of a file that is stored compressed, by
// its digest. Its reader returns io.EOF only after the content matched the
// digest, and ErrDamaged otherwise: what was read before that must not be used.
// It holds up to 16 MB until it is read to the end or closed.
func (b *Bundle) OpenBlob(digest string) (io.ReadCloser, error) {
	if bl, ok := b.blobs[digest]; ok {
		return io.NopCloser(b.verified(bl, digest)), nil
	}
	it, ok := b.stored[digest]
	if b.delta != nil && (!ok || !b.Has(it.Stored.Digest)) {
		return nil, notWhole(digest)
	}
	if !ok {
		return nil, &fault.Error{
			Op: "open blob", Code: fault.Bundle, Hint: "see what the bundle holds with `kocli bundle inspect`",
			Err: fmt.Errorf("%s is not in the bundle", digest),
		}
	}
	codec, err := b.codec()
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	r := codec.Reader(b.verified(b.blobs[it.Stored.Digest], it.Stored.Digest), it.Size)
	return content{&verifier{r: r, hash: sha256.New(), want: digest, left: it.Size}, r}, nil
}

// content is a verified reader, with what is closed after it.
type content struct {
	io.Reader
	io.Closer
}

// verified reads a blob as it is stored.
func (b *Bundle) verified(bl blob, digest string) io.Reader {
	return &verifier{r: io.NewSectionReader(b.r, bl.offset, bl.size), hash: sha256.New(), want: digest, left: bl.size}
}

// Section returns the bytes of a blob as they stand in the bundle, unverified;
// false where there is no such blob.
func (b *Bundle) Section(digest string) (*io.SectionReader, bool) {
	bl, ok := b.blobs[digest]
	if !ok {
		return nil, false
	}
	return io.NewSectionReader(b.r, bl.offset, bl.size), true
}

// verifier turns io.EOF into an error where the digest does not match.
type verifier struct {
	r    io.Reader
	hash hash.Hash
	want string
	left int64
	err  error
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.left -= int64(n)
	if err == nil {
		return n, nil
	}
	v.err = err
	if errors.Is(err, frames.ErrCorrupt) {
		v.err = &fault.Error{Op: "read blob", Code: fault.Bundle, Hint: hintDamaged, Err: fmt.Errorf("%w: %s: %w", ErrDamaged, v.want, err)}
	}
	if errors.Is(err, io.EOF) {
		if got := "sha256:" + hex.EncodeToString(v.hash.Sum(nil)); got != v.want || v.left != 0 {
			v.err = &fault.Error{
				Op: "read blob", Code: fault.Bundle, Hint: hintDamaged,
				Err: fmt.Errorf("%w: content of %s has digest %s", ErrDamaged, v.want, got),
			}
		}
	}
	return n, v.err
}

// Damage is a blob whose content does not match its digest.
type Damage struct {
	Digest string   `json:"digest"`
	Items  []string `json:"items"` // labels of the items that it belongs to
	Reason string   `json:"reason"`
}

// DamageError lists every damaged blob of a bundle. It is an ErrDamaged.
type DamageError struct {
	Blobs []Damage
}

// Error names each damaged blob with its items.
func (e *DamageError) Error() string {
	parts := make([]string, len(e.Blobs))
	for i, d := range e.Blobs {
		parts[i] = fmt.Sprintf("%s of %s: %s", d.Digest, strings.Join(d.Items, ", "), d.Reason)
	}
	return fmt.Sprintf("%d damaged: %s", len(e.Blobs), strings.Join(parts, "; "))
}

// Is makes errors.Is(err, ErrDamaged) true.
func (e *DamageError) Is(target error) bool { return target == ErrDamaged }

const verifyWorkers = 2

// Verify reads every blob and compares it with its digest, two at a time. Of
// files that are stored compressed it looks at the compressed form: the content
// was compared when the bundle was built, and is again whenever it is read. It
// goes on after a damaged one and reports all of them in a *DamageError. each,
// where it is not nil, is told the bytes done of the total from time to time,
// never concurrently.
func (b *Bundle) Verify(ctx context.Context, each func(done, total int64)) error {
	var (
		mu     sync.Mutex
		done   int64
		total  int64
		damage []Damage
	)
	digests := slices.Clone(b.order)
	slices.SortStableFunc(digests, func(x, y string) int { // the largest first, so that both workers end together
		return int(min(1, max(-1, b.blobs[y].size-b.blobs[x].size)))
	})
	for _, d := range digests {
		total += b.blobs[d].size
	}
	step := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		done += int64(n)
		if each != nil {
			each(done, total)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(verifyWorkers)
	for _, d := range digests {
		g.Go(func() error {
			err := b.verifyBlob(ctx, d, step)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				damage = append(damage, Damage{Digest: d, Items: b.owners(d), Reason: err.Error()})
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("verify bundle: %w", err)
	}
	if len(damage) == 0 {
		return nil
	}
	slices.SortFunc(damage, func(x, y Damage) int { return strings.Compare(x.Digest, y.Digest) })
	return &fault.Error{Op: "verify bundle", Code: fault.Bundle, Hint: hintDamaged, Err: &DamageError{Blobs: damage}}
}

func (b *Bundle) verifyBlob(ctx context.Context, digest string, step func(int)) error {
	bl := b.blobs[digest]
	h := sha256.New()
	buf := make([]byte, min(copySize, bl.size))
	for off := int64(0); off < bl.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := b.r.ReadAt(buf[:min(int64(len(buf)), bl.size-off)], bl.offset+off)
		if n == 0 && err != nil {
			return fmt.Errorf("read: %w", err)
		}
		h.Write(buf[:n])
		off += int64(n)
		step(n)
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != digest {
		return fmt.Errorf("content has digest %s", got)
	}
	return nil
}

// owners are the labels of the items that a blob belongs to.
func (b *Bundle) owners(digest string) []string {
	for _, p := range b.patched {
		if p.Stored.Digest == digest {
			digest = p.Digest
			break
		}
	}
	var out []string
	for i := range b.manifest.Items {
		it := &b.manifest.Items[i]
		for _, d := range it.descriptors() {
			if d.Digest == digest {
				out = append(out, it.Label())
				break
			}
		}
	}
	if out == nil {
		out = []string{"the bundle itself"}
	}
	return out
}
