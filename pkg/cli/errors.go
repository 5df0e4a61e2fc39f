package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/ui"
)

// errShown is inside an error whose text is on the screen already, as part of a
// result: only its exit code is left to do.
var errShown = errors.New("shown as a result")

func shown(code fault.Code) error { return fault.New(code, "", errShown) }

// trouble is one error as an operator reads it.
type trouble struct {
	Node  string   `json:"node,omitempty"`
	Step  string   `json:"step,omitempty"` // what was being done
	Cause string   `json:"cause"`
	Tail  []string `json:"stderr,omitempty"` // last lines that the remote command printed
	Hint  string   `json:"hint,omitempty"`
}

// troubles takes an error apart: joined errors become several, and the context
// of each is said once.
func troubles(err error) []trouble {
	var out []trouble
	take(err, trouble{}, &out)
	return slices.CompactFunc(out, func(a, b trouble) bool {
		return a.Node == b.Node && a.Step == b.Step && a.Cause == b.Cause
	})
}

// take walks down from err, which happened in the context of at. The outermost
// hint wins, but for one that speaks of several errors: each has its own first.
func take(err error, at trouble, out *[]trouble) {
	if l, ok := err.(*logged); ok { //nolint:errorlint // walks the chain itself
		err = l.error
	}
	for {
		e, ok := err.(*fault.Error) //nolint:errorlint // walks the chain itself
		if !ok || e.Err == nil {
			break
		}
		at.Node, at.Hint = cmp.Or(at.Node, e.Node), cmp.Or(at.Hint, e.Hint)
		if !strings.Contains(at.Step, e.Op) {
			at.Step = strings.TrimPrefix(at.Step+": "+e.Op, ": ")
		}
		err = e.Err
	}
	if many := joined(err); len(many) > 0 {
		first, general := len(*out), at.Hint
		at.Hint = ""
		for _, one := range many {
			take(one, at, out)
		}
		for i := first; i < len(*out); i++ {
			(*out)[i].Hint = cmp.Or((*out)[i].Hint, general)
		}
		return
	}
	at.Node, at.Hint = cmp.Or(at.Node, fault.NodeOf(err)), cmp.Or(at.Hint, fault.HintOf(err))
	at.Cause = cause(err, at)
	var x *host.ExitError
	if errors.As(err, &x) {
		if tail := x.Tail(10); len(tail) > 1 {
			at.Tail = tail
		}
	}
	*out = append(*out, at)
}

// joined returns the parts of errors.Join, and nil for every other error.
func joined(err error) []error {
	j, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	many := j.Unwrap()
	texts := make([]string, len(many))
	for i, e := range many {
		texts[i] = e.Error()
	}
	if err.Error() != strings.Join(texts, "\n") {
		return nil // fmt.Errorf with several %w has words of its own
	}
	return many
}

// cause words an error without what the context has said already.
func cause(err error, at trouble) string {
	text := err.Error()
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil && strings.Contains(at.Step, op.Addr.String()) {
		inner := op.Err
		var sys *os.SyscallError
		if errors.As(inner, &sys) {
			inner = sys.Err
		}
		text = strings.ReplaceAll(text, op.Error(), inner.Error())
	}
	if at.Node != "" {
		text = strings.ReplaceAll(text, " on "+at.Node+": ", ": ")
	}
	return strings.TrimPrefix(text, at.Step+": ")
}

// showError prints an error: every cause with its host, step and hint.
func (a *app) showError(err error) {
	if errors.Is(err, errShown) {
		return
	}
	if a.json() {
		_ = ui.Result(a.Out, int(fault.CodeOf(err)), failure(err)) // a closed pipe has no reader
		return
	}
	writeError(a.Err, err, a.colours())
}

// failure is an error as -o json shows it. It is stable.
func failure(err error) any {
	out := struct {
		Error    string           `json:"error"`
		Node     string           `json:"node,omitempty"`
		Hint     string           `json:"hint,omitempty"`
		Errors   []trouble        `json:"errors"`
		Problems []config.Problem `json:"problems,omitempty"`
		Log      string           `json:"log,omitempty"`
	}{Error: err.Error(), Node: fault.NodeOf(err), Hint: fault.HintOf(err), Errors: troubles(err), Log: logOf(err)}
	var p config.Problems
	if errors.As(err, &p) {
		out.Problems = p
	}
	return out
}

// writeError prints an error for people.
func writeError(w io.Writer, err error, colour bool) {
	word, hint := "error:", "hint: "
	if colour {
		word, hint = "\x1b[31;1merror:\x1b[0m", "\x1b[36mhint: \x1b[0m"
	}
	all := troubles(err)
	common := all[0].Hint
	for _, t := range all {
		if t.Hint != common {
			common = ""
		}
	}
	indent := "       "
	if len(all) == 1 {
		printf(w, "%s %s\n", word, indented(all[0].headline(), indent))
		writeTail(w, all[0], indent)
	} else {
		printf(w, "%s %d errors\n", word, len(all))
		for i, t := range all {
			printf(w, "%5d. %s\n", i+1, indented(t.headline(), indent))
			writeTail(w, t, indent)
			if t.Hint != "" && common == "" {
				printf(w, "%s%s %s\n", indent, hint, t.Hint)
			}
		}
	}
	if common != "" {
		printf(w, "%s %s\n", hint, indented(common, indent))
	}
	if l := logOf(err); l != "" {
		printf(w, "log:   %s\n", l)
	}
}

// headline is "node: step: cause".
func (t trouble) headline() string {
	var parts []string
	for _, p := range []string{t.Node, t.Step, t.Cause} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ": ")
}

func writeTail(w io.Writer, t trouble, indent string) {
	if len(t.Tail) == 0 {
		return
	}
	printf(w, "%sthe last lines of its stderr:\n", indent)
	for _, l := range t.Tail {
		printf(w, "%s| %s\n", indent, l)
	}
}

// indented keeps the later lines of a text below its first.
func indented(s, indent string) string { return strings.ReplaceAll(s, "\n", "\n"+indent) }

// printf writes to the terminal; an error there has nowhere to go.
func printf(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

// logged is an error with the log of its run.
type logged struct {
	error
	log string
}

// Unwrap returns the error.
func (l *logged) Unwrap() error { return l.error }

// withLog adds the log of the run to an error.
func withLog(err error, log string) error {
	if log == "" {
		return err
	}
	return &logged{err, log}
}

func logOf(err error) string {
	var l *logged
	if errors.As(err, &l) {
		return l.log
	}
	return ""
}
