package kubeadm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// document is one YAML document: our object, and the user's fields over it.
type document struct {
	into any // zero value of the type, to decode the result into strictly
	ours any
	over v1alpha1.Object
	path *field.Path // of over in cluster.yaml
}

// render returns documents as YAML, with keys in alphabetical order. Fields
// that are not set are left out, so that an older kubeadm or kubelet is not
// told of fields that it does not know.
func render(docs ...document) ([]byte, error) {
	var out [][]byte
	for _, d := range docs {
		merged, err := d.merged()
		if err != nil {
			return nil, err
		}
		y, err := yaml.Marshal(merged)
		if err != nil {
			return nil, err
		}
		out = append(out, y)
	}
	return bytes.Join(out, []byte("---\n")), nil
}

// merged is the document as an object. Into has its fields afterwards.
func (d document) merged() (v1alpha1.Object, error) {
	if faults := strict(d.over, reflect.New(reflect.TypeOf(d.into).Elem()).Interface(), d.path); len(faults) > 0 {
		return nil, faults.ToAggregate()
	}
	ours, err := toObject(d.ours)
	if err != nil {
		return nil, err
	}
	zero, err := toObject(d.into)
	if err != nil {
		return nil, err
	}
	out := merge(prune(ours, zero), d.over)
	return out, strict(out, d.into, d.path).ToAggregate()
}

func toObject(v any) (v1alpha1.Object, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var o v1alpha1.Object
	return o, json.Unmarshal(data, &o)
}

// prune removes what a typed object prints although nobody set it: what its
// zero value prints too, null, empty strings and objects, and durations of
// zero. Empty lists, and pointers to zero, are meant.
func prune(o, zero map[string]any) map[string]any {
	for k, v := range o {
		if m, ok := v.(map[string]any); ok {
			z, _ := zero[k].(map[string]any)
			if len(prune(m, z)) == 0 {
				v = nil
			}
		}
		z, printed := zero[k]
		if v == nil || v == "" || v == "0s" || printed && reflect.DeepEqual(v, z) {
			delete(o, k)
		}
	}
	return o
}

// merge lays over onto base: objects field by field, lists of named objects by
// name, other lists and values as a whole; null removes.
func merge(base map[string]any, over map[string]any) map[string]any {
	out := make(map[string]any, len(base)+len(over))
	for k, v := range base {
		out[k] = v
	}
	for k, v := range over {
		switch v := v.(type) {
		case nil:
			delete(out, k)
		case map[string]any:
			below, _ := out[k].(map[string]any)
			out[k] = merge(below, v)
		case []any:
			out[k] = mergeList(out[k], v)
		default:
			out[k] = v
		}
	}
	return out
}

func mergeList(base any, over []any) []any {
	old, _ := base.([]any)
	if len(old) == 0 || len(over) == 0 || !named(old) || !named(over) {
		return over
	}
	var out []any
	for _, o := range old {
		if !slices.ContainsFunc(over, func(n any) bool { return nameOf(n) == nameOf(o) }) {
			out = append(out, o)
		}
	}
	return append(out, over...)
}

func named(l []any) bool {
	return !slices.ContainsFunc(l, func(v any) bool { return nameOf(v) == "" })
}

func nameOf(v any) string {
	m, _ := v.(map[string]any)
	s, _ := m["name"].(string)
	return s
}

// strict decodes o into a typed value and reports fields that the type does
// not have, and values of the wrong form, below path.
func strict(o v1alpha1.Object, into any, path *field.Path) field.ErrorList {
	if o == nil {
		return nil
	}
	data, err := json.Marshal(o)
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	unknown, err := kjson.UnmarshalStrict(data, into)
	if err != nil {
		return field.ErrorList{typeFault(err, into, path)}
	}
	var all field.ErrorList
	for _, u := range unknown {
		at := path
		var fe kjson.FieldError
		if errors.As(u, &fe) {
			at = path.Child(fe.FieldPath())
		}
		all = append(all, field.Forbidden(at, fmt.Sprintf("%s has no such field", reflect.TypeOf(into).Elem().Name())))
	}
	return all
}

func typeFault(err error, into any, path *field.Path) *field.Error {
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) && te.Field != "" {
		return field.TypeInvalid(path.Child(te.Field), field.OmitValueType{},
			fmt.Sprintf("is a %s where %s wants %s", te.Value, reflect.TypeOf(into).Elem().Name(), te.Type))
	}
	return field.TypeInvalid(path, field.OmitValueType{}, err.Error())
}
