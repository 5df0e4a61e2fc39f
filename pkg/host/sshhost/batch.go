package sshhost

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// answer has q run "$@" and print stdout in base64 with "[status]" at any place in it,
// "|", the length of stderr, ":", and stderr; r does the same for a file that is read,
// after a "!" where that failed at first. The shell counts bytes, as environment sets
// its locale. No temporary file is made, so a dry run leaves no trace on a machine; and
// few processes are, because a batch asks a hundred questions.
const answer = `exec 3>&1
q() { e=$( { { "$@" </dev/null 3>&-; printf '[%d]' "$?" >&3; } | base64 -w0 >&3; } 2>&1 ); printf '|%d:%s\n' "${#e}" "$e" >&3; }
r() { if base64 -w0 -- "$1" </dev/null >&3 2>/dev/null; then printf '[0]|0:\n' >&3; else printf '!' >&3; q cat -- "$1"; fi; }
`

// Batch runs many commands in one round trip; in two where some need root and
// others must not have it.
func (h *Host) Batch(ctx context.Context, cmds []host.Cmd) ([]host.Result, error) {
	for _, c := range cmds {
		if err := host.CheckQuery(c); err != nil {
			return nil, err
		}
	}
	out := make([]host.Result, len(cmds))
	for _, root := range []bool{true, false} {
		var where []int
		var mine []host.Cmd
		for i, c := range cmds {
			if c.Root == root {
				where, mine = append(where, i), append(mine, c)
			}
		}
		if len(mine) == 0 {
			continue
		}
		res, err := h.batch(ctx, root, mine)
		if err != nil {
			return nil, err
		}
		for n, i := range where {
			out[i] = res[n]
		}
	}
	return out, nil
}

func (h *Host) batch(ctx context.Context, root bool, cmds []host.Cmd) ([]host.Result, error) {
	asked := merge(cmds)
	var script bytes.Buffer
	script.WriteString(answer)
	for _, a := range asked {
		if a.reads() {
			script.WriteString("r " + host.Quote(a.argv[2]) + "\n")
			continue
		}
		script.WriteString("q " + host.Quote(append(a.limit(), a.argv...)...) + "\n")
	}
	o, err := h.run(ctx, host.Cmd{Argv: []string{"sh", "-s"}, Root: root, Stdin: &script})
	answers, bad := parseAnswers(o.Stdout)
	if n := len(answers); ctx.Err() != nil && o.Stdout != nil && n < len(asked) {
		return nil, fmt.Errorf("%s: %w", asked[n].name(cmds), context.Cause(ctx)) // the first without an answer is the one that hangs
	}
	if err != nil {
		return nil, err
	}
	if bad != nil || len(answers) != len(asked) {
		return nil, fmt.Errorf("%d answers to %d questions: %w", len(answers), len(asked), cmp.Or(bad, errors.New(string(o.Stderr))))
	}
	out := make([]host.Result, len(cmds))
	for n, a := range asked {
		r := answers[n]
		if a.timeout > 0 && r.Code == timedOut {
			r.Err = fmt.Errorf("%s: no end after %s: %w", a.name(cmds), a.timeout, context.DeadlineExceeded)
		}
		a.split(r, out)
	}
	return out, nil
}

// asked is one command of a script; it answers one question, or those of all
// files that were asked for in the same way.
type asked struct {
	argv  []string
	where []int    // indices of the questions
	files []string // one for each, when they were merged

	timeout time.Duration // zero means: as long as all of them
}

// reads reports whether it only reads a file.
func (a asked) reads() bool {
	return len(a.argv) == 3 && a.argv[0] == "cat" && a.argv[1] == "--" && a.timeout == 0
}

// timedOut is the status with which coreutils' timeout ends a program.
const timedOut = 124

// limit is what ends a command that takes too long.
func (a asked) limit() []string {
	if a.timeout == 0 {
		return nil
	}
	return []string{"timeout", "-k", "1", strconv.FormatFloat(a.timeout.Seconds(), 'f', -1, 64)}
}

// name is a command as its asker knows it.
func (a asked) name(cmds []host.Cmd) string {
	first := cmds[a.where[0]].String()
	if more := len(a.where) - 1; more > 0 {
		return fmt.Sprintf("%s, or the same for one of %d other files", first, more)
	}
	return first
}

// merge joins the questions for metadata and digests of single files: one
// process answers them all. Names that a program would print differently from
// how they were given are asked for one by one.
func merge(cmds []host.Cmd) []asked {
	var out []asked
	joined := map[string]int{}
	for i, c := range cmds {
		prefix, file, ok := single(c.Argv)
		if !ok || c.Timeout > 0 {
			out = append(out, asked{argv: c.Argv, where: []int{i}, timeout: c.Timeout})
			continue
		}
		key := strings.Join(prefix, " ")
		n, seen := joined[key]
		if !seen {
			n = len(out)
			joined[key] = n
			out = append(out, asked{argv: prefix})
		}
		out[n].argv = append(out[n].argv, file)
		out[n].where = append(out[n].where, i)
		out[n].files = append(out[n].files, file)
	}
	for n := range out {
		if len(out[n].files) == 1 {
			out[n].files = nil
		} else if len(out[n].files) > 1 && out[n].argv[0] == "stat" {
			out[n].argv[2] += " %n" // so that an answer says what it is about
		}
	}
	return out
}

// single takes a question about one plainly named file apart.
func single(argv []string) (prefix []string, file string, ok bool) {
	if len(argv) < 3 || argv[len(argv)-2] != "--" {
		return nil, "", false
	}
	file = argv[len(argv)-1]
	prefix = slices.Clone(argv[:len(argv)-1])
	plain := file != "" && file == host.Quote(file)
	isStat := len(argv) == 5 && slices.Equal(argv[:3], host.StatCommand("").Argv[:3])
	isSum := len(argv) == 3 && argv[0] == "sha256sum"
	return prefix, file, plain && (isStat || isSum)
}

// split hands the parts of an answer to the questions they belong to. A file
// without a line failed, for the reason on the line of stderr that names it.
func (a asked) split(r host.Result, out []host.Result) {
	if a.files == nil {
		out[a.where[0]] = r
		return
	}
	lines := map[string]string{}
	for _, l := range strings.Split(string(r.Stdout), "\n") {
		if i := strings.LastIndex(l, " "); i >= 0 {
			lines[l[i+1:]] = l
		}
	}
	for n, file := range a.files {
		if l, ok := lines[file]; ok {
			if a.argv[0] == "stat" {
				l = strings.TrimSuffix(l, " "+file)
			}
			out[a.where[n]] = host.Result{Output: host.Output{Stdout: []byte(l + "\n")}}
			continue
		}
		why := ""
		for _, l := range strings.Split(string(r.Stderr), "\n") {
			if strings.Contains(l, "'"+file+"'") || strings.Contains(l, " "+file+":") {
				why = l
			}
		}
		out[a.where[n]] = host.Result{Output: host.Output{Stderr: []byte(why)}, Code: max(1, r.Code)}
	}
}

// parseAnswers takes apart what the answers of a script print, up to the first that is
// not whole. Its error says what cannot be read.
func parseAnswers(said []byte) (out []host.Result, err error) {
	for len(said) > 0 {
		stdout, rest, ok := bytes.Cut(said, []byte("|"))
		length, rest, more := bytes.Cut(rest, []byte(":"))
		if !ok || !more {
			return out, nil
		}
		n, err := strconv.Atoi(string(length))
		if err != nil || n < 0 {
			return out, fmt.Errorf("answer %.40q: %.20q is no length", said, length)
		}
		if len(rest) < n+1 {
			return out, nil
		}
		if rest[n] != '\n' {
			return out, fmt.Errorf("answer %.40q does not end with its line", said)
		}
		r, err := parseAnswer(string(stdout))
		if err != nil {
			return out, err
		}
		r.Stderr = bytes.Clone(rest[:n])
		out, said = append(out, r), rest[n+1:]
	}
	return out, nil
}

// parseAnswer takes stdout and status apart.
func parseAnswer(said string) (r host.Result, err error) {
	said = said[strings.LastIndex(said, "!")+1:]
	from, to := strings.Index(said, "["), strings.Index(said, "]")
	if from < 0 || to < from {
		return r, fmt.Errorf("answer %.40q has no status", said)
	}
	if r.Code, err = strconv.Atoi(said[from+1 : to]); err != nil {
		return r, fmt.Errorf("answer %.40q: %w", said, err)
	}
	if r.Stdout, err = base64.StdEncoding.DecodeString(said[:from] + said[to+1:]); err != nil {
		return r, fmt.Errorf("answer %.40q is not base64", said)
	}
	return r, nil
}
