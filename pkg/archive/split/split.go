package split

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/internal/atomicfile"
)

const copySize = 1 << 20 // bytes of the buffer of copies

// open opens a bundle or a delta as the file that it is, and checks it.
func open(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, &fault.Error{Op: "open", Code: fault.Bundle, Hint: "give the path of a bundle; `kocli bundle build` makes one", Err: err}
	}
	st, err := f.Stat()
	if err == nil {
		err = archive.Check(f, st.Size())
	}
	if err != nil {
		return nil, 0, errors.Join(&fault.Error{Op: "open " + path, Code: fault.Bundle, Err: err}, f.Close())
	}
	return f, st.Size(), nil
}

// Split cuts the bundle or delta at path into parts of size bytes, in dir: NAME.001 and
// so on, and NAME.parts.json, which is written last. Each file is whole or
// absent; the same call repeats what was interrupted. each, where it is not
// nil, is told the bytes done of the total. It returns the path of the parts
// file.
func Split(ctx context.Context, path, dir string, size int64, each func(done, total int64)) (file string, p *Parts, err error) {
	in, whole, err := open(path)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = in.Close() }()
	p = &Parts{Format: formatVersion, Name: filepath.Base(path), Size: whole, PartSize: size}
	if size <= 0 || (whole-1)/size >= maxParts {
		return "", nil, fault.New(fault.Usage, "choose a larger --size", fmt.Errorf("%d bytes in parts of %d are not 1 to %d parts", whole, size, maxParts))
	}
	if !nameForm.MatchString(p.Name) {
		return "", nil, fault.New(fault.Usage, "rename the file: letters, digits and . _ + ~ - are allowed", fmt.Errorf("%q cannot be the name of parts", p.Name))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, failed("make the folder", err)
	}
	if err := space(dir, whole); err != nil {
		return "", nil, err
	}
	c := copier{ctx: ctx, buf: make([]byte, copySize), whole: sha256.New(), total: whole, each: each}
	for off := int64(0); off < whole; off += size {
		part := Part{Name: partName(p.Name, len(p.Parts)), Size: min(size, whole-off)}
		err := atomicfile.Replace(filepath.Join(dir, part.Name), func(f *os.File) error {
			part.Digest, err = c.copy(f, in, part.Size)
			return err
		})
		if err != nil {
			return "", nil, failed("write "+part.Name, err)
		}
		p.Parts = append(p.Parts, part)
	}
	p.Digest = digest(c.whole)
	if err := p.validate(); err != nil {
		return "", nil, err
	}
	raw, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return "", nil, err
	}
	file = filepath.Join(dir, partsFileName(p.Name))
	err = atomicfile.Replace(file, func(f *os.File) error {
		_, err := f.Write(append(raw, '\n'))
		return err
	})
	return file, p, failed("write parts file", err)
}

// PartsError lists the parts that are missing or damaged.
type PartsError struct {
	Bad []BadPart
}

// BadPart is a part that cannot be used.
type BadPart struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Error names every part.
func (e *PartsError) Error() string {
	var names []string
	for _, b := range e.Bad {
		names = append(names, b.Name+" ("+b.Reason+")")
	}
	return fmt.Sprintf("%d of the parts cannot be used: %s", len(e.Bad), strings.Join(names, ", "))
}

// Names lists the names of the parts.
func (e *PartsError) Names() []string {
	var names []string
	for _, b := range e.Bad {
		names = append(names, b.Name)
	}
	return names
}

// Join puts parts together again. from is their parts file, or a folder with
// one; out is the file to write, by default the bundle's name in the current
// folder. Parts that are missing or have another size are reported before
// anything is written, damaged ones after all were read: always all of them, in
// a *PartsError. What is written is checked against the digests of the parts
// and of the whole, and has to open as a bundle. The file appears when it is
// whole.
func Join(ctx context.Context, from, out string, each func(done, total int64)) (path string, p *Parts, err error) {
	p, dir, err := read(from)
	if err != nil {
		return "", nil, err
	}
	if out == "" {
		out = p.Name
	}
	if bad := missing(p, dir); len(bad) > 0 {
		return "", nil, badParts(bad)
	}
	if err := space(filepath.Dir(out), p.Size); err != nil {
		return "", nil, err
	}
	err = atomicfile.Replace(out, func(f *os.File) error {
		if err := joinInto(ctx, f, p, dir, each); err != nil {
			return err
		}
		return archive.Check(f, p.Size)
	})
	return out, p, failed("join", err)
}

// missing stats every part.
func missing(p *Parts, dir string) (bad []BadPart) {
	for _, part := range p.Parts {
		st, err := os.Stat(filepath.Join(dir, part.Name))
		switch {
		case errors.Is(err, os.ErrNotExist):
			bad = append(bad, BadPart{part.Name, "missing"})
		case err != nil:
			bad = append(bad, BadPart{part.Name, err.Error()})
		case !st.Mode().IsRegular():
			bad = append(bad, BadPart{part.Name, "not a regular file"})
		case st.Size() != part.Size:
			bad = append(bad, BadPart{part.Name, fmt.Sprintf("%d bytes, should be %d", st.Size(), part.Size)})
		}
	}
	return bad
}

func badParts(bad []BadPart) error {
	e := &PartsError{Bad: bad}
	return &fault.Error{
		Op: "join", Code: fault.Bundle, Err: e,
		Hint: "copy only these again, then type the same command: " + strings.Join(e.Names(), " "),
	}
}

func joinInto(ctx context.Context, f *os.File, p *Parts, dir string, each func(done, total int64)) error {
	c := copier{ctx: ctx, buf: make([]byte, copySize), whole: sha256.New(), total: p.Size, each: each}
	var bad []BadPart
	for i, part := range p.Parts {
		if _, err := f.Seek(int64(i)*p.PartSize, io.SeekStart); err != nil {
			return err
		}
		got, err := c.copyFile(f, filepath.Join(dir, part.Name), part.Size)
		var r *readError
		switch {
		case errors.As(err, &r):
			bad = append(bad, BadPart{part.Name, r.Error()})
		case err != nil:
			return err
		case got != part.Digest:
			bad = append(bad, BadPart{part.Name, "damaged: digest " + got})
		}
	}
	if len(bad) > 0 {
		return badParts(bad)
	}
	if got := digest(c.whole); got != p.Digest {
		return &fault.Error{
			Code: fault.Bundle, Hint: "copy the parts file again, or split the bundle again",
			Err: fmt.Errorf("every part is as the parts file lists it, but the whole has digest %s, listed as %s", got, p.Digest),
		}
	}
	return nil
}

// readError is an error of the source: the medium, not the disk that is written.
type readError struct{ error }

// Unwrap returns the cause.
func (e *readError) Unwrap() error { return e.error }

// copier copies, hashes and reports.
type copier struct {
	ctx         context.Context
	buf         []byte
	whole       hash.Hash
	done, total int64
	each        func(done, total int64)
}

func (c *copier) copyFile(w io.Writer, path string, size int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", &readError{err}
	}
	defer func() { _ = f.Close() }()
	return c.copy(w, f, size)
}

// copy copies exactly size bytes and returns their digest.
func (c *copier) copy(w io.Writer, r io.Reader, size int64) (string, error) {
	h := sha256.New()
	for left := size; left > 0; {
		if c.ctx.Err() != nil {
			return "", context.Cause(c.ctx)
		}
		n, err := r.Read(c.buf[:min(int64(len(c.buf)), left)])
		h.Write(c.buf[:n])
		c.whole.Write(c.buf[:n])
		if _, err := w.Write(c.buf[:n]); err != nil {
			return "", err
		}
		left -= int64(n)
		c.done += int64(n)
		if c.each != nil {
			c.each(c.done, c.total)
		}
		if err != nil && left > 0 {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return "", &readError{err}
		}
	}
	return digest(h), nil
}

func digest(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

// space refuses where a file of this size does not fit.
func space(dir string, size int64) error {
	free, err := atomicfile.Free(dir)
	if err == nil && free < size {
		err = fmt.Errorf("%d MiB are free in %s, %d MiB are needed", free>>20, dir, size>>20+1)
	}
	if err != nil {
		return fault.New(fault.Failure, "make room, or choose another place with --out", err)
	}
	return nil
}

// failed gives an error of a write its operation and code.
func failed(op string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, atomicfile.ErrBusy) {
		return &fault.Error{Op: op, Code: fault.Locked, Hint: "wait until it is done", Err: err}
	}
	return &fault.Error{Op: op, Err: err}
}
