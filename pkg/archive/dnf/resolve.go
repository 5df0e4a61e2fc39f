package dnf

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Chosen is a package of a closure.
type Chosen struct {
	Package
	Requested  bool     // asked for by name
	RequiredBy []string // requested packages that need it, sorted
}

// solver chooses packages.
type solver struct {
	byName   map[string][]*Package // newest first
	provider map[string][]*Package // by name of what is provided, and by path
	base     map[string]*Package   // what every system has
	chosen   map[string]*Package
	by       map[string]map[string]bool // requested packages, by name of what they need
}

// Closure returns the named packages and everything that they require and that
// base, the names of packages which every system has, does not bring, sorted by
// name. Weak dependencies are left out. Of several packages that would do, one
// that is there already wins, then the one of that name, then the first by name,
// each in its newest version. It does not look for conflicts: the packages of one
// release that Kubernetes needs have none.
func Closure(all []Package, names, base []string) ([]Chosen, error) {
	s := newSolver(all)
	for _, name := range base {
		if list := s.byName[name]; len(list) > 0 {
			_ = s.add(list[0], name) // what a system that runs lacks of it is not our business
		}
	}
	s.base, s.chosen = s.chosen, map[string]*Package{}
	// A condition may come true when a later package is chosen: until nothing new is.
	for before := -1; before < len(s.chosen); {
		before = len(s.chosen)
		s.by = map[string]map[string]bool{}
		for _, name := range slices.Sorted(slices.Values(names)) {
			if len(s.byName[name]) == 0 {
				return nil, fmt.Errorf("package %s is not in the repositories", name)
			}
			if err := s.add(s.byName[name][0], name); err != nil {
				return nil, err
			}
		}
	}
	out := make([]Chosen, 0, len(s.chosen))
	for name, p := range s.chosen {
		c := Chosen{Package: *p, Requested: slices.Contains(names, name)}
		for root := range s.by[name] {
			if root != name {
				c.RequiredBy = append(c.RequiredBy, root)
			}
		}
		slices.Sort(c.RequiredBy)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Chosen) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func newSolver(all []Package) *solver {
	s := &solver{
		byName: map[string][]*Package{}, provider: map[string][]*Package{}, base: map[string]*Package{},
		chosen: map[string]*Package{}, by: map[string]map[string]bool{},
	}
	for i := range all {
		p := &all[i]
		s.byName[p.Name] = append(s.byName[p.Name], p)
		seen := map[string]bool{}
		for _, c := range p.Provides {
			if !seen[c.Name] {
				seen[c.Name] = true
				s.provider[c.Name] = append(s.provider[c.Name], p)
			}
		}
		for _, f := range p.Files {
			if !seen[f] {
				seen[f] = true
				s.provider[f] = append(s.provider[f], p)
			}
		}
	}
	newest := func(a, b *Package) int { return b.EVR.Compare(a.EVR) }
	for _, list := range s.byName {
		slices.SortStableFunc(list, newest)
	}
	for name, list := range s.provider {
		slices.SortStableFunc(list, func(a, b *Package) int {
			return cmp.Or(after(a.Name != name)-after(b.Name != name), cmp.Compare(a.Name, b.Name), newest(a, b))
		})
	}
	return s
}

// providers are the packages that have a capability.
func (s *solver) providers(c Capability) []*Package {
	var out []*Package
	for _, p := range s.provider[c.Name] {
		if p.has(c) {
			out = append(out, p)
		}
	}
	if len(out) == 0 && (strings.HasPrefix(c.Name, "/bin/") || strings.HasPrefix(c.Name, "/sbin/")) {
		return s.providers(Capability{Name: "/usr" + c.Name}) // the folders are one
	}
	return out
}

func (p *Package) has(c Capability) bool {
	return slices.ContainsFunc(p.Provides, func(x Capability) bool { return x.satisfies(c) }) || slices.Contains(p.Files, c.Name)
}

// present finds what is there already with a capability, in the base or chosen.
func (s *solver) present(c Capability) (p *Package, ok bool) {
	if strings.HasPrefix(c.Name, "rpmlib(") { // of rpm itself
		return nil, true
	}
	list := s.providers(c)
	for _, p := range list {
		if s.base[p.Name] == p {
			return nil, true
		}
	}
	for _, p := range list {
		if s.chosen[p.Name] == p {
			return p, true
		}
	}
	return nil, false
}

// met reports whether a condition is true as things are.
func (s *solver) met(c condition) bool {
	switch c.op {
	case "":
		_, ok := s.present(c.leaf)
		return ok
	case "or":
		return slices.ContainsFunc(c.args, s.met)
	case "without":
		return s.met(c.args[0])
	case "if", "unless":
		if s.met(c.args[1]) == (c.op == "if") {
			return s.met(c.args[0])
		}
		return len(c.args) < 3 || s.met(c.args[2])
	}
	return !slices.ContainsFunc(c.args, func(a condition) bool { return !s.met(a) })
}

// add chooses p and what it requires for the requested package root.
func (s *solver) add(p *Package, root string) error {
	if have := s.chosen[p.Name]; have != nil && have != p {
		return fmt.Errorf("two versions of %s are needed: %s and %s", p.Name, have.EVR, p.EVR)
	}
	if s.by[p.Name][root] {
		return nil
	}
	s.chosen[p.Name] = p
	if s.by[p.Name] == nil {
		s.by[p.Name] = map[string]bool{}
	}
	s.by[p.Name][root] = true
	for _, r := range p.Requires {
		c, err := parse(r)
		if err == nil {
			err = s.need(c, root)
		}
		if err != nil {
			return fmt.Errorf("%s %s needs %s: %w", p.Name, p.EVR, r, err)
		}
	}
	return nil
}

// need makes a condition true.
func (s *solver) need(c condition, root string) error {
	switch c.op {
	case "":
		return s.needOne(c.leaf, root)
	case "or":
		for _, a := range c.args {
			if s.met(a) {
				return s.need(a, root)
			}
		}
		var all error
		for _, a := range c.args {
			err := s.need(a, root)
			if err == nil {
				return nil
			}
			all = cmp.Or(all, err)
		}
		return all
	case "without":
		return s.need(c.args[0], root)
	case "if", "unless":
		if s.met(c.args[1]) == (c.op == "if") {
			return s.need(c.args[0], root)
		}
		if len(c.args) == 3 {
			return s.need(c.args[2], root)
		}
		return nil
	}
	for _, a := range c.args { // and, with
		if err := s.need(a, root); err != nil {
			return err
		}
	}
	return nil
}

func (s *solver) needOne(c Capability, root string) error {
	if p, ok := s.present(c); ok {
		if p == nil {
			return nil
		}
		return s.add(p, root)
	}
	list := s.providers(c)
	if len(list) == 0 {
		return fmt.Errorf("nothing in the repositories provides %s", c)
	}
	return s.add(list[0], root)
}
