package apt

import (
	"cmp"
	"fmt"
	"slices"
)

// Chosen is a package of a closure.
type Chosen struct {
	Package
	Requested  bool     // asked for by name
	RequiredBy []string // requested packages that need it, sorted
}

// universe is an index by name.
type universe struct {
	byName   map[string][]*Package // newest first
	provider map[string][]*Package // of virtual packages, by name of the provider
}

func newUniverse(all []Package) *universe {
	u := &universe{byName: map[string][]*Package{}, provider: map[string][]*Package{}}
	for i := range all {
		p := &all[i]
		u.byName[p.Name] = append(u.byName[p.Name], p)
	}
	for _, list := range u.byName {
		slices.SortStableFunc(list, func(a, b *Package) int { return Compare(b.Version, a.Version) })
		for _, v := range list[0].Provides {
			u.provider[v.Name] = append(u.provider[v.Name], list[0])
		}
	}
	for _, list := range u.provider {
		slices.SortStableFunc(list, func(a, b *Package) int { return cmp.Compare(a.Name, b.Name) })
	}
	return u
}

// satisfies reports whether p satisfies a, itself or by what it provides. A
// bound on the version of a virtual package needs a provider that says its
// version.
func satisfies(p *Package, a Alternative) bool {
	if p.Name == a.Name && a.allows(p.Version) {
		return true
	}
	for _, v := range p.Provides {
		if v.Name == a.Name && (a.Op == "" || (v.Op == "=" && a.allows(v.Version))) {
			return true
		}
	}
	return false
}

// find returns the package that an alternative would bring: the newest real
// one, else the first provider by name.
func (u *universe) find(a Alternative) *Package {
	for _, p := range u.byName[a.Name] {
		if a.allows(p.Version) {
			return p
		}
	}
	for _, p := range u.provider[a.Name] {
		if satisfies(p, a) {
			return p
		}
	}
	return nil
}

// set is a selection of packages: one version of a name.
type set map[string]*Package

// meets reports whether a package of the set satisfies the relation.
func (s set) meets(u *universe, r Relation) bool {
	for _, a := range r {
		if p := s[a.Name]; p != nil && satisfies(p, a) {
			return true
		}
		for _, p := range u.provider[a.Name] {
			if s[p.Name] == p && satisfies(p, a) {
				return true
			}
		}
	}
	return false
}

// base is what every system has, the smallest one that debootstrap's minbase
// makes included: packages that are essential or have priority "required", and
// what those depend on without a choice. Where there is a choice nothing is
// assumed.
func (u *universe) base() set {
	s := set{}
	var queue []*Package
	push := func(p *Package) {
		if s[p.Name] == nil {
			s[p.Name] = p
			queue = append(queue, p)
		}
	}
	for _, list := range u.byName {
		if p := list[0]; p.Essential || p.Priority == "required" {
			push(p)
		}
	}
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		for _, r := range p.Depends {
			if len(r) != 1 || u.byName[r[0].Name] == nil {
				continue
			}
			if q := u.find(r[0]); q != nil {
				push(q)
			}
		}
	}
	return s
}

// Closure returns the named packages and everything that they depend on and
// that a minimal system lacks, sorted by name. Recommendations are left out.
// Of alternatives, one that is chosen already or that every system has wins,
// then the first that exists. It does not look for conflicts: the packages of
// one suite that Kubernetes needs have none.
func Closure(all []Package, names []string) ([]Chosen, error) {
	u := newUniverse(all)
	base := u.base()
	chosen := set{}
	by := map[string]map[string]bool{}
	for _, name := range slices.Sorted(slices.Values(names)) {
		if len(u.byName[name]) == 0 {
			return nil, fmt.Errorf("package %s is not in the archive", name)
		}
		if err := u.add(u.byName[name][0], name, base, chosen, by); err != nil {
			return nil, err
		}
	}
	out := make([]Chosen, 0, len(chosen))
	for name, p := range chosen {
		c := Chosen{Package: *p, Requested: slices.Contains(names, name)}
		for root := range by[name] {
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

// add chooses p and what it needs for the requested package root.
func (u *universe) add(p *Package, root string, base, chosen set, by map[string]map[string]bool) error {
	if have := chosen[p.Name]; have != nil && have != p {
		return fmt.Errorf("two versions of %s are needed: %s and %s", p.Name, have.Version, p.Version)
	}
	if by[p.Name][root] {
		return nil
	}
	chosen[p.Name] = p
	if by[p.Name] == nil {
		by[p.Name] = map[string]bool{}
	}
	by[p.Name][root] = true
	for _, r := range p.Depends {
		if base.meets(u, r) {
			continue
		}
		q := u.pick(r, chosen)
		if q == nil {
			return fmt.Errorf("%s %s needs %s, which is not in the archive", p.Name, p.Version, r)
		}
		if err := u.add(q, root, base, chosen, by); err != nil {
			return err
		}
	}
	return nil
}

// pick returns the package that satisfies a relation: one chosen already, else
// what the first alternative that exists brings.
func (u *universe) pick(r Relation, chosen set) *Package {
	for _, a := range r {
		if p := chosen[a.Name]; p != nil && satisfies(p, a) {
			return p
		}
		for _, p := range u.provider[a.Name] {
			if chosen[p.Name] == p && satisfies(p, a) {
				return p
			}
		}
	}
	for _, a := range r {
		if p := u.find(a); p != nil {
			return p
		}
	}
	return nil
}
