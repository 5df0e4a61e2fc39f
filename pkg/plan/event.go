package plan

import (
	"context"
	"sync"
	"time"
)

// Kind says what an Event is about.
type Kind string

// The kinds of events. They are part of the JSON output: never rename.
const (
	RunStarted    Kind = "run-started"
	RunEnded      Kind = "run-ended"
	PhaseStarted  Kind = "phase-started" // a phase begins on a node
	PhaseEnded    Kind = "phase-ended"
	StepUnchanged Kind = "step-unchanged"
	StepStarted   Kind = "step-started" // the step has something to change
	StepChanged   Kind = "step-changed"
	StepFailed    Kind = "step-failed"
	Transferred   Kind = "transferred" // progress of bytes
	Note          Kind = "note"
	Command       Kind = "command" // a command ended; for the log
	Said          Kind = "said"    // a line of what a program says; for the log
)

// Event is one thing that happened. Fields that do not apply are zero.
type Event struct {
	Time     time.Time     `json:"time"`
	Kind     Kind          `json:"kind"`
	Phase    string        `json:"phase,omitempty"`
	Node     string        `json:"node,omitempty"`
	Step     string        `json:"step,omitempty"`
	Message  string        `json:"message,omitempty"`
	Changes  int           `json:"changes,omitempty"`
	Bytes    int64         `json:"bytes,omitempty"` // done so far
	Total    int64         `json:"total,omitempty"` // to do
	Duration time.Duration `json:"durationNs,omitempty"`
	Error    string        `json:"error,omitempty"`
	Hint     string        `json:"hint,omitempty"`
	ExitCode int           `json:"exitCode,omitempty"`
}

type scopeKey struct{}

// scope is where a step's own reports belong.
type scope struct {
	phase, node, step string
	emit              func(Event)
}

// Transfer reports progress of bytes from inside a step. Outside of a run it
// does nothing.
func Transfer(ctx context.Context, what string, done, total int64) {
	report(ctx, Event{Kind: Transferred, Message: what, Bytes: done, Total: total})
}

// Say reports a note from inside a step.
func Say(ctx context.Context, message string) { report(ctx, Event{Kind: Note, Message: message}) }

// Output reports a line of what a program says while it runs: for the log, not for the
// screen.
func Output(ctx context.Context, line string) { report(ctx, Event{Kind: Said, Message: line}) }

// Report sends an event from inside a step, with its place filled in.
func report(ctx context.Context, e Event) {
	s, ok := ctx.Value(scopeKey{}).(*scope)
	if !ok {
		return
	}
	e.Phase, e.Node, e.Step = s.phase, s.node, s.step
	s.emit(e)
}

// serial makes emit safe for concurrent use and stamps the time.
func serial(emit func(Event), now func() time.Time) func(Event) {
	if emit == nil {
		emit = func(Event) {}
	}
	var mu sync.Mutex
	return func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		e.Time = now()
		emit(e)
	}
}
