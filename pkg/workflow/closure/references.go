package closure

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/payload"
	ctrd "github.com/kocli/kocli/pkg/steps/runtime"
)

// reference is one thing that an install asks for.
type reference struct {
	kind    archive.Kind
	name    string // full reference of an image, or the name of a file
	version string // where no other will do
	by      string // who asks
}

// heldBy reports whether an item of the host's payload is what is asked for.
func (r reference) heldBy(it archive.Item, h Host) bool {
	if it.Kind != r.kind {
		return false
	}
	if r.kind == archive.KindPackage {
		return it.Package.Distribution == h.Distribution && it.Package.Release == h.Release &&
			(it.Package.Name == r.name || slices.Contains(it.Package.Provides, r.name))
	}
	return it.Name == r.name && (r.version == "" || it.Version == r.version)
}

// references returns all that an install asks for on a host. Manifests are
// rendered with the images of the host's own architecture, which have the same
// names on all.
func (in Input) references(h Host, p payload.Payload) ([]reference, error) {
	find := in.finder(p)
	out, err := in.staticPods(h)
	if err != nil {
		return nil, err
	}
	manifests, err := in.manifestsOf(find)
	if err != nil {
		return nil, err
	}
	pods, err := in.staticPodsOf(h, find)
	if err != nil {
		return nil, err
	}
	for _, m := range append(manifests, pods...) {
		refs, err := workloadImages(m.data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		out = append(out, refs...)
	}
	sandbox, err := in.sandbox(find)
	if err != nil {
		return nil, err
	}
	return slices.Concat(out, sandbox, in.programs(h), in.packages(h)), nil
}

// staticPods are the images of what kubeadm runs: static pods and its add-ons.
func (in Input) staticPods(h Host) ([]reference, error) {
	all, err := kubeadm.Images(in.Inventory, in.components(false))
	var out []reference
	for _, im := range all {
		by := im.What
		if im.ControlPlane {
			by += " on control planes"
		}
		if h.ControlPlane || !im.ControlPlane {
			out = append(out, reference{kind: archive.KindImage, name: canonical(im.Ref), by: by})
		}
	}
	return out, err
}

// sandbox are the images of containerd's configuration.
func (in Input) sandbox(find finder) ([]reference, error) {
	pause, err := find.Image("pause")
	if err != nil {
		return nil, err
	}
	config, err := ctrd.Config(in.Inventory.Spec.Runtime.Containerd, pause)
	if err != nil {
		return nil, err
	}
	pinned, err := ctrd.PinnedImages(config)
	var out []reference
	for _, ref := range pinned {
		out = append(out, reference{kind: archive.KindImage, name: canonical(ref), by: "containerd's configuration"})
	}
	return out, err
}

// programs are the files that the hosts run.
func (in Input) programs(h Host) []reference {
	version := in.Inventory.Version()
	var out []reference
	ask := func(by, version string, names ...string) {
		for _, n := range names {
			out = append(out, reference{archive.KindBinary, n, version, by})
		}
	}
	ask("every host", version, "kubeadm", "kubelet")
	if h.ControlPlane {
		ask("control planes", version, "kubectl")
	}
	ask("containerd", "", "containerd", "containerd-shim-runc-v2", "ctr", "runc", "loopback")
	if in.Inventory.Spec.Network.CNI.Name == v1alpha1.CNIFlannel {
		ask("flannel's CNI configuration", "", "bridge", "host-local", "portmap")
	}
	if h.Registry {
		ask("the built-in registry", "", "registry")
	}
	if h.Arch != in.Kocli {
		out = append(out, reference{archive.KindKocli, "kocli", "", "every host, for what kocli does there"})
	}
	return out
}

// packages are those that the catalogue has for the host's distribution, where
// the bundle brings packages for it.
func (in Input) packages(h Host) []reference {
	on := in.Inventory.Spec.OS.InstallPackages
	brings := slices.Contains(in.Bundle.Manifest().Distributions, archive.Distribution{ID: h.Distribution, Version: h.Release})
	d, err := in.Catalogue.Distribution(h.Distribution, h.Release)
	if !brings || err != nil || on != nil && !*on {
		return nil
	}
	var out []reference
	for _, p := range d.Packages {
		out = append(out, reference{archive.KindPackage, p.Name, "", fmt.Sprintf("hosts with %s %s", h.Distribution, h.Release)})
	}
	return out
}

// components returns the versions of the components: those of the catalogue,
// which are the ones that kubeadm asks for, or, with chosen, those that the bundle
// was built with.
func (in Input) components(chosen bool) map[string]string {
	out := map[string]string{"kubernetes": in.Inventory.Version()}
	built, _ := in.Bundle.Release(in.Inventory.Version())
	known, err := in.Catalogue.Release(in.Inventory.Version(), nil)
	lists := []map[string]string{built.Components}
	if err == nil { // otherwise the bundle is from a kocli that knows more versions
		lists = append(lists, known.Components)
	}
	if chosen {
		slices.Reverse(lists)
	}
	for _, l := range lists { // the last one wins
		for name, v := range l {
			out[name] = v
		}
	}
	return out
}

// finder finds images for manifests: those of the bundle, and where it lacks
// one, what the catalogue calls it.
type finder struct {
	have       payload.Payload
	catalogue  *catalogue.Catalogue
	components map[string]string
}

func (in Input) finder(p payload.Payload) finder {
	return finder{p, in.Catalogue, in.components(true)}
}

// Image returns the full reference of an image.
func (f finder) Image(name string) (string, error) {
	ref, err := f.have.Image(name)
	if err == nil {
		return ref, nil
	}
	for _, im := range f.catalogue.Images {
		repository, _, _ := strings.Cut(path.Base(im.Ref), ":")
		if repository == name {
			return catalogue.Expand(im.Ref, f.components[im.Component], ""), nil
		}
	}
	return "", err
}

// canonical writes a reference as containerd does: with its registry, and a tag.
func canonical(ref string) string {
	registry, rest, ok := strings.Cut(ref, "/")
	switch {
	case !ok:
		ref = "docker.io/library/" + ref
	case !strings.ContainsAny(registry, ".:") && registry != "localhost":
		ref = "docker.io/" + registry + "/" + rest
	}
	if !strings.ContainsAny(path.Base(ref), ":@") {
		ref += ":latest"
	}
	return ref
}
