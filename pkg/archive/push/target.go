package push

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// counted tells how much is read.
type counted struct {
	io.ReadCloser
	count func(n int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.count(int64(n))
	return n, err
}

// registry is where to push to.
type registry struct {
	host, prefix string
	plain, keep  bool
}

// String is the URL.
func (r registry) String() string {
	s := "https://" + r.host
	if r.plain {
		s = "http://" + r.host
	}
	if r.prefix != "" {
		s += "/" + r.prefix
	}
	return s
}

func parseRegistry(o Options) (registry, error) {
	raw := o.Registry
	if !strings.Contains(raw, "://") {
		raw = "https://" + raw
		if o.PlainHTTP {
			raw = "http://" + o.Registry
		}
	}
	refuse := func(hint, format string, args ...any) (registry, error) {
		return registry{}, fault.New(fault.Usage, hint, fmt.Errorf(format, args...))
	}
	const form = "write it as https://HOST[:PORT][/PREFIX]"
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return refuse(form+"; logins are read from Docker's configuration", "the registry's URL is not valid")
	}
	switch {
	case u.Scheme == "http" && !o.PlainHTTP:
		return refuse("use https://, or add --plain-http if nobody else can reach the network in between", "the registry %s would be used without encryption", u.Host)
	case u.Scheme != "https" && u.Scheme != "http":
		return refuse(form, "the registry's scheme %q is not https", u.Scheme)
	}
	r := registry{host: u.Host, prefix: strings.Trim(u.Path, "/"), plain: u.Scheme == "http", keep: o.KeepHost}
	if _, err := r.repository("x"); err != nil {
		return refuse(form, "the registry's URL is not valid: %w", err)
	}
	return r, nil
}

// repository returns the repository for a path without its registry.
func (r registry) repository(path string) (name.Repository, error) {
	opts := []name.Option{name.StrictValidation}
	if r.plain {
		opts = append(opts, name.Insecure)
	}
	return name.NewRepository(strings.Join(slices.DeleteFunc([]string{r.host, r.prefix, path}, func(s string) bool { return s == "" }), "/"), opts...)
}

// path maps the repository that an image comes from to the one below the
// prefix. A mirror of one registry wants the path alone; several in one place
// may need the registry in front. A port is written with an underscore.
func (r registry) path(source string) string {
	host, rest, ok := strings.Cut(source, "/")
	if !ok {
		return source
	}
	if r.keep {
		return strings.ReplaceAll(host, ":", "_") + "/" + rest
	}
	return rest
}

// mirrors returns the endpoint of every registry that something came from.
func (r registry) mirrors(targets []target) map[string]string {
	out := map[string]string{}
	for _, t := range targets {
		host, _, _ := strings.Cut(t.source, "/")
		scheme, path, _ := strings.Cut(r.String(), r.host)
		end := scheme + r.host
		if r.keep {
			path += "/" + strings.ReplaceAll(host, ":", "_")
		}
		if path != "" {
			end += "/v2" + path
		}
		if t.items[0].Kind == archive.KindImage {
			out[host] = end
		}
	}
	return out
}

// target is one reference in the registry, of one or more architectures.
type target struct {
	source    string
	ref       name.Reference
	items     []archive.Item
	manifests []manifest // of the items; the index last
	index     bool
	digest    string // of what the reference leads to
}

// manifest is sent as it is.
type manifest struct {
	raw    []byte
	media  types.MediaType
	digest string
}

// RawManifest and MediaType make it a remote.Taggable.
func (m manifest) RawManifest() ([]byte, error) { return m.raw, nil }

// MediaType is the type that it is sent with.
func (m manifest) MediaType() (types.MediaType, error) { return m.media, nil }

func (t target) arches() []string {
	var out []string
	for _, it := range t.items {
		out = append(out, it.Arch)
	}
	return out
}

// blobs are the configurations and layers, each once.
func (t target) blobs() []archive.Descriptor {
	var out []archive.Descriptor
	for _, it := range t.items {
		for _, d := range it.Blobs[1:] {
			if !slices.ContainsFunc(out, func(o archive.Descriptor) bool { return o.Digest == d.Digest }) {
				out = append(out, d)
			}
		}
	}
	return out
}

func (t target) size() int64 {
	var n int64
	for _, d := range t.blobs() {
		n += d.Size
	}
	return n
}

// plan returns the targets in the order of the bundle. Two that would overwrite
// each other are refused.
func plan(o Options, reg registry) ([]target, error) {
	var out []target
	at := map[string]int{}    // in out, by source
	taken := map[string]int{} // in out, by target
	for _, it := range o.Bundle.Items(archive.Filter{}) {
		if it.Kind != archive.KindImage && it.Kind != archive.KindChart {
			continue
		}
		i, ok := at[it.Name]
		if !ok {
			ref, err := reg.reference(it)
			if err != nil {
				return nil, err
			}
			i = len(out)
			if first, ok := taken[ref.Name()]; ok {
				return nil, fault.New(fault.Usage, "add --keep-host, which puts the registry into the path",
					fmt.Errorf("%s and %s would both become %s", out[first].source, it.Name, ref.Name()))
			}
			at[it.Name], taken[ref.Name()] = i, i
			out = append(out, target{source: it.Name, ref: ref})
		}
		out[i].items = append(out[i].items, it)
	}
	for i := range out {
		if err := out[i].load(o.Bundle); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// reference returns where an item goes: by tag, or by digest where it was
// asked for by that alone.
func (r registry) reference(it archive.Item) (name.Reference, error) {
	tagged, _, _ := strings.Cut(it.Name, "@")
	source, tag := tagged, ""
	if i := strings.LastIndex(tagged, ":"); i > strings.LastIndex(tagged, "/") {
		source, tag = tagged[:i], tagged[i+1:]
	}
	repo, err := r.repository(r.path(source))
	if err != nil {
		return nil, fault.New(fault.Usage, "choose another prefix for --registry", fmt.Errorf("%s: %w", it.Name, err))
	}
	if tag == "" {
		return repo.Digest(it.Digest), nil
	}
	return repo.Tag(tag), nil
}

// load reads the manifests, and makes an index over several.
func (t *target) load(b *archive.Bundle) error {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, it := range t.items {
		r, err := b.OpenBlob(it.Digest)
		if err != nil {
			return err
		}
		raw, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return fmt.Errorf("%s: %w", it.Label(), err)
		}
		m := manifest{raw, types.MediaType(it.Blobs[0].MediaType), it.Digest}
		t.manifests = append(t.manifests, m)
		hash, err := v1.NewHash(it.Digest)
		if err != nil {
			return err
		}
		index.Manifests = append(index.Manifests, v1.Descriptor{
			MediaType: m.media, Digest: hash, Size: int64(len(raw)), Platform: &v1.Platform{OS: "linux", Architecture: it.Arch},
		})
	}
	t.digest = t.manifests[0].digest
	if _, byTag := t.ref.(name.Tag); !byTag || len(t.items) == 1 {
		return nil
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	hash, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	t.index, t.digest = true, hash.String()
	t.manifests = append(t.manifests, manifest{raw, types.OCIImageIndex, t.digest})
	return nil
}
