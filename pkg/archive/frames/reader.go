package frames

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Reader reads what Write wrote. It trusts nothing: a frame that is larger than
// Size, in either form, and content beyond the expected size are refused before
// they take memory.
type Reader struct {
	c      *Codec
	src    *bufio.Reader
	left   int64 // bytes of content that no frame was begun for
	queue  []*frame
	cur    *frame
	rest   []byte // of cur
	err    error
	closed bool
}

// Reader returns a reader of the compressed r, whose content has size bytes.
// Less is an error when it ends. The caller closes it.
func (c *Codec) Reader(r io.Reader, size int64) *Reader {
	return &Reader{c: c, src: bufio.NewReaderSize(r, 64<<10), left: size}
}

// Read returns content, and ErrCorrupt where it cannot be trusted.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.closed {
			return 0, errors.New("read after close")
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close gives back memory. It does not close the source.
func (r *Reader) Close() error {
	r.closed, r.rest = true, nil
	r.drop()
	for _, f := range r.queue {
		<-f.done
		r.c.free(f)
	}
	r.queue = nil
	return nil
}

func (r *Reader) drop() {
	if r.cur != nil {
		<-r.cur.done
		r.c.free(r.cur)
		r.cur = nil
	}
}

// next makes the next frame the current one, and begins some after it.
func (r *Reader) next() error {
	r.drop()
	if len(r.queue) == 0 && r.err == nil {
		r.begin(false)
	}
	if len(r.queue) == 0 {
		return r.err
	}
	f := r.queue[0]
	r.queue = r.queue[1:]
	r.c.release(f) // each reader has one frame; what is beyond it is ahead
	r.cur = f
	for r.err == nil {
		ok, held := r.c.room(1 + len(r.queue))
		if !ok {
			break
		}
		r.begin(held)
	}
	<-f.done
	if f.err != nil {
		r.err = f.err
		return f.err
	}
	r.rest = (*f.buf)[:f.n]
	return nil
}

// begin reads a frame and has it decompressed. What fails is said when the
// frames before it were read.
func (r *Reader) begin(held bool) {
	f := r.c.begin(held)
	raw, err := r.raw(f)
	if err != nil {
		r.err = err
		r.c.free(f)
		return
	}
	r.queue = append(r.queue, f)
	go r.c.decode(f, raw)
}

// raw reads one frame as it is: its header, and the blocks up to the last. Of
// the content it knows the size only, which it sets.
func (r *Reader) raw(f *frame) ([]byte, error) {
	head, err := r.src.Peek(zstd.HeaderMaxSize)
	if len(head) == 0 && errors.Is(err, io.EOF) {
		if r.left != 0 {
			return nil, fmt.Errorf("%w: %d bytes of content are missing", ErrCorrupt, r.left)
		}
		return nil, io.EOF
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var h zstd.Header
	if err := h.Decode(head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if h.Skippable || !h.HasFCS || h.HasCheckSum || h.DictionaryID != 0 || h.FrameContentSize == 0 ||
		h.FrameContentSize > uint64(r.c.size) || int64(h.FrameContentSize) > r.left {
		return nil, fmt.Errorf("%w: not a frame of kocli, or more than the expected content", ErrCorrupt)
	}
	f.n = int(h.FrameContentSize)
	r.left -= int64(f.n)
	raw, err := r.take(nil, h.HeaderSize)
	for last := false; err == nil && !last; {
		if raw, err = r.take(raw, 3); err != nil {
			break
		}
		block := binary.LittleEndian.Uint32(append(raw[len(raw)-3:len(raw):len(raw)], 0))
		last = block&1 == 1
		n := int(block >> 3)
		if block>>1&3 == 1 { // a run of one byte
			n = 1
		}
		raw, err = r.take(raw, n)
	}
	return raw, err
}

// take appends the next n bytes of the source.
func (r *Reader) take(to []byte, n int) ([]byte, error) {
	if limit := r.c.size + r.c.size/64 + 64; len(to)+n > limit { // content that does not shrink costs some bytes a block
		return nil, fmt.Errorf("%w: frame of more than %d bytes", ErrCorrupt, limit)
	}
	have := len(to)
	to = append(to, make([]byte, n)...)
	if _, err := io.ReadFull(r.src, to[have:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: %w", ErrCorrupt, io.ErrUnexpectedEOF)
		}
		return nil, err
	}
	return to, nil
}

func (c *Codec) decode(f *frame, raw []byte) {
	defer close(f.done)
	out, err := c.dec.DecodeAll(raw, (*f.buf)[:0])
	if err != nil || len(out) != f.n { // out is the buffer: DecodeAll never grows it
		f.err = fmt.Errorf("%w: %w", ErrCorrupt, errors.Join(err, fmt.Errorf("frame of %d bytes decompressed to %d", f.n, len(out))))
	}
}
