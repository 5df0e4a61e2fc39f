// Package payload picks out of a bundle what one node needs, as files to put on
// it and images to import. It stands between the bundle and the steps, and
// knows nothing of phases.
package payload

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
)

// Target says what a node is, as far as a bundle cares.
type Target struct {
	Kubernetes   string // "v1.36.3"
	Arch         string // "amd64"
	ControlPlane bool
	CNI          string
	Endpoint     string   // mode of the control plane endpoint: "vip"
	ExternalEtcd bool     // its image is not needed
	Registry     bool     // it runs the built-in registry
	Addons       []string // of the cluster; nil means that it has none
	Distribution string   // "debian", for packages
	Release      string   // "12"
}

// Payload is a bundle as one node sees it.
type Payload struct {
	bundle *archive.Bundle
	target Target
}

// For returns what is in b for a node.
func For(b *archive.Bundle, t Target) Payload { return Payload{b, t} }

// filter chooses what the node needs.
func (p Payload) filter() archive.Filter {
	role := archive.RoleWorker
	if p.target.ControlPlane {
		role = archive.RoleControlPlane
	}
	return archive.Filter{Role: role, Arch: p.target.Arch, Kubernetes: p.target.Kubernetes, CNI: p.target.CNI, Endpoint: p.target.Endpoint,
		Addons: cmp.Or(strings.Join(p.target.Addons, " "), archive.NoAddons)}
}

// Items returns all that the node needs.
func (p Payload) Items() []archive.Item {
	all := p.bundle.Items(p.filter())
	if p.target.Registry {
		f := p.filter()
		f.Role = archive.RoleRegistry
		all = slices.Concat(all, slices.DeleteFunc(slices.Clone(p.bundle.Items(f)), func(it archive.Item) bool { return it.Role != archive.RoleRegistry }))
	}
	if p.target.ExternalEtcd {
		all = slices.DeleteFunc(all, func(it archive.Item) bool { return it.Kind == archive.KindImage && isEtcd(it.Name) })
	}
	return all
}

// isEtcd reports whether an image is that of etcd.
func isEtcd(ref string) bool {
	name, _, _ := strings.Cut(path.Base(ref), ":")
	return name == "etcd"
}

// Binaries returns the executables of a component as files in a folder.
func (p Payload) Binaries(component, dir string) ([]host.File, error) {
	var out []host.File
	for _, it := range p.Items() {
		if it.Kind == archive.KindBinary && it.Component == component {
			out = append(out, p.file(it, path.Join(dir, it.Name), 0o755))
		}
	}
	if len(out) == 0 {
		return nil, missing(fmt.Sprintf("%s for Kubernetes %s on %s", component, p.target.Kubernetes, p.target.Arch))
	}
	return out, nil
}

// Kocli returns the kocli of the bundle for the node's architecture.
func (p Payload) Kocli(dst string) (host.File, bool) {
	for _, it := range p.Items() {
		if it.Kind == archive.KindKocli {
			return p.file(it, dst, 0o755), true
		}
	}
	return host.File{}, false
}

// Package is an OS package of the bundle.
type Package struct {
	Name string
	File host.File
}

// Packages returns the OS packages for the node's distribution: those that were
// asked for, and all that they need.
func (p Payload) Packages() []Package {
	var out []Package
	for _, it := range p.Items() {
		if it.Package == nil || it.Package.Distribution != p.target.Distribution || it.Package.Release != p.target.Release {
			continue
		}
		out = append(out, Package{it.Package.Name, p.file(it, path.Join(ledger.Root(), "packages", path.Base(it.File)), 0o644)})
	}
	return out
}

// Content returns the digests of all blobs that steps take of the bundle for an empty
// node, but for packages: of those a host lacks some only.
func (p Payload) Content() []string {
	var out []string
	for _, it := range p.Items() {
		if it.Kind == archive.KindBinary {
			f := p.file(it, "", 0)
			blob, _ := f.Blob()
			out = append(out, blob)
		}
	}
	for _, im := range p.Images() {
		for _, b := range im.Blobs {
			out = append(out, b.Digest)
		}
	}
	return out
}

// Images returns the images that the node needs, sorted by name.
func (p Payload) Images() []archive.Image {
	all := p.bundle.Images(p.filter())
	if p.target.ExternalEtcd {
		all = slices.DeleteFunc(all, func(im archive.Image) bool { return isEtcd(im.Ref) })
	}
	return all
}

// ImageTar is the bundle's stream for a host that has some blobs already.
func (p Payload) ImageTar(images []archive.Image, have func(string) bool) (int64, func(io.Writer) error, error) {
	return p.bundle.ImageTar(images, have)
}

// Blob returns the bytes of a blob as they stand in the bundle, unverified.
func (p Payload) Blob(digest string) (*io.SectionReader, bool) { return p.bundle.Section(digest) }

// Component returns the version of a component that the bundle holds for the
// node's Kubernetes.
func (p Payload) Component(name string) (string, error) {
	if r, ok := p.bundle.Release(p.target.Kubernetes); ok {
		if v, ok := r.Components[name]; ok {
			return v, nil
		}
	}
	return "", missing(fmt.Sprintf("%s for Kubernetes %s", name, p.target.Kubernetes))
}

// Image returns the full reference of the image whose repository ends with
// name: "pause" finds registry.k8s.io/pause:3.10.2.
func (p Payload) Image(name string) (string, error) {
	for _, im := range p.Images() {
		repo, _, _ := strings.Cut(im.Ref[strings.LastIndex(im.Ref, "/")+1:], ":")
		if repo == name {
			return im.Ref, nil
		}
	}
	return "", missing(fmt.Sprintf("image %s for Kubernetes %s on %s", name, p.target.Kubernetes, p.target.Arch))
}

func (p Payload) file(it archive.Item, dst string, mode fs.FileMode) host.File {
	f := host.File{
		Path: dst, Mode: mode, Size: it.Size, SHA256: strings.TrimPrefix(it.Digest, "sha256:"),
		Open: func() (io.ReadCloser, error) { return p.bundle.OpenBlob(it.Digest) },
	}
	blob := it.Digest
	if s := it.Stored; s != nil {
		blob = s.Digest
		f.Compressed = &host.Compressed{Digest: s.Digest, Size: s.Size, Open: func() (io.ReadCloser, error) { return p.bundle.OpenBlob(s.Digest) }}
	}
	f.HostOnly = !p.bundle.Has(blob)
	return f
}

// missing is the refusal of a bundle that lacks something.
func missing(what string) error {
	return fault.New(fault.Bundle, "see what the bundle holds with: kocli bundle inspect BUNDLE", fmt.Errorf("the bundle has no %s", what))
}

// BinaryBytes is the size of all executables that the node gets.
func (p Payload) BinaryBytes() int64 {
	var n int64
	for _, it := range p.Items() {
		if it.Kind == archive.KindBinary || it.Kind == archive.KindKocli {
			n += it.Size
		}
	}
	return n
}
