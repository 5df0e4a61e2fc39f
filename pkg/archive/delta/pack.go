package delta

import (
	"bufio"
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/kocli/kocli/pkg/archive"
)

// Forms of blobs, and the libraries of recipes.
const (
	formGzip = "gzip"
	formZstd = "zstd"

	libGo        = "go"        // compress/gzip of the Go that built kocli
	libKlauspost = "klauspost" // github.com/klauspost/compress
)

const (
	unpackWindow = 128 << 20 // bytes of memory that a foreign zstd frame may ask for
	zstdFrame    = 8 << 20   // bytes of content in a frame of the recipe
)

// formOf tells from its first bytes how a blob is packed; empty where it is not.
func formOf(r *bufio.Reader) string {
	head, err := r.Peek(4)
	switch {
	case err != nil:
		return ""
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		return formGzip
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return formZstd
	}
	return ""
}

// unpack reads the content of a blob of the form. head is the header of gzip.
func unpack(r io.Reader, form string) (content io.ReadCloser, head gzip.Header, err error) {
	switch form {
	case "":
		return io.NopCloser(r), head, nil
	case formGzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, head, err
		}
		return z, z.Header, nil
	case formZstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(unpackWindow))
		if err != nil {
			return nil, head, err
		}
		return z.IOReadCloser(), head, nil
	}
	return nil, head, fmt.Errorf("form %q is not known", form)
}

// packer returns a writer that packs content as the recipe says.
func packer(w io.Writer, r *archive.Recipe) (io.WriteCloser, error) {
	head := gzip.Header{Name: r.Name, Comment: r.Comment, Extra: r.Extra, OS: r.OS}
	if r.Time != 0 {
		head.ModTime = time.Unix(r.Time, 0)
	}
	switch {
	case r.Form == formGzip && r.Library == libGo:
		z, err := stdgzip.NewWriterLevel(w, r.Level)
		if err == nil {
			z.Header = stdgzip.Header(head)
		}
		return z, err
	case r.Form == formGzip && r.Library == libKlauspost:
		z, err := gzip.NewWriterLevel(w, r.Level)
		if err == nil {
			z.Header = head
		}
		return z, err
	case r.Form == formZstd && r.Library == libKlauspost:
		z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevel(r.Level)), zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithWindowSize(zstdFrame), zstd.WithLowerEncoderMem(true))
		return &zstdFrames{w: w, enc: z, buf: make([]byte, 0, zstdFrame)}, err
	}
	return nil, fmt.Errorf("this kocli cannot pack as %s of %s does", r.Form, r.Library)
}

// zstdFrames packs content in independent frames of zstdFrame bytes, as files
// in bundles are stored.
type zstdFrames struct {
	w        io.Writer
	enc      *zstd.Encoder
	buf, out []byte
}

func (z *zstdFrames) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		k := copy(z.buf[len(z.buf):cap(z.buf)], p)
		z.buf, p, n = z.buf[:len(z.buf)+k], p[k:], n+k
		if len(z.buf) == cap(z.buf) {
			if err := z.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

func (z *zstdFrames) flush() error {
	if len(z.buf) == 0 {
		return nil
	}
	z.out = z.enc.EncodeAll(z.buf, z.out[:0])
	z.buf = z.buf[:0]
	_, err := z.w.Write(z.out)
	return err
}

func (z *zstdFrames) Close() error { return errors.Join(z.flush(), z.enc.Close()) }

// recipes are what is tried for a blob, the likely ones first.
func recipes(form string, head gzip.Header) []archive.Recipe {
	if form == formZstd {
		return []archive.Recipe{{Form: form, Library: libKlauspost, Level: int(zstd.SpeedDefault)}} // as files in bundles are stored
	}
	r := archive.Recipe{Form: form, Name: head.Name, Comment: head.Comment, Extra: head.Extra, OS: head.OS}
	if !head.ModTime.IsZero() {
		r.Time = head.ModTime.Unix()
	}
	var out []archive.Recipe
	for _, level := range []int{6, 1, 9, 5, 4, 3, 2, 7, 8} {
		for _, lib := range []string{libGo, libKlauspost} {
			r.Level, r.Library = level, lib
			out = append(out, r)
		}
	}
	return out
}

// findRecipe returns the recipe that makes the blob of its content, byte for
// byte, and nil where none does.
func findRecipe(form string, head gzip.Header, content io.ReaderAt, size int64, blob func() (io.ReadCloser, error)) (*archive.Recipe, error) {
	for _, r := range recipes(form, head) {
		same, err := makes(&r, io.NewSectionReader(content, 0, size), blob)
		if err != nil {
			return nil, err
		}
		if same {
			return &r, nil
		}
	}
	return nil, nil
}

// makes reports whether the recipe makes the blob. It ends at the first byte
// that differs.
func makes(r *archive.Recipe, content io.Reader, blob func() (io.ReadCloser, error)) (bool, error) {
	want, err := blob()
	if err != nil {
		return false, err
	}
	defer func() { _ = want.Close() }()
	c := &comparer{want: bufio.NewReaderSize(want, copySize)}
	z, err := packer(c, r)
	if err != nil {
		return false, err
	}
	if _, err = io.CopyBuffer(onlyWriter{z}, content, make([]byte, copySize)); err == nil {
		err = z.Close()
	}
	if errors.Is(err, errDiffers) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = c.want.ReadByte()
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

var errDiffers = errors.New("differs")

// comparer is a writer that compares.
type comparer struct {
	want *bufio.Reader
	buf  []byte
}

func (c *comparer) Write(p []byte) (int, error) {
	if cap(c.buf) < len(p) {
		c.buf = make([]byte, len(p))
	}
	b := c.buf[:len(p)]
	if _, err := io.ReadFull(c.want, b); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, errDiffers
	} else if err != nil {
		return 0, err
	}
	if !bytes.Equal(b, p) {
		return 0, errDiffers
	}
	return len(p), nil
}

// onlyWriter hides ReadFrom, so that copies go through the given buffer.
type onlyWriter struct{ io.Writer }
