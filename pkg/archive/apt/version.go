// Package apt reads Debian package archives: it checks the signature of a
// suite, parses the package index, and finds everything that a set of packages
// depends on. It does no I/O: whoever calls it brings the bytes.
package apt

import "strings"

// Compare orders two Debian versions as dpkg does (deb-version(7)): negative
// when a is older than b, zero when they are equal, positive otherwise.
func Compare(a, b string) int {
	ea, ua, ra := split(a)
	eb, ub, rb := split(b)
	if c := comparePart(ea, eb); c != 0 {
		return c
	}
	if c := comparePart(ua, ub); c != 0 {
		return c
	}
	return comparePart(ra, rb)
}

// split takes [epoch:]upstream[-revision] apart.
func split(v string) (epoch, upstream, revision string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		epoch, v = e, rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

// comparePart compares by turns the longest prefix without digits, where
// letters sort before other characters and ~ before everything, even the end,
// and the longest prefix of digits, as numbers. An absent number is zero.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for (a != "" && !digit(a[0])) || (b != "" && !digit(b[0])) {
			x, y := weight(a), weight(b)
			if x != y {
				return x - y
			}
			a, b = a[1:], b[1:]
		}
		var x, y string
		x, a = number(a)
		y, b = number(b)
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// weight is the rank of the first character of s among non-digits. A digit and
// the end rank alike: both end the prefix.
func weight(s string) int {
	switch {
	case s == "" || digit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case 'a' <= s[0]|0x20 && s[0]|0x20 <= 'z':
		return int(s[0])
	}
	return int(s[0]) + 256
}

// number cuts the leading digits off s, without leading zeros.
func number(s string) (num, rest string) {
	i := 0
	for i < len(s) && digit(s[i]) {
		i++
	}
	return strings.TrimLeft(s[:i], "0"), s[i:]
}
