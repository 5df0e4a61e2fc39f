package upgrade

import (
	"fmt"
	"slices"

	"sigs.k8s.io/yaml"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/kocli/kocli/bundle"
)

// Removals is what goes away with versions of Kubernetes.
type Removals struct {
	APIVersion   string         `json:"apiVersion"`
	Kind         string         `json:"kind"`
	APIs         []RemovedAPI   `json:"apis"`
	FeatureGates []RemovedNames `json:"featureGates"`
	Flags        []RemovedFlags `json:"flags"`
}

// RemovedAPI is a version of an API, with the resources that it has no more.
type RemovedAPI struct {
	Removed   string   `json:"removed"` // minor: "1.37"
	Group     string   `json:"group"`
	Version   string   `json:"version"`
	Resources []string `json:"resources"`
}

// GroupVersion is as objects have it: "storage.k8s.io/v1beta1".
func (r RemovedAPI) GroupVersion() string { return r.Group + "/" + r.Version }

// RemovedNames are names that a minor does not know any more.
type RemovedNames struct {
	Removed string   `json:"removed"`
	Names   []string `json:"names"`
}

// RemovedFlags are flags that a component of a minor does not know any more.
type RemovedFlags struct {
	RemovedNames `json:",inline"`
	Component    string `json:"component"` // its program: "kubelet"
}

// Table reads the table that kocli was built with.
func Table() (Removals, error) {
	var r Removals
	if err := yaml.UnmarshalStrict(bundle.Upgrades, &r); err != nil {
		return r, fmt.Errorf("read bundle/upgrades.yaml: %w", err)
	}
	return r, nil
}

// Between returns the APIs that go on a hop: served at from, and not at to.
func (r Removals) Between(from, to string) []RemovedAPI {
	return slices.DeleteFunc(slices.Clone(r.APIs), func(a RemovedAPI) bool { return goneBy(a.Removed, from) || !goneBy(a.Removed, to) })
}

// gone returns the minor with which a feature gate went, where a version has it no more.
func (r Removals) gone(gate, to string) (string, bool) {
	for _, g := range r.FeatureGates {
		if slices.Contains(g.Names, gate) && goneBy(g.Removed, to) {
			return g.Removed, true
		}
	}
	return "", false
}

// flagGone is gone for a flag of a component, without its dashes.
func (r Removals) flagGone(component, flag, to string) (string, bool) {
	for _, f := range r.Flags {
		if f.Component == component && slices.Contains(f.Names, flag) && goneBy(f.Removed, to) {
			return f.Removed, true
		}
	}
	return "", false
}

// goneBy reports whether a version is of a minor, "1.37", or a newer one.
func goneBy(minor, v string) bool {
	m, err1 := version.ParseGeneric(minor)
	have, err2 := parse(v)
	return err1 == nil && err2 == nil && !version.MajorMinor(have.Major(), have.Minor()).LessThan(m)
}
