// Package closure proves that a bundle holds everything that an install of a
// cluster asks for. It renders what create would install, takes the images and
// programs that it names out of that, and looks for each in the bundle, for
// every architecture. It does no I/O.
//
// Who adds something to an install adds it here: a manifest to manifestsOf, a
// program to programs.
package closure

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/payload"
)

// KindRelease is the kind of a version of Kubernetes that is missing as a whole.
const KindRelease archive.Kind = "release"

// Input is a cluster and the bundle that it is to be installed from.
type Input struct {
	Inventory *inventory.Inventory
	Bundle    *archive.Bundle
	Catalogue *catalogue.Catalogue
	Hosts     []Host // none: Any
	// Addons are those that kocli knows; nil means none.
	Addons *catalogue.Addons
	// Kocli is the architecture of a kocli that brings itself to hosts of the
	// same. The bundle need not have one for them.
	Kocli string
}

// Host is a host as far as a bundle cares. Without a distribution, no OS
// packages are asked for.
type Host struct {
	Arch                  string
	ControlPlane          bool
	Registry              bool // the built-in registry runs on it
	Distribution, Release string
}

// Report is what came of it. Its JSON is stable.
type Report struct {
	Cluster    string    `json:"cluster"`
	Kubernetes string    `json:"kubernetes"`
	Asked      int       `json:"asked"` // references, each architecture for itself
	Missing    []Missing `json:"missing"`
	// Mirrored are images that the bundle lacks and that spec.runtime.containerd.mirrors
	// serves.
	Mirrored []Missing `json:"mirrored"`
}

// Missing is one thing that the bundle lacks.
type Missing struct {
	Kind    archive.Kind `json:"kind"`
	Name    string       `json:"name"` // full reference of an image, or the name of a file
	Version string       `json:"version,omitempty"`
	Arch    string       `json:"arch,omitempty"`
	AskedBy []string     `json:"askedBy"`
}

// String says what is missing and who asks: "image registry.k8s.io/etcd:3.6.8-0
// (amd64): static pod etcd on control planes".
func (m Missing) String() string {
	name := m.Name
	if m.Version != "" {
		name += " " + m.Version
	}
	if m.Arch != "" {
		name += " (" + m.Arch + ")"
	}
	return fmt.Sprintf("%s %s: %s", m.Kind, name, strings.Join(m.AskedBy, "; "))
}

// Any returns the hosts that a cluster may have where nothing is known of them:
// each of its roles on each architecture and distribution of the bundle.
func Any(inv *inventory.Inventory, b *archive.Bundle) []Host {
	m := b.Manifest()
	systems := m.Distributions
	if len(systems) == 0 {
		systems = []archive.Distribution{{}}
	}
	var out []Host
	for _, arch := range m.Architectures {
		for _, d := range systems {
			kinds := map[Host]bool{} // in the order of the YAML, each once
			for _, n := range inv.Nodes {
				h := Host{Arch: arch, ControlPlane: n.ControlPlane, Registry: inv.RegistryOn(n), Distribution: d.ID, Release: d.Version}
				if !kinds[h] {
					out = append(out, h)
				}
				kinds[h] = true
			}
		}
	}
	return out
}

// Check looks for everything that an install asks for. The error is of what
// cannot be rendered, not of what is missing.
func Check(in Input) (Report, error) {
	inv := in.Inventory
	out := Report{Cluster: inv.Name, Kubernetes: inv.Version(), Missing: []Missing{}, Mirrored: []Missing{}}
	if _, ok := in.Bundle.Release(inv.Version()); !ok {
		out.Missing = append(out.Missing, Missing{Kind: KindRelease, Name: "Kubernetes", Version: inv.Version(), AskedBy: []string{"spec.kubernetes.version"}})
	}
	if len(in.Hosts) == 0 {
		in.Hosts = Any(inv, in.Bundle)
	}
	asked := map[string]bool{}
	charts, lacking, err := in.charts()
	if err != nil {
		return Report{}, err
	}
	for _, r := range lacking {
		asked[string(r.kind)+" "+r.name] = true
		add(&out.Missing, r, "")
	}
	seen := map[Host]bool{}
	for _, h := range in.Hosts {
		if seen[h] {
			continue
		}
		seen[h] = true
		p := in.payload(h)
		refs, err := in.references(h, p)
		if err != nil {
			return Report{}, err
		}
		items := p.Items()
		for _, r := range append(refs, charts...) {
			asked[strings.Join([]string{string(r.kind), r.name, h.Arch}, " ")] = true
			if slices.ContainsFunc(items, func(it archive.Item) bool { return r.heldBy(it, h) }) {
				continue
			}
			list := &out.Missing
			if in.mirrored(r) {
				list = &out.Mirrored
			}
			add(list, r, h.Arch)
		}
	}
	out.Asked = len(asked)
	return out, nil
}

// payload is the bundle as a host sees it.
func (in Input) payload(h Host) payload.Payload {
	return payload.For(in.Bundle, payload.Target{
		Kubernetes: in.Inventory.Version(), Arch: h.Arch, ControlPlane: h.ControlPlane, Registry: h.Registry, CNI: string(in.Inventory.Spec.Network.CNI.Name),
		Endpoint:     string(in.Inventory.Spec.ControlPlane.Endpoint.Mode),
		ExternalEtcd: in.Inventory.ExternalEtcd() != nil, Addons: in.addons(), Distribution: h.Distribution, Release: h.Release,
	})
}

// mirrored reports whether containerd is told to take an image from elsewhere.
func (in Input) mirrored(r reference) bool {
	registry, _, _ := strings.Cut(r.name, "/")
	m, ok := in.Inventory.Spec.Runtime.Containerd.Mirrors[registry]
	return r.kind == archive.KindImage && ok && len(m.Endpoints) > 0
}

// add puts a reference into a sorted list; whoever else asks for the same thing
// is added to its entry.
func add(list *[]Missing, r reference, arch string) {
	m := Missing{Kind: r.kind, Name: r.name, Version: r.version, Arch: arch, AskedBy: []string{r.by}}
	i, found := slices.BinarySearchFunc(*list, m, func(a, b Missing) int {
		return cmp.Or(cmp.Compare(order(a.Kind), order(b.Kind)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Arch, b.Arch))
	})
	switch {
	case !found:
		*list = slices.Insert(*list, i, m)
	case !slices.Contains((*list)[i].AskedBy, r.by):
		(*list)[i].AskedBy = append((*list)[i].AskedBy, r.by)
	}
}

// order puts the release first, then images, then files.
func order(k archive.Kind) int {
	return slices.Index([]archive.Kind{KindRelease, archive.KindChart, archive.KindImage, archive.KindBinary, archive.KindKocli, archive.KindPackage}, k)
}

// Refusal returns the error of a bundle that lacks something, with the code
// Bundle, or nil. bundle and spec are the files, for the hint.
func (r Report) Refusal(bundle, spec string) error {
	if len(r.Missing) == 0 {
		return nil
	}
	err := fmt.Errorf("the bundle lacks %s", r.Missing[0])
	if n := len(r.Missing); n > 1 {
		err = fmt.Errorf("the bundle lacks %d things that the cluster asks for, the first is %s", n, r.Missing[0])
	}
	return &fault.Error{Op: "closure", Code: fault.Bundle, Err: err,
		Hint: fmt.Sprintf("see all with: kocli bundle verify %s --closure %s; kocli bundle build makes a bundle that has them", bundle, spec)}
}
