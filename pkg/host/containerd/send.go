package containerd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
)

// Runner is what Send needs of a host.
type Runner interface {
	Run(ctx context.Context, c host.Cmd) (host.Output, error)
}

// ErrNoKocli says that kocli cannot run on the host, or speaks another protocol.
var ErrNoKocli = errors.New("no kocli that takes images runs on this host")

// Request is what Send brings to a host.
type Request struct {
	Images []Image
	Labels map[string]string // that every image gets
	// Open returns the bytes of a blob; false where there is no such blob.
	Open func(digest string) (*io.SectionReader, bool)
	// Progress is told the bytes that were sent of those that are lacking. May be
	// nil.
	Progress func(done, total int64)
}

// Send has the host get the images: kocli is the program on it. Errors of the
// host are *host.ExitError with the exit code of kocli; damage of the bundle
// carries fault.Bundle. ErrNoKocli where it does not run. It may be repeated:
// what has arrived is not sent again.
func Send(ctx context.Context, h Runner, kocli string, q Request) error {
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	spoken := make(chan error, 1)
	go func() {
		err := q.speak(stdin, stdout)
		_ = stdin.CloseWithError(err)
		_ = stdout.CloseWithError(io.ErrClosedPipe) // nothing more is expected
		spoken <- err
	}()
	c := host.Command(kocli, "node", "images", "--protocol", Protocol)
	c.Stdin, c.Stdout = in, out
	_, err := h.Run(ctx, c)
	_ = in.CloseWithError(io.ErrClosedPipe)
	_ = out.Close()
	said := <-spoken
	var x *host.ExitError
	switch {
	case err == nil:
		return said
	case errors.As(err, &x) && (x.Code == 126 || x.Code == 127 || x.Code == int(fault.Usage)):
		return errors.Join(ErrNoKocli, err)
	case errors.As(err, &x) && x.Code == int(fault.Bundle):
		return fault.New(fault.Bundle, "see whether the bundle is damaged with: kocli bundle verify BUNDLE", err)
	case said != nil && !errors.Is(said, io.ErrClosedPipe) && !errors.Is(said, io.ErrUnexpectedEOF):
		return errors.Join(said, err)
	}
	return err
}

// speak is the operator's side of the conversation.
func (q Request) speak(w io.Writer, r io.Reader) error {
	if err := writeLine(w, order{q.Images, q.Labels}); err != nil {
		return err
	}
	var a answer
	if err := readLine(bufio.NewReaderSize(r, 64<<10), &a); err != nil {
		return fmt.Errorf("answer of the host: %w", err)
	}
	sizes := map[string]int64{}
	for _, im := range q.Images {
		for _, b := range im.Blobs {
			sizes[b.Digest] = b.Size
		}
	}
	m := meter{report: q.Progress}
	for _, d := range a.Lacks {
		m.total += sizes[d]
	}
	buf := make([]byte, 512<<10)
	for _, d := range a.Lacks {
		s, ok := q.Open(d)
		if size, asked := sizes[d]; !ok || !asked || s.Size() != size {
			return fmt.Errorf("the host asks for %.80q, of which there are no such bytes here", d)
		}
		if err := writeLine(w, piece{Digest: d, Size: s.Size()}); err != nil {
			return err
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, &reading{s, &m}, buf); err != nil {
			return err
		}
	}
	return writeLine(w, piece{End: true})
}

// reading tells a meter what is read.
type reading struct {
	r io.Reader
	m *meter
}

// Read passes bytes on.
func (r *reading) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.m.add(int64(n))
	return n, err
}

// meter reports what passes, at most five times a second.
type meter struct {
	done, total int64
	last        time.Time
	report      func(done, total int64)
}

func (m *meter) add(n int64) {
	m.done += n
	if now := time.Now(); m.report != nil && (m.done == m.total || now.Sub(m.last) > 200*time.Millisecond) {
		m.last = now
		m.report(m.done, m.total)
	}
}
