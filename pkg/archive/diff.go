package archive

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Difference is what `kocli bundle diff` shows. Its JSON is stable.
type Difference struct {
	From       Side              `json:"from"`
	To         Side              `json:"to"`
	Components []ComponentChange `json:"components"` // those that differ
	Items      []ItemChange      `json:"items"`      // those that differ
	Unchanged  int               `json:"unchanged"`  // number of items
	Bytes      DifferenceBytes   `json:"bytes"`
}

// Side is one of the two bundles.
type Side struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"` // bytes of the file
}

// ComponentChange is a component with other versions.
type ComponentChange struct {
	Name string   `json:"name"` // "kubernetes", "containerd"
	From []string `json:"from"`
	To   []string `json:"to"`
}

// Change says what became of an item.
type Change string

// The changes.
const (
	Added   Change = "added"
	Removed Change = "removed"
	Changed Change = "changed"
)

// ItemChange is an item that differs. Of images the version is the tag.
type ItemChange struct {
	Change      Change `json:"change"`
	Kind        Kind   `json:"kind"`
	Name        string `json:"name"` // of an image the reference without its tag
	Arch        string `json:"arch"`
	FromVersion string `json:"fromVersion,omitempty"`
	ToVersion   string `json:"toVersion,omitempty"`
	FromDigest  string `json:"fromDigest,omitempty"`
	ToDigest    string `json:"toDigest,omitempty"`
	FromSize    int64  `json:"fromSize"`
	ToSize      int64  `json:"toSize"`
	NewBytes    int64  `json:"newBytes"` // of blobs that the first bundle lacks
}

// DifferenceBytes counts the bytes of blobs, each once.
type DifferenceBytes struct {
	New    int64 `json:"new"`    // only in the second bundle
	Gone   int64 `json:"gone"`   // only in the first
	Shared int64 `json:"shared"` // in both
}

// Diff compares two bundles. It reads nothing from the files.
func Diff(from, to *Bundle) Difference {
	d := Difference{
		From: from.Side(), To: to.Side(), Items: []ItemChange{},
		Components: diffComponents(versionsOf(&from.manifest), versionsOf(&to.manifest)),
	}
	for digest, bl := range to.blobs {
		if _, ok := from.blobs[digest]; ok {
			d.Bytes.Shared += bl.size
		} else {
			d.Bytes.New += bl.size
		}
	}
	for digest, bl := range from.blobs {
		if _, ok := to.blobs[digest]; !ok {
			d.Bytes.Gone += bl.size
		}
	}
	for _, p := range MatchItems(&from.manifest, &to.manifest) {
		if p.From != nil && p.To != nil && p.From.Digest == p.To.Digest && p.From.tag() == p.To.tag() {
			d.Unchanged++
			continue
		}
		d.Items = append(d.Items, p.change(from))
	}
	return d
}

// Side names the bundle.
func (b *Bundle) Side() Side { return Side{Name: b.manifest.Name, Digest: b.Digest(), Size: b.size} }

// change describes a pair that differs.
func (p ItemPair) change(from *Bundle) ItemChange {
	c := ItemChange{Change: Changed}
	some := p.To
	if f := p.From; f != nil {
		c.FromVersion, c.FromDigest, c.FromSize = f.tag(), f.Digest, f.Size
	} else {
		c.Change = Added
	}
	if t := p.To; t != nil {
		c.ToVersion, c.ToDigest, c.ToSize = t.tag(), t.Digest, t.Size
		mine := map[string]bool{}
		for _, d := range t.descriptors() {
			if _, ok := from.blobs[d.Digest]; !ok && !mine[d.Digest] {
				c.NewBytes += d.Size
			}
			mine[d.Digest] = true
		}
	} else {
		c.Change, some = Removed, p.From
	}
	c.Kind, c.Name, c.Arch = some.Kind, some.line(), some.Arch
	return c
}

// versionsOf lists the versions of every component, over all releases.
func versionsOf(m *Manifest) map[string][]string {
	out := map[string][]string{}
	for _, r := range m.Kubernetes {
		out["kubernetes"] = append(out["kubernetes"], r.Version)
		for c, v := range r.Components {
			out[c] = append(out[c], v)
		}
	}
	for c, v := range out {
		slices.Sort(v)
		out[c] = slices.Compact(v)
	}
	return out
}

func diffComponents(from, to map[string][]string) []ComponentChange {
	all := maps.Clone(from)
	maps.Copy(all, to)
	out := []ComponentChange{}
	for _, c := range slices.Sorted(maps.Keys(all)) {
		if !slices.Equal(from[c], to[c]) {
			out = append(out, ComponentChange{Name: c, From: nonNil(from[c]), To: nonNil(to[c])})
		}
	}
	return out
}

// ItemPair is an item in two bundles; nil where one does not have it.
type ItemPair struct {
	From, To *Item
}

// line is the name of an item without its version: items of one line follow
// each other from release to release.
func (it *Item) line() string {
	if it.Kind != KindImage {
		return it.Name
	}
	repo, _ := it.Reference()
	return repo
}

// tag is the version of an item; of images the tag.
func (it *Item) tag() string {
	if it.Kind != KindImage {
		return it.Version
	}
	_, tag := it.Reference()
	return tag
}

// Reference takes the reference of an image apart: a digest is cut off, and the
// colon of a port is none of a tag.
func (it Item) Reference() (repository, tag string) {
	name, _, _ := strings.Cut(it.Name, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		return name[:i], name[i+1:]
	}
	return name, ""
}

// key is what items of one line have in common.
func (it *Item) key() string {
	parts := []string{string(it.Kind), it.line(), it.Arch}
	if it.Package != nil {
		parts = append(parts, it.Package.Distribution, it.Package.Release)
	}
	return strings.Join(parts, " ")
}

// MatchItems pairs the items of two bundles, sorted by kind and name: those of
// one version with each other, then what is left of a line in its order, the
// newest first.
func MatchItems(from, to *Manifest) []ItemPair {
	type group struct{ from, to []*Item }
	groups := map[string]*group{}
	collect := func(m *Manifest, add func(*group, *Item)) {
		for i := range m.Items {
			k := m.Items[i].key()
			if groups[k] == nil {
				groups[k] = &group{}
			}
			add(groups[k], &m.Items[i])
		}
	}
	collect(from, func(g *group, it *Item) { g.from = append(g.from, it) })
	collect(to, func(g *group, it *Item) { g.to = append(g.to, it) })
	var out []ItemPair
	for _, k := range slices.Sorted(maps.Keys(groups)) {
		out = append(out, pair(groups[k].from, groups[k].to)...)
	}
	return out
}

// pair pairs the items of one line.
func pair(from, to []*Item) []ItemPair {
	var out []ItemPair
	var rest []*Item
	for _, t := range to {
		i := slices.IndexFunc(from, func(f *Item) bool { return f.tag() == t.tag() })
		if i < 0 {
			rest = append(rest, t)
			continue
		}
		out = append(out, ItemPair{From: from[i], To: t})
		from = slices.Concat(from[:i], from[i+1:])
	}
	for len(from) > 0 || len(rest) > 0 {
		var p ItemPair
		if n := len(from); n > 0 {
			p.From, from = from[n-1], from[:n-1]
		}
		if n := len(rest); n > 0 {
			p.To, rest = rest[n-1], rest[:n-1]
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b ItemPair) int { return cmp.Compare(a.order(), b.order()) })
	return out
}

func (p ItemPair) order() string {
	if p.To != nil {
		return p.To.tag() + " " + p.To.Digest
	}
	return p.From.tag() + " " + p.From.Digest
}
