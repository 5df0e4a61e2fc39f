package archive

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ExtraImage is an image that the catalogue does not know.
type ExtraImage struct {
	// Full reference with registry and tag: docker.io/library/busybox:1.37.
	Ref string `json:"ref"`
	// Hosts that need it: all, control-plane or worker. Default: all.
	Role Role `json:"role,omitempty"`
}

// ExtraFile is a file of your own: path or url says where it comes from.
type ExtraFile struct {
	// File beside bundle.yaml, or an absolute path.
	Path string `json:"path,omitempty"`
	// https or http URL; needs sha256.
	URL string `json:"url,omitempty"`
	// Digest of the content in hex. Without it, a path is held against the lock only.
	SHA256 string `json:"sha256,omitempty"`
	// File name in the bundle. Default: the last part of path or url.
	Name string `json:"name,omitempty"`
	// Hosts that need it: all, control-plane or worker. Default: all.
	Role Role `json:"role,omitempty"`
	// Architecture that it is for: amd64 or arm64. Default: all of the bundle's.
	Arch string `json:"arch,omitempty"`
}

// ExtraChart is a Helm chart: repo and name, ref, or path says where it comes
// from.
type ExtraChart struct {
	// https URL of a Helm repository: the folder that has index.yaml.
	Repo string `json:"repo,omitempty"`
	// Name of the chart in the repository.
	Name string `json:"name,omitempty"`
	// Chart in a registry: oci://ghcr.io/example/charts/app.
	Ref string `json:"ref,omitempty"`
	// Exact version, of a chart with repo or ref.
	Version string `json:"version,omitempty"`
	// Packed chart (.tgz) beside bundle.yaml, or an absolute path.
	Path string `json:"path,omitempty"`
}

var (
	hexForm      = regexp.MustCompile(`^[0-9a-f]{64}$`)
	chartVersion = regexp.MustCompile(`^v?[0-9]+\.[0-9]+\.[0-9]+([+-][A-Za-z0-9.+-]*)?$`)
	chartName    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)
)

// architectures are those that Kubernetes and its components are published for,
// and kocli is.
func architectures() []string { return []string{"amd64", "arm64"} }

// setDefaults fills in what the spec leaves out.
func (s *SpecBody) setDefaults() {
	if s.ImageLayers == "" {
		s.ImageLayers = LayersPublished
	}
	for i := range s.ExtraImages {
		if s.ExtraImages[i].Role == "" {
			s.ExtraImages[i].Role = RoleAll
		}
	}
	for i := range s.ExtraFiles {
		f := &s.ExtraFiles[i]
		if f.Role == "" {
			f.Role = RoleAll
		}
		if f.Name != "" {
			continue
		}
		f.Name = path.Base(f.Path)
		if u, err := url.Parse(f.URL); err == nil && f.URL != "" {
			f.Name = path.Base(u.Path)
		}
	}
}

func (s *SpecBody) validateImages(p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, im := range s.ExtraImages {
		at := p.Index(i)
		if !fullReference(im.Ref) {
			errs = append(errs, field.Invalid(at.Child("ref"), im.Ref, "must be a full reference with registry and tag: docker.io/library/busybox:1.37"))
		}
		errs = append(errs, validateRole(at, im.Role)...)
	}
	return errs
}

// fullReference reports whether a reference names its registry.
func fullReference(ref string) bool {
	registry, _, _ := strings.Cut(ref, "/")
	return refForm.MatchString(ref) && !strings.Contains(ref, "..") && strings.ContainsAny(registry, ".:")
}

func validateRole(at *field.Path, r Role) field.ErrorList {
	roles := []Role{RoleAll, RoleControlPlane, RoleWorker}
	if slices.Contains(roles, r) {
		return nil
	}
	return field.ErrorList{field.NotSupported(at.Child("role"), r, roles)}
}

func (s *SpecBody) validateFiles(p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, f := range s.ExtraFiles {
		at := p.Index(i)
		switch {
		case (f.Path == "") == (f.URL == ""):
			errs = append(errs, field.Invalid(at, f.Name, "must have one of path and url"))
		case f.URL != "" && !webURL(f.URL, "https", "http"):
			errs = append(errs, field.Invalid(at.Child("url"), f.URL, "must be an https or http URL"))
		case f.URL != "" && f.SHA256 == "":
			errs = append(errs, field.Required(at.Child("sha256"), "what is downloaded has to be known"))
		}
		if f.SHA256 != "" && !hexForm.MatchString(f.SHA256) {
			errs = append(errs, field.Invalid(at.Child("sha256"), f.SHA256, "must be 64 hex digits in lower case"))
		}
		if !wordForm.MatchString(f.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), f.Name, "must be a file name"))
		}
		if f.Arch != "" && !slices.Contains(architectures(), f.Arch) {
			errs = append(errs, field.NotSupported(at.Child("arch"), f.Arch, architectures()))
		}
		if slices.ContainsFunc(s.ExtraFiles[:i], func(x ExtraFile) bool {
			return x.Name == f.Name && (x.Arch == f.Arch || x.Arch == "" || f.Arch == "")
		}) {
			errs = append(errs, field.Duplicate(at.Child("name"), f.Name))
		}
		errs = append(errs, validateRole(at, f.Role)...)
	}
	return errs
}

func (s *SpecBody) validateAddons(p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, a := range s.Addons {
		at := p.Index(i)
		if !chartName.MatchString(a.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), a.Name, "must be the name of an add-on"))
		}
		if a.Version != "" && !chartVersion.MatchString(a.Version) {
			errs = append(errs, field.Invalid(at.Child("version"), a.Version, "must be an exact version such as 1.2.3"))
		}
		if slices.Contains(s.Addons[:i], a) {
			errs = append(errs, field.Duplicate(at, a.Name))
		}
	}
	return errs
}

func webURL(s string, schemes ...string) bool {
	u, err := url.Parse(s)
	return err == nil && slices.Contains(schemes, u.Scheme) && u.Host != "" && u.User == nil
}

func (s *SpecBody) validateCharts(p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, c := range s.ExtraCharts {
		at := p.Index(i)
		ways := 0
		for _, v := range []string{c.Repo, c.Ref, c.Path} {
			if v != "" {
				ways++
			}
		}
		if ways != 1 {
			errs = append(errs, field.Invalid(at, c.Name, "must have one of repo, ref and path"))
		}
		if c.Path == "" && !chartVersion.MatchString(c.Version) {
			errs = append(errs, field.Invalid(at.Child("version"), c.Version, "must be an exact version such as 1.2.3"))
		}
		if c.Repo != "" && (!webURL(c.Repo, "https") || strings.Contains(c.Repo, "?")) {
			errs = append(errs, field.Invalid(at.Child("repo"), c.Repo, "must be an https URL"))
		}
		if (c.Repo != "") != (c.Name != "") || (c.Name != "" && !chartName.MatchString(c.Name)) {
			errs = append(errs, field.Invalid(at.Child("name"), c.Name, "must be the chart's name in repo, and go with it"))
		}
		ref, isOCI := strings.CutPrefix(c.Ref, "oci://")
		if c.Ref != "" && (!isOCI || !fullReference(ref) || strings.Contains(path.Base(ref), ":") || strings.Contains(ref, "@")) {
			errs = append(errs, field.Invalid(at.Child("ref"), c.Ref, "must be oci://REGISTRY/REPOSITORY without a tag"))
		}
		if slices.Contains(s.ExtraCharts[:i], c) {
			errs = append(errs, field.Duplicate(at, c.Name+c.Ref+c.Path))
		}
	}
	return errs
}
