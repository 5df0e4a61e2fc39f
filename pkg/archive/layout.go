package archive

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Media types and annotations of the format.
const (
	mediaTypeOCIManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaTypeOCIIndex    = "application/vnd.oci.image.index.v1+json"
	mediaTypeEmpty       = "application/vnd.oci.empty.v1+json"

	typeBundle    = "application/vnd.kocli.bundle.v1"
	typeBundleCfg = "application/vnd.kocli.bundle.config.v1+json"
	typeBinary    = "application/vnd.kocli.binary.v1"
	typeArchive   = "application/vnd.kocli.archive.v1"
	typePackages  = "application/vnd.kocli.packages.v1"
	typeKocli     = "application/vnd.kocli.kocli.v1"
	typeFile      = "application/vnd.kocli.file.v1"
	typeDeb       = "application/vnd.debian.binary-package"
	typeRPM       = "application/x-rpm"
	zstdSuffix    = "+zstd" // of the media type of a file that is stored compressed

	annotationRefName   = "org.opencontainers.image.ref.name"
	annotationTitle     = "org.opencontainers.image.title"
	annotationImageName = "io.containerd.image.name" // containerd names an imported image by it
	annotationRole      = "io.kocli.role"
	annotationArch      = "io.kocli.architecture"
	annotationContent   = "io.kocli.content.digest" // of a file that is stored compressed
)

// Paths in the tar. These functions are the only places that build them.
const (
	layoutPath = "oci-layout"
	indexPath  = "index.json"
	blobPrefix = "blobs/sha256/"

	layoutContent = `{"imageLayoutVersion":"1.0.0"}`
	emptyContent  = `{}`
	bundleRef     = "kocli.io/bundle"
)

func blobPath(digest string) string { return blobPrefix + strings.TrimPrefix(digest, "sha256:") }

// The JSON of OCI, in types of our own: their bytes are part of the format and
// must not change with a library.
type (
	ociDescriptor struct {
		MediaType    string            `json:"mediaType"`
		Digest       string            `json:"digest"`
		Size         int64             `json:"size"`
		Annotations  map[string]string `json:"annotations,omitempty"`
		Platform     *ociPlatform      `json:"platform,omitempty"`
		ArtifactType string            `json:"artifactType,omitempty"`
	}
	ociPlatform struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
	}
	ociManifest struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		ArtifactType  string            `json:"artifactType,omitempty"`
		Config        ociDescriptor     `json:"config"`
		Layers        []ociDescriptor   `json:"layers"`
		Annotations   map[string]string `json:"annotations,omitempty"`
	}
	ociIndex struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     []ociDescriptor `json:"manifests"`
	}
)

// entry is one file of the tar.
type entry struct {
	name   string
	digest string // "" for oci-layout and index.json
	size   int64
	inline []byte // content, where it follows from the manifest
}

// layout is the whole tar but for the content of blobs that come from outside.
type layout struct {
	index   []byte
	entries []entry
}

// bundleArtifact returns the manifest of the artifact whose configuration is
// the bundle manifest.
func bundleArtifact(rawManifest []byte) ([]byte, error) {
	return json.Marshal(ociManifest{
		SchemaVersion: 2, MediaType: mediaTypeOCIManifest, ArtifactType: typeBundle,
		Config: ociDescriptor{MediaType: typeBundleCfg, Digest: digestOf(rawManifest), Size: int64(len(rawManifest))},
		Layers: []ociDescriptor{{MediaType: mediaTypeEmpty, Digest: digestOf([]byte(emptyContent)), Size: int64(len(emptyContent))}},
	})
}

// newLayout derives the tar from the bundle manifest and its bytes.
func newLayout(m *Manifest, raw []byte) (layout, error) {
	bundle, err := bundleArtifact(raw)
	if err != nil {
		return layout{}, err
	}
	idx := ociIndex{SchemaVersion: 2, MediaType: mediaTypeOCIIndex, Manifests: []ociDescriptor{{
		MediaType: mediaTypeOCIManifest, Digest: digestOf(bundle), Size: int64(len(bundle)), ArtifactType: typeBundle,
		Annotations: map[string]string{annotationRefName: bundleRef},
	}}}
	var l layout
	seen := map[string]bool{digestOf(bundle): true, digestOf(raw): true}
	var small, large []entry
	add := func(to *[]entry, digest string, size int64, inline []byte) {
		if !seen[digest] {
			seen[digest] = true
			*to = append(*to, entry{name: blobPath(digest), digest: digest, size: size, inline: inline})
		}
	}
	add(&small, digestOf([]byte(emptyContent)), int64(len(emptyContent)), []byte(emptyContent))

	for i := range m.Items {
		it := &m.Items[i]
		if !it.hasManifest() {
			continue
		}
		idx.Manifests = append(idx.Manifests, imageEntry(it))
		for _, d := range it.Blobs[:2] {
			add(&small, d.Digest, d.Size, nil)
		}
	}
	artifacts, err := m.artifacts()
	if err != nil {
		return layout{}, err
	}
	for _, a := range artifacts {
		add(&small, a.desc.Digest, a.desc.Size, a.raw)
		idx.Manifests = append(idx.Manifests, a.desc)
	}
	for i := range m.Items {
		for _, d := range m.Items[i].descriptors() {
			add(&large, d.Digest, d.Size, nil)
		}
	}
	byDigest := func(a, b entry) int { return cmp.Compare(a.digest, b.digest) }
	slices.SortFunc(small, byDigest)
	slices.SortFunc(large, byDigest)
	if l.index, err = json.Marshal(idx); err != nil {
		return layout{}, err
	}
	l.entries = []entry{
		{name: layoutPath, size: int64(len(layoutContent)), inline: []byte(layoutContent)},
		{name: indexPath, size: int64(len(l.index)), inline: l.index},
		{name: blobPath(digestOf(bundle)), digest: digestOf(bundle), size: int64(len(bundle)), inline: bundle},
		{name: blobPath(digestOf(raw)), digest: digestOf(raw), size: int64(len(raw)), inline: raw},
	}
	l.entries = append(append(l.entries, small...), large...)
	return l, nil
}

// imageEntry is the line of an image or chart in index.json.
func imageEntry(it *Item) ociDescriptor {
	if it.Kind == KindChart {
		return ociDescriptor{
			MediaType: it.Blobs[0].MediaType, Digest: it.Digest, Size: it.Blobs[0].Size, ArtifactType: TypeChartConfig,
			Annotations: map[string]string{annotationRefName: it.Name},
		}
	}
	return ociDescriptor{
		MediaType: it.Blobs[0].MediaType, Digest: it.Digest, Size: it.Blobs[0].Size,
		Platform: &ociPlatform{Architecture: it.Arch, OS: "linux"},
		Annotations: map[string]string{
			annotationImageName: it.Name, annotationRefName: it.Name,
			annotationRole: string(it.Role), annotationArch: it.Arch,
		},
	}
}

// artifact is a generated OCI artifact: files of one component and architecture.
type artifact struct {
	desc ociDescriptor
	raw  []byte
}

// artifact is the name that an item shares with the other files of its OCI
// artifact, used as a reference. Empty for images.
func (it *Item) artifact() string {
	switch it.Kind {
	case KindImage, KindChart:
		return ""
	case KindFile:
		return fmt.Sprintf("kocli.io/%s/%s:%s", it.Kind, it.Name, it.Arch)
	case KindPackage:
		if it.Package == nil {
			return ""
		}
		return fmt.Sprintf("kocli.io/packages/%s:%s-%s", it.Package.Distribution, it.Package.Release, it.Arch)
	}
	return fmt.Sprintf("kocli.io/%s/%s:%s-%s", it.Kind, it.Name, it.Version, it.Arch)
}

func (it *Item) mediaType() string {
	switch it.Kind {
	case KindPackage:
		if strings.HasSuffix(it.File, ".rpm") {
			return typeRPM
		}
		return typeDeb
	case KindArchive:
		return typeArchive + "+gzip"
	}
	return "application/octet-stream"
}

// artifacts groups the files; items are sorted, so that those of one artifact
// stand together.
func (m *Manifest) artifacts() ([]artifact, error) {
	types := map[Kind]string{KindBinary: typeBinary, KindArchive: typeArchive, KindPackage: typePackages, KindKocli: typeKocli, KindFile: typeFile}
	var out []artifact
	for i := 0; i < len(m.Items); {
		first := &m.Items[i]
		ref := first.artifact()
		if ref == "" {
			i++
			continue
		}
		man := ociManifest{
			SchemaVersion: 2, MediaType: mediaTypeOCIManifest, ArtifactType: types[first.Kind],
			Config:      ociDescriptor{MediaType: mediaTypeEmpty, Digest: digestOf([]byte(emptyContent)), Size: int64(len(emptyContent))},
			Annotations: map[string]string{annotationRole: string(first.Role), annotationArch: first.Arch},
		}
		for ; i < len(m.Items) && m.Items[i].artifact() == ref; i++ {
			it := &m.Items[i]
			man.Layers = append(man.Layers, it.layer())
		}
		raw, err := json.Marshal(man)
		if err != nil {
			return nil, err
		}
		out = append(out, artifact{raw: raw, desc: ociDescriptor{
			MediaType: mediaTypeOCIManifest, Digest: digestOf(raw), Size: int64(len(raw)), ArtifactType: man.ArtifactType,
			Annotations: map[string]string{annotationRefName: ref, annotationRole: string(first.Role), annotationArch: first.Arch},
		}})
	}
	return out, nil
}

// layer is a file in the manifest of its artifact. Its title is what `oras pull`
// names it.
func (it *Item) layer() ociDescriptor {
	d := it.descriptors()[0]
	out := ociDescriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Annotations: map[string]string{annotationTitle: it.File}}
	if it.Stored != nil {
		out.Annotations[annotationTitle] += ".zst"
		out.Annotations[annotationContent] = it.Digest
	}
	return out
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

const blockSize = 512

// header returns the one tar header that this format allows for a file.
func header(name string, size int64) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	})
	if err != nil {
		return nil, fmt.Errorf("tar header of %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// padding is the number of zero bytes after a file of this size.
func padding(size int64) int64 { return -size & (blockSize - 1) }
