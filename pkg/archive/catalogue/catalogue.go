// Package catalogue reads the catalogue of the bundle (bundle/catalogue.yaml):
// which component versions fit a version of Kubernetes, and where they come
// from. It does no I/O.
package catalogue

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/bundle"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// Catalogue is catalogue.yaml.
type Catalogue struct {
	APIVersion    string         `json:"apiVersion"`
	Kind          string         `json:"kind"`
	Files         []File         `json:"files"`
	Images        []Image        `json:"images"`
	Releases      []Release      `json:"releases"`
	Conflicts     []Conflict     `json:"conflicts,omitempty"`
	Distributions []Distribution `json:"distributions"`
}

// File is a file from an HTTPS server.
type File struct {
	Name      string       `json:"name"`
	Component string       `json:"component"`
	Kind      archive.Kind `json:"kind"`
	Role      archive.Role `json:"role"`
	Licence   string       `json:"licence"`
	URL       string       `json:"url"`
	Checksum  string       `json:"checksum"` // URL of upstream's checksum file
}

// Image is an image from a registry.
type Image struct {
	Component string `json:"component"`
	CNI       string `json:"cni,omitempty"`
	// Endpoint has the modes of the control plane endpoint that need it, with the
	// role of the hosts that do. The image is in every bundle, so that a cluster can
	// change its mode later.
	Endpoint map[string]archive.Role `json:"endpoint,omitempty"`
	Role     archive.Role            `json:"role"`
	Licence  string                  `json:"licence"`
	Ref      string                  `json:"ref"`
}

// Release is a version of Kubernetes with the component versions that fit.
type Release struct {
	Kubernetes string            `json:"kubernetes"`
	Components map[string]string `json:"components"`
}

// Distribution is an operating system whose packages can be in a bundle.
type Distribution struct {
	ID       string      `json:"id"`
	Version  string      `json:"version"`
	Manager  string      `json:"manager"` // ManagerApt or ManagerDNF
	Licence  string      `json:"licence"`
	Archives []Archive   `json:"archives"`
	Keyring  string      `json:"keyring"` // default place of the keys that sign the archives
	Packages []OSPackage `json:"packages"`
	// Base names packages that every system has, for dnf; apt's index tells.
	Base []string `json:"base,omitempty"`
}

// Package managers of distributions.
const (
	ManagerApt = "apt"
	ManagerDNF = "dnf"
)

// Archive is one suite of an apt archive, or one dnf repository.
type Archive struct {
	URL        string   `json:"url"` // of dnf with {arch}, as RPM says it: x86_64
	Suite      string   `json:"suite,omitempty"`
	Components []string `json:"components,omitempty"`
}

// OSPackage is a package that Kubernetes needs.
type OSPackage struct {
	Name     string   `json:"name"`
	Commands []string `json:"commands,omitempty"` // programs it is needed for
}

// Embedded returns the catalogue that this kocli was built with.
func Embedded() (*Catalogue, error) { return Decode(bundle.Catalogue) }

// Decode reads a catalogue strictly and checks it.
func Decode(data []byte) (*Catalogue, error) {
	var c Catalogue
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	return &c, nil
}

// Expand fills {version} and {arch} into a URL or reference.
func Expand(template, version, arch string) string {
	return strings.NewReplacer("{version}", version, "{arch}", arch).Replace(template)
}

// Versions lists the versions of Kubernetes, in the order of the catalogue.
func (c *Catalogue) Versions() []string {
	out := make([]string, len(c.Releases))
	for i, r := range c.Releases {
		out[i] = r.Kubernetes
	}
	return out
}

// Release returns the component versions for a version of Kubernetes, with the
// component "kubernetes" added and the overrides applied. Errors carry
// fault.Usage.
func (c *Catalogue) Release(version string, overrides map[string]string) (Release, error) {
	i := slices.IndexFunc(c.Releases, func(r Release) bool { return r.Kubernetes == version })
	if i < 0 {
		return Release{}, fault.New(fault.Usage, "known are "+strings.Join(c.Versions(), ", "),
			fmt.Errorf("Kubernetes %s is not in the catalogue", version)) //nolint:staticcheck // a name
	}
	out := Release{Kubernetes: version, Components: map[string]string{"kubernetes": version}}
	for k, v := range c.Releases[i].Components {
		out.Components[k] = v
	}
	for k, v := range overrides {
		if _, ok := c.Releases[i].Components[k]; !ok {
			return Release{}, fault.New(fault.Usage, "remove it from spec.components", fmt.Errorf("component %q is not in the catalogue", k))
		}
		out.Components[k] = v
	}
	if err := c.conflict(out); err != nil {
		return Release{}, err
	}
	return out, nil
}

// Distribution returns an operating system. Errors carry fault.Usage.
func (c *Catalogue) Distribution(id, version string) (Distribution, error) {
	var known []string
	for _, d := range c.Distributions {
		if d.ID == id && d.Version == version {
			return d, nil
		}
		known = append(known, d.ID+" "+d.Version)
	}
	return Distribution{}, fault.New(fault.Usage, "known are "+strings.Join(known, ", "),
		fmt.Errorf("packages of %s %s are not in the catalogue", id, version))
}

// CNIs lists the CNIs that the catalogue has images of.
func (c *Catalogue) CNIs() []string {
	var out []string
	for _, im := range c.Images {
		if im.CNI != "" && !slices.Contains(out, im.CNI) {
			out = append(out, im.CNI)
		}
	}
	return out
}

// check refuses a catalogue that cannot be built from.
func (c *Catalogue) check() error {
	if c.APIVersion != archive.APIVersion || c.Kind != "Catalogue" {
		return fmt.Errorf("apiVersion %q and kind %q are not %s and Catalogue", c.APIVersion, c.Kind, archive.APIVersion)
	}
	used := map[string]bool{}
	for _, f := range c.Files {
		used[f.Component] = true
		for _, u := range []string{f.URL, f.Checksum} {
			if p, err := url.Parse(u); err != nil || p.Scheme != "https" || p.Host == "" {
				return fmt.Errorf("file %s: %q is not an https URL", f.Name, u)
			}
		}
		if f.Name == "" || f.Licence == "" || (f.Kind != archive.KindBinary && f.Kind != archive.KindArchive) {
			return fmt.Errorf("file %q: name, licence or kind %q is not valid", f.Name, f.Kind)
		}
	}
	for _, im := range c.Images {
		used[im.Component] = true
		if im.Ref == "" || im.Licence == "" {
			return fmt.Errorf("image %q: reference or licence is missing", im.Ref)
		}
	}
	for _, r := range c.Releases {
		for name := range used {
			if name != "kubernetes" && r.Components[name] == "" {
				return fmt.Errorf("release %s: no version of %s", r.Kubernetes, name)
			}
		}
		for name := range r.Components {
			if !used[name] {
				return fmt.Errorf("release %s: component %s has neither file nor image", r.Kubernetes, name)
			}
		}
	}
	if err := c.checkConflicts(used); err != nil {
		return err
	}
	for _, d := range c.Distributions {
		if err := d.check(); err != nil {
			return fmt.Errorf("distribution %s %s: %w", d.ID, d.Version, err)
		}
	}
	return nil
}

func (d Distribution) check() error {
	if d.Manager != ManagerApt && d.Manager != ManagerDNF {
		return fmt.Errorf("manager %q is not known", d.Manager)
	}
	if len(d.Archives) == 0 || len(d.Packages) == 0 || d.Keyring == "" {
		return errors.New("archives, packages or keyring are missing")
	}
	for _, a := range d.Archives {
		if (d.Manager == ManagerApt) != (a.Suite != "" && len(a.Components) > 0) || (d.Manager == ManagerDNF) != strings.Contains(a.URL, "{arch}") {
			return fmt.Errorf("archive %s is not one of %s", a.URL, d.Manager)
		}
	}
	return nil
}
