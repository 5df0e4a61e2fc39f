// Package ui shows events to people and machines: lines and a bar on a
// terminal, plain lines elsewhere, JSON lines for -o json, and the full log of
// a run. It is the only importer of progressbar. Results go to stdout, progress
// to stderr.
package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/plan"
)

// Options say where and how to show.
type Options struct {
	Out, Err io.Writer
	Terminal bool // Err is a terminal: a bar can be drawn
	Width    int  // letters in a line of the terminal; zero means 80
	Color    bool
	JSON     bool // events as JSON lines on Out
	Log      zerolog.Logger
	Now      func() time.Time
}

// UI shows the events of a run. Safe for concurrent use.
type UI struct {
	o Options

	mu        sync.Mutex
	file      io.Writer // full log; may be nil
	transfers transfers
	changes   map[string]int // so far, by node and phase
	width     int            // of the column of nodes
}

// New returns a UI.
func New(o Options) *UI {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Width <= 0 {
		o.Width = 80
	}
	return &UI{o: o, changes: map[string]int{}, width: len("9 hosts")}
}

// LogTo sends the full log of a run to w as well.
func (u *UI) LogTo(w io.Writer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.file = w
}

// Nodes tells which names will appear, so that columns line up.
func (u *UI) Nodes(names []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, n := range names {
		u.width = max(u.width, len(n))
	}
}

// Command logs a command that ended.
func (u *UI) Command(e host.Entry) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.file != nil {
		l := zerolog.New(u.file).With().Time(zerolog.TimestampFieldName, u.o.Now()).Logger()
		ev := l.Debug()
		if e.Err != nil {
			ev = l.Warn().Str("error", e.Err.Error())
		}
		ev.Str("node", e.Node).Bool("write", e.Write).Dur("ms", e.Duration).Str("command", e.What).Send()
	}
	if u.o.Log.GetLevel() <= zerolog.DebugLevel {
		u.clear()
		u.o.Log.Debug().Str("node", e.Node).Bool("write", e.Write).Dur("ms", e.Duration).AnErr("error", e.Err).Msg(e.What)
	}
}

// Event shows one event.
func (u *UI) Event(e plan.Event) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.file != nil && e.Kind != plan.Transferred {
		_ = json.NewEncoder(u.file).Encode(e) // a full disk must not end the run
	}
	if u.o.JSON {
		_ = json.NewEncoder(u.o.Out).Encode(e) // a closed pipe has no reader
		return
	}
	switch e.Kind {
	case plan.Transferred:
		u.flow(e)
	case plan.StepStarted:
		if slow(e.Step) {
			u.line("..", e, e.Step+": "+e.Message)
		}
	case plan.StepChanged:
		u.changes[e.Node+" "+e.Phase] += e.Changes
		u.settle(e, true)
	case plan.StepFailed:
		u.settle(e, false)
		u.line("failed", e, e.Step+": "+brief(e.Error))
	case plan.PhaseEnded:
		if n := u.changes[e.Node+" "+e.Phase]; n > 0 {
			u.line("ok", e, fmt.Sprintf("%s in %s", Count(n, "change"), Duration(e.Duration)))
		}
	case plan.Note:
		u.line("note", e, e.Message)
	}
}

// slow are the steps worth a line when they begin.
func slow(step string) bool {
	switch step {
	case "controlplane/init", "controlplane/join", "worker/join", "network/verify", "images/import":
		return true
	}
	return false
}

// brief is the first line of an error, cut to what fits beside the columns. The
// whole of it is shown once the run has ended.
func brief(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return cut(s, 100)
}

// cut shortens a text to at most so many letters.
func cut(s string, most int) string {
	most = max(most, len("..."))
	if r := []rune(s); len(r) > most {
		return string(r[:most-3]) + "..."
	}
	return s
}

// line prints one line of progress.
func (u *UI) line(state string, e plan.Event, text string) {
	u.clear()
	node := e.Node
	if node == "" {
		node = "-" // about the cluster
	}
	_, _ = fmt.Fprintf(u.o.Err, "%s %-*s  %-13s  %s\n", u.paint(state, fmt.Sprintf("%-6s", state)), u.width, node, e.Phase, text)
}

// paint colours a word by its meaning.
func (u *UI) paint(state, text string) string {
	if !u.o.Color {
		return text
	}
	code := map[string]string{"ok": "32", "failed": "31;1", "note": "33", "..": "36"}[state]
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Progress shows work that is not a step's, such as the download of a bundle.
func (u *UI) Progress(what string, done, total int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.o.JSON && total > 0 {
		u.flow(plan.Event{Phase: what, Node: what, Bytes: done, Total: total})
	}
}

// Close takes the bar away.
func (u *UI) Close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	u.transfers = transfers{}
}
