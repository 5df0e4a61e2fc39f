// Package images brings the bundle's images into containerd: only the blobs that
// the host lacks travel, straight into containerd's content store, and every
// image is pinned against the kubelet's garbage collection.
package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/containerd"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
)

// PinnedLabel keeps an image from being collected by the kubelet, as
// containerd's CRI plugin reads it.
const (
	PinnedLabel = "io.cri-containerd.pinned"
	pinned      = "pinned"
)

// ctr is containerd's own client, in the kubelet's namespace.
func ctr(args ...string) host.Cmd {
	return host.Command(append([]string{"/usr/local/bin/ctr", "-n", "k8s.io"}, args...)...)
}

// Import has every image of the payload in containerd, pinned. kocli is the
// program on the host that takes them in, from the stream and from its own
// content store.
func Import(p payload.Payload, kocli string) plan.Step {
	return converge.Func{
		Name: "images/import",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			s, err := look(ctx, r, p.Images())
			if err != nil {
				return nil, err
			}
			var out []plan.Change
			for _, im := range s.lacking {
				c := plan.Change{Object: "image " + im.Ref, To: "import", Bytes: im.Size}
				for _, b := range im.Blobs {
					c.Content = append(c.Content, b.Digest)
				}
				if s.absent {
					c.After = "runtime/service"
				}
				out = append(out, c)
			}
			for _, ref := range s.unpinned {
				out = append(out, plan.Change{Object: "image " + ref, To: "pin"})
			}
			return out, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error { return apply(ctx, h, p, kocli) },
	}
}

// state is what containerd has of a list of images.
type state struct {
	absent   bool            // there is no containerd yet
	lacking  []archive.Image // not there, or under another digest
	unpinned []string
}

// look asks containerd for its images.
func look(ctx context.Context, r host.Reader, want []archive.Image) (state, error) {
	out, err := r.Query(ctx, ctr("images", "ls"))
	var x *host.ExitError
	if errors.As(err, &x) {
		return state{absent: true, lacking: want}, nil // not installed, or not running: runtime/service says so
	}
	if err != nil {
		return state{}, err
	}
	lines := map[string]string{}
	for _, l := range strings.Split(out.Text(), "\n") {
		ref, rest, _ := strings.Cut(l, " ")
		lines[ref] = rest
	}
	var s state
	for _, im := range want {
		l, ok := lines[im.Ref]
		switch {
		case !ok || !strings.Contains(l, im.Digest):
			s.lacking = append(s.lacking, im)
		case !strings.Contains(l, PinnedLabel+"="+pinned):
			s.unpinned = append(s.unpinned, im.Ref)
		}
	}
	return s, nil
}

func apply(ctx context.Context, h host.Host, p payload.Payload, kocli string) error {
	s, err := look(ctx, h, p.Images())
	if err != nil {
		return err
	}
	pin := s.unpinned
	if len(s.lacking) > 0 {
		err := bring(ctx, h, p, s.lacking, kocli)
		if errors.Is(err, containerd.ErrNoKocli) {
			err = stream(ctx, h, p, s.lacking)
			for _, im := range s.lacking {
				pin = append(pin, im.Ref)
			}
		}
		if err != nil {
			return fmt.Errorf("import %d images: %w", len(s.lacking), err)
		}
	}
	for _, ref := range pin {
		if _, err := h.Run(ctx, ctr("images", "label", ref, PinnedLabel+"="+pinned)); err != nil {
			return fmt.Errorf("pin %s: %w", ref, err)
		}
	}
	return nil
}

// tries is how often images are brought: containerd may be restarted meanwhile,
// and a blob in the store of the host turn out to be damaged. What has arrived
// is not sent again.
const tries = 3

// bring has kocli on the host take in what is lacking.
func bring(ctx context.Context, h host.Host, p payload.Payload, images []archive.Image, kocli string) error {
	q := containerd.Request{
		Labels: map[string]string{PinnedLabel: pinned}, Open: p.Blob,
		Progress: func(done, total int64) { plan.Transfer(ctx, "images", done, total) },
	}
	for _, im := range images {
		out := containerd.Image{Ref: im.Ref}
		for _, b := range im.Blobs {
			out.Blobs = append(out.Blobs, containerd.Blob{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size})
		}
		q.Images = append(q.Images, out)
	}
	var errs []error
	for range tries {
		err := containerd.Send(ctx, h, kocli, q)
		var x *host.ExitError
		if err == nil || !errors.As(err, &x) || errors.Is(err, containerd.ErrNoKocli) {
			return err // it is done, or the connection is lost
		}
		if slices.ContainsFunc(errs, func(e error) bool { return e.Error() == err.Error() }) {
			return err // the same again
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// stream gives a tar of what is lacking to containerd's own client, where no
// kocli runs on the host.
func stream(ctx context.Context, h host.Host, p payload.Payload, images []archive.Image) error {
	out, err := h.Query(ctx, ctr("content", "ls", "-q"))
	if err != nil {
		return fmt.Errorf("ask containerd for its content: %w", err)
	}
	if err = ctrImport(ctx, h, p, images, archive.ParseDigests(out.Text()).Has); err == nil {
		return nil
	}
	// A blob that was listed may have been collected since: send all.
	if err2 := ctrImport(ctx, h, p, images, nil); err2 != nil {
		return errors.Join(err2, err)
	}
	return nil
}

func ctrImport(ctx context.Context, h host.Host, p payload.Payload, images []archive.Image, have func(string) bool) error {
	size, write, err := p.ImageTar(images, have)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(write(w)) }()
	defer func() { _ = r.Close() }()
	c := ctr("images", "import", "-")
	c.Stdin = &meter{r: r, total: size, report: func(done, total int64) { plan.Transfer(ctx, "images", done, total) }}
	_, err = h.Run(ctx, c)
	return err
}

// meter reports what passes, at most five times a second.
type meter struct {
	r           io.Reader
	done, total int64
	last        time.Time
	report      func(done, total int64)
}

// Read passes bytes on.
func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.done += int64(n)
	if now := time.Now(); err != nil || now.Sub(m.last) > 200*time.Millisecond {
		m.last = now
		m.report(m.done, m.total)
	}
	return n, err
}
