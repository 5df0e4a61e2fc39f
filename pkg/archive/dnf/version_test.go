package dnf

import "testing"

// The cases of rpm's own tests (tests/rpmvercmp.at), and what follows from its
// description of versions.
func TestCompare_asRPMDoes(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"1.0", "1.0", 0},
		{"1.0", "2.0", -1},
		{"2.0.1", "2.0.1", 0},
		{"2.0", "2.0.1", -1},
		{"2.0.1a", "2.0.1", 1},
		{"5.5p1", "5.5p2", -1},
		{"5.5p10", "5.5p1", 1},
		{"10xyz", "10.1xyz", -1},
		{"xyz10", "xyz10.1", -1},
		{"xyz.4", "8", -1},
		{"xyz.4", "2", -1},
		{"5.5p2", "5.6p1", -1},
		{"6.0.rc1", "6.0", 1},
		{"10b2", "10a1", 1},
		{"1.0aa", "1.0a", 1},
		{"10.0001", "10.1", 0},
		{"10.0001", "10.0039", -1},
		{"4.999.9", "5.0", -1},
		{"20101121", "20101122", -1},
		{"2_0", "2.0", 0},
		{"a", "b", -1},
		{"a+", "a_", 0},
		{"+", "_", 0},
		{"1.0~rc1", "1.0~rc1", 0},
		{"1.0~rc1", "1.0", -1},
		{"1.0~rc1", "1.0~rc2", -1},
		{"1.0~rc1~git123", "1.0~rc1", -1},
		{"1.0^", "1.0^", 0},
		{"1.0^", "1.0", 1},
		{"1.0^git1", "1.0^git2", -1},
		{"1.0^git1", "1.01", -1},
		{"1.0^20160101", "1.0.1", -1},
		{"1.0^20160101^git1", "1.0^20160102", -1},
		{"1.0~rc1^git1", "1.0~rc1", 1},
		{"1.0^git1~pre", "1.0^git1", -1},
		{"1.0^git1", "1.0^git1~pre", 1},
		{"1.0~rc1", "1.0^git1", -1},
		{"", "1", -1},
		{"007", "7", 0},
		{"1", "a", 1},
	} {
		if got := sign(compareSegments(c.a, c.b)); got != c.want {
			t.Errorf("%s and %s: %d, want %d", c.a, c.b, got, c.want)
		}
		if got := sign(compareSegments(c.b, c.a)); got != -c.want {
			t.Errorf("%s and %s: %d, want %d", c.b, c.a, got, -c.want)
		}
	}
	for _, c := range []struct {
		a, b EVR
		want int
	}{
		{EVR{"1", "1.0", "1"}, EVR{"", "2.0", "1"}, 1},
		{EVR{"0", "1.0", "1"}, EVR{"", "1.0", "1"}, 0},
		{EVR{"", "1.0", "2"}, EVR{"", "1.0", "10"}, -1},
		{EVR{"", "1.0", "2.el9"}, EVR{"", "1.0", ""}, 0},
	} {
		if got := sign(c.a.Compare(c.b)); got != c.want {
			t.Errorf("%s and %s: %d", c.a, c.b, got)
		}
	}
	if s := (EVR{"2", "1.0", "3"}).String() + " " + (EVR{"0", "1.0", ""}).String(); s != "2:1.0-3 1.0" {
		t.Error(s)
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}
