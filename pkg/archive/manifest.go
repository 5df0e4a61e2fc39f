package archive

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// FormatVersion is the version of the bundle format that this code writes, and
// the newest that it reads.
const FormatVersion = 1

// Limits against hostile or absurd input. They are far above what real bundles
// need.
const (
	MaxIndexSize    = 16 << 20    // bytes of index.json
	MaxManifestSize = 64 << 20    // bytes of the bundle manifest
	maxOCIManifest  = 4 << 20     // bytes of one image manifest, as registries limit it
	maxEntries      = 200_000     // entries of the tar
	MaxBlobSize     = 1<<33 - 1   // bytes of one blob: what a ustar header can say
	maxTotalSize    = int64(1e15) // bytes of the tar
)

// Kind says what an item is.
type Kind string

// The kinds of items.
const (
	KindImage   Kind = "image"   // container image of one platform
	KindBinary  Kind = "binary"  // executable, to be installed as it is
	KindArchive Kind = "archive" // upstream's tarball, to be unpacked
	KindPackage Kind = "package" // package of an operating system
	KindKocli   Kind = "kocli"   // kocli itself, for hosts of this architecture
	KindFile    Kind = "file"    // file of the user's own
	KindChart   Kind = "chart"   // Helm chart, as an OCI artifact
)

// Role says which hosts need an item.
type Role string

// The roles of items.
const (
	RoleAll          Role = "all"
	RoleControlPlane Role = "control-plane"
	RoleWorker       Role = "worker"
	RoleRegistry     Role = "registry" // hosts of the built-in registry, whatever else they are
)

// Manifest is the bundle manifest: everything that a bundle holds.
type Manifest struct {
	Format        int            `json:"format"`
	Name          string         `json:"name"`
	BuiltBy       string         `json:"builtBy"` // version of the kocli that built it
	Kubernetes    []Release      `json:"kubernetes"`
	Architectures []string       `json:"architectures"`
	CNI           []string       `json:"cni,omitempty"`
	Distributions []Distribution `json:"distributions,omitempty"`
	Items         []Item         `json:"items"`
}

// Release is one version of Kubernetes with the component versions that were
// chosen for it.
type Release struct {
	Version    string            `json:"version"`    // "v1.36.3"
	Components map[string]string `json:"components"` // "containerd": "2.2.9"
}

// Distribution is an operating system whose packages are in the bundle, named
// as /etc/os-release has it.
type Distribution struct {
	ID      string `json:"id"`      // "debian"
	Version string `json:"version"` // "12"
}

// Item is one thing in a bundle.
type Item struct {
	Kind       Kind     `json:"kind"`
	Name       string   `json:"name"`                 // "kubelet", or the full reference of an image or chart
	Component  string   `json:"component,omitempty"`  // catalogue component: "kubernetes", "containerd"
	Version    string   `json:"version,omitempty"`    // upstream's version
	Arch       string   `json:"arch"`                 // "amd64", "arm64"; ArchAll of charts
	Role       Role     `json:"role"`                 // which hosts need it
	Kubernetes []string `json:"kubernetes,omitempty"` // versions that need it; empty means all
	CNI        string   `json:"cni,omitempty"`        // needed by this CNI only
	// Endpoint has the modes of the control plane endpoint that need it alone, with
	// the role of the hosts that do. Empty: all need it.
	Endpoint map[string]Role `json:"endpoint,omitempty"`
	// Addons are those that need it alone. Empty: it does not belong to one.
	Addons  []string `json:"addons,omitempty"`
	Licence string   `json:"licence,omitempty"` // SPDX expression, or "see package"
	Source  string   `json:"source,omitempty"`  // upstream URL, whichever mirror served it
	// SourceDigest is the digest of what Source serves, where the item is a
	// part of it, a program out of upstream's tarball; or made of it, an image
	// whose layers were packed anew.
	SourceDigest string   `json:"sourceDigest,omitempty"`
	File         string   `json:"file,omitempty"`    // file name; empty for images and charts
	Digest       string   `json:"digest"`            // of the file, or of the manifest of an image or chart
	Size         int64    `json:"size"`              // bytes of the file, or of all blobs of the image or chart
	Package      *Package `json:"package,omitempty"` // for OS packages
	// Stored is the blob that holds a file in compressed form (pkg/archive/frames).
	// Nil: the file is stored as it is.
	Stored *Descriptor `json:"stored,omitempty"`
	// Blobs are the manifest, configuration and layers of an image or chart, in this
	// order. Empty for files.
	Blobs []Descriptor `json:"blobs,omitempty"`
}

// Package is what is known of an OS package beside the file.
type Package struct {
	Distribution string   `json:"distribution"`         // "debian"
	Release      string   `json:"release"`              // "12"
	Name         string   `json:"name"`                 // "libmnl0"
	Architecture string   `json:"architecture"`         // the package's own word: "amd64", "all"
	Provides     []string `json:"provides,omitempty"`   // virtual packages
	Commands     []string `json:"commands,omitempty"`   // programs it was asked for
	Requested    bool     `json:"requested,omitempty"`  // named in the spec, not a dependency
	RequiredBy   []string `json:"requiredBy,omitempty"` // requested packages that need it
}

// Descriptor points to a blob.
type Descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

// Label names the item for people: "kubelet v1.36.3 (amd64)".
func (it Item) Label() string {
	if it.Version == "" || it.hasManifest() {
		return fmt.Sprintf("%s (%s)", it.Name, it.Arch)
	}
	return fmt.Sprintf("%s %s (%s)", it.Name, it.Version, it.Arch)
}

// hasManifest reports whether the item has an OCI manifest of upstream's: its
// Blobs then are what there is of it.
func (it *Item) hasManifest() bool { return it.Kind == KindImage || it.Kind == KindChart }

// normalise sorts everything whose order means nothing.
func (m *Manifest) normalise() {
	slices.SortFunc(m.Kubernetes, func(a, b Release) int { return cmp.Compare(a.Version, b.Version) })
	slices.Sort(m.Architectures)
	slices.Sort(m.CNI)
	slices.SortFunc(m.Distributions, func(a, b Distribution) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Version, b.Version))
	})
	for i := range m.Items {
		slices.Sort(m.Items[i].Kubernetes)
		slices.Sort(m.Items[i].Addons)
	}
	slices.SortFunc(m.Items, compareItems)
}

func compareItems(a, b Item) int {
	return cmp.Or(
		cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.artifact(), b.artifact()), cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.Version, b.Version), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Digest, b.Digest),
	)
}

var (
	digestForm  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	wordForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~:-]*$`)
	versionForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~:-]*$`)
	refForm     = regexp.MustCompile(`^[a-z0-9][A-Za-z0-9._/:@-]*$`)
)

// ValidDigest reports whether d is a sha256 digest as OCI writes it.
func ValidDigest(d string) bool { return digestForm.MatchString(d) }

// decodeManifest reads a bundle manifest strictly and checks that it can be
// relied on.
func decodeManifest(data []byte) (Manifest, error) {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Manifest{}, fmt.Errorf("bundle manifest: %w", err)
	}
	if head.Format > FormatVersion {
		return Manifest{}, fmt.Errorf("format %d is newer than this kocli, which reads up to %d", head.Format, FormatVersion)
	}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	var m Manifest
	if err := dec.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("bundle manifest: %w", err)
	}
	if err := m.validate(); err != nil {
		return Manifest{}, fmt.Errorf("bundle manifest: %w", err)
	}
	return m, nil
}

// validate refuses a manifest that a writer of ours would not have written.
func (m *Manifest) validate() error {
	if m.Format != FormatVersion {
		return fmt.Errorf("format %d is not known", m.Format)
	}
	sizes := map[string]int64{}
	stored := map[string]Descriptor{} // by digest of the content; what is not compressed has itself
	var total int64
	for i := range m.Items {
		it := &m.Items[i]
		if err := it.validate(); err != nil {
			return fmt.Errorf("item %d (%q): %w", i, it.Name, err)
		}
		if i > 0 && compareItems(m.Items[i-1], *it) >= 0 {
			return fmt.Errorf("item %d (%q) is listed twice or out of order", i, it.Name)
		}
		if !it.hasManifest() {
			d := it.descriptors()[0]
			d.MediaType = ""
			if have, ok := stored[it.Digest]; ok && have != d {
				return fmt.Errorf("item %d (%q): %s is stored in two forms", i, it.Name, it.Digest)
			}
			stored[it.Digest] = d
		}
		for _, d := range it.descriptors() {
			if have, ok := sizes[d.Digest]; ok && have != d.Size {
				return fmt.Errorf("item %d (%q): %s has two sizes, %d and %d", i, it.Name, d.Digest, have, d.Size)
			} else if !ok {
				sizes[d.Digest] = d.Size
				total += d.Size
			}
			if total > maxTotalSize || len(sizes) > maxEntries {
				return fmt.Errorf("more than %d blobs or %d bytes", maxEntries, maxTotalSize)
			}
		}
	}
	return nil
}

func (it *Item) validate() error {
	if it.Role != RoleAll && it.Role != RoleControlPlane && it.Role != RoleWorker && it.Role != RoleRegistry {
		return fmt.Errorf("role %q is not known", it.Role)
	}
	for mode, r := range it.Endpoint {
		if !wordForm.MatchString(mode) || r != RoleAll && r != RoleControlPlane && r != RoleWorker {
			return fmt.Errorf("endpoint mode %q or its role %q is not valid", mode, r)
		}
	}
	for _, name := range it.Addons {
		if !wordForm.MatchString(name) {
			return fmt.Errorf("add-on %q is not a name", name)
		}
	}
	if !wordForm.MatchString(it.Arch) {
		return fmt.Errorf("architecture %q is not valid", it.Arch)
	}
	if it.Version != "" && !versionForm.MatchString(it.Version) {
		return fmt.Errorf("version %q is not valid", it.Version)
	}
	if it.SourceDigest != "" && !ValidDigest(it.SourceDigest) {
		return fmt.Errorf("source digest %q is not sha256", it.SourceDigest)
	}
	for _, d := range it.descriptors() {
		if !ValidDigest(d.Digest) {
			return fmt.Errorf("digest %q is not sha256", d.Digest)
		}
		if d.Size < 0 || d.Size > MaxBlobSize {
			return fmt.Errorf("%s: size %d is out of range", d.Digest, d.Size)
		}
	}
	if err := it.validateStored(); err != nil {
		return err
	}
	switch it.Kind {
	case KindImage, KindChart:
		return it.validateImage()
	case KindPackage:
		if it.Package == nil || !wordForm.MatchString(it.Package.Distribution) || !wordForm.MatchString(it.Package.Release) {
			return fmt.Errorf("package without distribution")
		}
	case KindBinary, KindArchive, KindKocli, KindFile:
		if it.Package != nil {
			return fmt.Errorf("%s with package fields", it.Kind)
		}
	default:
		return fmt.Errorf("kind %q is not known", it.Kind)
	}
	if !wordForm.MatchString(it.Name) || !wordForm.MatchString(it.File) || len(it.Blobs) != 0 {
		return fmt.Errorf("name %q, file %q or blobs are not valid for a file", it.Name, it.File)
	}
	return nil
}

func (it *Item) validateStored() error {
	switch {
	case it.Stored == nil:
		return nil
	case it.hasManifest():
		return fmt.Errorf("image or chart with a compressed form")
	case !ValidDigest(it.Digest) || it.Size < 0 || it.Size > MaxBlobSize || it.Stored.Digest == it.Digest:
		return fmt.Errorf("digest %q or size %d of the content is not valid", it.Digest, it.Size)
	case it.Stored.MediaType != it.mediaType()+zstdSuffix:
		return fmt.Errorf("media type %q of the compressed form is not known", it.Stored.MediaType)
	}
	return nil
}

// Compress sets the blob that holds the file in compressed form.
func (it *Item) Compress(digest string, size int64) {
	it.Stored = &Descriptor{MediaType: it.mediaType() + zstdSuffix, Digest: digest, Size: size}
}

func (it *Item) validateImage() error {
	if !refForm.MatchString(it.Name) || strings.Contains(it.Name, "..") {
		return fmt.Errorf("reference %q is not valid", it.Name)
	}
	if it.File != "" || it.Package != nil {
		return fmt.Errorf("image or chart with fields of a file")
	}
	if len(it.Blobs) < 2 || it.Blobs[0].Digest != it.Digest {
		return fmt.Errorf("the first blob is not the manifest")
	}
	if it.Blobs[0].Size > maxOCIManifest {
		return fmt.Errorf("manifest of %d bytes", it.Blobs[0].Size)
	}
	if size := ImageSize(it.Blobs); size != it.Size {
		return fmt.Errorf("size %d is not the sum of its blobs, %d", it.Size, size)
	}
	return nil
}

// descriptors are the blobs of an item as they are stored: those of an image, or
// the file.
func (it *Item) descriptors() []Descriptor {
	if it.hasManifest() {
		return it.Blobs
	}
	if it.Stored != nil {
		return []Descriptor{*it.Stored}
	}
	return []Descriptor{{MediaType: it.mediaType(), Digest: it.Digest, Size: it.Size}}
}

// ImageSize is the number of bytes of an image with these blobs: each digest
// counts once.
func ImageSize(blobs []Descriptor) int64 {
	seen := map[string]bool{}
	var size int64
	for _, d := range blobs {
		if !seen[d.Digest] {
			size += d.Size
		}
		seen[d.Digest] = true
	}
	return size
}
