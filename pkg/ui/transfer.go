package ui

import (
	"fmt"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/kocli/kocli/pkg/plan"
)

// plainInterval is how often a long transfer gets a line where no bar can be
// drawn.
const plainInterval = 10 * time.Second

// flow is one stream of bytes.
type flow struct {
	node        string
	done, total int64
}

// transfers are all streams that are under way, shown as one.
type transfers struct {
	flows map[string]flow // by node, step and what is sent
	begun time.Time
	shown time.Time // last plain line
	bar   *progressbar.ProgressBar
}

// sums adds up all streams and collects their nodes.
func (t *transfers) sums() (done, total int64, nodes map[string]bool) {
	nodes = map[string]bool{}
	for _, f := range t.flows {
		done, total = done+f.done, total+f.total
		nodes[f.node] = true
	}
	return done, total, nodes
}

func flowKey(e plan.Event) string { return flowPrefix(e) + e.Message }

func flowPrefix(e plan.Event) string { return e.Node + "\x00" + e.Step + "\x00" }

// flow takes in the progress of one stream.
func (u *UI) flow(e plan.Event) {
	t := &u.transfers
	now := u.o.Now()
	if len(t.flows) == 0 {
		*t = transfers{flows: map[string]flow{}, begun: now, shown: now}
	}
	t.flows[flowKey(e)] = flow{e.Node, e.Bytes, e.Total}
	u.showFlows(e.Phase, now)
}

// showFlows draws the bar, or prints a line where the last one is long ago.
func (u *UI) showFlows(phase string, now time.Time) {
	t := &u.transfers
	done, total, nodes := t.sums()
	if done >= total {
		u.clear()
		*t = transfers{}
		return
	}
	if !u.o.Terminal {
		if now.Sub(t.shown) >= plainInterval {
			t.shown = now
			text := fmt.Sprintf("%d%%: %s", done*100/total, rate(done, total, now.Sub(t.begun)))
			u.line("..", plan.Event{Phase: phase, Node: nodesTitle(nodes)}, text)
		}
		return
	}
	if t.bar == nil {
		t.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(u.o.Err), progressbar.OptionSetWidth(20), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetPredictTime(false), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetTheme(progressbar.Theme{Saucer: "=", SaucerHead: ">", SaucerPadding: " ", BarStart: "[", BarEnd: "]"}))
	}
	t.bar.ChangeMax64(total)
	text := strings.TrimSpace(phase+" "+nodesTitle(nodes)) + ": " + rate(done, total, now.Sub(t.begun))
	t.bar.Describe(cut(text, u.o.Width-len("  100% [                    ]  ")))
	_ = t.bar.Set64(done) // an error of the terminal has nowhere to go
}

// nodesTitle names one node, and counts several.
func nodesTitle(nodes map[string]bool) string {
	if len(nodes) == 1 {
		for n := range nodes {
			return n
		}
	}
	return Count(len(nodes), "host")
}

// rate puts the progress of a transfer into words.
func rate(done, total int64, took time.Duration) string {
	s := fmt.Sprintf("%s of %s", Bytes(done), Bytes(total))
	if done == 0 || took <= 0 {
		return s
	}
	perSecond := float64(done) / took.Seconds()
	left := time.Duration(float64(total-done) / perSecond * float64(time.Second))
	return fmt.Sprintf("%s, %s/s, %s left", s, Bytes(int64(perSecond)), left.Round(time.Second))
}

// settle ends the streams of a step: done when it succeeded, gone when not.
func (u *UI) settle(e plan.Event, ok bool) {
	t := &u.transfers
	touched := false
	for k, f := range t.flows {
		if !strings.HasPrefix(k, flowPrefix(e)) {
			continue
		}
		touched = true
		if ok {
			f.done = f.total
			t.flows[k] = f
		} else {
			delete(t.flows, k)
		}
	}
	if !touched {
		return
	}
	if !ok {
		u.clear()
		t.bar = nil // the sum went down: a bar does not go back
	}
	if done, total, _ := t.sums(); done >= total {
		u.clear()
		*t = transfers{}
	}
}

// clear takes the bar away for a line; the next progress draws it again.
func (u *UI) clear() {
	if u.transfers.bar != nil {
		_ = u.transfers.bar.Clear() // an error of the terminal has nowhere to go
	}
}
