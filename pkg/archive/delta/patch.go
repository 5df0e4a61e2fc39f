package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// A patch says how a piece of new content comes from a piece of old content.
// Programs that were built again differ in addresses all over: the same code
// stands elsewhere, and a few bytes in every instruction or two have changed.
// A patch therefore takes long runs of old bytes that are alike, not equal, and
// adds the differences, most of which are zero and take no room once they are
// compressed. The idea is Colin Percival's bsdiff; the matches are found by
// hashes of short strings instead of a suffix array, in a tenth of its memory.
//
// Its form is: the length of the instructions, the instructions, differences,
// new bytes. An instruction is three numbers: how many bytes to take from old
// plus differences, how many new bytes follow, and how far to move in old after
// that (signed).

const (
	seed       = 8  // bytes that a match begins with
	stride     = 8  // every so many bytes of old begin an entry of the index
	hashBits   = 20 // of the index
	depth      = 24 // entries of the index that are looked at
	longEnough = 16 // bytes: the run goes on here, and nothing else is looked for
	gain       = 8  // bytes by which another run has to be better
)

// differ makes patches. It keeps its memory.
type differ struct {
	old, new []byte
	head     []int32 // by hash: last position/stride + 1 in old
	prev     []int32 // by position/stride: the one before
	control  []byte
	diff     []byte
	extra    []byte
}

// newDiffer returns a differ with memory for pieces of these sizes.
func newDiffer(old, new int) differ {
	return differ{
		head: make([]int32, 1<<hashBits), prev: make([]int32, 0, old/stride+1),
		control: make([]byte, 0, new/8), diff: make([]byte, 0, new), extra: make([]byte, 0, new),
	}
}

func hash(p []byte) uint32 {
	return uint32((binary.LittleEndian.Uint64(p) * 0x9e3779b97f4a7c15) >> (64 - hashBits))
}

func (d *differ) index() {
	clear(d.head)
	n := len(d.old)/stride + 1
	d.prev = slices.Grow(d.prev[:0], n)[:n]
	for i := 0; i+seed <= len(d.old); i += stride {
		h := hash(d.old[i:])
		d.prev[i/stride] = d.head[h]
		d.head[h] = int32(i/stride) + 1
	}
}

// common is the length of the prefix that a and b share.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// search finds the longest match for what begins at new[i]: first where the
// current run would go on, then in the index.
func (d *differ) search(i, offset int) (pos, length int) {
	if p := i + offset; p >= 0 && p < len(d.old) {
		pos, length = p, common(d.old[p:], d.new[i:])
		if length >= longEnough {
			return pos, length
		}
	}
	if i+seed > len(d.new) {
		return pos, length
	}
	e := d.head[hash(d.new[i:])]
	for n := 0; e != 0 && n < depth; n++ {
		p := int(e-1) * stride
		if l := common(d.old[p:], d.new[i:]); l > length {
			pos, length = p, l
		}
		e = d.prev[e-1]
	}
	return pos, length
}

// matches reports whether new[i] is the byte of old at an offset.
func (d *differ) matches(i, offset int) bool {
	p := i + offset
	return p >= 0 && p < len(d.old) && d.old[p] == d.new[i]
}

// patch returns the patch from old to new. It is valid until the next call.
func (d *differ) patch(old, new, buf []byte) []byte {
	d.old, d.new = old, new
	d.control, d.diff, d.extra = d.control[:0], d.diff[:0], d.extra[:0]
	d.index()
	var (
		scan, length, pos         int // where a new run may begin, in new and old
		lastScan, lastPos, offset int // where the current run began
	)
	for scan < len(new) {
		score := 0 // bytes from scan to counted that the current run has right too
		scan += length
		for counted := scan; scan < len(new); scan++ {
			pos, length = d.search(scan, offset)
			for ; counted < scan+length; counted++ {
				if d.matches(counted, offset) {
					score++
				}
			}
			if length == score && length != 0 || length > score+gain {
				break
			}
			if d.matches(scan, offset) {
				score--
			}
		}
		if length == score && scan < len(new) {
			continue // the current run is as good
		}
		forward := d.forward(lastScan, lastPos, scan)
		backward := 0
		if scan < len(new) {
			backward = d.backward(scan, pos, lastScan)
		}
		if overlap := lastScan + forward - (scan - backward); overlap > 0 {
			keep := d.divide(overlap, lastScan+forward, lastPos+forward, scan-backward, pos-backward)
			forward, backward = forward-overlap+keep, backward-keep
		}
		d.emit(lastScan, lastPos, forward, scan-backward, pos-backward)
		lastScan, lastPos, offset = scan-backward, pos-backward, pos-scan
	}
	out := binary.AppendUvarint(buf[:0], uint64(len(d.control)))
	return append(append(append(out, d.control...), d.diff...), d.extra...)
}

// forward is how far the current run is worth going on, at most to scan.
func (d *differ) forward(lastScan, lastPos, scan int) (length int) {
	score, best := 0, 0
	for i := 0; lastScan+i < scan && lastPos+i < len(d.old); {
		if d.old[lastPos+i] == d.new[lastScan+i] {
			score++
		}
		i++
		if score*2-i > best*2-length {
			best, length = score, i
		}
	}
	return length
}

// backward is how far before scan the next run is worth beginning.
func (d *differ) backward(scan, pos, lastScan int) (length int) {
	score, best := 0, 0
	for i := 1; scan >= lastScan+i && pos >= i; i++ {
		if d.old[pos-i] == d.new[scan-i] {
			score++
		}
		if score*2-i > best*2-length {
			best, length = score, i
		}
	}
	return length
}

// divide says how many of the bytes that both runs cover the first one keeps.
func (d *differ) divide(overlap, endNew, endOld, beginNew, beginOld int) (keep int) {
	score, best := 0, 0
	for i := range overlap {
		if d.new[endNew-overlap+i] == d.old[endOld-overlap+i] {
			score++
		}
		if d.new[beginNew+i] == d.old[beginOld+i] {
			score--
		}
		if score > best {
			best, keep = score, i+1
		}
	}
	return keep
}

// emit writes one instruction: the run from lastScan, and what follows it up to
// nextScan, where old is at nextPos.
func (d *differ) emit(lastScan, lastPos, forward, nextScan, nextPos int) {
	for i := range forward {
		d.diff = append(d.diff, d.new[lastScan+i]-d.old[lastPos+i])
	}
	fresh := d.new[lastScan+forward : nextScan]
	d.extra = append(d.extra, fresh...)
	d.control = binary.AppendUvarint(d.control, uint64(forward))
	d.control = binary.AppendUvarint(d.control, uint64(len(fresh)))
	d.control = binary.AppendVarint(d.control, int64(nextPos-(lastPos+forward)))
}

var errPatch = errors.New("the patch is not valid")

// number takes a number off p.
func number(p *[]byte, limit int) (int, error) {
	v, n := binary.Uvarint(*p)
	if n <= 0 || v > uint64(limit) {
		return 0, errPatch
	}
	*p = (*p)[n:]
	return int(v), nil
}

// applyPatch appends what a patch makes of old to out: exactly size bytes.
func applyPatch(out, old, patch []byte, size int) ([]byte, error) {
	n, err := number(&patch, len(patch))
	if err != nil || n > len(patch) {
		return nil, errPatch
	}
	control, data := patch[:n], patch[n:]
	if len(data) != size {
		return nil, fmt.Errorf("%w: it makes %d bytes, not %d", errPatch, len(data), size)
	}
	// The differences come first: how many there are follows from the instructions.
	total := 0
	for c := control; len(c) > 0; {
		forward, err := number(&c, size-total)
		if err != nil {
			return nil, err
		}
		total += forward
		if _, err := number(&c, size); err != nil {
			return nil, err
		}
		if _, k := binary.Varint(c); k > 0 {
			c = c[k:]
		} else {
			return nil, errPatch
		}
	}
	diff, extra := data[:total], data[total:]
	pos := 0
	for len(control) > 0 {
		forward, err := number(&control, len(diff))
		if err != nil || pos > len(old)-forward {
			return nil, errPatch
		}
		for i, b := range diff[:forward] {
			out = append(out, old[pos+i]+b)
		}
		diff = diff[forward:]
		fresh, err := number(&control, len(extra))
		if err != nil {
			return nil, err
		}
		out, extra = append(out, extra[:fresh]...), extra[fresh:]
		move, k := binary.Varint(control)
		control = control[k:]
		if move < int64(-(pos+forward)) || move > int64(len(old)-(pos+forward)) {
			return nil, errPatch
		}
		pos += forward + int(move)
	}
	if len(diff)+len(extra) > 0 {
		return nil, errPatch
	}
	return out, nil
}
