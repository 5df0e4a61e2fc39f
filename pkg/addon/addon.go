// Package addon says which add-ons a cluster is to have: it puts together what the
// cluster YAML asks for, what kocli knows of it, and what the bundle holds. It does no
// I/O but reading the bundle, and talks to no cluster.
package addon

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
)

// Addon is an add-on that a cluster YAML asks for, or asks to be without.
type Addon struct {
	catalogue.Addon
	Enabled   bool
	Want      string // version of the chart; empty: the newest of the bundle
	Namespace string
	// Values are set over the chart's own: those that kocli knows, those that follow
	// from spec.storage, and the user's, the later over the earlier.
	Values map[string]any
	// Class is the storage class that it brings; empty where it brings none.
	Class string
}

// Declared returns the add-ons of a cluster that are known, in the order in which they
// are installed. What is not known is for Validate to say.
func Declared(spec *v1alpha1.ClusterSpec, known *catalogue.Addons) []Addon {
	var out []Addon
	for _, s := range spec.Storage {
		if e, ok := known.ForStorage(string(s.Type)); ok {
			out = append(out, Addon{Addon: *e, Enabled: true, Want: s.Version, Namespace: e.Namespace, Values: Merge(e.Values, storageValues(s, e.Provisioner), s.Values), Class: s.Name})
		}
	}
	for _, a := range spec.Addons {
		if e, ok := known.Find(a.Name); ok && e.Storage == "" {
			out = append(out, Addon{Addon: *e, Enabled: a.Enabled == nil || *a.Enabled, Want: a.Version, Namespace: cmp.Or(a.Namespace, e.Namespace), Values: Merge(e.Values, a.Values)})
		}
	}
	slices.SortStableFunc(out, func(a, b Addon) int { return cmp.Compare(a.Order, b.Order) })
	return out
}

// Enabled lists the names of the add-ons that a cluster has.
func Enabled(spec *v1alpha1.ClusterSpec, known *catalogue.Addons) []string {
	var out []string
	for _, a := range Declared(spec, known) {
		if a.Enabled {
			out = append(out, a.Name)
		}
	}
	return out
}

// storageValues are the values that follow from an entry under spec.storage.
func storageValues(s v1alpha1.Storage, provisioner string) map[string]any {
	if s.Type != v1alpha1.StorageLocal || s.Local == nil {
		return nil
	}
	return map[string]any{
		"storageClass": map[string]any{
			"create": true, "name": s.Name, "defaultClass": s.Default != nil && *s.Default, "reclaimPolicy": s.ReclaimPolicy,
			"provisionerName": provisioner,
		},
		"nodePathMap": []any{map[string]any{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": []any{s.Local.Path}}},
	}
}

// Merge puts maps over one another: the later wins, maps in maps are merged, and a
// null takes a key away from the chart's own values, as Helm has it.
func Merge(layers ...map[string]any) map[string]any {
	out := map[string]any{}
	for _, l := range layers {
		for k, v := range l {
			under, isUnder := out[k].(map[string]any)
			over, isOver := asMap(v)
			if isOver && !isUnder {
				under = nil
			}
			if isOver {
				out[k] = Merge(under, over)
				continue
			}
			out[k] = v
		}
	}
	return out
}

func asMap(v any) (map[string]any, bool) {
	switch m := v.(type) {
	case map[string]any:
		return m, true
	case v1alpha1.Object:
		return m, true
	}
	return nil, false
}

// Chart is a chart of a bundle.
type Chart struct {
	Version string
	Item    archive.Item
	bundle  *archive.Bundle
}

// Chart finds the chart of an add-on in a bundle: of the version that is wanted, else
// the newest one. Errors carry fault.Bundle.
func (a Addon) Chart(b *archive.Bundle, kubernetes string) (*Chart, error) {
	var have []string
	var best *Chart
	for _, it := range b.Items(archive.Filter{Kubernetes: kubernetes, Addons: a.Name}) {
		if it.Kind != archive.KindChart || !slices.Contains(it.Addons, a.Name) {
			continue
		}
		have = append(have, it.Version)
		if a.Want != "" && it.Version != a.Want {
			continue
		}
		if best == nil || newer(it.Version, best.Version) {
			best = &Chart{it.Version, it, b}
		}
	}
	if best != nil {
		return best, nil
	}
	err := fmt.Errorf("the bundle has no chart of %s", a.Name)
	if len(have) > 0 {
		err = fmt.Errorf("the bundle has no chart of %s %s, but of %s", a.Name, a.Want, strings.Join(have, ", "))
	}
	return nil, fault.New(fault.Bundle, "name it under spec.addons of the bundle YAML and build the bundle again; kocli bundle inspect shows what is in one", err)
}

// newer compares versions; what is none is older.
func newer(a, b string) bool {
	x, err := version.ParseGeneric(a)
	if err != nil {
		return false
	}
	y, err := version.ParseGeneric(b)
	return err != nil || y.LessThan(x)
}

// Packed returns the chart as Helm packs it.
func (c *Chart) Packed() ([]byte, error) {
	for _, d := range c.Item.Blobs {
		if d.MediaType != archive.TypeChartContent {
			continue
		}
		if !c.bundle.Has(d.Digest) { // of a delta: only hosts make what it lacks
			return nil, fault.New(fault.Bundle, "make the whole bundle first: kocli bundle apply --base OLD.tar DELTA --to NEW.tar", fmt.Errorf("the delta does not hold the chart %s", c.Item.Name))
		}
		r, err := c.bundle.OpenBlob(d.Digest)
		if err != nil {
			return nil, fmt.Errorf("chart %s: %w", c.Item.Name, err)
		}
		data, err := io.ReadAll(r)
		if cerr := r.Close(); err == nil {
			err = cerr
		}
		return data, err
	}
	return nil, fault.New(fault.Bundle, "", fmt.Errorf("chart %s has no content", c.Item.Name))
}

// Digest is what a release of the chart is labelled with.
func (c *Chart) Digest() string { return strings.TrimPrefix(c.Item.Digest, "sha256:")[:32] }

// ValuesDigest is what a release with the values is labelled with.
func (a Addon) ValuesDigest() string {
	raw, err := json.Marshal(a.Values)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])[:32]
}
