package catalogue

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"
)

// Overview is the catalogue as `kocli bundle versions` shows it. Its JSON is
// stable.
type Overview struct {
	Kubernetes    []string           `json:"kubernetes"`
	Components    []ComponentLine    `json:"components"`
	CNI           []string           `json:"cni"`
	Distributions []DistributionLine `json:"distributions"`
	Conflicts     []string           `json:"conflicts"`
}

// ComponentLine is a component of an Overview.
type ComponentLine struct {
	Name     string            `json:"name"`
	Versions map[string]string `json:"versions"` // by version of Kubernetes
	From     string            `json:"from"`     // servers or registries
}

// DistributionLine is an operating system of an Overview.
type DistributionLine struct {
	ID       string   `json:"id"`
	Version  string   `json:"version"`
	Manager  string   `json:"manager"`
	Packages []string `json:"packages"`
}

// Newest is the newest version of Kubernetes in the catalogue.
func (c *Catalogue) Newest() string {
	list := c.Versions()
	return slices.MaxFunc(list, func(a, b string) int {
		x, errX := version.ParseGeneric(a)
		y, errY := version.ParseGeneric(b)
		switch {
		case errX != nil || errY != nil:
			return strings.Compare(a, b)
		case x.LessThan(y):
			return -1
		}
		return 1
	})
}

// Overview lists what the catalogue has.
func (c *Catalogue) Overview() Overview {
	o := Overview{Kubernetes: c.Versions(), CNI: c.CNIs(), Conflicts: []string{}}
	lines := map[string]*ComponentLine{}
	for _, r := range c.Releases {
		all := maps.Clone(r.Components)
		all["kubernetes"] = r.Kubernetes
		for name, v := range all {
			if lines[name] == nil {
				lines[name] = &ComponentLine{Name: name, Versions: map[string]string{}, From: strings.Join(c.from(name), ", ")}
			}
			lines[name].Versions[r.Kubernetes] = v
		}
	}
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		o.Components = append(o.Components, *lines[name])
	}
	for _, d := range c.Distributions {
		line := DistributionLine{ID: d.ID, Version: d.Version, Manager: d.Manager}
		for _, p := range d.Packages {
			line.Packages = append(line.Packages, p.Name)
		}
		o.Distributions = append(o.Distributions, line)
	}
	for _, x := range c.Conflicts {
		var when []string
		for _, w := range x.When {
			when = append(when, w.String())
		}
		o.Conflicts = append(o.Conflicts, fmt.Sprintf("%s: %s", strings.Join(when, " with "), x.Reason))
	}
	return o
}

// from are the hosts that a component's files and images come from.
func (c *Catalogue) from(component string) []string {
	hosts := map[string]bool{}
	for _, f := range c.Files {
		if f.Component == component {
			_, rest, _ := strings.Cut(f.URL, "://")
			hosts[strings.Split(rest, "/")[0]] = true
		}
	}
	for _, im := range c.Images {
		if im.Component == component {
			hosts[strings.Split(im.Ref, "/")[0]] = true
		}
	}
	return slices.Sorted(maps.Keys(hosts))
}

// String writes the range for people: "etcd older than 3.5.24".
func (r Range) String() string {
	switch {
	case r.From == "":
		return r.Component + " older than " + r.Below
	case r.Below == "":
		return r.Component + " " + r.From + " and newer"
	}
	return fmt.Sprintf("%s %s and newer, older than %s", r.Component, r.From, r.Below)
}
