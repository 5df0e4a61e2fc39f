// Package frames is the compressed form of files in a bundle: zstd in
// independent frames of 8 MiB each. The frames are made and read in parallel,
// and the same content gives the same bytes whatever the number of cores. Any
// zstd program reads the result. The package knows nothing of bundles.
package frames

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Size is what one frame holds, in bytes of content; the last one may hold less.
const Size = 8 << 20

// Form names the encoder and its settings: content that was compressed under
// the same Form has the same bytes.
const Form = "klauspost-v1.19.2-default-8MiB"

// maxWorkers bounds the memory of a Codec, which is about 24 MB for each.
const maxWorkers = 4

// ErrCorrupt is in the chain of errors about bytes that Write did not write.
var ErrCorrupt = errors.New("compressed content is corrupt")

// Codec makes and reads frames. It is safe for concurrent use: however many
// files are read and written at once, only a few frames are worked on ahead.
type Codec struct {
	size  int // of a frame
	enc   *zstd.Encoder
	dec   *zstd.Decoder
	ahead chan struct{} // one for each frame beyond the first of every file
	bufs  sync.Pool     // *[]byte of size
}

// New returns a Codec for the processors of this machine.
func New() (*Codec, error) { return newCodec(Workers(), Size) }

// Workers is how many frames are worked on at once; more files than that at
// once gain nothing.
func Workers() int { return min(runtime.GOMAXPROCS(0), maxWorkers) }

func newCodec(workers, size int) (*Codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(workers),
		zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithWindowSize(Size), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(workers), zstd.WithDecoderMaxMemory(uint64(size)), zstd.WithDecoderMaxWindow(Size),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	return &Codec{size: size, enc: enc, dec: dec, ahead: make(chan struct{}, workers-1), bufs: sync.Pool{New: func() any {
		b := make([]byte, size)
		return &b
	}}}, nil
}

// frame is one that is being worked on.
type frame struct {
	buf  *[]byte // content, from the pool
	n    int     // bytes of content
	to   *[]byte // where out is put, from the pool; nil until it is
	out  []byte  // compressed
	err  error
	done chan struct{}
	held bool // holds a place in ahead
}

// free gives back what the frame holds, once it is done.
func (c *Codec) free(f *frame) {
	c.bufs.Put(f.buf)
	if f.to != nil {
		c.bufs.Put(f.to)
	}
	c.release(f)
}

// release gives back the place of a frame that is not ahead any more.
func (c *Codec) release(f *frame) {
	if f.held {
		<-c.ahead
		f.held = false
	}
}

// room reports whether one more frame may be begun, given those of the same
// file that are under way: the first always may. held is whether it took a
// place, which free gives back.
func (c *Codec) room(underWay int) (ok, held bool) {
	if underWay == 0 {
		return true, false
	}
	select {
	case c.ahead <- struct{}{}:
		return true, true
	default:
		return false, false
	}
}

// Write compresses r into w. What it writes was decompressed again and compared.
func (c *Codec) Write(ctx context.Context, w io.Writer, r io.Reader) error {
	var queue []*frame
	defer func() {
		for _, f := range queue {
			<-f.done
			c.free(f)
		}
	}()
	for more := true; more || len(queue) > 0; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		ok, held := false, false
		if more {
			ok, held = c.room(len(queue))
		}
		if ok {
			f := c.begin(held)
			queue = append(queue, f)
			var err error
			if f.n, err = io.ReadFull(r, *f.buf); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				more = false
			} else if err != nil {
				close(f.done)
				return err
			}
			go c.encode(f)
			continue
		}
		f := queue[0]
		<-f.done
		queue = queue[1:]
		err := f.err
		if err == nil {
			_, err = w.Write(f.out)
		}
		c.free(f)
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Codec) begin(held bool) *frame {
	return &frame{buf: c.bufs.Get().(*[]byte), done: make(chan struct{}), held: held} //nolint:errcheck // only such are in the pool
}

// encode compresses a frame. No content gives no frame.
func (c *Codec) encode(f *frame) {
	defer close(f.done)
	if f.n == 0 {
		return
	}
	content := (*f.buf)[:f.n]
	f.to = c.bufs.Get().(*[]byte)  //nolint:errcheck // only such are in the pool
	back := c.bufs.Get().(*[]byte) //nolint:errcheck // only such are in the pool
	f.out = c.enc.EncodeAll(content, (*f.to)[:0])
	defer c.bufs.Put(back)
	got, err := c.dec.DecodeAll(f.out, (*back)[:0])
	if err != nil || !bytes.Equal(got, content) {
		f.err = errors.Join(fmt.Errorf("what was compressed does not decompress to the same"), err)
	}
}
