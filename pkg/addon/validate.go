package addon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/config"
)

// Validate finds faults in what a cluster YAML says of add-ons: names that are not
// known, versions that do not fit, and values that an add-on does not take.
func Validate(c *v1alpha1.Cluster) field.ErrorList {
	known, err := catalogue.EmbeddedAddons()
	if err != nil {
		return field.ErrorList{field.InternalError(field.NewPath("spec", "addons"), err)}
	}
	return ValidateWith(c, known)
}

// ValidateWith is Validate with other add-ons than those that kocli knows.
func ValidateWith(c *v1alpha1.Cluster, known *catalogue.Addons) field.ErrorList {
	var all field.ErrorList
	spec := field.NewPath("spec")
	for i, a := range c.Spec.Addons {
		at := spec.Child("addons").Index(i)
		if a.Name == "" {
			continue // said already
		}
		e, ok := known.Find(a.Name)
		switch {
		case !ok:
			all = append(all, field.Invalid(at.Child("name"), a.Name, unknown(a.Name, known)))
			continue
		case e.Storage != "":
			all = append(all, field.Invalid(at.Child("name"), a.Name, fmt.Sprintf("is asked for under spec.storage, with type: %s", e.Storage)))
			continue
		}
		if a.Enabled == nil || *a.Enabled {
			all = append(all, validateOne(e, c.Spec.Kubernetes.Version, a.Version, a.Values, at)...)
		}
	}
	for i, s := range c.Spec.Storage {
		if e, ok := known.ForStorage(string(s.Type)); ok {
			all = append(all, validateOne(e, c.Spec.Kubernetes.Version, s.Version, s.Values, spec.Child("storage").Index(i))...)
		}
	}
	return all
}

func unknown(name string, known *catalogue.Addons) string {
	var names []string
	for _, e := range known.Addons {
		if e.Storage == "" {
			names = append(names, e.Name)
		}
	}
	if near := config.Nearest(name, names); near != "" {
		return fmt.Sprintf("no add-on is called that: did you mean %s?", near)
	}
	return "no add-on is called that: known are " + strings.Join(names, ", ")
}

func validateOne(e *catalogue.Addon, kubernetes, want string, values v1alpha1.Object, at *field.Path) field.ErrorList {
	var all field.ErrorList
	if _, err := e.Fitting(want, kubernetes); err != nil && kubernetes != "" && (want == "" || knows(e, want)) {
		all = append(all, field.Invalid(at.Child("version"), want, err.Error()))
	}
	return append(all, checkValues(e, values, at.Child("values"))...)
}

// knows reports whether a version is in the catalogue. One that is not may be in the
// bundle all the same.
func knows(e *catalogue.Addon, version string) bool {
	for _, v := range e.Versions {
		if v.Version == version {
			return true
		}
	}
	return false
}

// checkValues holds values against the schema of an add-on.
func checkValues(e *catalogue.Addon, values v1alpha1.Object, at *field.Path) field.ErrorList {
	c := jsonschema.NewCompiler()
	if err := c.AddResource("values.json", map[string]any(e.Schema)); err != nil {
		return field.ErrorList{field.InternalError(at, err)}
	}
	schema, err := c.Compile("values.json")
	if err != nil {
		return field.ErrorList{field.InternalError(at, err)}
	}
	raw, err := json.Marshal(Merge(e.Values, values))
	if err != nil {
		return field.ErrorList{field.InternalError(at, err)}
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return field.ErrorList{field.InternalError(at, err)}
	}
	var bad *jsonschema.ValidationError
	if err := schema.Validate(doc); errors.As(err, &bad) {
		return faults(bad, doc, at)
	} else if err != nil {
		return field.ErrorList{field.InternalError(at, err)}
	}
	return nil
}

// faults are the leaves of a schema's complaint, with the paths of the YAML.
func faults(e *jsonschema.ValidationError, doc any, at *field.Path) field.ErrorList {
	if len(e.Causes) > 0 {
		var all field.ErrorList
		for _, c := range e.Causes {
			all = append(all, faults(c, doc, at)...)
		}
		return all
	}
	p, v := at, doc
	for _, part := range e.InstanceLocation {
		switch x := v.(type) {
		case map[string]any:
			p, v = p.Child(part), x[part]
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i >= len(x) {
				return field.ErrorList{field.InternalError(at, e)}
			}
			p, v = p.Index(i), x[i]
		}
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		var all field.ErrorList
		for _, name := range k.Missing {
			all = append(all, field.Required(p.Child(name), "the add-on has no default for it"))
		}
		return all
	case *kind.AdditionalProperties:
		var all field.ErrorList
		for _, name := range k.Properties {
			all = append(all, field.Invalid(p.Child(name), name, noValue(name)))
		}
		return all
	// The library's own words for these have the value in them, which may be a secret.
	case *kind.Pattern:
		return field.ErrorList{field.Invalid(p, field.OmitValueType{}, "must match "+k.Want)}
	case *kind.Format:
		return field.ErrorList{field.Invalid(p, field.OmitValueType{}, "must be a valid "+k.Want)}
	case *kind.Enum:
		return field.ErrorList{field.Invalid(p, field.OmitValueType{}, fmt.Sprintf("must be one of %v", k.Want))}
	}
	return field.ErrorList{field.Invalid(p, field.OmitValueType{}, e.ErrorKind.LocalizedString(message.NewPrinter(language.English)))}
}

// noValue says that there is no such value, or that kocli sets it.
func noValue(name string) string {
	if name == "storageClass" {
		return "spec.storage says what the class is"
	}
	return "the add-on has no value of this name"
}
