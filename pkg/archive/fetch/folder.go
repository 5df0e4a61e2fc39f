package fetch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/kocli/kocli/pkg/archive"
)

// A mirror that is a folder holds files as FOLDER/HOST/PATH, and each
// repository of images as an OCI layout in FOLDER/REGISTRY/REPOSITORY, as
// `skopeo copy docker://registry.k8s.io/pause:3.10 oci:FOLDER/registry.k8s.io/pause:3.10`
// writes it.

// layoutOf is the OCI layout of a repository in a folder.
func (p place) layoutOf(ref string) (layout.Path, name.Reference, error) {
	r, err := name.ParseReference(ref, name.StrictValidation)
	if err != nil {
		return "", nil, permanent(err)
	}
	dir := filepath.Join(p.mirror.Path, filepath.FromSlash(repositoryPath(ref)))
	l, err := layout.FromPath(dir)
	if err != nil {
		return "", nil, permanent(fmt.Errorf("%s: no OCI layout of %s: %w", dir, r, err))
	}
	return l, r, nil
}

// repositoryPath is a reference as it is written, without tag and digest.
func repositoryPath(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		ref = ref[:i]
	}
	return ref
}

// localManifest is the manifest, or index, that the layout has under the tag or
// digest of ref.
func (p place) localManifest(ref string) (raw []byte, mediaType string, err error) {
	l, r, err := p.layoutOf(ref)
	if err != nil {
		return nil, "", err
	}
	idx, err := l.ImageIndex()
	if err != nil {
		return nil, "", permanent(err)
	}
	list, err := idx.IndexManifest()
	if err != nil {
		return nil, "", permanent(err)
	}
	for _, d := range list.Manifests {
		named := d.Annotations["org.opencontainers.image.ref.name"]
		if named == r.Identifier() || named == ref || d.Digest.String() == r.Identifier() {
			raw, err := readLocal(l, d)
			return raw, string(d.MediaType), err
		}
	}
	return nil, "", permanent(fmt.Errorf("%s: there is no %s in it", l, r.Identifier()))
}

// readLocal reads a manifest of a layout and checks it.
func readLocal(l layout.Path, d v1.Descriptor) ([]byte, error) {
	f, err := l.Blob(d.Digest)
	if err != nil {
		return nil, permanent(err)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, permanent(err)
	}
	if got, _, err := v1.SHA256(strings.NewReader(string(raw))); err != nil || got != d.Digest {
		return nil, permanent(errors.Join(err, fmt.Errorf("%s: content of %s has digest %s", l, d.Digest, got)))
	}
	return raw, nil
}

// localImage is the manifest for linux on an architecture in a folder.
func (p place) localImage(ref, arch string) ([]byte, string, error) {
	raw, mediaType, err := p.localManifest(ref)
	if err != nil {
		return nil, "", err
	}
	var idx v1.IndexManifest
	if err := json.Unmarshal(raw, &idx); err != nil || !idx.MediaType.IsIndex() {
		return raw, mediaType, err
	}
	child, err := platformOf(idx, arch)
	if err != nil {
		return nil, "", permanent(fmt.Errorf("%s: %w", ref, err))
	}
	l, _, err := p.layoutOf(ref)
	if err != nil {
		return nil, "", err
	}
	raw, err = readLocal(l, child)
	return raw, string(child.MediaType), err
}

// localBlob is the file URL of a blob of an image in a folder.
func (p place) localBlob(ref string, d archive.Descriptor) (string, error) {
	l, _, err := p.layoutOf(ref)
	if err != nil {
		return "", err
	}
	file := filepath.Join(string(l), "blobs", "sha256", strings.TrimPrefix(d.Digest, "sha256:"))
	if _, err := os.Stat(file); err != nil {
		return "", permanent(err)
	}
	return fileURL(file), nil
}
