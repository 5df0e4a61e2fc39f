package config

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// Bounds against files that only look small: aliases of aliases, and nesting.
const (
	maxNodes = 200_000
	maxDepth = 64
)

// decoder fills a Go value from YAML nodes, goes on after each fault, and
// remembers the line of every field.
type decoder struct {
	found  Problems
	broken map[string]bool // paths that need no second report
	lines  map[string]int
	nodes  int
	depth  int
}

func newDecoder() *decoder {
	return &decoder{broken: map[string]bool{}, lines: map[string]int{}}
}

func (d *decoder) decode(root *yaml.Node, c *v1alpha1.Cluster) {
	d.value(root, reflect.ValueOf(c).Elem(), nil)
}

func (d *decoder) fault(n *yaml.Node, p *field.Path, format string, args ...any) {
	path := ""
	if p != nil {
		path = p.String()
	}
	d.broken[path] = true
	d.found = append(d.found, Problem{Path: path, Line: n.Line, Message: fmt.Sprintf(format, args...)})
}

// enter follows aliases and keeps the bounds. It returns nil where decoding of
// this node should stop.
func (d *decoder) enter(n *yaml.Node, p *field.Path) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.nodes++
	if d.nodes == maxNodes || d.depth > maxDepth {
		d.fault(n, p, "too many or too deeply nested values")
	}
	if d.nodes >= maxNodes || d.depth > maxDepth {
		return nil
	}
	return n
}

// value decodes n into v, which is settable and zero.
func (d *decoder) value(n *yaml.Node, v reflect.Value, p *field.Path) {
	d.depth++
	defer func() { d.depth-- }()
	if n = d.enter(n, p); n == nil || isNull(n) {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), p)
	case reflect.Struct:
		d.structure(n, v, p)
	case reflect.Map:
		if v.Type() == reflect.TypeFor[v1alpha1.Object]() {
			if m := d.object(n, p); m != nil {
				v.Set(reflect.ValueOf(v1alpha1.Object(m)))
			}
			return
		}
		d.mapping(n, v, p)
	case reflect.Slice:
		d.list(n, v, p)
	case reflect.String:
		d.str(n, v, p)
	case reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
			d.fault(n, p, "must be true or false, not %s", describe(n))
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case reflect.Int:
		var i int
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || n.Decode(&i) != nil {
			d.fault(n, p, "must be a whole number, not %s", describe(n))
			return
		}
		v.SetInt(int64(i))
	}
}

func (d *decoder) str(n *yaml.Node, v reflect.Value, p *field.Path) {
	secret := v.Type() == reflect.TypeFor[v1alpha1.SecretRef]()
	if n.Kind != yaml.ScalarNode {
		if secret {
			d.fault(n, p, "must be env:NAME, file:PATH or prompt")
			return
		}
		d.fault(n, p, "must be a string, not %s", describe(n))
		return
	}
	if i := 0; n.Tag == "!!int" && v.Type() == reflect.TypeFor[v1alpha1.CountOrPercent]() && n.Decode(&i) == nil {
		v.SetString(strconv.Itoa(i))
		return
	}
	switch n.Tag {
	case "!!int", "!!float", "!!bool":
		if secret { // may be a password that happens to be digits: not echoed, and reported by validation
			v.SetString("?")
			return
		}
		d.fault(n, p, "must be a string: put it in quotes, %q", n.Value)
	default:
		v.SetString(n.Value)
	}
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, p *field.Path) {
	if n.Kind != yaml.MappingNode {
		d.fault(n, p, "must be an object, not %s", describe(n))
		return
	}
	d.keys(n, p, false, func(key, val *yaml.Node) {
		at := join(p, key.Value)
		i := fieldIndex(v.Type(), key.Value)
		if i < 0 {
			msg, meant := unknown(key.Value, v.Type())
			d.fault(key, at, "%s", msg)
			if meant != "" {
				d.broken[join(p, meant).String()] = true
			}
			return
		}
		d.lines[at.String()] = key.Line
		d.value(val, v.Field(i), at)
	})
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, p *field.Path) {
	if n.Kind != yaml.MappingNode {
		d.fault(n, p, "must be an object, not %s", describe(n))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	d.keys(n, p, true, func(key, val *yaml.Node) {
		at := p.Key(key.Value)
		d.lines[at.String()] = key.Line
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(val, e, at)
		v.SetMapIndex(reflect.ValueOf(key.Value), e)
	})
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, p *field.Path) {
	if n.Kind != yaml.SequenceNode {
		d.fault(n, p, "must be a list, not %s", describe(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		at := p.Index(i)
		d.lines[at.String()] = c.Line
		d.value(c, out.Index(i), at)
	}
	v.Set(out)
}

// keys calls each for every key of a mapping, once.
func (d *decoder) keys(n *yaml.Node, p *field.Path, asMap bool, each func(key, val *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch {
		case key.Kind != yaml.ScalarNode:
			d.fault(key, p, "keys must be plain names")
			continue
		case key.Tag == "!!merge":
			d.fault(key, p, "merge keys (<<) are not supported: write the fields out")
			continue
		}
		if first, ok := seen[key.Value]; ok {
			at := join(p, key.Value)
			if asMap {
				at = p.Key(key.Value)
			}
			d.fault(key, at, "Duplicate value: first set at line %d", first)
			continue
		}
		seen[key.Value] = key.Line
		each(key, val)
	}
}

// object converts a free-form object.
func (d *decoder) object(n *yaml.Node, p *field.Path) map[string]any {
	if n.Kind != yaml.MappingNode {
		d.fault(n, p, "must be an object, not %s", describe(n))
		return nil
	}
	m := map[string]any{}
	d.keys(n, p, false, func(key, val *yaml.Node) {
		at := join(p, key.Value)
		d.lines[at.String()] = key.Line
		m[key.Value] = d.free(val, at)
	})
	return m
}

// free converts any node to the values that encoding/json would give, with
// whole numbers as int64.
func (d *decoder) free(n *yaml.Node, p *field.Path) any {
	d.depth++
	defer func() { d.depth-- }()
	if n = d.enter(n, p); n == nil || isNull(n) {
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		return d.object(n, p)
	case yaml.SequenceNode:
		l := make([]any, len(n.Content))
		for i, c := range n.Content {
			l[i] = d.free(c, p.Index(i))
		}
		return l
	}
	switch n.Tag {
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int":
		var i int64
		if n.Decode(&i) == nil {
			return i
		}
		d.fault(n, p, "%s is larger than a number can be: put it in quotes", n.Value)
	case "!!float":
		var f float64
		if n.Decode(&f) == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f
		}
		d.fault(n, p, "%s is not a number that JSON has", n.Value)
	default:
		return n.Value
	}
	return nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// describe names what was found in place of what was wanted.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	if len(n.Value) > 60 {
		return "a text"
	}
	return fmt.Sprintf("%q", n.Value)
}

// join is p.name, also at the root.
func join(p *field.Path, name string) *field.Path {
	if p == nil {
		return field.NewPath(name)
	}
	return p.Child(name)
}

// fieldIndex returns the index of the field with that JSON name, or -1.
func fieldIndex(t reflect.Type, name string) int {
	return slices.Index(fieldNames(t), name)
}

// fieldNames returns the JSON names of a struct's fields, by index.
func fieldNames(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i], _, _ = strings.Cut(t.Field(i).Tag.Get("json"), ",")
	}
	return names
}
