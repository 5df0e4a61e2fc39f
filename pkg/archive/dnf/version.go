// Package dnf reads repositories of RPM packages: it checks the signature of a
// repository, parses its package list, and finds everything that a set of
// packages depends on. It does no I/O: whoever calls it brings the bytes.
package dnf

import (
	"cmp"
	"strings"
)

// EVR is the epoch, version and release of a package. In a bound, an empty
// release stands for any.
type EVR struct {
	Epoch   string `xml:"epoch,attr"`
	Version string `xml:"ver,attr"`
	Release string `xml:"rel,attr"`
}

// String writes [epoch:]version[-release].
func (v EVR) String() string {
	s := v.Version
	if v.Epoch != "" && v.Epoch != "0" {
		s = v.Epoch + ":" + s
	}
	if v.Release != "" {
		s += "-" + v.Release
	}
	return s
}

// Compare orders two versions as rpm does: negative when v is older.
func (v EVR) Compare(w EVR) int {
	c := cmp.Or(compareSegments(cmp.Or(v.Epoch, "0"), cmp.Or(w.Epoch, "0")), compareSegments(v.Version, w.Version))
	if c == 0 && v.Release != "" && w.Release != "" {
		c = compareSegments(v.Release, w.Release)
	}
	return c
}

// compareSegments is rpmvercmp: the strings are cut into runs of digits and runs
// of letters, which are compared by turns; everything else only separates. A
// tilde sorts before everything, even the end; a caret after the end, but before
// everything else.
func compareSegments(a, b string) int {
	for a != "" || b != "" {
		a, b = strings.TrimLeftFunc(a, separates), strings.TrimLeftFunc(b, separates)
		if x, y := strings.HasPrefix(a, "~"), strings.HasPrefix(b, "~"); x && y {
			a, b = a[1:], b[1:]
			continue
		} else if x || y {
			return after(y)
		}
		if x, y := strings.HasPrefix(a, "^"), strings.HasPrefix(b, "^"); x && y {
			a, b = a[1:], b[1:]
			continue
		} else if x || y {
			return after((x && b == "") || (y && a != ""))
		}
		if a == "" || b == "" {
			return cmp.Compare(len(a), len(b))
		}
		numeric := digit(rune(a[0]))
		in := letter
		if numeric {
			in = digit
		}
		x, y := run(a, in), run(b, in)
		if y == "" {
			return after(numeric) // a number is newer than letters
		}
		a, b = a[len(x):], b[len(y):]
		if numeric {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if c := cmp.Compare(len(x), len(y)); c != 0 {
				return c
			}
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// after is 1 where the first is newer, else -1.
func after(newer bool) int {
	if newer {
		return 1
	}
	return -1
}

func separates(r rune) bool { return !digit(r) && !letter(r) && r != '~' && r != '^' }
func digit(r rune) bool     { return '0' <= r && r <= '9' }
func letter(r rune) bool    { return 'a' <= r|0x20 && r|0x20 <= 'z' }

// run is the longest prefix of such characters.
func run(s string, in func(rune) bool) string {
	if i := strings.IndexFunc(s, func(r rune) bool { return !in(r) }); i >= 0 {
		return s[:i]
	}
	return s
}
