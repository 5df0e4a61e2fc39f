package host

import (
	"slices"
	"strings"
)

// Quote joins argv into one line that a POSIX shell splits back into the same
// bytes. It is the only place of kocli that quotes for a shell.
func Quote(argv ...string) string {
	var b strings.Builder
	for i, a := range argv {
		if i > 0 {
			b.WriteByte(' ')
		}
		if a != "" && strings.IndexFunc(a, unsafe) < 0 {
			b.WriteString(a)
			continue
		}
		b.WriteByte('\'')
		b.WriteString(strings.ReplaceAll(a, "'", `'\''`))
		b.WriteByte('\'')
	}
	return b.String()
}

// unsafe reports whether r could mean something to a shell.
func unsafe(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return false
	case strings.ContainsRune("@%+=:,./-_", r):
		return false
	}
	return true
}

// Mask replaces every secret in s by "***". Empty secrets are ignored. It is a
// second line of defence: secrets belong on stdin, not in argv.
func Mask(s string, secrets []string) string {
	// Longer ones first: a secret may begin with another one.
	for _, secret := range slices.SortedFunc(slices.Values(secrets), func(a, b string) int { return len(b) - len(a) }) {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, "***")
		}
	}
	return s
}
