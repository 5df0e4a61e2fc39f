// Package build makes a bundle from a bundle.yaml and the catalogue: it finds
// out what belongs into it, downloads what the cache lacks, holds it against
// bundle.lock and writes the tar. Downloading itself is in pkg/archive/fetch.
package build

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/archive/fetch"
	"github.com/kocli/kocli/pkg/archive/frames"
	"github.com/kocli/kocli/pkg/fault"
)

// workers is how many downloads run at once.
const workers = 4

// Options say what to build. Spec, Catalogue, CacheDir and Output are needed.
type Options struct {
	Spec      *archive.Spec
	SpecDir   string // relative paths in the spec start here
	Catalogue *catalogue.Catalogue
	Addons    *catalogue.Addons // those that can be asked for; nil: the ones that kocli knows
	Mirrors   []string          // values of --mirror; see fetch.NewMirrors
	CacheDir  string            // downloads are kept here, by digest
	DropCache bool              // take them out of it as they are written: for small disks
	Base      string            // older bundle that content is taken from instead of downloading it; may be empty
	Output    string            // the bundle; replaced only by a whole one
	Arch      []string          // overrides the architectures of the spec
	Version   string            // of this kocli: "v0.1.0"
	// KocliBinaries are the paths of kocli for each architecture of the bundle.
	KocliBinaries map[string]string
	// LockPath is the lock file, see LockPath. Empty: nothing is locked.
	LockPath string
	// UpdateLock accepts what differs from the lock, and rewrites it.
	UpdateLock bool
	// Locked refuses items that the lock does not have.
	Locked bool
	// Progress is told what happens, never concurrently. May be nil.
	Progress func(Progress)
	// Transport is used for all downloads; nil means one with time-outs.
	Transport http.RoundTripper
	// RetryPause is the first pause before a retry; zero means a second.
	RetryPause time.Duration
}

// Stage is a part of a build.
type Stage string

// The stages of a build, in their order.
const (
	StageResolve  Stage = "resolve"  // counts items
	StageDownload Stage = "download" // counts bytes; the total grows as sizes become known
	StageCompress Stage = "compress" // counts bytes of files
	StageWrite    Stage = "write"    // counts bytes of the tar
)

// Progress is how far a stage is.
type Progress struct {
	Stage       Stage
	Item        string // what it is about, for people; may be empty
	Done, Total int64
}

// Report says what was built.
type Report struct {
	Output      string `json:"output"`
	Digest      string `json:"digest"` // of the bundle, see archive.Bundle.Digest
	Size        int64  `json:"size"`   // bytes of the file
	Items       int    `json:"items"`
	Downloaded  int64  `json:"downloadedBytes"`
	Lock        string `json:"lock,omitempty"`
	LockChanged bool   `json:"lockChanged"`
}

// LockPath is the lock that belongs to a spec: bundle.lock beside bundle.yaml.
func LockPath(spec string) string {
	return strings.TrimSuffix(spec, filepath.Ext(spec)) + ".lock"
}

// builder is one build.
type builder struct {
	opts    Options
	client  *fetch.Client
	meter   *meter
	archs   []string
	release map[string]catalogue.Release
	addons  []addon
	old     *lock // nil when there is none
	new     *lock
	asItIs  map[string]bool // digests of blobs that are never compressed
	codec   *frames.Codec
	flight  singleflight.Group // one goroutine makes the compressed form of a digest, or takes it from the base
	base    *archive.Bundle    // nil when there is none
	// programs are what the base has out of tarballs, by the tarballs' digests.
	programs map[string][]archive.Item
	slots    chan struct{} // one for each file that is being compressed
}

// Build makes a bundle. The output is replaced at the end, atomically: a build
// that fails or is killed leaves the old file, and its downloads in the cache.
// Errors about the spec carry fault.Usage, about content that does not match
// its digest or the lock fault.Bundle, about a cache in use fault.Locked.
func Build(ctx context.Context, o Options) (report *Report, err error) {
	mirrors, err := fetch.NewMirrors(o.Mirrors)
	if err != nil {
		return nil, err
	}
	b := &builder{opts: o, archs: o.Spec.Spec.Architectures, meter: newMeter(o.Progress), new: newLock()}
	if len(o.Arch) > 0 {
		b.archs = slices.Compact(slices.Sorted(slices.Values(o.Arch)))
	}
	for _, a := range b.archs {
		if a != "amd64" && a != "arm64" {
			return nil, fault.New(fault.Usage, "known are amd64 and arm64", fmt.Errorf("architecture %q is not supported", a))
		}
	}
	if b.codec, err = frames.New(); err != nil {
		return nil, err
	}
	b.slots = make(chan struct{}, frames.Workers())
	if b.release, err = b.releases(); err != nil {
		return nil, err
	}
	if b.addons, err = b.chooseAddons(); err != nil {
		return nil, err
	}
	if o.LockPath != "" {
		if b.old, err = readLock(o.LockPath); err != nil {
			return nil, err
		}
	}
	cache, err := fetch.OpenCache(o.CacheDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	transport := o.Transport
	if transport == nil {
		transport = fetch.NewTransport()
	}
	b.client = &fetch.Client{Mirrors: mirrors, Cache: cache, HTTP: transport, Pause: o.RetryPause}

	if err := b.openBase(); err != nil {
		return nil, err
	}
	if b.base != nil {
		defer func() { err = errors.Join(err, b.base.Close()) }()
	}
	parts, err := b.resolve(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.checkLock(parts); err != nil {
		return nil, err
	}
	if err := b.download(ctx, parts); err != nil {
		return nil, err
	}
	if err := b.expand(ctx, parts); err != nil {
		return nil, err
	}
	if err := b.compress(ctx, parts); err != nil {
		return nil, err
	}
	if err := b.repack(ctx, parts); err != nil {
		return nil, err
	}
	return b.finish(ctx, parts)
}

// releases looks up the versions of the spec, and refuses what the catalogue
// does not have.
func (b *builder) releases() (map[string]catalogue.Release, error) {
	out := map[string]catalogue.Release{}
	for _, v := range b.opts.Spec.Spec.Kubernetes {
		r, err := b.opts.Catalogue.Release(v, b.opts.Spec.Spec.Components)
		if err != nil {
			return nil, err
		}
		out[v] = r
	}
	for _, c := range b.opts.Spec.Spec.CNI {
		if known := b.opts.Catalogue.CNIs(); !slices.Contains(known, c) {
			return nil, fault.New(fault.Usage, "known are "+strings.Join(known, ", "), fmt.Errorf("CNI %q is not in the catalogue", c))
		}
	}
	return out, nil
}

// download fetches every blob that the cache lacks, each once.
func (b *builder) download(ctx context.Context, parts []*part) error {
	b.asItIs = map[string]bool{}
	for _, p := range parts {
		for _, it := range p.items {
			b.asItIs[it.Digest] = b.asItIs[it.Digest] || !compresses(it.Kind)
			for _, d := range it.Blobs {
				b.asItIs[d.Digest] = true
			}
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	seen := map[string]bool{}
	for _, p := range parts {
		for _, j := range p.jobs {
			if seen[j.digest] {
				continue
			}
			seen[j.digest] = true
			if b.have(j.digest, j.tarball) {
				continue
			}
			b.meter.expect(StageDownload, max(0, j.size))
			g.Go(func() error {
				got := func(n int64) { b.meter.add(StageDownload, p.label, n) }
				err := j.fetch(ctx, got)
				if err == nil && p.local == "" {
					err = b.shrink(ctx, p)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", p.label, err)
				}
				return nil
			})
		}
	}
	return g.Wait()
}
