package sshhost

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// answer runs "$@" and prints one line: stdout in base64 with "[status]" at any
// place in it, "|", and stderr in base64. No temporary file is made, so a dry
// run leaves no trace on a machine; and few processes are, because a batch asks
// a hundred questions.
const answer = `exec 3>&1
q() { e=$( { { "$@" </dev/null 3>&-; printf '[%d]' "$?" >&3; } | base64 -w0 >&3; } 2>&1 ); printf '|' >&3
if [ -n "$e" ]; then printf %s "$e" | base64 -w0 >&3; fi; printf '\n' >&3; }
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
		script.WriteString("q " + host.Quote(append(a.limit(), a.argv...)...) + "\n")
	}
	o, err := h.run(ctx, host.Cmd{Argv: []string{"sh", "-s"}, Root: root, Stdin: &script})
	if n := bytes.Count(o.Stdout, []byte("\n")); ctx.Err() != nil && o.Stdout != nil && n < len(asked) {
		return nil, fmt.Errorf("%s: %w", asked[n].name(cmds), context.Cause(ctx)) // the first without an answer is the one that hangs
	}
	if err != nil {
		return nil, err
	}
	lines := bytes.Split(bytes.TrimSuffix(o.Stdout, []byte("\n")), []byte("\n"))
	if len(lines) != len(asked) {
		return nil, fmt.Errorf("%d answers to %d questions: %s", len(lines), len(asked), o.Stderr)
	}
	out := make([]host.Result, len(cmds))
	for n, a := range asked {
		r, err := parseAnswer(string(lines[n]))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.name(cmds), err)
		}
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
