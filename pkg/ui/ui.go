// Package ui shows events to people and machines: lines and a bar on a
// terminal, plain lines elsewhere, JSON lines for -o json, and the full log of
// a run. It is the only importer of progressbar. Results go to stdout, progress
// to stderr.
package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/schollz/progressbar/v3"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/plan"
)

// Options say where and how to show.
type Options struct {
	Out, Err io.Writer
	Terminal bool // Err is a terminal: a bar can be drawn
	Color    bool
	JSON     bool // events as JSON lines on Out
	Log      zerolog.Logger
}

// UI shows the events of a run. Safe for concurrent use.
type UI struct {
	o    Options
	file io.Writer // full log; may be nil

	mu    sync.Mutex
	bar   *progressbar.ProgressBar
	flows map[string][2]int64 // bytes done and total, by node and step
	steps map[string]int      // changes so far, by node and phase
	width int
}

// New returns a UI.
func New(o Options) *UI {
	return &UI{o: o, flows: map[string][2]int64{}, steps: map[string]int{}, width: 5}
}

// LogTo sends the full log of a run to w as well.
func (u *UI) LogTo(w io.Writer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.file = w
}

// Nodes tells which names will appear, so that columns line up.
func (u *UI) Nodes(names []string) {
	for _, n := range names {
		u.width = max(u.width, len(n))
	}
}

// Command logs a command that ended.
func (u *UI) Command(e host.Entry) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.file != nil {
		l := zerolog.New(u.file).With().Timestamp().Logger()
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
		_ = json.NewEncoder(u.file).Encode(e)
	}
	if u.o.JSON {
		_ = json.NewEncoder(u.o.Out).Encode(e)
		return
	}
	switch e.Kind {
	case plan.Transferred:
		u.flow(e)
		return
	case plan.StepChanged:
		u.steps[e.Node+" "+e.Phase] += e.Changes
		delete(u.flows, e.Node+" "+e.Step)
	case plan.PhaseEnded:
		n := u.steps[e.Node+" "+e.Phase]
		if n > 0 {
			u.line("ok", e, fmt.Sprintf("%s in %s", count(n, "change"), Duration(e.Duration)))
		}
	case plan.StepStarted:
		if slow(e.Step) {
			u.line("..", e, e.Step+": "+e.Message)
		}
	case plan.StepFailed:
		u.line("failed", e, e.Step+": "+e.Error)
	case plan.Note:
		u.line("note", e, e.Message)
	}
}

// slow are the steps worth a line when they begin.
func slow(step string) bool {
	switch step {
	case "controlplane/init", "worker/join", "network/verify", "images/import":
		return true
	}
	return false
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// line prints one line of progress.
func (u *UI) line(state string, e plan.Event, text string) {
	u.clear()
	fmt.Fprintf(u.o.Err, "%s %-*s  %-13s  %s\n", u.paint(state, fmt.Sprintf("%-6s", state)), u.width, e.Node, e.Phase, text)
}

// paint colours a word by its meaning.
func (u *UI) paint(state, text string) string {
	if !u.o.Color {
		return text
	}
	code := map[string]string{"ok": "32", "failed": "31;1", "note": "33", "..": "36"}[state]
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// flow moves the bar, which stands for all transfers together.
func (u *UI) flow(e plan.Event) {
	if !u.o.Terminal {
		return
	}
	u.flows[e.Node+" "+e.Step] = [2]int64{e.Bytes, e.Total}
	var done, total int64
	for _, f := range u.flows {
		done, total = done+f[0], total+f[1]
	}
	if u.bar == nil {
		u.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(u.o.Err), progressbar.OptionShowBytes(true), progressbar.OptionSetWidth(24),
			progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(), progressbar.OptionUseANSICodes(false))
	}
	u.bar.ChangeMax64(total)
	u.bar.Describe(fmt.Sprintf("sending to %s", count(len(u.flows), "host")))
	_ = u.bar.Set64(done)
	if done >= total {
		u.clear()
		u.bar, u.flows = nil, map[string][2]int64{}
	}
}

// clear takes the bar away for a line; the next progress draws it again.
func (u *UI) clear() {
	if u.bar != nil {
		_ = u.bar.Clear()
	}
}

// Close takes the bar away.
func (u *UI) Close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	u.bar = nil
}

// Duration shows a duration as people read it.
func Duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
}

// Bytes shows a number of bytes in binary units.
func Bytes(n int64) string {
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// JSON writes v as one line.
func JSON(w io.Writer, v any) { _ = json.NewEncoder(w).Encode(v) }

// Progress moves the bar of work that is not a step's.
func (u *UI) Progress(what string, done, total int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.o.JSON {
		return
	}
	u.flow(plan.Event{Node: what, Bytes: done, Total: total})
}
