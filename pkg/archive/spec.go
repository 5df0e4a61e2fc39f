package archive

import (
	"fmt"
	"regexp"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/fault"
)

// APIVersion and SpecKind head a bundle.yaml.
const (
	APIVersion = "kocli.io/v1alpha1"
	SpecKind   = "Bundle"
)

// Forms of the layers of images.
const (
	LayersPublished = "published" // as upstream has them, byte for byte
	LayersZstd      = "zstd"      // packed anew: smaller, quicker to unpack, with manifests of their own
)

// Spec is bundle.yaml: what a bundle should hold. The catalogue says where it
// comes from.
type Spec struct {
	// Version of this format: kocli.io/v1alpha1.
	APIVersion string `json:"apiVersion"`
	// Kind of this document: Bundle.
	Kind string `json:"kind"`
	// What the bundle is called.
	Metadata SpecMetadata `json:"metadata"`
	// What the bundle should hold.
	Spec SpecBody `json:"spec"`
}

// SpecMetadata names a bundle.
type SpecMetadata struct {
	// Name of the bundle, shown by inspect.
	Name string `json:"name"`
}

// SpecBody is what a bundle should hold.
type SpecBody struct {
	// Versions of Kubernetes, such as v1.36.3. Each must be in the catalogue.
	Kubernetes []string `json:"kubernetes"`
	// Architectures of the hosts: amd64, arm64.
	Architectures []string `json:"architectures"`
	// CNIs to bring: flannel.
	CNI []string `json:"cni,omitempty"`
	// Add-ons of kocli's list to bring: their charts and images.
	Addons []SpecAddon `json:"addons,omitempty"`
	// Versions of components that differ from the catalogue: "containerd": "2.2.8".
	Components map[string]string `json:"components,omitempty"`
	// Operating systems whose packages to bring.
	OSPackages []OSPackages `json:"osPackages,omitempty"`
	// Form of the layers of images that are referenced by tag: published
	// (default), or zstd.
	ImageLayers string `json:"imageLayers,omitempty"`
	// Further images, by full reference.
	ExtraImages []ExtraImage `json:"extraImages,omitempty"`
	// Further files.
	ExtraFiles []ExtraFile `json:"extraFiles,omitempty"`
	// Further Helm charts.
	ExtraCharts []ExtraChart `json:"extraCharts,omitempty"`
}

// SpecAddon asks for an add-on.
type SpecAddon struct {
	// Name, as "kocli addon list" shows it.
	Name string `json:"name"`
	// Version of its chart. Default: the newest that fits all versions of
	// Kubernetes above.
	Version string `json:"version,omitempty"`
}

// OSPackages asks for the packages of one operating system, with everything
// that they depend on and a minimal system lacks.
type OSPackages struct {
	// ID of /etc/os-release: debian.
	Distribution string `json:"distribution"`
	// VERSION_ID of /etc/os-release: "12".
	Version string `json:"version"`
	// Packages beside those of the catalogue.
	Extra []string `json:"extra,omitempty"`
	// File with the OpenPGP keys that sign the archive. Default: the place
	// where the distribution keeps it. Relative to bundle.yaml.
	Keyring string `json:"keyring,omitempty"`
	// Accept an archive whose signature cannot be checked. Whoever controls
	// the network then controls the hosts.
	InsecureSkipSignature bool `json:"insecureSkipSignature,omitempty"`
}

var versionOfKubernetes = regexp.MustCompile(`^v1\.[0-9]+\.[0-9]+(-[a-z0-9.]+)?$`)

// DecodeSpec reads a bundle.yaml strictly and validates it. All faults are
// reported at once, with their paths. Errors carry fault.Usage.
func DecodeSpec(data []byte) (*Spec, error) {
	var s Spec
	if err := yaml.UnmarshalStrict(data, &s); err != nil {
		return nil, invalid(fmt.Errorf("bundle.yaml: %w", err))
	}
	s.Spec.setDefaults()
	if errs := s.validate(); len(errs) > 0 {
		return nil, invalid(errs.ToAggregate())
	}
	return &s, nil
}

func invalid(err error) error {
	return &fault.Error{
		Op: "read bundle spec", Code: fault.Usage, Err: err,
		Hint: "compare with what `kocli bundle init` prints, which is commented",
	}
}

func (s *Spec) validate() field.ErrorList {
	var errs field.ErrorList
	if s.APIVersion != APIVersion {
		errs = append(errs, field.NotSupported(field.NewPath("apiVersion"), s.APIVersion, []string{APIVersion}))
	}
	if s.Kind != SpecKind {
		errs = append(errs, field.NotSupported(field.NewPath("kind"), s.Kind, []string{SpecKind}))
	}
	if !wordForm.MatchString(s.Metadata.Name) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), s.Metadata.Name, "must be a name of letters, digits, dots and dashes"))
	}
	p := field.NewPath("spec")
	errs = append(errs, validateList(p.Child("kubernetes"), s.Spec.Kubernetes, true, func(v string) string {
		if !versionOfKubernetes.MatchString(v) {
			return "must be a full version such as v1.36.3"
		}
		return ""
	})...)
	errs = append(errs, validateList(p.Child("architectures"), s.Spec.Architectures, true, func(v string) string {
		if !slices.Contains(architectures(), v) {
			return "must be amd64 or arm64"
		}
		return ""
	})...)
	errs = append(errs, validateList(p.Child("cni"), s.Spec.CNI, false, validWord)...)
	errs = append(errs, s.Spec.validateAddons(p.Child("addons"))...)
	for name, v := range s.Spec.Components {
		if !versionForm.MatchString(v) {
			errs = append(errs, field.Invalid(p.Child("components").Key(name), v, "must be a version"))
		}
	}
	errs = append(errs, s.validatePackages(p.Child("osPackages"))...)
	if l := s.Spec.ImageLayers; l != LayersPublished && l != LayersZstd {
		errs = append(errs, field.NotSupported(p.Child("imageLayers"), l, []string{LayersPublished, LayersZstd}))
	}
	errs = append(errs, s.Spec.validateImages(p.Child("extraImages"))...)
	errs = append(errs, s.Spec.validateFiles(p.Child("extraFiles"))...)
	errs = append(errs, s.Spec.validateCharts(p.Child("extraCharts"))...)
	return errs
}

func (s *Spec) validatePackages(p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, o := range s.Spec.OSPackages {
		at := p.Index(i)
		if !wordForm.MatchString(o.Distribution) {
			errs = append(errs, field.Invalid(at.Child("distribution"), o.Distribution, "must be the ID of /etc/os-release: debian"))
		}
		if !wordForm.MatchString(o.Version) {
			errs = append(errs, field.Invalid(at.Child("version"), o.Version, "must be the VERSION_ID of /etc/os-release: \"12\""))
		}
		if key := o.Distribution + " " + o.Version; seen[key] {
			errs = append(errs, field.Duplicate(at, key))
		} else {
			seen[key] = true
		}
		errs = append(errs, validateList(at.Child("extra"), o.Extra, false, validWord)...)
	}
	return errs
}

func validWord(v string) string {
	if !wordForm.MatchString(v) {
		return "must be a name"
	}
	return ""
}

func validateList(p *field.Path, list []string, required bool, check func(string) string) field.ErrorList {
	var errs field.ErrorList
	if required && len(list) == 0 {
		errs = append(errs, field.Required(p, "name at least one"))
	}
	for i, v := range list {
		if why := check(v); why != "" {
			errs = append(errs, field.Invalid(p.Index(i), v, why))
		}
		if slices.Contains(list[:i], v) {
			errs = append(errs, field.Duplicate(p.Index(i), v))
		}
	}
	return errs
}
