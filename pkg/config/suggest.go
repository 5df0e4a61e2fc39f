package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// unknown words the fault of an unknown field of a type. meant is the field of
// the same type that was probably meant, or "".
func unknown(name string, t reflect.Type) (msg, meant string) {
	names := fieldNames(t)
	msg = fmt.Sprintf("unknown field %q", name)
	if meant = nearest(name, names); meant != "" {
		return fmt.Sprintf("%s, did you mean %q?", msg, meant), meant
	}
	if places := placesOf(name); len(places) == 1 {
		return fmt.Sprintf("%s, did you mean %s?", msg, places[0]), ""
	}
	slices.Sort(names)
	return fmt.Sprintf("%s, known here: %s", msg, strings.Join(names, ", ")), ""
}

// nearest returns the candidate that name is a likely slip of, or "".
func nearest(name string, candidates []string) string {
	best, bestDist := "", len(name)/3+2
	for _, c := range candidates {
		dist := distance(strings.ToLower(name), strings.ToLower(c))
		if dist < bestDist && dist < len(c) {
			best, bestDist = c, dist
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace, or swap with
// their neighbour, to make b of a (optimal string alignment).
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}

// placesOf returns the paths of all fields with that name, in any case, for
// one that was written at the wrong place.
func placesOf(name string) []string {
	var out []string
	var walk func(t reflect.Type, at string)
	walk = func(t reflect.Type, at string) {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			if t.Kind() == reflect.Slice {
				at += "[]"
			}
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return
		}
		for i, n := range fieldNames(t) {
			p := strings.TrimPrefix(at+"."+n, ".")
			if strings.EqualFold(n, name) {
				out = append(out, p)
			}
			walk(t.Field(i).Type, p)
		}
	}
	walk(reflect.TypeFor[v1alpha1.Cluster](), "")
	return out
}
