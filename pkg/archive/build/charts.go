package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// Bounds of what Helm repositories send, in bytes.
const (
	maxChartIndex = 256 << 20
	maxChart      = 64 << 20
	maxChartYAML  = 1 << 20
)

// charts are the charts of the spec.
func (b *builder) charts() []resolver {
	var out []resolver
	for _, c := range b.opts.Spec.Spec.ExtraCharts {
		label := "chart " + c.Name + c.Ref + c.Path + " " + c.Version
		out = append(out, resolver{strings.TrimSpace(label), func(ctx context.Context) (*part, error) {
			switch {
			case c.Ref != "":
				return b.registryChart(ctx, c)
			case c.Repo != "":
				return b.repositoryChart(ctx, c)
			}
			return b.localChart(c)
		}})
	}
	return out
}

// registryChart takes a chart from a registry as it is, as images are.
func (b *builder) registryChart(ctx context.Context, c archive.ExtraChart) (*part, error) {
	ref := strings.TrimPrefix(c.Ref, "oci://") + ":" + archive.ChartTag(c.Version)
	p, err := b.image(ctx, archive.Item{Name: ref, Component: "extra", Version: c.Version, Arch: archive.ArchAll, Role: archive.RoleAll})
	if err != nil {
		return nil, err
	}
	it := &p.items[0]
	if len(it.Blobs) < 3 || it.Blobs[1].MediaType != archive.TypeChartConfig {
		return nil, fault.New(fault.Usage, "name images under spec.extraImages", fmt.Errorf("%s is not a Helm chart: its configuration is %s", ref, it.Blobs[1].MediaType))
	}
	it.Kind, it.Source = archive.KindChart, "oci://"+ref
	return p, nil
}

// chartIndex is what is needed of a Helm repository's index.yaml.
type chartIndex struct {
	Entries map[string][]struct {
		Version string   `json:"version"`
		URLs    []string `json:"urls"`
		Digest  string   `json:"digest"` // hex, in some repositories after "sha256:"; may be missing
	} `json:"entries"`
}

// repositoryChart takes a chart from a Helm repository: from the URL and under
// the digest that the lock has, else as the repository's index says.
func (b *builder) repositoryChart(ctx context.Context, c archive.ExtraChart) (*part, error) {
	line := lockItem{Item: fmt.Sprintf("chart %s %s %s", c.Repo, c.Name, c.Version)}
	if b.old != nil && !b.opts.UpdateLock {
		if have, ok := b.old.line(line.Item); ok {
			line = have
		}
	}
	if line.Digest == "" {
		var err error
		if line.URL, line.Digest, err = b.findChart(ctx, c); err != nil {
			return nil, err
		}
	}
	if line.Digest == "" { // the index has none: what is there is locked
		data, err := b.client.Small(ctx, line.URL, maxChart)
		if err != nil {
			return nil, err
		}
		if line.Digest, err = b.client.Cache.Put(data); err != nil {
			return nil, err
		}
	}
	if err := b.client.Blob(ctx, line.URL, line.Digest, -1, nil); err != nil {
		return nil, err
	}
	data, err := b.client.Cache.Read(line.Digest, maxChart)
	if err != nil {
		return nil, err
	}
	repo, _ := url.Parse(c.Repo) // was validated
	p, err := b.chart(data, c, path.Join(repo.Host, repo.Path))
	if err != nil {
		return nil, err
	}
	p.items[0].Source = line.URL
	p.locked = []lockItem{line}
	return p, nil
}

// findChart looks a chart up in the index of its repository.
func (b *builder) findChart(ctx context.Context, c archive.ExtraChart) (at, digest string, err error) {
	base := strings.TrimSuffix(c.Repo, "/") + "/"
	data, err := b.client.Small(ctx, base+"index.yaml", maxChartIndex)
	if err != nil {
		return "", "", err
	}
	var idx chartIndex
	if err := yaml.Unmarshal(data, &idx); err != nil {
		return "", "", fmt.Errorf("%sindex.yaml: %w", base, err)
	}
	var known []string
	for _, e := range idx.Entries[c.Name] {
		if strings.TrimPrefix(e.Version, "v") != strings.TrimPrefix(c.Version, "v") {
			known = append(known, e.Version)
			continue
		}
		if len(e.URLs) == 0 {
			return "", "", fmt.Errorf("%sindex.yaml: %s %s has no URL", base, c.Name, c.Version)
		}
		from, err := url.Parse(base)
		if err != nil {
			return "", "", err
		}
		u, err := from.Parse(e.URLs[0])
		if err != nil || u.Scheme != "https" {
			return "", "", errors.Join(err, fmt.Errorf("%sindex.yaml: %s is not an https URL", base, e.URLs[0]))
		}
		if digest = strings.TrimPrefix(e.Digest, "sha256:"); digest != "" {
			digest = "sha256:" + digest
		}
		if digest != "" && !archive.ValidDigest(digest) {
			return "", "", fmt.Errorf("%sindex.yaml: digest %q of %s is not sha256", base, e.Digest, c.Name)
		}
		return u.String(), digest, nil
	}
	return "", "", fault.New(fault.Usage, "known versions: "+strings.Join(known[:min(len(known), 10)], ", "),
		fmt.Errorf("%s has no chart %s %s", c.Repo, c.Name, c.Version))
}

// localChart takes a packed chart from a file.
func (b *builder) localChart(c archive.ExtraChart) (*part, error) {
	digest, size, err := b.localFile(c.Path, "")
	if err != nil {
		return nil, err
	}
	if size > maxChart {
		return nil, fmt.Errorf("%s has %d bytes", c.Path, size)
	}
	data, err := os.ReadFile(b.path(c.Path))
	if err != nil {
		return nil, err
	}
	if _, err := b.client.Cache.Put(data); err != nil {
		return nil, err
	}
	p, err := b.chart(data, c, "kocli.io/chart")
	if err != nil {
		return nil, err
	}
	p.locked = []lockItem{{Item: "chart " + c.Path, URL: c.Path, Digest: digest}}
	return p, nil
}

// chart makes a packed chart, which the cache has, an OCI artifact under a
// repository.
func (b *builder) chart(data []byte, c archive.ExtraChart, repository string) (*part, error) {
	meta, config, err := chartMetadata(data)
	if err != nil {
		return nil, err
	}
	if (c.Name != "" && meta.Name != c.Name) || (c.Version != "" && strings.TrimPrefix(meta.Version, "v") != strings.TrimPrefix(c.Version, "v")) {
		return nil, fault.New(fault.Bundle, "the repository's index is not right: take the chart with path", fmt.Errorf("the chart is %s %s", meta.Name, meta.Version))
	}
	digest, err := b.client.Cache.Put(data)
	if err != nil {
		return nil, err
	}
	content := archive.Descriptor{MediaType: archive.TypeChartContent, Digest: digest, Size: int64(len(data))}
	raw, err := archive.ChartArtifact(meta.Name, meta.Version, config, content)
	if err != nil {
		return nil, err
	}
	for _, blob := range [][]byte{config, raw} {
		if _, err := b.client.Cache.Put(blob); err != nil {
			return nil, err
		}
	}
	blobs, err := archive.ImageBlobs(raw, "application/vnd.oci.image.manifest.v1+json")
	if err != nil {
		return nil, err
	}
	return &part{items: []archive.Item{{
		Kind: archive.KindChart, Name: repository + "/" + meta.Name + ":" + archive.ChartTag(meta.Version), Component: "extra", Version: meta.Version,
		Arch: archive.ArchAll, Role: archive.RoleAll, Digest: blobs[0].Digest, Blobs: blobs, Size: archive.ImageSize(blobs),
	}}}, nil
}

// chartMeta is what is needed of Chart.yaml.
type chartMeta struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// chartMetadata reads Chart.yaml out of a packed chart: the fields that are
// needed, and all of it as JSON with sorted keys.
func chartMetadata(data []byte) (m chartMeta, config []byte, err error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return m, nil, fmt.Errorf("not a packed chart: %w", err)
	}
	for t := tar.NewReader(&budget{r: z, left: maxUnpacked}); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return m, nil, errors.New("not a chart: there is no Chart.yaml in it")
		}
		if err != nil {
			return m, nil, fmt.Errorf("not a packed chart: %w", err)
		}
		if dir, file := path.Split(path.Clean(h.Name)); file != "Chart.yaml" || strings.Count(dir, "/") != 1 || h.Typeflag != tar.TypeReg {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(t, maxChartYAML))
		if err != nil {
			return m, nil, err
		}
		if config, err = yaml.YAMLToJSON(text); err == nil {
			err = yaml.Unmarshal(text, &m)
		}
		if err == nil && (m.Name == "" || m.Version == "") {
			err = errors.New("name or version is missing")
		}
		if err != nil {
			return m, nil, fmt.Errorf("Chart.yaml: %w", err) //nolint:staticcheck // a file name
		}
		return m, config, nil
	}
}
