package delta

import (
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/kocli/kocli/pkg/archive"
)

const (
	frameSize = 4 << 20 // bytes of content in a frame
	slack     = 6 << 20 // bytes of the base on either side of the place of a frame
	frameWin  = 8 << 20 // window of zstd, in bytes
)

// encoder makes frames. It keeps its memory, about 90 MB.
type encoder struct {
	frame      int64 // bytes of content in a frame
	slack      int64 // bytes of the base on either side of its place
	zstd       *zstd.Encoder
	differ     differ
	old, new   []byte
	patch, out []byte
}

func newEncoder(frame, slack int64) (*encoder, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(frameWin), zstd.WithLowerEncoderMem(true))
	e := &encoder{
		frame: frame, slack: slack, zstd: z, differ: newDiffer(int(frame+2*slack), int(frame)),
		old: make([]byte, frame+2*slack), new: make([]byte, frame), patch: make([]byte, 0, frame+frame/8), out: make([]byte, 0, frame+frame/8),
	}
	return e, err
}

// encode writes the frames of content to w: patches against base, where there
// is one. A frame finds the base's content near the same place, in proportion,
// which is where a later version of a file has it.
func (e *encoder) encode(w io.Writer, content, base *scratch) ([]archive.DeltaFrame, error) {
	var out []archive.DeltaFrame
	for off := int64(0); off < content.size; off += e.frame {
		f := archive.DeltaFrame{Bytes: min(e.frame, content.size-off)}
		fresh := e.new[:f.Bytes]
		if _, err := content.ReadAt(fresh, off); err != nil {
			return nil, err
		}
		raw := fresh
		if base != nil && base.size > 0 {
			place := int64(float64(off) / float64(content.size) * float64(base.size))
			f.From = max(0, place-e.slack)
			f.Dict = min(base.size, place+e.frame+e.slack) - f.From
			if _, err := base.ReadAt(e.old[:f.Dict], f.From); err != nil {
				return nil, err
			}
			e.patch = e.differ.patch(e.old[:f.Dict], fresh, e.patch)
			raw = e.patch
			if len(raw) > maxPatch(f.Bytes) { // nothing is alike
				f.From, f.Dict, raw = 0, 0, fresh
			}
		}
		e.out = e.zstd.EncodeAll(raw, e.out[:0])
		f.Size = int64(len(e.out))
		if _, err := w.Write(e.out); err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// maxPatch bounds a patch that makes this many bytes.
func maxPatch(size int64) int { return int(2*size) + 16 }

// decoder reads frames. It keeps its memory, about 50 MB.
type decoder struct {
	zstd *zstd.Decoder
	old, patch,
	in, out []byte
}

func newDecoder() (*decoder, error) {
	// DecodeAll stays within what it is given, whatever a frame says of itself.
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(uint64(maxPatch(archive.MaxDeltaFrame))))
	return &decoder{zstd: z}, err
}

var errFrame = errors.New("a frame is not valid")

// decode writes the content of the frames to w. stored is what the delta holds,
// base the content of the base blob.
func (d *decoder) decode(w io.Writer, stored io.Reader, frames []archive.DeltaFrame, base *scratch) error {
	for i, f := range frames {
		content, err := d.frame(stored, f, base)
		if err != nil {
			return fmt.Errorf("frame %d: %w", i, err)
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	// The end is where the digest of what is stored is checked.
	if n, err := io.Copy(io.Discard, stored); n > 0 || err != nil {
		return errors.Join(errFrame, err)
	}
	return nil
}

func (d *decoder) frame(stored io.Reader, f archive.DeltaFrame, base *scratch) ([]byte, error) {
	if f.Size > int64(maxPatch(archive.MaxDeltaFrame)) {
		return nil, errFrame
	}
	d.in = sized(d.in, f.Size)
	if _, err := io.ReadFull(stored, d.in); err != nil {
		return nil, err
	}
	limit := f.Bytes
	if f.Dict > 0 {
		limit = int64(maxPatch(f.Bytes))
	}
	raw, err := d.zstd.DecodeAll(d.in, sized(d.patch, limit)[:0:limit])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFrame, err)
	}
	d.patch = raw
	if f.Dict == 0 {
		if int64(len(raw)) != f.Bytes {
			return nil, fmt.Errorf("%w: it has %d bytes, not %d", errFrame, len(raw), f.Bytes)
		}
		return raw, nil
	}
	d.old = sized(d.old, f.Dict)
	if _, err := base.ReadAt(d.old, f.From); err != nil {
		return nil, fmt.Errorf("%w: the base ends before byte %d: %w", errFrame, f.From+f.Dict, err)
	}
	d.out, err = applyPatch(sized(d.out, f.Bytes)[:0], d.old, raw, int(f.Bytes))
	return d.out, err
}

// sized returns buf with n bytes, and a larger one where it is too small.
func sized(buf []byte, n int64) []byte {
	if int64(cap(buf)) < n {
		return make([]byte, n)
	}
	return buf[:n]
}
