package cli

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kocli/kocli/pkg/config"
)

// fieldReference lists every field of cluster.yaml with its type and comment,
// from the JSON schema, which is made from the Go types.
func fieldReference() string {
	var doc yaml.Node // JSON is YAML, and this keeps the order of the fields
	if err := yaml.Unmarshal(config.Schema(), &doc); err != nil || len(doc.Content) == 0 {
		return "the schema cannot be read\n" // it is embedded, and a test reads it
	}
	r := &reference{defs: get(doc.Content[0], "$defs")}
	r.b.WriteString("Fields of cluster.yaml. * marks those that are required. kocli init prints an example,\nkocli schema the JSON schema for editors.\n")
	r.object("", doc.Content[0])
	return r.b.String()
}

// reference writes the fields of a schema.
type reference struct {
	b    strings.Builder
	defs *yaml.Node
}

// object writes the fields of an object that stands at path.
func (r *reference) object(path string, schema *yaml.Node) {
	required := map[string]bool{}
	if l := get(schema, "required"); l != nil {
		for _, n := range l.Content {
			required[n.Value] = true
		}
	}
	props := get(schema, "properties")
	if props == nil {
		return
	}
	for i := 0; i+1 < len(props.Content); i += 2 {
		name, field := props.Content[i].Value, props.Content[i+1]
		at, mark := strings.TrimPrefix(path+"."+name, "."), ""
		if required[name] {
			mark = " *"
		}
		kind, inner, suffix := r.kind(field)
		fmt.Fprintf(&r.b, "\n%s%s  (%s)\n", at, mark, kind)
		for _, l := range wrap(scalar(get(field, "description")), 84) {
			fmt.Fprintf(&r.b, "    %s\n", l)
		}
		if inner != nil {
			r.object(at+suffix, inner)
		}
	}
}

// kind names the type of a field. inner is the object whose fields come below
// it, and suffix what stands between.
func (r *reference) kind(f *yaml.Node) (kind string, inner *yaml.Node, suffix string) {
	if ref := scalar(get(f, "$ref")); ref != "" {
		def := get(r.defs, ref[strings.LastIndex(ref, "/")+1:])
		if get(def, "properties") != nil {
			return "object", def, ""
		}
		k, in, s := r.kind(def)
		if d := get(f, "enum"); d != nil {
			k = choices(d)
		}
		return k, in, s
	}
	if e := get(f, "enum"); e != nil {
		return choices(e), nil, ""
	}
	if one := get(f, "oneOf"); one != nil {
		var kinds []string
		for _, o := range one.Content {
			k, _, _ := r.kind(o)
			kinds = append(kinds, k)
		}
		return strings.Join(kinds, " or "), nil, ""
	}
	switch t := scalar(get(f, "type")); t {
	case "array":
		k, in, _ := r.kind(get(f, "items"))
		return "list of " + k, in, "[]"
	case "object":
		if values := get(f, "additionalProperties"); values != nil && values.Kind == yaml.MappingNode && len(values.Content) > 0 {
			k, in, s := r.kind(values)
			return "map to " + k, in, ".<name>" + s
		}
		return "object", nil, ""
	case "":
		return "any", nil, ""
	default:
		return t, nil, ""
	}
}

func choices(enum *yaml.Node) string {
	var out []string
	for _, n := range enum.Content {
		out = append(out, n.Value)
	}
	return strings.Join(out, " | ")
}

// get returns the value of a key; nil where there is none.
func get(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func scalar(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	return n.Value
}

// wrap breaks a text into lines of at most width letters.
func wrap(s string, width int) []string {
	var out []string
	line := ""
	for _, w := range strings.Fields(s) {
		if line != "" && len(line)+1+len(w) > width {
			out, line = append(out, line), ""
		}
		line = strings.TrimPrefix(line+" "+w, " ")
	}
	if line != "" {
		out = append(out, line)
	}
	return out
}
