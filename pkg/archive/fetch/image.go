package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// Manifest fetches the manifest of an image for linux on an architecture, puts
// it into the cache as it is, and returns the descriptors of the manifest, the
// configuration and the layers. Of an index, only the child of the platform is
// taken.
func (c *Client) Manifest(ctx context.Context, ref, arch string) ([]archive.Descriptor, error) {
	var out []archive.Descriptor
	err := c.everywhere(ctx, ref, func(ctx context.Context, p place) error {
		raw, mediaType, err := c.manifest(ctx, p, ref, arch)
		if err != nil {
			return classify(err)
		}
		if out, err = c.keepManifest(raw, mediaType); err != nil {
			return permanent(err)
		}
		return nil
	})
	return out, err
}

// CachedManifest returns what Manifest returns, from the cache alone. ok is
// false when the manifest is not there.
func (c *Client) CachedManifest(digest string) (out []archive.Descriptor, ok bool, err error) {
	if _, ok := c.Cache.Size(digest); !ok {
		return nil, false, nil
	}
	raw, err := c.Cache.Read(digest, maxManifest)
	if err != nil {
		return nil, false, err
	}
	var m struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, false, err
	}
	if out, err = archive.ImageBlobs(raw, m.MediaType); err != nil || m.MediaType == "" {
		return nil, false, err // without a media type of its own: ask the registry
	}
	return out, true, nil
}

const maxManifest = 4 << 20 // bytes

func (c *Client) keepManifest(raw []byte, mediaType string) ([]archive.Descriptor, error) {
	if len(raw) > maxManifest {
		return nil, fmt.Errorf("manifest of %d bytes", len(raw))
	}
	blobs, err := archive.ImageBlobs(raw, mediaType)
	if err != nil {
		return nil, err
	}
	for _, b := range blobs {
		if !archive.ValidDigest(b.Digest) {
			return nil, fmt.Errorf("digest %q is not sha256", b.Digest)
		}
	}
	_, err = c.Cache.Put(raw)
	return blobs, err
}

// manifest asks one registry.
func (c *Client) manifest(ctx context.Context, p place, ref, arch string) ([]byte, string, error) {
	if p.folder() {
		return p.localImage(ref, arch)
	}
	r, err := p.parse(ref)
	if err != nil {
		return nil, "", permanent(err)
	}
	opts := []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithTransport(c.guarded()),
		remote.WithRetryPredicate(func(error) bool { return false }), remote.WithRetryStatusCodes(), // retried here
	}
	desc, err := remote.Get(r, opts...)
	if err != nil {
		return nil, "", err
	}
	if desc.MediaType.IsImage() {
		return desc.Manifest, string(desc.MediaType), nil
	}
	if !desc.MediaType.IsIndex() {
		return nil, "", permanent(fmt.Errorf("%s: media type %s is not an image", r, desc.MediaType))
	}
	var idx v1.IndexManifest
	if err := json.Unmarshal(desc.Manifest, &idx); err != nil {
		return nil, "", permanent(fmt.Errorf("%s: %w", r, err))
	}
	child, err := platformOf(idx, arch)
	if err != nil {
		return nil, "", permanent(fmt.Errorf("%s: %w", r, err))
	}
	desc, err = remote.Get(r.Context().Digest(child.Digest.String()), opts...)
	if err != nil {
		return nil, "", err
	}
	if !desc.MediaType.IsImage() {
		return nil, "", permanent(fmt.Errorf("%s: child %s is not an image", r, child.Digest))
	}
	return desc.Manifest, string(desc.MediaType), nil
}

// platformOf finds linux on an architecture in an index. Of several variants
// (arm64/v8), the one without a name wins.
func platformOf(idx v1.IndexManifest, arch string) (v1.Descriptor, error) {
	var found []v1.Descriptor
	for _, d := range idx.Manifests {
		if d.Platform == nil || d.Platform.OS != "linux" || d.Platform.Architecture != arch {
			continue
		}
		if d.Platform.Variant == "" {
			return d, nil
		}
		found = append(found, d)
	}
	if len(found) == 0 {
		return v1.Descriptor{}, fmt.Errorf("there is no image for linux/%s", arch)
	}
	return found[0], nil
}

func (p place) parse(ref string) (name.Reference, error) {
	s, plain := p.reference(ref)
	opts := []name.Option{name.StrictValidation}
	if plain {
		opts = append(opts, name.Insecure)
	}
	return name.ParseReference(s, opts...)
}

// classify tells errors of a registry that may pass from those that will not.
func classify(err error) error {
	var te *transport.Error
	if !errors.As(err, &te) {
		return err
	}
	if (te.StatusCode == http.StatusUnauthorized || te.StatusCode == http.StatusForbidden) && te.Request != nil {
		err = fault.New(fault.Failure, "log in with `docker login "+te.Request.URL.Host+"`: kocli reads Docker's config.json", err)
	}
	if te.StatusCode < 500 && te.StatusCode != http.StatusTooManyRequests {
		return permanent(err)
	}
	return err
}

// session returns a transport that is logged in to the repository of r.
func (c *Client) session(ctx context.Context, repo name.Repository) (http.RoundTripper, error) {
	key := repo.Scheme() + "://" + repo.Name()
	if rt, ok := c.sessions.Load(key); ok {
		return rt.(http.RoundTripper), nil //nolint:errcheck // only such are stored
	}
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, repo)
	if err != nil {
		return nil, permanent(err)
	}
	rt, err := transport.NewWithContext(ctx, repo.Registry, auth, c.guarded(), []string{repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, classify(err)
	}
	c.sessions.Store(key, rt)
	return rt, nil
}

// ImageBlob makes sure that the cache has a blob of an image. got is as in Blob.
func (c *Client) ImageBlob(ctx context.Context, ref string, d archive.Descriptor, got func(n int64)) error {
	if _, ok := c.Cache.Size(d.Digest); ok {
		return nil
	}
	return c.everywhere(ctx, ref+" "+d.Digest, func(ctx context.Context, p place) error {
		if p.folder() {
			url, err := p.localBlob(ref, d)
			if err != nil {
				return err
			}
			return c.blob(ctx, nil, url, d.Digest, d.Size, got)
		}
		r, err := p.parse(ref)
		if err != nil {
			return permanent(err)
		}
		repo := r.Context()
		rt, err := c.session(ctx, repo)
		if err != nil {
			return err
		}
		url := fmt.Sprintf("%s://%s/v2/%s/blobs/%s", repo.Scheme(), repo.RegistryStr(), repo.RepositoryStr(), d.Digest)
		return c.blob(ctx, rt, url, d.Digest, d.Size, got)
	})
}
