package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
)

// addon is one that the spec asks for.
type addon struct {
	entry   *catalogue.Addon
	version catalogue.AddonVersion
}

// chooseAddons looks up the add-ons of the spec, and refuses what is not known or
// does not fit.
func (b *builder) chooseAddons() ([]addon, error) {
	if len(b.opts.Spec.Spec.Addons) == 0 {
		return nil, nil
	}
	known := b.opts.Addons
	if known == nil {
		var err error
		if known, err = catalogue.EmbeddedAddons(); err != nil {
			return nil, err
		}
	}
	var out []addon
	for _, a := range b.opts.Spec.Spec.Addons {
		entry, ok := known.Find(a.Name)
		if !ok {
			return nil, fault.New(fault.Usage, "known are "+strings.Join(known.Names(), ", "), fmt.Errorf("spec.addons: there is no add-on %q", a.Name))
		}
		v, err := entry.Fitting(a.Version, b.opts.Spec.Spec.Kubernetes...)
		if err != nil {
			return nil, err
		}
		out = append(out, addon{entry, v})
	}
	return out, nil
}

// addonCharts are the charts of the add-ons.
func (b *builder) addonCharts() []resolver {
	var out []resolver
	for _, a := range b.addons {
		out = append(out, resolver{"chart of " + a.entry.Name + " " + a.version.Version, func(ctx context.Context) (*part, error) {
			p, err := b.addonChart(ctx, a)
			if err != nil {
				return nil, err
			}
			it := &p.items[0]
			it.Component, it.Addons, it.Licence = a.entry.Name, []string{a.entry.Name}, a.entry.Licence
			return p, nil
		}})
	}
	return out
}

func (b *builder) addonChart(ctx context.Context, a addon) (*part, error) {
	c := a.entry.Chart
	x := archive.ExtraChart{Repo: c.Repo, Name: c.Name, Ref: c.Ref, Version: a.version.Version}
	switch {
	case c.Ref != "":
		return b.registryChart(ctx, x)
	case c.Repo != "":
		return b.repositoryChart(ctx, x)
	}
	return b.archivedChart(ctx, c, a.version.Version)
}

// archivedChart takes a chart out of a source archive. What the server has is
// locked: it publishes no digest.
func (b *builder) archivedChart(ctx context.Context, c catalogue.ChartSource, version string) (*part, error) {
	at := catalogue.Expand(c.Archive, version, "")
	line := lockItem{Item: fmt.Sprintf("chart %s %s", at, c.Path), URL: at}
	line.Digest = b.cached(line.Item, false)
	if line.Digest == "" {
		data, err := b.client.Small(ctx, at, maxChart)
		if err != nil {
			return nil, err
		}
		if line.Digest, err = b.client.Cache.Put(data); err != nil {
			return nil, err
		}
	}
	data, err := b.client.Cache.Read(line.Digest, maxChart)
	if err != nil {
		return nil, err
	}
	chart, err := packFolder(data, c.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(at, "https://"), "/archive/")
	p, err := b.chart(chart, archive.ExtraChart{Version: version}, host)
	if err != nil {
		return nil, err
	}
	p.items[0].Source, p.items[0].SourceDigest = at, line.Digest
	p.locked = []lockItem{line}
	return p, nil
}

// packFolder packs a folder of a source archive as a chart. The archive's own first
// folder, which is named after its version, does not count. The same archive gives
// the same bytes.
func packFolder(data []byte, folder string) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("not a .tar.gz: %w", err)
	}
	files := map[string][]byte{}
	for t := tar.NewReader(&budget{r: z, left: maxUnpacked}); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("not a .tar.gz: %w", err)
		}
		_, name, _ := strings.Cut(path.Clean(h.Name), "/")
		inside, ok := strings.CutPrefix(name, path.Clean(folder)+"/")
		if !ok || h.Typeflag != tar.TypeReg {
			continue
		}
		if files[path.Base(folder)+"/"+inside], err = io.ReadAll(io.LimitReader(t, maxChart)); err != nil {
			return nil, err
		}
	}
	if len(files) == 0 {
		return nil, fault.New(fault.Bundle, "", fmt.Errorf("there is no folder %s in it", folder))
	}
	var names []string
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	t := tar.NewWriter(w)
	for _, n := range names {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: n, Size: int64(len(files[n])), Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := t.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := t.Write(files[n]); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(t.Close(), w.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
