package sink

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/kocli/kocli/pkg/host/fanout"
)

// segment is a piece of a spliced stream: so many bytes that follow, or a blob
// of the host's content store.
type segment struct {
	Bytes int64  `json:"n"`
	Blob  string `json:"blob,omitempty"` // digest; the bytes are not in the stream
	End   bool   `json:"end,omitempty"`  // of the stream: one without was cut off
}

// Splicer writes a stream in which blobs that the host has are only named.
// Close must be called.
type Splicer struct {
	w      *bufio.Writer
	buf    []byte
	stored map[string]int64
	err    error
}

// NewSplicer writes to w. stored are the blobs of the host, with their sizes.
func NewSplicer(w io.Writer, stored map[string]int64) *Splicer {
	return &Splicer{w: bufio.NewWriterSize(w, 64<<10), buf: make([]byte, 0, 256<<10), stored: stored}
}

// Write adds bytes to the stream.
func (s *Splicer) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 && s.err == nil {
		n := min(len(p), cap(s.buf)-len(s.buf))
		s.buf, p = append(s.buf, p[:n]...), p[n:]
		if len(s.buf) == cap(s.buf) {
			s.flush()
		}
	}
	return total - len(p), s.err
}

// Refer names a blob where the host has it.
func (s *Splicer) Refer(digest string, size int64) bool {
	if n, ok := s.stored[digest]; !ok || n != size || s.err != nil {
		return false
	}
	s.flush()
	s.put(segment{Bytes: size, Blob: digest})
	return true
}

// Close writes what is left.
func (s *Splicer) Close() error {
	s.flush()
	s.put(segment{End: true})
	if s.err == nil {
		s.err = s.w.Flush()
	}
	return s.err
}

func (s *Splicer) flush() {
	if len(s.buf) == 0 {
		return
	}
	s.put(segment{Bytes: int64(len(s.buf))})
	if s.err == nil {
		_, s.err = s.w.Write(s.buf)
	}
	s.buf = s.buf[:0]
}

func (s *Splicer) put(g segment) {
	line, err := json.Marshal(g)
	if s.err = errors.Join(s.err, err); s.err == nil {
		_, s.err = s.w.Write(append(line, '\n'))
	}
}

// Splice runs a program and gives it a spliced stream with the blobs filled in.
// When the program succeeds, the blobs leave the content store. It runs on the
// host; root is "/" but in tests.
func Splice(ctx context.Context, r io.Reader, root string, stdout, stderr io.Writer, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // kocli's own command
	cmd.Stdout, cmd.Stderr = stdout, stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	used, ferr := fill(r, in, root)
	if ferr != nil { // what came so far must not look like all
		ferr = errors.Join(ferr, cmd.Process.Kill())
	}
	_ = in.Close() // a program that ended early has closed it
	if err := cmd.Wait(); err != nil || ferr != nil {
		return errors.Join(ferr, err)
	}
	var errs []error
	for _, name := range used {
		errs = append(errs, os.Remove(name))
	}
	return errors.Join(errs...)
}

// fill writes the segments, and returns the files that it took blobs from.
func fill(r io.Reader, w io.Writer, root string) (used []string, err error) {
	in := bufio.NewReaderSize(r, 1<<20)
	buf := make([]byte, 256<<10)
	t := target{root: root}
	seen := map[string]bool{}
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return used, fmt.Errorf("read the stream: %w", unexpected(err))
		}
		var g segment
		if err := json.Unmarshal(line, &g); err != nil || g.Bytes < 0 {
			return used, fmt.Errorf("read the stream: segment %.80q cannot be used", line)
		}
		if g.End {
			return used, nil
		}
		if g.Blob == "" {
			if _, err := io.CopyN(w, in, g.Bytes); err != nil {
				return used, unexpected(err)
			}
			continue
		}
		if !fanout.ValidDigest(g.Blob) {
			return used, fmt.Errorf("read the stream: %.80q is no digest", g.Blob)
		}
		name := t.path(fanout.Path(fanout.Root(), g.Blob))
		if err := copyBlob(w, name, g.Bytes, buf); err != nil {
			return used, err
		}
		if !seen[name] {
			used = append(used, name)
		}
		seen[name] = true
	}
}

// unexpected says that an end came too early.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func copyBlob(w io.Writer, name string, size int64, buf []byte) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(w, io.LimitReader(f, size+1), buf)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes, not %d", name, n, size)
	}
	return errors.Join(err, f.Close())
}
