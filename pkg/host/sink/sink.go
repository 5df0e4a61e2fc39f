// Package sink carries many files to a host in one stream. The operator's side
// writes the stream, `kocli node receive` on the host reads it: each file is
// hashed while it is written, renamed into place when its digest is right, and
// remembered in the ledger; the disk is synced once, at the end. It does what
// ledger.Host.Put does file by file, in one round trip.
package sink

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/kocli/kocli/pkg/archive/frames"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/host/ledger"
)

// Protocol is the version of the stream. A host with another one says so, and
// files are then put one by one.
const Protocol = "2"

// header precedes the bytes of a file: its content, or the compressed form of it.
// Where Stored is set there are none: the content store of the host has them.
type header struct {
	Stored bool   `json:"stored,omitempty"`
	Blob   string `json:"blob"`  // digest of the bytes
	Bytes  int64  `json:"bytes"` // how many there are
	Zstd   bool   `json:"zstd,omitempty"`
	Path   string `json:"path"`
	Mode   uint32 `json:"mode"`
	Owner  string `json:"owner"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Write writes the stream of files. The content of those that are stored on the
// host is left out. sent is told the bytes so far.
func Write(w io.Writer, files []host.File, stored func(host.File) bool, sent func(int64)) error {
	buf := make([]byte, 256<<10)
	var done int64
	for _, f := range files {
		mode, owner := f.Want()
		blob, size := f.Blob()
		there := stored(f)
		h, err := json.Marshal(header{there, blob, size, f.Compressed != nil, f.Path, uint32(mode), owner, f.Size, f.SHA256})
		if err != nil {
			return err
		}
		if _, err := w.Write(append(h, '\n')); err != nil {
			return err
		}
		if there {
			done += size
			continue
		}
		open := f.Open
		if f.Compressed != nil {
			open = f.Compressed.Open
		}
		if err := copyFile(w, open, size, buf, func(n int64) { done += n; sent(done) }); err != nil {
			return fmt.Errorf("send %s: %w", f.Path, err)
		}
	}
	return nil
}

func copyFile(w io.Writer, open func() (io.ReadCloser, error), size int64, buf []byte, sent func(int64)) error {
	r, err := open()
	if err != nil {
		return err
	}
	var n int64
	for {
		k, rerr := r.Read(buf)
		if n += int64(k); n > size {
			rerr = fmt.Errorf("more than its %d bytes", size)
		} else if _, err := w.Write(buf[:k]); err != nil {
			rerr = err
		}
		sent(int64(k))
		if errors.Is(rerr, io.EOF) {
			break
		}
		if rerr != nil {
			return errors.Join(rerr, r.Close())
		}
	}
	if n != size {
		return errors.Join(fmt.Errorf("%w: %d of %d bytes", io.ErrUnexpectedEOF, n, size), r.Close())
	}
	return r.Close()
}

// Receive reads a stream and makes the files be there. root is "/" but in tests.
// It runs on the host.
func Receive(ctx context.Context, r io.Reader, root string) error {
	in := bufio.NewReaderSize(r, 1<<20)
	t := target{root: root}
	var err error
	if t.known, err = t.origins(); err != nil {
		return err
	}
	var written []header
	buf := make([]byte, 256<<10)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			break
		}
		if err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		var h header
		if err := json.Unmarshal(line, &h); err != nil || !filepath.IsAbs(h.Path) || filepath.Clean(h.Path) != h.Path || h.Size < 0 || h.Bytes < 0 ||
			!fanout.ValidDigest(h.Blob) || !h.Zstd && h.Bytes != h.Size {
			return fmt.Errorf("read the stream: header %.80q cannot be used", line)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.take(ctx, h, in, buf); err != nil {
			return fmt.Errorf("put %s: %w", h.Path, err)
		}
		written = append(written, h)
	}
	return t.finish(written)
}

// target is the host's file system.
type target struct {
	root  string
	known map[string]bool // paths whose origin is in the ledger
	codec *frames.Codec   // made when it is needed
}

func (t *target) path(name string) string { return filepath.Join(t.root, name) }

// origins reads the ledger.
func (t *target) origins() (map[string]bool, error) {
	data, err := os.ReadFile(t.path(ledger.Path()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	known := map[string]bool{}
	for _, e := range ledger.Parse(data) {
		if e.Kind == ledger.FileAbsent || e.Kind == ledger.FileKept {
			known[e.Name] = true
		}
	}
	return known, nil
}

// take places a file, from the stream or out of the content store. What was taken
// out of the store is not there twice; what is not what it should be goes too.
func (t *target) take(ctx context.Context, h header, in io.Reader, buf []byte) error {
	if !h.Stored {
		return t.expand(ctx, h, in, buf)
	}
	name := t.path(fanout.Path(fanout.Root(), h.Blob))
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	err = t.expand(ctx, h, f, buf)
	return errors.Join(err, f.Close(), os.Remove(name))
}

// expand places what the bytes stand for.
func (t *target) expand(ctx context.Context, h header, in io.Reader, buf []byte) error {
	in = io.LimitReader(in, h.Bytes)
	if !h.Zstd {
		return t.place(ctx, h, in, buf)
	}
	if t.codec == nil {
		var err error
		if t.codec, err = frames.New(); err != nil {
			return err
		}
	}
	r := t.codec.Reader(in, h.Size)
	if err := errors.Join(t.place(ctx, h, r, buf), r.Close()); err != nil {
		return err
	}
	if n, err := in.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("more bytes than %d of content need", h.Size)
	}
	return nil
}

// place writes one file beside its destination and renames it.
func (t *target) place(ctx context.Context, h header, r io.Reader, buf []byte) error {
	dst := t.path(h.Path)
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	stem := filepath.Join(filepath.Dir(dst), ".kocli."+filepath.Base(dst)+".")
	if err := clearStale(stem); err != nil {
		return err
	}
	tmp, err := os.OpenFile(stem+rand.Text()[:8], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone after the rename
	sum := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(tmp, sum), r, buf)
	if err = errors.Join(err, tmp.Chmod(fs.FileMode(h.Mode)), tmp.Close()); err != nil {
		return err
	}
	if n != h.Size {
		return fmt.Errorf("%w: %d of %d bytes", io.ErrUnexpectedEOF, n, h.Size)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != h.SHA256 {
		return fmt.Errorf("digest mismatch: wanted %s, got %s", h.SHA256, got)
	}
	if h.Owner != "" && h.Owner != "root:root" {
		if out, err := exec.CommandContext(ctx, "chown", "--", h.Owner, tmp.Name()).CombinedOutput(); err != nil {
			return fmt.Errorf("chown %s: %w: %s", h.Owner, err, out)
		}
	}
	if err := t.preserve(ctx, h.Path); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), dst)
}

// clearStale removes what an earlier write that was killed left beside a file.
func clearStale(stem string) error {
	entries, err := os.ReadDir(filepath.Dir(stem))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(filepath.Dir(stem), e.Name())
		if strings.HasPrefix(name, stem) && len(name) == len(stem)+8 {
			if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// preserve keeps what stands at a path, once, and says so in the ledger before
// it is replaced.
func (t *target) preserve(ctx context.Context, name string) error {
	if t.known[name] {
		return nil
	}
	e := ledger.Entry{Kind: ledger.FileAbsent, Name: name}
	if _, err := os.Lstat(t.path(name)); err == nil {
		e.Kind = ledger.FileKept
		keep := t.path(ledger.OriginalPath(name))
		if _, err := os.Lstat(keep); errors.Is(err, fs.ErrNotExist) {
			if err := os.MkdirAll(path.Dir(keep), 0o700); err != nil {
				return err
			}
			if out, err := exec.CommandContext(ctx, "cp", "-a", "--", t.path(name), keep+".new").CombinedOutput(); err != nil {
				return fmt.Errorf("keep %s: %w: %s", name, err, out)
			}
			if err := os.Rename(keep+".new", keep); err != nil {
				return err
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	t.known[name] = true
	return t.append(e)
}

// append writes entries to the ledger.
func (t *target) append(entries ...ledger.Entry) error {
	if err := os.MkdirAll(filepath.Dir(t.path(ledger.Path())), 0o700); err != nil {
		return err
	}
	lines, err := ledger.Lines(entries)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(t.path(ledger.Path()), os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(t.tornLine(f), lines...))
	return errors.Join(err, f.Sync(), f.Close())
}

// tornLine is what has to be written first when a loss of power cut the last
// line off.
func (t *target) tornLine(f *os.File) []byte {
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return nil
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, st.Size()-1); err != nil || last[0] == '\n' {
		return nil
	}
	return []byte("\n")
}

// finish brings everything to the disk, and only then remembers what large files
// hold: a file that a loss of power emptied is never taken for whole.
func (t *target) finish(written []header) error {
	var entries []ledger.Entry
	for _, h := range written {
		f, err := os.Open(t.path(h.Path))
		if err != nil {
			return err
		}
		st, err := f.Stat()
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
		if h.Size >= ledger.Large {
			entries = append(entries, ledger.Entry{Kind: ledger.Content, Name: h.Path, SHA256: h.SHA256, Size: h.Size, ModTime: st.ModTime().Unix()})
		}
	}
	if len(entries) == 0 {
		return nil
	}
	return t.append(entries...)
}
