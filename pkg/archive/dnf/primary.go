package dnf

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Package is an entry of a repository's package list.
type Package struct {
	Name     string
	Arch     string // "x86_64", "noarch"
	EVR      EVR
	Href     string // relative to the repository's URL
	Digest   string // "sha256:..."
	Size     int64
	Licence  string
	Requires []Capability
	Provides []Capability
	Files    []string // those that others may require: programs, and what is in /etc
	Base     string   // URL of the repository; filled in by the caller
}

// Capability is something that a package provides or requires: a name, a path
// or, when required, a condition in brackets; with a bound on its version where
// Op is not "".
type Capability struct {
	Name string
	Op   string // LT, LE, EQ, GE, GT
	EVR  EVR
}

// String writes the capability as rpm does.
func (c Capability) String() string {
	if c.Op == "" {
		return c.Name
	}
	return c.Name + " " + map[string]string{"LT": "<", "LE": "<=", "EQ": "=", "GE": ">=", "GT": ">"}[c.Op] + " " + c.EVR.String()
}

// satisfies reports whether what is provided satisfies what is required. Two
// bounds satisfy each other when some version lies within both.
func (c Capability) satisfies(want Capability) bool {
	if c.Name != want.Name {
		return false
	}
	if c.Op == "" || want.Op == "" {
		return true // as rpm: what is provided without a version fits any
	}
	d := c.EVR.Compare(want.EVR)
	below := func(op string) bool { return op == "LT" || op == "LE" }
	above := func(op string) bool { return op == "GT" || op == "GE" }
	switch {
	case d < 0:
		return above(c.Op) || below(want.Op)
	case d > 0:
		return below(c.Op) || above(want.Op)
	}
	return (strings.HasSuffix(c.Op, "E") || c.Op == "EQ") && (strings.HasSuffix(want.Op, "E") || want.Op == "EQ") ||
		(below(c.Op) && below(want.Op)) || (above(c.Op) && above(want.Op))
}

type xmlEntry struct {
	Name  string `xml:"name,attr"`
	Flags string `xml:"flags,attr"`
	EVR
}

type xmlPackage struct {
	Name     string `xml:"name"`
	Arch     string `xml:"arch"`
	Version  EVR    `xml:"version"`
	Checksum struct {
		Type  string `xml:"type,attr"`
		Value string `xml:",chardata"`
	} `xml:"checksum"`
	Size struct {
		Package int64 `xml:"package,attr"`
	} `xml:"size"`
	Location struct {
		Href string `xml:"href,attr"`
		Base string `xml:"base,attr"`
	} `xml:"location"`
	Format struct {
		Licence  string `xml:"license"`
		Requires struct {
			Entries []xmlEntry `xml:"entry"`
		} `xml:"requires"`
		Provides struct {
			Entries []xmlEntry `xml:"entry"`
		} `xml:"provides"`
		Files []string `xml:"file"`
	} `xml:"format"`
}

// ParsePrimary reads a package list (primary.xml, not compressed), without the
// packages of other architectures.
func ParsePrimary(r io.Reader, arch string) ([]Package, error) {
	var out []Package
	dec := xml.NewDecoder(r)
	for {
		t, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("package list: %w", err)
		}
		start, ok := t.(xml.StartElement)
		if !ok || start.Name.Local != "package" {
			continue
		}
		var x xmlPackage
		if err := dec.DecodeElement(&x, &start); err != nil {
			return nil, fmt.Errorf("package list: %w", err)
		}
		if x.Arch != arch && x.Arch != "noarch" {
			continue
		}
		p, err := x.pack()
		if err != nil {
			return nil, fmt.Errorf("package list: %q: %w", x.Name, err)
		}
		out = append(out, p)
	}
}

func (x *xmlPackage) pack() (Package, error) {
	p := Package{
		Name: x.Name, Arch: x.Arch, EVR: x.Version, Href: x.Location.Href, Size: x.Size.Package, Licence: x.Format.Licence, Files: x.Format.Files,
		Requires: capabilities(x.Format.Requires.Entries), Provides: capabilities(x.Format.Provides.Entries),
	}
	if p.Name == "" || p.EVR.Version == "" || p.Size < 0 {
		return p, errors.New("name, version or size is not valid")
	}
	if x.Location.Base != "" {
		return p, fmt.Errorf("it is in another repository, %s", x.Location.Base)
	}
	if err := checkHref(p.Href); err != nil {
		return p, err
	}
	var err error
	p.Digest, err = digestOf(x.Checksum.Type, x.Checksum.Value)
	return p, err
}

func capabilities(list []xmlEntry) []Capability {
	out := make([]Capability, 0, len(list))
	for _, e := range list {
		out = append(out, Capability{Name: e.Name, Op: e.Flags, EVR: e.EVR})
	}
	return out
}
