package sshhost

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// answer has q run "$@" and print what it says as it is, each answer followed by a
// mark: a line that nothing on the host can know, as it is made anew for each script.
// stdout has the status after it, stderr nothing. No temporary file is made, so a dry
// run leaves no trace on a machine; and a question costs one process, because a batch
// asks a hundred of them.
const answer = `q() { "$@" </dev/null; printf '\n%s %d\n' "$k" "$?"; printf '\n%s\n' "$k" >&2; }
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
	mark := rand.Text()
	var script bytes.Buffer
	script.WriteString("k=" + mark + "\n" + answer)
	for _, a := range asked {
		script.WriteString("q " + host.Quote(append(a.limit(), a.argv...)...) + "\n")
	}
	o, err := h.run(ctx, host.Cmd{Argv: []string{"sh", "-s"}, Root: root, Stdin: &script})
	answers, bad := parseAnswers(mark, o)
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
// not whole. Of what was complained of without end, the rest is missing.
func parseAnswers(mark string, said host.Output) (out []host.Result, err error) {
	stdout, stderr := said.Stdout, said.Stderr
	for {
		text, rest, ok := bytes.Cut(stdout, []byte("\n"+mark+" "))
		status, rest, more := bytes.Cut(rest, []byte("\n"))
		if !ok || !more {
			return out, nil
		}
		code, err := strconv.Atoi(string(status))
		if err != nil {
			return out, fmt.Errorf("answer %.40q has the status %.20q", text, status)
		}
		complaint, others, _ := bytes.Cut(stderr, []byte("\n"+mark+"\n"))
		out = append(out, host.Result{Output: host.Output{Stdout: bytes.Clone(text), Stderr: bytes.Clone(complaint)}, Code: code})
		stdout, stderr = rest, others
	}
}
