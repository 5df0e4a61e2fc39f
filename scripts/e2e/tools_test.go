//go:build e2e

package e2e

import (
	"os/exec"
	"strings"
)

// difference lists the lines that only one of two listings has.
func difference(was, now string) string {
	a, b := strings.Split(was, "\n"), strings.Split(now, "\n")
	var out []string
	for _, l := range a {
		if !has(b, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		if !has(a, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

func has(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// shell runs a line of shell on this machine.
func shell(line string) (string, error) {
	out, err := exec.Command("sh", "-c", line).CombinedOutput()
	return string(out), err
}
