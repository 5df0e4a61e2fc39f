package fanout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"github.com/kocli/kocli/pkg/fault"
)

// Blob is what is to be brought to a host. ID is its number in the whole run.
type Blob struct {
	ID     int    `json:"i"`
	Digest string `json:"d"` // "sha256:..."
	Size   int64  `json:"n"` // bytes
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// ValidDigest reports whether a text is a sha256 digest: "sha256:" and 64 hex digits.
func ValidDigest(d string) bool { return digestForm.MatchString(d) }

// ErrDigest says that what arrived is not what was asked for.
var ErrDigest = errors.New("digest mismatch")

// chunkSize is how many bytes of a part one hash stands for, when a run goes on: a
// piece, because pieces that came over several connections leave holes.
const chunkSize = frameData

// Path is where a whole blob stands in the store below root.
func Path(root, digest string) string {
	return filepath.Join(root, "sha256", strings.TrimPrefix(digest, "sha256:"))
}

// MadePath is where a blob stands while it is made on the host, for the store below
// root.
func MadePath(root, digest string) string {
	return filepath.Join(root, "part", strings.TrimPrefix(digest, "sha256:")+".made")
}

// Root is the folder of the content store on a host.
func Root() string { return "/var/lib/kocli/content" }

// store is the content store of a host: whole blobs by digest, and parts of
// those that are still coming.
type store struct {
	root string
	also []string // folders of others that hold blobs under their digests
	lock *os.File

	mu      sync.Mutex
	changed chan struct{} // closed at every change, and made anew
	slots   map[int]*slot

	recent recent
}

// slot is one blob that this host wants.
type slot struct {
	blob  Blob
	path  string // where it stands when it is whole
	have  int64  // bytes from the start that are there
	more  []span // what is there beyond them, in order and never touching; the IDs are unused
	whole bool   // all of it, and the digest matched
	file  *os.File

	hashing sync.Mutex // held by who moves have on
	sum     hash.Hash  // of the first have bytes; nil when whole

	found    int64     // bytes of a part that an earlier run left
	foundSum hash.Hash // of them
}

// openStore opens the folder for this process alone.
func openStore(root string, also []string) (*store, error) {
	f, err := lock(root)
	if err != nil {
		return nil, err
	}
	return &store{root: root, also: also, lock: f, changed: make(chan struct{}), slots: map[int]*slot{}}, nil
}

// Hold makes the content store below root be there, and keeps it for this process
// alone until release is called.
func Hold(root string) (release func() error, err error) {
	f, err := lock(root)
	if err != nil {
		return nil, err
	}
	return f.Close, nil
}

func lock(root string) (*os.File, error) {
	for _, d := range []string{"sha256", "part"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o700); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		err = fault.New(fault.Locked, "wait until the other kocli has ended, then run the same command again",
			errors.New("another kocli is sending content to this host"))
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// close gives the folder free. Parts stay for the next run.
func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, x := range s.slots {
		if x.file != nil {
			errs = append(errs, x.file.Close())
			x.file = nil
		}
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

func (s *store) partPath(digest string) string {
	return filepath.Join(s.root, "part", strings.TrimPrefix(digest, "sha256:"))
}

// part is what a host has of a blob: its length, and the XXH64 of each chunk. They
// tell what was damaged or never written; that nothing was forged, the digest of the
// whole blob does in the end.
type part struct {
	ID     int      `json:"i"`
	Size   int64    `json:"n"` // bytes
	Chunks []uint64 `json:"c"`
}

// want registers a blob. What is there of it is returned: whole, or the part
// that somebody who has the blob must compare before it counts.
func (s *store) want(b Blob) (whole bool, p *part, err error) {
	if !digestForm.MatchString(b.Digest) || b.Size < 0 {
		return false, nil, fmt.Errorf("blob %d: digest %q or size %d is not valid", b.ID, b.Digest, b.Size)
	}
	x := &slot{blob: b, path: Path(s.root, b.Digest)}
	for _, place := range append([]string{x.path}, s.elsewhere(b)...) {
		if st, err := os.Lstat(place); err == nil && st.Mode().IsRegular() && st.Size() == b.Size {
			x.whole, x.have, x.path = true, b.Size, place
			break
		}
	}
	if !x.whole {
		x.foundSum = sha256.New()
		if p, err = s.readPart(b, x.foundSum); err != nil {
			return false, nil, err
		}
		if p != nil {
			x.found = p.Size
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots[b.ID] != nil {
		return false, nil, fmt.Errorf("blob %d is listed twice", b.ID)
	}
	s.slots[b.ID] = x
	return x.whole, p, nil
}

// elsewhere lists where others may have a blob.
func (s *store) elsewhere(b Blob) []string {
	var out []string
	for _, dir := range s.also {
		out = append(out, filepath.Join(dir, strings.TrimPrefix(b.Digest, "sha256:")))
	}
	return out
}

// readPart sums up the chunks of a part that an earlier run left, and all of it in
// sum; nil when there is none.
func (s *store) readPart(b Blob, sum hash.Hash) (*part, error) {
	f, err := os.Open(s.partPath(b.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	p := part{ID: b.ID}
	p.Chunks, p.Size, err = sumChunks(io.TeeReader(io.LimitReader(f, b.Size), sum))
	if p.Size == 0 {
		return nil, err
	}
	return &p, err
}

// sumChunks reads to the end.
func sumChunks(r io.Reader) (sums []uint64, size int64, err error) {
	buf := make([]byte, chunkSize)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			size += int64(n)
			sums = append(sums, xxhash.Sum64(buf[:n]))
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return sums, size, nil
		case err != nil:
			return sums, size, err
		}
	}
}

// matching returns what of a part is as in the source: the bytes from the start,
// and pieces beyond the first that is not.
func (p part) matching(src io.ReaderAt) (n int64, more []span, err error) {
	ours, size, err := sumChunks(io.NewSectionReader(src, 0, p.Size))
	if err != nil {
		return 0, nil, err
	}
	if size != p.Size || len(ours) != len(p.Chunks) {
		return 0, nil, fmt.Errorf("%d sums of %d bytes, where there are %d of %d", len(p.Chunks), p.Size, len(ours), size)
	}
	for i, sum := range ours {
		off := int64(i) * chunkSize
		end := min(off+chunkSize, size)
		switch {
		case sum != p.Chunks[i]:
		case off == n:
			n = end
		default:
			more = insert(more, off, end)
		}
	}
	return n, more, nil
}

// insert adds a piece to those that are there.
func insert(pieces []span, from, to int64) []span {
	i := 0
	for i < len(pieces) && pieces[i].Size < from {
		i++
	}
	j := i
	for ; j < len(pieces) && pieces[j].Have <= to; j++ {
		from, to = min(from, pieces[j].Have), max(to, pieces[j].Size)
	}
	return slices.Replace(pieces, i, j, span{Have: from, Size: to})
}

// keep opens the part of a blob for writing, and counts its first n bytes and the
// pieces in more as there.
func (s *store) keep(id int, n int64, more []span) error {
	s.mu.Lock()
	x := s.slots[id]
	s.mu.Unlock()
	if x == nil || x.whole || n < 0 || n > x.blob.Size {
		return fmt.Errorf("blob %d: cannot keep %d bytes", id, n)
	}
	end := n
	for _, p := range more {
		if p.Have <= end || p.Size <= p.Have || p.Size > x.blob.Size {
			return fmt.Errorf("blob %d: cannot keep the bytes from %d to %d", id, p.Have, p.Size)
		}
		end = p.Size
	}
	f, err := os.OpenFile(s.partPath(x.blob.Digest), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	sum := x.foundSum
	err = f.Truncate(end)
	if err == nil && (sum == nil || x.found != n) {
		sum = sha256.New()
		_, err = io.Copy(sum, io.NewSectionReader(f, 0, n))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.file != nil {
		_ = x.file.Close() // it is opened anew
	}
	x.file, x.sum, x.have, x.more = f, sum, n, more
	x.foundSum = nil // it moves on with sum
	s.notify()
	return nil
}

// notify wakes all that wait. The lock is held.
func (s *store) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// append adds bytes to a blob. Those that follow what is there count at once,
// others as soon as what is between them has come. What is there already is left
// alone. Safe for concurrent use.
func (s *store) append(id int, off int64, p []byte) error { return s.add(id, off, p, nil) }

// add is append of what came over a link, whose frame stays in memory for a while.
func (s *store) add(id int, off int64, p []byte, from *link) error {
	s.mu.Lock()
	x := s.slots[id]
	if x == nil || off < 0 || off > x.blob.Size || int64(len(p)) > x.blob.Size-off {
		s.mu.Unlock()
		return fmt.Errorf("blob %d: %d bytes at %d do not fit", id, len(p), off)
	}
	fresh := x.file == nil && !x.whole
	s.mu.Unlock()
	x.hashing.Lock()
	defer x.hashing.Unlock()
	if fresh && x.file == nil {
		if err := s.keep(id, 0, nil); err != nil {
			return err
		}
	}
	if end := off + int64(len(p)); x.whole || end <= x.have && end < x.blob.Size {
		return nil
	}
	if _, err := x.file.WriteAt(p, off); err != nil {
		return err
	}
	have := x.have
	if from != nil && off == have { // others may have been there before: theirs count
		from.box = s.recent.put(id, off, len(p), from.box)
	}
	if off <= have {
		x.sum.Write(p[have-off:])
		have = off + int64(len(p))
	}
	s.mu.Lock()
	if off > have {
		x.more = insert(x.more, off, off+int64(len(p)))
	}
	next := x.more
	s.mu.Unlock()
	for ; len(next) > 0 && next[0].Have <= have; next = next[1:] { // they are read again, for the hash
		if n := next[0].Size - have; n > 0 {
			if _, err := io.CopyN(x.sum, io.NewSectionReader(x.file, have, n), n); err != nil {
				return err
			}
			have = next[0].Size
		}
	}
	if have == x.blob.Size {
		return s.finish(x)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x.have, x.more = have, next
	s.notify()
	return nil
}

// finish holds a blob against its digest. One that does not match begins anew.
func (s *store) finish(x *slot) error {
	if got := "sha256:" + hex.EncodeToString(x.sum.Sum(nil)); got != x.blob.Digest {
		return errors.Join(fmt.Errorf("%w: wanted %s, got %s", ErrDigest, x.blob.Digest, got), s.keep(x.blob.ID, 0, nil))
	}
	if err := os.Rename(s.partPath(x.blob.Digest), Path(s.root, x.blob.Digest)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x.have, x.more, x.whole, x.sum = x.blob.Size, nil, true, nil
	s.notify()
	return nil
}

// wait returns how many bytes of a blob are there, once that is more than off.
func (s *store) wait(ctx context.Context, id int, off int64) (int64, error) {
	for {
		s.mu.Lock()
		x, changed := s.slots[id], s.changed
		var have int64
		if x != nil {
			have = x.have
		}
		s.mu.Unlock()
		switch {
		case x == nil:
			return 0, fmt.Errorf("blob %d is not here", id)
		case have > off:
			return have, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// readAt reads bytes of a blob that wait has promised.
func (s *store) readAt(id int, p []byte, off int64) error {
	s.mu.Lock()
	x := s.slots[id]
	if x.file == nil { // whole since an earlier run
		var err error
		if x.file, err = os.Open(x.path); err != nil {
			s.mu.Unlock()
			return err
		}
	}
	f := x.file
	s.mu.Unlock()
	_, err := f.ReadAt(p, off)
	return err
}

// lacking lists what there is not of the blobs that are not whole, in the order
// of their numbers, and says how many bytes there are of all.
func (s *store) lacking() (missing []span, have int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.slots {
		have += x.have
		if x.whole {
			continue
		}
		from := x.have
		for _, p := range x.more {
			missing = append(missing, span{x.blob.ID, from, p.Have})
			have, from = have+p.Size-p.Have, p.Size
		}
		if from < x.blob.Size || len(x.more) == 0 {
			missing = append(missing, span{x.blob.ID, from, x.blob.Size})
		}
	}
	sortSpans(missing)
	return missing, have
}

// frame returns a frame that came in not long ago.
func (s *store) frame(id int, off int64, n int) (open []byte, done func()) {
	return s.recent.get(id, off, n)
}
