package apt

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Package is one stanza of a package index.
type Package struct {
	Name         string
	Version      string
	Architecture string // "amd64", "all"
	Essential    bool
	Priority     string
	Depends      []Relation // Pre-Depends and Depends: all of them are needed
	Provides     []Alternative
	Filename     string // relative to the archive's URL
	Size         int64
	SHA256       string // hex
	Base         string // URL of the archive; filled in by the caller
}

// Relation is satisfied by any one of its alternatives.
type Relation []Alternative

// Alternative is a package name, with a bound on its version where Op is not "".
type Alternative struct {
	Name    string
	Op      string // <<, <=, =, >=, >>
	Version string
}

// String writes the alternative as a control file has it.
func (a Alternative) String() string {
	if a.Op == "" {
		return a.Name
	}
	return fmt.Sprintf("%s (%s %s)", a.Name, a.Op, a.Version)
}

// String writes the relation as a control file has it.
func (r Relation) String() string {
	parts := make([]string, len(r))
	for i, a := range r {
		parts[i] = a.String()
	}
	return strings.Join(parts, " | ")
}

// allows reports whether a version is within the bound.
func (a Alternative) allows(version string) bool {
	if a.Op == "" {
		return true
	}
	c := Compare(version, a.Version)
	switch a.Op {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	case ">>":
		return c > 0
	}
	return false
}

const maxLine = 4 << 20 // bytes of one line of an index

// ParseIndex reads a package index (the file Packages, not compressed).
func ParseIndex(r io.Reader) ([]Package, error) {
	var out []Package
	fields := map[string]string{}
	flush := func() error {
		if len(fields) == 0 {
			return nil
		}
		p, err := newPackage(fields)
		if err != nil {
			return err
		}
		out = append(out, p)
		clear(fields)
		return nil
	}
	err := stanzaLines(r, func(key, value string) error {
		if key == "" {
			return flush()
		}
		fields[key] = value
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return nil, fmt.Errorf("package index: %w", err)
	}
	return out, nil
}

// stanzaLines calls f for each field, and with an empty key at the end of each
// stanza. Of a field with several lines, the value is the first one, except for
// those that name files: their lines are joined with line feeds.
func stanzaLines(r io.Reader, f func(key, value string) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxLine)
	var key string
	var value strings.Builder
	end := func() error {
		if key == "" {
			return nil
		}
		k := key
		key = ""
		return f(k, strings.TrimSpace(value.String()))
	}
	for sc.Scan() {
		line := sc.Text()
		switch {
		case strings.TrimSpace(line) == "":
			if err := end(); err != nil {
				return err
			}
			if err := f("", ""); err != nil {
				return err
			}
		case line[0] == ' ' || line[0] == '\t':
			value.WriteByte('\n')
			value.WriteString(line[1:])
		default:
			if err := end(); err != nil {
				return err
			}
			k, v, ok := strings.Cut(line, ":")
			if !ok {
				return fmt.Errorf("line %q is no field", line)
			}
			key = k
			value.Reset()
			value.WriteString(v)
		}
	}
	if err := sc.Err(); err != nil {
		return err
	}
	return end()
}

func newPackage(f map[string]string) (Package, error) {
	p := Package{
		Name: f["Package"], Version: f["Version"], Architecture: f["Architecture"], Priority: f["Priority"],
		Essential: f["Essential"] == "yes", Filename: f["Filename"], SHA256: strings.ToLower(f["SHA256"]),
	}
	if p.Name == "" || p.Version == "" || p.Filename == "" || len(p.SHA256) != 64 {
		return Package{}, fmt.Errorf("package %q lacks a version, file name or SHA256", p.Name)
	}
	if strings.HasPrefix(p.Filename, "/") || strings.Contains("/"+p.Filename+"/", "/../") {
		return Package{}, fmt.Errorf("package %q has the file name %q", p.Name, p.Filename)
	}
	var err error
	if p.Size, err = strconv.ParseInt(f["Size"], 10, 64); err != nil || p.Size < 0 {
		return Package{}, fmt.Errorf("package %q has the size %q", p.Name, f["Size"])
	}
	for _, key := range []string{"Pre-Depends", "Depends"} {
		rels, err := parseRelations(f[key])
		if err != nil {
			return Package{}, fmt.Errorf("package %q: %s: %w", p.Name, key, err)
		}
		p.Depends = append(p.Depends, rels...)
	}
	provides, err := parseRelations(f["Provides"])
	if err != nil {
		return Package{}, fmt.Errorf("package %q: Provides: %w", p.Name, err)
	}
	for _, r := range provides {
		p.Provides = append(p.Provides, r...)
	}
	return p, nil
}

// parseRelations reads "a (>= 1) | b, c:any".
func parseRelations(text string) ([]Relation, error) {
	var out []Relation
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		var rel Relation
		for alt := range strings.SplitSeq(part, "|") {
			a, err := parseAlternative(strings.TrimSpace(alt))
			if err != nil {
				return nil, err
			}
			rel = append(rel, a)
		}
		out = append(out, rel)
	}
	return out, nil
}

func parseAlternative(text string) (Alternative, error) {
	name, rest, bound := strings.Cut(text, "(")
	name = strings.TrimSpace(name)
	name, _, _ = strings.Cut(name, ":") // libc6:amd64, perl:any
	if name == "" || strings.ContainsAny(name, " \t\n") {
		return Alternative{}, fmt.Errorf("%q is no package name", text)
	}
	if !bound {
		return Alternative{Name: name}, nil
	}
	rest = strings.TrimSpace(rest)
	rest, ok := strings.CutSuffix(rest, ")")
	if !ok {
		return Alternative{}, fmt.Errorf("%q has no closing bracket", text)
	}
	i := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune("<>=", r) })
	if i <= 0 {
		return Alternative{}, fmt.Errorf("%q has no operator", text)
	}
	a := Alternative{Name: name, Op: rest[:i], Version: strings.TrimSpace(rest[i:])}
	switch a.Op {
	case "<<", "<=", "=", ">=", ">>":
	default:
		return Alternative{}, fmt.Errorf("%q has the operator %q", text, a.Op)
	}
	if a.Version == "" {
		return Alternative{}, errors.New("empty version in " + text)
	}
	return a, nil
}
