package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
)

// part is one source: what it brings and how to get it.
type part struct {
	label string
	items []archive.Item
	jobs  []job
	// locked are the lines that the lock has, or will have, for the items.
	locked []lockItem
	// request is set for OS packages: what was asked for, in the lock.
	request string
	// local is the path of a file that is not downloaded.
	local string
}

// job brings one blob into the cache.
type job struct {
	digest string
	size   int64 // -1: not known
	// tarball is whether the programs in it will do as well.
	tarball bool
	fetch   func(ctx context.Context, got func(int64)) error
}

// resolver finds out one part.
type resolver struct {
	label string
	run   func(ctx context.Context) (*part, error)
}

// resolve finds out what belongs into the bundle: names, digests, places.
func (b *builder) resolve(ctx context.Context) ([]*part, error) {
	var todo []resolver
	todo = append(todo, b.files()...)
	todo = append(todo, b.images()...)
	packages, err := b.packages()
	if err != nil {
		return nil, err
	}
	todo = append(todo, packages...)
	todo = append(todo, b.extraFiles()...)
	todo = append(todo, b.addonCharts()...)
	todo = append(todo, b.charts()...)
	todo = append(todo, b.kocli()...)

	b.meter.expect(StageResolve, int64(len(todo)))
	out := make([]*part, len(todo))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i, r := range todo {
		g.Go(func() error {
			p, err := r.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", r.label, err)
			}
			p.label = r.label
			out[i] = p
			b.meter.add(StageResolve, r.label, 1)
			return nil
		})
	}
	return out, g.Wait()
}

// use is a component version, with the versions of Kubernetes that use it.
type use struct {
	version    string
	kubernetes []string // empty means all of the bundle
}

// uses returns the versions of a component, in order.
func (b *builder) uses(component string) []use {
	by := map[string][]string{}
	for _, k := range slices.Sorted(slices.Values(b.opts.Spec.Spec.Kubernetes)) {
		v := b.release[k].Components[component]
		by[v] = append(by[v], k)
	}
	var out []use
	for v, ks := range by {
		if len(ks) == len(b.opts.Spec.Spec.Kubernetes) {
			ks = nil
		}
		out = append(out, use{v, ks})
	}
	slices.SortFunc(out, func(x, y use) int { return slices.Compare([]string{x.version}, []string{y.version}) })
	return out
}

// files are the binaries and tarballs of the catalogue.
func (b *builder) files() []resolver {
	var out []resolver
	for _, f := range b.opts.Catalogue.Files {
		for _, u := range b.uses(f.Component) {
			for _, arch := range b.archs {
				label := fmt.Sprintf("%s %s (%s)", f.Name, u.version, arch)
				out = append(out, resolver{label, func(ctx context.Context) (*part, error) { return b.file(ctx, f, u, arch) }})
			}
		}
	}
	return out
}

func (b *builder) file(ctx context.Context, f catalogue.File, u use, arch string) (*part, error) {
	url := catalogue.Expand(f.URL, u.version, arch)
	line := lockItem{Item: fmt.Sprintf("%s %s %s", f.Name, u.version, arch), URL: url}
	line.Digest = b.cached(line.Item, f.Kind == archive.KindArchive)
	if line.Digest == "" {
		digest, err := b.client.Checksum(ctx, catalogue.Expand(f.Checksum, u.version, arch), path.Base(url))
		if err != nil {
			return nil, err
		}
		line.Digest = digest
	}
	return &part{
		items: []archive.Item{{
			Kind: f.Kind, Name: f.Name, Component: f.Component, Version: u.version, Arch: arch, Role: f.Role, Kubernetes: u.kubernetes,
			Licence: f.Licence, Source: url, File: path.Base(url), Digest: line.Digest, Size: -1,
		}},
		jobs: []job{{digest: line.Digest, size: -1, tarball: f.Kind == archive.KindArchive, fetch: func(ctx context.Context, got func(int64)) error {
			return b.client.Blob(ctx, url, line.Digest, -1, got)
		}}},
		locked: []lockItem{line},
	}, nil
}

// cached returns the digest that the lock has for an item when its content is
// in the cache, or of a tarball the programs: then nobody has to be asked.
func (b *builder) cached(item string, tarball bool) string {
	if b.old == nil || b.opts.UpdateLock {
		return ""
	}
	l, _ := b.old.line(item)
	if l.Digest == "" || !b.have(l.Digest, tarball) {
		return ""
	}
	return l.Digest
}

// have reports whether nothing has to be downloaded for a digest.
func (b *builder) have(digest string, tarball bool) bool {
	if tarball {
		if _, ok := b.client.Cache.Members(digest); ok {
			return true
		}
	}
	return b.client.Cache.Has(digest) || b.fromBase(digest, tarball)
}

// images are those of the catalogue and of the spec. One that is asked for
// twice is taken once.
func (b *builder) images() []resolver {
	var items []archive.Item
	add := func(it archive.Item) {
		i := slices.IndexFunc(items, func(x archive.Item) bool { return x.Name == it.Name && x.Arch == it.Arch })
		if i < 0 {
			items = append(items, it)
			return
		}
		old := &items[i]
		if old.Role != it.Role {
			old.Role = archive.RoleAll
		}
		if len(it.Kubernetes) == 0 {
			old.Kubernetes = nil
		}
		if old.CNI != it.CNI {
			old.CNI = ""
		}
		if !maps.Equal(old.Endpoint, it.Endpoint) {
			old.Endpoint = nil
		}
		if len(old.Addons) == 0 || len(it.Addons) == 0 { // somebody else needs it too
			old.Addons = nil
		} else if !slices.Contains(old.Addons, it.Addons[0]) {
			old.Addons = append(old.Addons, it.Addons[0])
		}
	}
	for _, arch := range b.archs {
		for _, im := range b.opts.Catalogue.Images {
			if im.CNI != "" && !slices.Contains(b.opts.Spec.Spec.CNI, im.CNI) {
				continue
			}
			for _, u := range b.uses(im.Component) {
				add(archive.Item{
					Name: catalogue.Expand(im.Ref, u.version, arch), Component: im.Component, Version: u.version, Arch: arch,
					Role: im.Role, Kubernetes: u.kubernetes, CNI: im.CNI, Endpoint: im.Endpoint, Licence: im.Licence,
				})
			}
		}
		for _, a := range b.addons {
			for _, ref := range a.version.Images {
				add(archive.Item{Name: ref, Component: a.entry.Name, Arch: arch, Role: archive.RoleAll, Licence: a.entry.Licence, Addons: []string{a.entry.Name}})
			}
		}
		for _, x := range b.opts.Spec.Spec.ExtraImages {
			add(archive.Item{Name: x.Ref, Component: "extra", Arch: arch, Role: x.Role})
		}
	}
	out := make([]resolver, 0, len(items))
	for _, it := range items {
		out = append(out, resolver{it.Label(), func(ctx context.Context) (*part, error) { return b.image(ctx, it) }})
	}
	return out
}

func (b *builder) image(ctx context.Context, it archive.Item) (*part, error) {
	line := lockItem{Item: fmt.Sprintf("%s %s", it.Name, it.Arch), URL: it.Name}
	blobs, ok, err := b.client.CachedManifest(b.cached(line.Item, false))
	if err != nil {
		return nil, err
	}
	if !ok {
		if blobs, err = b.client.Manifest(ctx, it.Name, it.Arch); err != nil {
			return nil, err
		}
	}
	line.Digest = blobs[0].Digest
	it.Kind, it.Source = archive.KindImage, it.Name
	it.Digest, it.Blobs, it.Size = line.Digest, blobs, archive.ImageSize(blobs)
	p := &part{items: []archive.Item{it}, locked: []lockItem{line}}
	for _, d := range blobs[1:] {
		p.jobs = append(p.jobs, job{digest: d.Digest, size: d.Size, fetch: func(ctx context.Context, got func(int64)) error {
			return b.client.ImageBlob(ctx, it.Name, d, got)
		}})
	}
	return p, nil
}

// kocli are the binaries of kocli itself. They are given by path, and are not
// locked.
func (b *builder) kocli() []resolver {
	var out []resolver
	for _, arch := range b.archs {
		file, ok := b.opts.KocliBinaries[arch]
		if !ok {
			continue
		}
		out = append(out, resolver{"kocli " + arch, func(context.Context) (*part, error) {
			digest, size, err := digestFile(file)
			if err != nil {
				return nil, fault.New(fault.Usage, "give the path of a kocli binary for "+arch, err)
			}
			return &part{local: file, items: []archive.Item{{
				Kind: archive.KindKocli, Name: "kocli", Component: "kocli", Version: b.opts.Version, Arch: arch, Role: archive.RoleAll,
				Licence: "Apache-2.0", File: "kocli", Digest: digest, Size: size,
			}}}, nil
		}})
	}
	return out
}

func digestFile(path string) (digest string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	h := sha256.New()
	size, err = io.Copy(h, f)
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), size, errors.Join(err, f.Close())
}
