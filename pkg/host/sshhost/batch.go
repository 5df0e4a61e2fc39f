package sshhost

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/kocli/kocli/pkg/host"
)

// answer runs "$@" and prints one line: stdout in base64 with "[status]" at any
// place in it, "|", and stderr in base64. No temporary file is made, so a dry
// run leaves no trace on a machine.
const answer = `exec 3>&1
q() { e=$( { { "$@" </dev/null 3>&- 4>&-; printf '[%d]' "$?" >&3; } | base64 | tr -d '\n' >&3; } 2>&1 ); printf '|%s\n' "$(printf %s "$e" | base64 | tr -d '\n')" >&3; }
`

// Batch runs many commands in one round trip. Those that need root and those
// that do not run in two.
func (h *Host) Batch(ctx context.Context, cmds []host.Cmd) ([]host.Result, error) {
	out := make([]host.Result, len(cmds))
	for _, root := range []bool{true, false} {
		var script bytes.Buffer
		var where []int
		script.WriteString(answer)
		for i, c := range cmds {
			if c.Root == root {
				script.WriteString("q " + host.Quote(c.Argv...) + "\n")
				where = append(where, i)
			}
		}
		if len(where) == 0 {
			continue
		}
		o, err := h.run(ctx, host.Cmd{Argv: []string{"sh", "-s"}, Root: root, Stdin: &script})
		if err != nil {
			return nil, err
		}
		lines := bytes.Split(bytes.TrimSuffix(o.Stdout, []byte("\n")), []byte("\n"))
		if len(lines) != len(where) {
			return nil, fmt.Errorf("%d answers to %d questions: %s", len(lines), len(where), o.Stderr)
		}
		for n, i := range where {
			if out[i], err = parseAnswer(string(lines[n])); err != nil {
				return nil, fmt.Errorf("%s: %w", cmds[i], err)
			}
		}
	}
	return out, nil
}

// parseAnswer takes one line of answer apart.
func parseAnswer(line string) (host.Result, error) {
	stdout, stderr, ok := strings.Cut(line, "|")
	from, to := strings.Index(stdout, "["), strings.Index(stdout, "]")
	if !ok || from < 0 || to < from {
		return host.Result{}, fmt.Errorf("answer %.40q cannot be read", line)
	}
	var r host.Result
	if _, err := fmt.Sscanf(stdout[from:to+1], "[%d]", &r.Code); err != nil {
		return host.Result{}, fmt.Errorf("answer %.40q: %w", line, err)
	}
	var err1, err2 error
	r.Stdout, err1 = base64.StdEncoding.DecodeString(stdout[:from] + stdout[to+1:])
	r.Stderr, err2 = base64.StdEncoding.DecodeString(stderr)
	if err1 != nil || err2 != nil {
		return host.Result{}, fmt.Errorf("answer %.40q is not base64", line)
	}
	return r, nil
}
