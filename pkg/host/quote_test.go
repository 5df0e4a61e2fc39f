package host_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/host"
)

// throughShell lets a real shell split a quoted line, and returns its words.
func throughShell(t *testing.T, line string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", `printf '%s\0' `+line).Output()
	if err != nil {
		t.Fatalf("sh: %v", err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

func TestQuote_roundTripsEveryByteThroughSh(t *testing.T) {
	var argv []string
	for b := 1; b < 256; b++ { // 0 cannot stand in an argument
		argv = append(argv, string([]byte{byte(b)}), "a"+string([]byte{byte(b)})+"z")
	}
	argv = append(argv, "", "'", "''", `\'`, `$(id)`, "`id`", "~", "~root", "-n", "a=b", "*", "{a,b}", "!!", "#", "\n\n", "é", "\xff\xfe", "a\u2028b")
	got := throughShell(t, host.Quote(argv...))
	if len(got) != len(argv) {
		t.Fatalf("%d words went in, %d came out", len(argv), len(got))
	}
	for i := range argv {
		if got[i] != argv[i] {
			t.Errorf("%q came out as %q", argv[i], got[i])
		}
	}
}

func FuzzQuote(f *testing.F) {
	f.Add("a", "b c")
	f.Add("'", "$HOME")
	f.Add("", "\xff\n;`id`")
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.ContainsRune(a, 0) || strings.ContainsRune(b, 0) {
			t.Skip("an argument cannot hold a zero byte")
		}
		if got := throughShell(t, host.Quote(a, b)); len(got) != 2 || got[0] != a || got[1] != b {
			t.Errorf("%q came out as %q", []string{a, b}, got)
		}
	})
}

func TestMask(t *testing.T) {
	if got := host.Mask("user s3cret said s3cret", []string{"", "s3cret"}); got != "user *** said ***" {
		t.Errorf("got %q", got)
	}
	if got := host.Mask("abcdef", []string{"abc", "abcdef"}); got != "***" {
		t.Errorf("the end of a secret shows in %q", got)
	}
	c := host.Cmd{Argv: []string{"login", "--password=it's"}, Secrets: []string{"it's"}}
	if s := c.String(); strings.Contains(s, "it's") || strings.Contains(s, `it'\''s`) {
		t.Errorf("a secret that has to be quoted shows in %q", s)
	}
}
