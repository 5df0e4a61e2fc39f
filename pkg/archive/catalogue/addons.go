package catalogue

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/bundle"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// Addons is addons.yaml: what can be installed into a cluster.
type Addons struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Addons     []Addon `json:"addons"`
}

// Addon is something that runs in a cluster, from a Helm chart.
type Addon struct {
	Name        string `json:"name"` // of the release too
	Description string `json:"description"`
	// Storage is the type under spec.storage that asks for it; empty: it is asked for
	// by name, under spec.addons.
	Storage string `json:"storage,omitempty"`
	// Provisioner is the name by which volumes of that storage know it.
	Provisioner string `json:"provisioner,omitempty"`
	Namespace   string `json:"namespace"`
	Order       int    `json:"order"` // lower ones come first
	// CI says that the journeys install it.
	CI       bool           `json:"ci"`
	Licence  string         `json:"licence"`
	Chart    ChartSource    `json:"chart"`
	Versions []AddonVersion `json:"versions"` // the newest first
	// Values are set over the chart's own.
	Values map[string]any `json:"values,omitempty"`
	// Schema is the JSON schema of values that a cluster YAML may set.
	Schema map[string]any `json:"schema"`
	Health Health         `json:"health"`
	// Helper is an image with a shell, for the pods of a volume's test.
	Helper string `json:"helper,omitempty"`
}

// ChartSource is where a chart comes from: a Helm repository, a registry, or a
// folder of a source archive. {version} is the chart's.
type ChartSource struct {
	Repo    string `json:"repo,omitempty"`
	Name    string `json:"name,omitempty"`
	Ref     string `json:"ref,omitempty"`
	Archive string `json:"archive,omitempty"`
	Path    string `json:"path,omitempty"`
}

// AddonVersion is one version of an add-on.
type AddonVersion struct {
	Version    string   `json:"version"` // of the chart
	App        string   `json:"app"`     // of what runs
	Kubernetes Span     `json:"kubernetes"`
	Images     []string `json:"images"`
}

// Span is a range of versions of Kubernetes.
type Span struct {
	From  string `json:"from"`
	Below string `json:"below"`
}

// Health is how an add-on shows that it works.
type Health struct {
	Deployments []string `json:"deployments,omitempty"` // in its namespace
	Answers     string   `json:"answers,omitempty"`     // path of the API
	EachNode    bool     `json:"eachNode,omitempty"`    // with an item for every node
	Volume      bool     `json:"volume,omitempty"`      // a claim can be written and read
}

// EmbeddedAddons returns the add-ons that this kocli knows.
func EmbeddedAddons() (*Addons, error) { return DecodeAddons(bundle.Addons) }

// DecodeAddons reads a list of add-ons strictly and checks it.
func DecodeAddons(data []byte) (*Addons, error) {
	var a Addons
	if err := yaml.UnmarshalStrict(data, &a); err != nil {
		return nil, fmt.Errorf("add-ons: %w", err)
	}
	if a.APIVersion != archive.APIVersion || a.Kind != "Addons" {
		return nil, fmt.Errorf("add-ons: apiVersion %q and kind %q are not %s and Addons", a.APIVersion, a.Kind, archive.APIVersion)
	}
	for i, x := range a.Addons {
		if err := x.check(); err != nil {
			return nil, fmt.Errorf("add-on %q: %w", x.Name, err)
		}
		if slices.ContainsFunc(a.Addons[:i], func(o Addon) bool { return o.Name == x.Name }) {
			return nil, fmt.Errorf("add-on %q is there twice", x.Name)
		}
	}
	slices.SortStableFunc(a.Addons, func(x, y Addon) int { return cmp.Compare(x.Order, y.Order) })
	return &a, nil
}

func (x Addon) check() error {
	ways := 0
	for _, v := range []string{x.Chart.Repo, x.Chart.Ref, x.Chart.Archive} {
		if v != "" {
			ways++
		}
	}
	switch {
	case x.Name == "" || x.Description == "" || x.Namespace == "" || x.Licence == "" || len(x.Schema) == 0:
		return errors.New("name, description, namespace, licence or schema is missing")
	case ways != 1 || (x.Chart.Repo != "") != (x.Chart.Name != "") || (x.Chart.Archive != "") != (x.Chart.Path != ""):
		return errors.New("the chart is not one of repo with name, ref, and archive with path")
	case (x.Storage != "") != (x.Provisioner != ""):
		return errors.New("storage and provisioner go together")
	case x.Health.Volume && x.Helper == "":
		return errors.New("a volume's test needs a helper image")
	case len(x.Versions) == 0:
		return errors.New("no version")
	}
	for _, at := range []string{x.Chart.Repo, x.Chart.Archive} {
		if u, err := url.Parse(at); at != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
			return fmt.Errorf("%q is not an https URL", at)
		}
	}
	for _, v := range x.Versions {
		_, from := version.ParseGeneric(v.Kubernetes.From)
		_, below := version.ParseGeneric(v.Kubernetes.Below)
		if err := errors.Join(from, below); err != nil || v.Version == "" || v.App == "" || len(v.Images) == 0 {
			return fmt.Errorf("version %q: kubernetes, app or images are not valid (%w)", v.Version, err)
		}
		if x.Helper != "" && !slices.Contains(v.Images, x.Helper) {
			return fmt.Errorf("version %q: the helper image is not one of images", v.Version)
		}
	}
	return nil
}

// Names lists the add-ons, in the order in which they are installed.
func (a *Addons) Names() []string {
	var out []string
	for _, x := range a.Addons {
		out = append(out, x.Name)
	}
	return out
}

// Find returns an add-on by name.
func (a *Addons) Find(name string) (*Addon, bool) {
	i := slices.IndexFunc(a.Addons, func(x Addon) bool { return x.Name == name })
	if i < 0 {
		return nil, false
	}
	return &a.Addons[i], true
}

// ForStorage returns the add-on of a type under spec.storage.
func (a *Addons) ForStorage(kind string) (*Addon, bool) {
	i := slices.IndexFunc(a.Addons, func(x Addon) bool { return x.Storage != "" && x.Storage == kind })
	if i < 0 {
		return nil, false
	}
	return &a.Addons[i], true
}

// Holds reports whether a version of Kubernetes lies within the span.
func (s Span) Holds(kubernetes string) bool {
	return Range{From: s.From, Below: s.Below}.holds(kubernetes)
}

// Fitting returns the version of that name, or with an empty one the newest that
// fits all of these versions of Kubernetes. Errors carry fault.Usage.
func (x Addon) Fitting(want string, kubernetes ...string) (AddonVersion, error) {
	var known []string
	for _, v := range x.Versions {
		known = append(known, fmt.Sprintf("%s (Kubernetes %s and newer, below %s)", v.Version, v.Kubernetes.From, v.Kubernetes.Below))
		if want != "" && want != v.Version {
			continue
		}
		i := slices.IndexFunc(kubernetes, func(k string) bool { return !v.Kubernetes.Holds(k) })
		if i < 0 {
			return v, nil
		}
		if want != "" {
			return AddonVersion{}, fault.New(fault.Usage, "known are "+strings.Join(known, ", "), fmt.Errorf("%s %s does not fit Kubernetes %s", x.Name, want, kubernetes[i]))
		}
	}
	err := fmt.Errorf("no version of %s fits Kubernetes %s", x.Name, strings.Join(kubernetes, " and "))
	if want != "" {
		err = fmt.Errorf("%s has no version %s", x.Name, want)
	}
	return AddonVersion{}, fault.New(fault.Usage, "known are "+strings.Join(known, ", "), err)
}
