package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// DigestError is content that does not match the digest it should have.
type DigestError struct {
	URL, Want, Got string
}

// Error names both digests.
func (e *DigestError) Error() string {
	return fmt.Sprintf("%s: content has digest %s, should be %s", e.URL, e.Got, e.Want)
}

// Blob makes sure that the cache has the content of url with this digest. size
// is its size in bytes, or -1 when it is not known. got, where it is not nil,
// is told the bytes that came, and negative ones when they are thrown away.
func (c *Client) Blob(ctx context.Context, url, digest string, size int64, got func(n int64)) error {
	if c.Cache.Has(digest) {
		return nil
	}
	return c.everywhere(ctx, url, func(ctx context.Context, p place) error {
		return c.blob(ctx, nil, p.url(url), digest, size, got)
	})
}

// blob downloads from one place. What an earlier try left is continued; whether
// it was a part of the same content, the digest says in the end.
func (c *Client) blob(ctx context.Context, rt http.RoundTripper, url, digest string, size int64, got func(n int64)) (err error) {
	f, err := os.OpenFile(c.Cache.partial(digest), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return permanent(err)
	}
	open := true
	defer func() {
		if open {
			err = errors.Join(err, f.Close())
		}
	}()
	d := download{f: f, hash: sha256.New(), got: got, limit: size}
	if size < 0 {
		d.limit = archive.MaxBlobSize
	}
	if err := d.hashWhatIsThere(); err != nil {
		return permanent(err)
	}
	before := d.n
	if before == 0 || size < 0 || d.n < size {
		if err := c.receive(ctx, rt, url, &d); err != nil {
			if d.n > before {
				return &grown{d.n, err}
			}
			return err
		}
	}
	if sum := "sha256:" + hex.EncodeToString(d.hash.Sum(nil)); sum != digest {
		if err := d.restart(); err != nil {
			return permanent(err)
		}
		bad := &fault.Error{Op: "check download", Code: fault.Bundle, Err: &DigestError{URL: redacted(url), Want: digest, Got: sum},
			Hint: "the source changed or is not what upstream published: try another mirror"}
		if before > 0 {
			return bad // the part from before may have been of something else: once more from the start
		}
		return permanent(bad)
	}
	open = false
	return c.Cache.keep(f, digest)
}

// receive appends to the download what it lacks.
func (c *Client) receive(ctx context.Context, rt http.RoundTripper, url string, d *download) (err error) {
	res, err := c.get(ctx, rt, url, d.n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	switch {
	case res.StatusCode == http.StatusRequestedRangeNotSatisfiable && d.n > 0:
		return nil // nothing more to come; the digest decides
	case res.StatusCode == http.StatusOK && d.n > 0:
		if err := d.restart(); err != nil {
			return permanent(err)
		}
	case res.StatusCode == http.StatusPartialContent && !strings.HasPrefix(res.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", d.n)),
		res.StatusCode == http.StatusPartialContent && d.n == 0, res.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return permanent(fmt.Errorf("%s: answers with a range that was not asked for", redacted(url)))
	}
	want := res.ContentLength
	before := d.n
	if _, err := io.CopyBuffer(d, res.Body, make([]byte, 256<<10)); err != nil {
		return fmt.Errorf("%s: %w", redacted(url), err)
	}
	if want >= 0 && d.n-before != want {
		return fmt.Errorf("%s: %w: %d of %d bytes", redacted(url), io.ErrUnexpectedEOF, d.n-before, want)
	}
	return nil
}

// download is a file that grows, and its hash.
type download struct {
	f     *os.File
	hash  hash.Hash
	n     int64
	limit int64
	got   func(int64)
}

func (d *download) Write(p []byte) (int, error) {
	if d.n+int64(len(p)) > d.limit {
		return 0, permanent(errors.Join(fmt.Errorf("more than the %d bytes that were expected", d.limit), d.restart()))
	}
	n, err := d.f.Write(p)
	d.hash.Write(p[:n])
	d.n += int64(n)
	d.tell(int64(n))
	if err != nil {
		err = permanent(DiskError(err)) // asking the server again does not help
	}
	return n, err
}

func (d *download) tell(n int64) {
	if d.got != nil && n != 0 {
		d.got(n)
	}
}

// hashWhatIsThere reads what an earlier try left.
func (d *download) hashWhatIsThere() error {
	n, err := io.Copy(d.hash, d.f)
	if err != nil {
		return err
	}
	if d.n = n; n > d.limit {
		return d.restart()
	}
	return nil
}

// restart throws away what came.
func (d *download) restart() error {
	d.tell(-d.n)
	d.n = 0
	d.hash.Reset()
	if err := d.f.Truncate(0); err != nil {
		return err
	}
	_, err := d.f.Seek(0, io.SeekStart)
	return err
}
