package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Problem is one fault of a file.
type Problem struct {
	Path    string `json:"path"`           // spec.hosts[2].address
	Line    int    `json:"line,omitempty"` // from 1; zero where it has none
	Message string `json:"message"`
}

// Error prints "path (line n): message".
func (p Problem) Error() string {
	switch {
	case p.Path == "" && p.Line == 0:
		return p.Message
	case p.Path == "":
		return fmt.Sprintf("line %d: %s", p.Line, p.Message)
	case p.Line == 0:
		return p.Path + ": " + p.Message
	}
	return fmt.Sprintf("%s (line %d): %s", p.Path, p.Line, p.Message)
}

// Problems are all faults of a file, in the order of its lines.
type Problems []Problem

// Error prints one problem a line.
func (p Problems) Error() string {
	if len(p) == 1 {
		return p[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems:", len(p))
	for _, one := range p {
		b.WriteString("\n  " + one.Error())
	}
	return b.String()
}

// problems joins what decoding found with what validation found. A field that
// could not be decoded is not reported a second time for being absent.
func (d *decoder) problems(faults field.ErrorList) Problems {
	all := d.found
	for _, f := range faults {
		if d.excused(f.Field) {
			continue
		}
		all = append(all, Problem{Path: f.Field, Line: d.lineOf(f.Field), Message: f.ErrorBody()})
	}
	slices.SortStableFunc(all, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return slices.Compact(all)
}

// excused reports whether a fault at path follows from one already found there
// or above.
func (d *decoder) excused(path string) bool {
	for ; path != ""; path = parent(path) {
		if d.broken[path] {
			return true
		}
	}
	return false
}

// lineOf returns the line of a path, or of the nearest part above it that is
// in the file.
func (d *decoder) lineOf(path string) int {
	for ; path != ""; path = parent(path) {
		if l, ok := d.lines[path]; ok {
			return l
		}
	}
	return 0
}

// parent cuts the last name or index off a field path.
func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}
