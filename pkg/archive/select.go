package archive

import (
	"slices"
	"strings"
)

// Filter chooses items. An empty field chooses all.
type Filter struct {
	Kubernetes string // version that is installed: "v1.36.3"
	Role       Role   // role of the host
	Arch       string // architecture of the host
	CNI        string // CNI of the cluster; "" leaves none out
	Endpoint   string // mode of the control plane endpoint; "" leaves none out
	Addons     string // those of the cluster, with blanks between; "" leaves none out, NoAddons all
}

// NoAddons is the filter of a cluster without add-ons.
const NoAddons = " "

// match reports whether an item is wanted. An item for all roles, versions, CNIs
// or endpoints is wanted by each of them.
func (f Filter) match(it *Item) bool {
	if f.Arch != "" && it.Arch != f.Arch && it.Arch != ArchAll {
		return false
	}
	if f.Role != "" && f.Role != RoleAll && it.Role != RoleAll && it.Role != f.Role {
		return false
	}
	if f.CNI != "" && it.CNI != "" && it.CNI != f.CNI {
		return false
	}
	if f.Endpoint != "" && len(it.Endpoint) > 0 {
		r, ok := it.Endpoint[f.Endpoint]
		if !ok || f.Role != "" && f.Role != RoleAll && r != RoleAll && r != f.Role {
			return false
		}
	}
	if f.Addons != "" && len(it.Addons) > 0 && !slices.ContainsFunc(strings.Fields(f.Addons), func(n string) bool { return slices.Contains(it.Addons, n) }) {
		return false
	}
	if f.Kubernetes == "" || len(it.Kubernetes) == 0 {
		return true
	}
	for _, v := range it.Kubernetes {
		if v == f.Kubernetes {
			return true
		}
	}
	return false
}

// Image is a container image of one platform.
type Image struct {
	Ref    string // full reference: "registry.k8s.io/pause:3.10.2"
	Digest string // of its manifest
	Size   int64  // bytes of all of its blobs
	Arch   string
	Role   Role
	// Blobs are the manifest, the configuration and the layers.
	Blobs []Descriptor
}

// File is a binary, a tarball, a package or kocli itself.
type File struct {
	Kind    Kind
	Name    string // "kubelet", "containerd", "conntrack"
	Version string
	Arch    string
	Role    Role
	File    string // file name: "containerd-2.2.9-linux-amd64.tar.gz"
	Digest  string // "sha256:..."
	Size    int64
	Package *Package // of OS packages
}

// SHA256 is the digest in hex alone, as host.File and sha256sum write it.
func (f File) SHA256() string { return strings.TrimPrefix(f.Digest, "sha256:") }

// Items returns the chosen items in their fixed order. They are not to be changed.
func (b *Bundle) Items(f Filter) []Item {
	b.mu.Lock()
	defer b.mu.Unlock()
	if known, ok := b.chosen[f]; ok {
		return known
	}
	var out []Item
	for i := range b.manifest.Items {
		if it := &b.manifest.Items[i]; f.match(it) {
			out = append(out, *it)
		}
	}
	if b.chosen == nil {
		b.chosen = map[Filter][]Item{}
	}
	b.chosen[f] = slices.Clip(out)
	return b.chosen[f]
}

// Images returns the chosen images, sorted by reference.
func (b *Bundle) Images(f Filter) []Image {
	var out []Image
	for _, it := range b.Items(f) {
		if it.Kind == KindImage {
			out = append(out, Image{Ref: it.Name, Digest: it.Digest, Size: it.Size, Arch: it.Arch, Role: it.Role, Blobs: it.Blobs})
		}
	}
	return out
}

// Files returns the chosen binaries, tarballs, files of the user's own and kocli
// itself, not packages.
func (b *Bundle) Files(f Filter) []File {
	var out []File
	for _, it := range b.Items(f) {
		if !it.hasManifest() && it.Kind != KindPackage {
			out = append(out, it.file())
		}
	}
	return out
}

// Packages returns the packages for a distribution and version as
// /etc/os-release has them ("debian", "12"), sorted by name: those that the
// spec named and, marked by Package.RequiredBy, what they depend on.
func (b *Bundle) Packages(distribution, version string, f Filter) []File {
	var out []File
	for _, it := range b.Items(f) {
		if it.Kind == KindPackage && it.Package.Distribution == distribution && it.Package.Release == version {
			out = append(out, it.file())
		}
	}
	return out
}

func (it Item) file() File {
	return File{
		Kind: it.Kind, Name: it.Name, Version: it.Version, Arch: it.Arch, Role: it.Role,
		File: it.File, Digest: it.Digest, Size: it.Size, Package: it.Package,
	}
}

// Release returns the component versions of a Kubernetes version, and whether
// the bundle has it.
func (b *Bundle) Release(version string) (Release, bool) {
	for _, r := range b.manifest.Kubernetes {
		if r.Version == version {
			return r, true
		}
	}
	return Release{}, false
}

// HasArch reports whether the bundle was built for an architecture.
func (b *Bundle) HasArch(arch string) bool {
	for _, a := range b.manifest.Architectures {
		if a == arch {
			return true
		}
	}
	return false
}
