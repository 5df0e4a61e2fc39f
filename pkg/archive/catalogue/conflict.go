package catalogue

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/kocli/kocli/pkg/fault"
)

// Conflict is a combination of versions that is known not to work.
type Conflict struct {
	When   []Range `json:"when"` // all of them
	Reason string  `json:"reason"`
}

// Range is a span of versions of a component.
type Range struct {
	Component string `json:"component"`
	From      string `json:"from,omitempty"`  // this one or newer
	Below     string `json:"below,omitempty"` // older than this one
}

// holds reports whether a version lies within the range. What cannot be read as
// a version lies in none.
func (r Range) holds(v string) bool {
	have, err := version.ParseGeneric(v)
	if err != nil {
		return false
	}
	if from, err := version.ParseGeneric(r.From); err == nil && have.LessThan(from) {
		return false
	}
	below, err := version.ParseGeneric(r.Below)
	return err != nil || have.LessThan(below)
}

// Fits refuses versions of components, for a version of Kubernetes, that are known not
// to work together.
func (c *Catalogue) Fits(kubernetes string, components map[string]string) error {
	all := map[string]string{"kubernetes": kubernetes}
	maps.Copy(all, components)
	return c.conflict(Release{Kubernetes: kubernetes, Components: all})
}

// conflict refuses a release whose versions are known not to work together.
func (c *Catalogue) conflict(r Release) error {
	for _, x := range c.Conflicts {
		var parts []string
		for _, w := range x.When {
			if v, ok := r.Components[w.Component]; ok && w.holds(v) {
				parts = append(parts, w.Component+" "+v)
			}
		}
		if len(parts) < len(x.When) {
			continue
		}
		if !slices.ContainsFunc(x.When, func(w Range) bool { return w.Component == "kubernetes" }) {
			parts = append(parts, "kubernetes "+r.Kubernetes)
		}
		return fault.New(fault.Usage, "change spec.components; `kocli bundle versions` shows what fits",
			fmt.Errorf("%s do not work together: %s", strings.Join(parts, " and "), x.Reason))
	}
	return nil
}

// checkConflicts refuses conflicts that could never hold, or always do.
func (c *Catalogue) checkConflicts(known map[string]bool) error {
	for _, x := range c.Conflicts {
		if len(x.When) == 0 || x.Reason == "" {
			return errors.New("conflict without versions or reason")
		}
		for _, w := range x.When {
			if !known[w.Component] || (w.From == "" && w.Below == "") {
				return fmt.Errorf("conflict of %q: the component is not known, or no version is named", w.Component)
			}
			for _, v := range []string{w.From, w.Below} {
				if _, err := version.ParseGeneric(v); v != "" && err != nil {
					return fmt.Errorf("conflict of %s: %w", w.Component, err)
				}
			}
		}
	}
	for _, r := range c.Releases { // what was tried together must not be refused
		if _, err := c.Release(r.Kubernetes, nil); err != nil {
			return err
		}
	}
	return nil
}
