// Package push puts the images and charts of a bundle into an OCI registry,
// straight from the bundle's file. Manifests keep their digests. What is there
// is not sent again, so a push that was interrupted goes on where it was.
package push

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// jobs is how many blobs are sent at once.
const jobs = 4

// Options say where to push to.
type Options struct {
	Bundle *archive.Bundle
	// Registry is HOST[:PORT][/PREFIX], with https:// or, with PlainHTTP, http://
	// before it or not.
	Registry string
	// KeepHost puts the registry that an image comes from into its new path:
	// HOST/PREFIX/registry.k8s.io/pause instead of HOST/PREFIX/pause.
	KeepHost  bool
	PlainHTTP bool
	CAFile    string // PEM; beside the system's
	// AlsoHosts may be asked too, for a registry whose token service or storage
	// has another name. Nothing else is contacted.
	AlsoHosts []string
	// Pause is the first pause before a retry; it doubles. Zero means one second.
	Pause time.Duration
	// Stall is how long nothing may move. Zero means two minutes.
	Stall time.Duration
	// Progress is told the bytes that are in the registry, of all. May be nil.
	Progress func(done, total int64)
}

// Result is what a push did. Its JSON is stable.
type Result struct {
	Registry string   `json:"registry"`
	Bundle   string   `json:"bundle"` // its digest
	Pushed   int      `json:"pushed"` // references
	Skipped  int      `json:"skipped"`
	Sent     int64    `json:"sentBytes"`  // that left this machine; of what was sent twice, twice
	Total    int64    `json:"totalBytes"` // of all references, each repository for itself
	Images   []Pushed `json:"images"`
	// Mirrors says where containerd finds what came from a registry, as endpoint for
	// spec.runtime.containerd.mirrors.
	Mirrors map[string]string `json:"mirrors"`
}

// Pushed is one reference.
type Pushed struct {
	Source  string   `json:"source"`
	Target  string   `json:"target"`
	Digest  string   `json:"digest"` // of the manifest, or of the index over several
	Arches  []string `json:"architectures"`
	Skipped bool     `json:"skipped"` // was there
}

// Push puts all images and charts of the bundle into a registry. The result
// says how far it came, also with an error.
func Push(ctx context.Context, o Options) (*Result, error) {
	reg, err := parseRegistry(o)
	if err != nil {
		return nil, err
	}
	targets, err := plan(o, reg)
	if err != nil {
		return nil, err
	}
	c, err := newClient(o, reg)
	if err != nil {
		return nil, err
	}
	res := &Result{Registry: reg.String(), Bundle: o.Bundle.Digest(), Images: []Pushed{}, Mirrors: reg.mirrors(targets)}
	for _, t := range targets {
		res.Total += t.size()
	}
	p := pusher{client: c, o: o, total: res.Total, known: map[string]name.Reference{}}
	for _, t := range targets {
		skipped, err := p.push(ctx, t)
		res.Sent = p.sent.Load()
		if err != nil {
			return res, c.explain(ctx, t, err)
		}
		if skipped {
			res.Skipped++
		} else {
			res.Pushed++
		}
		res.Images = append(res.Images, Pushed{t.source, t.ref.Name(), t.digest, t.arches(), skipped})
		p.done += t.size()
		p.report(0)
	}
	return res, nil
}

// pusher sends one target after another.
type pusher struct {
	*client
	o           Options
	sent        atomic.Int64
	total, done int64
	known       map[string]name.Reference // where a blob is, by digest: a registry can mount it from there
}

func (p *pusher) report(now int64) {
	if p.o.Progress != nil {
		p.o.Progress(min(p.done+now, p.total), p.total)
	}
}

// push has a target in the registry. It reports whether it was there.
func (p *pusher) push(ctx context.Context, t target) (skipped bool, err error) {
	if there, err := p.holds(ctx, t); err != nil {
		return false, err
	} else if !there {
		if err := p.send(ctx, t); err != nil {
			return false, err
		}
		if there, err = p.holds(ctx, t); err != nil {
			return false, err
		} else if !there {
			return false, fmt.Errorf("%w: it took %s and does not have it", errLies, t.digest)
		}
	} else {
		skipped = true
	}
	for _, it := range t.items {
		for _, d := range it.Blobs[1:] {
			p.known[d.Digest] = t.ref
		}
	}
	return skipped, nil
}

// errLies is in the chain of every error about a registry that does not hold
// what it says.
var errLies = errors.New("the registry is not to be trusted")

// holds asks for the digest that the registry has under a reference, and reads
// the manifest: containerd relies on the one, and gets the other.
func (p *pusher) holds(ctx context.Context, t target) (bool, error) {
	head, err := p.puller.Head(ctx, t.ref)
	if notFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	got, err := p.puller.Get(ctx, t.ref)
	if notFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	content, _, err := v1.SHA256(bytes.NewReader(got.Manifest))
	if err != nil {
		return false, err
	}
	if head.Digest != content {
		return false, fmt.Errorf("%w: it says that %s is %s, and serves %s", errLies, t.ref.Name(), head.Digest, content)
	}
	return content.String() == t.digest, nil
}

func notFound(err error) bool {
	var te *transport.Error
	return errors.As(err, &te) && te.StatusCode == http.StatusNotFound
}

// send sends the blobs, then the manifests, then the index: what refers to
// something never arrives before it.
func (p *pusher) send(ctx context.Context, t target) error {
	var moved atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	repo := t.ref.Context()
	for _, d := range t.blobs() {
		g.Go(func() error {
			var l v1.Layer = &blob{bundle: p.o.Bundle, d: d, count: func(n int64) {
				p.sent.Add(n)
				p.report(min(moved.Add(n), t.size()))
			}}
			if from, ok := p.known[d.Digest]; ok && from.Context() != repo {
				l = &remote.MountableLayer{Layer: l, Reference: from}
			}
			return p.pusher.Upload(gctx, repo, l)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, m := range t.manifests {
		if len(t.manifests) == 1 || i == len(t.manifests)-1 && t.index {
			return p.pusher.Put(ctx, t.ref, m)
		}
		if err := p.pusher.Put(ctx, repo.Digest(m.digest), m); err != nil {
			return err
		}
	}
	return nil
}

// blob is a blob of the bundle as a layer. Its content is checked as it is read.
type blob struct {
	bundle *archive.Bundle
	d      archive.Descriptor
	count  func(n int64)
}

// Digest, Size and MediaType are those of the bundle manifest.
func (b *blob) Digest() (v1.Hash, error) { return v1.NewHash(b.d.Digest) }

// Size is in bytes.
func (b *blob) Size() (int64, error) { return b.d.Size, nil }

// MediaType is not sent with a blob.
func (b *blob) MediaType() (types.MediaType, error) { return types.MediaType(b.d.MediaType), nil }

// DiffID and Uncompressed are not asked for by a push.
func (b *blob) DiffID() (v1.Hash, error) { return v1.Hash{}, errNotUnpacked }

// Uncompressed would unpack the blob.
func (b *blob) Uncompressed() (io.ReadCloser, error) { return nil, errNotUnpacked }

// Compressed is the content, as often as a push tries.
func (b *blob) Compressed() (io.ReadCloser, error) {
	r, err := b.bundle.OpenBlob(b.d.Digest)
	if err != nil {
		return nil, err
	}
	return &counted{&withheld{r, b.d.Size}, b.count}, nil
}

// withheld reads a blob and gives out its last bytes only when the digest was
// right: a request ends with the last byte, and asks for no io.EOF.
type withheld struct {
	io.ReadCloser
	left int64
}

func (w *withheld) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if w.left -= int64(n); w.left > 0 || err != nil {
		return n, err
	}
	if _, err := w.ReadCloser.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return 0, err
	}
	return n, io.EOF
}

var errNotUnpacked = fault.New(fault.Failure, "", errors.New("blobs of a bundle are sent as they are"))
