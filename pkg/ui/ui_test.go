package ui_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/ui"
)

var update = flag.Bool("update", false, "write the golden files")

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

// run plays a create on two nodes.
func run(u *ui.UI, c *clock) {
	u.Nodes([]string{"node-1", "worker-long-name"})
	at := func(e plan.Event) { e.Time = c.t; u.Event(e) }
	e := func(kind plan.Kind, node, phase, step string) plan.Event {
		return plan.Event{Kind: kind, Node: node, Phase: phase, Step: step}
	}
	note := e(plan.Note, "node-1", "preflight", "memory")
	note.Message = "memory: 1.6 GiB, a control plane needs 1700 MiB"
	at(note)
	all := e(plan.Note, "", "preflight", "clock-skew")
	all.Message = "clock-skew: the clock of the machine that kocli runs on is 3s ahead"
	at(all)
	at(e(plan.PhaseStarted, "node-1", "os", ""))
	at(e(plan.StepUnchanged, "node-1", "os", "os/hosts"))
	changed := e(plan.StepChanged, "node-1", "os", "os/sysctls")
	changed.Changes = 3
	at(changed)
	ended := e(plan.PhaseEnded, "node-1", "os", "")
	ended.Duration = 1234 * time.Millisecond
	at(ended)
	ended.Node = "worker-long-name" // nothing changed there: no line
	at(ended)
	for i := range int64(5) {
		for _, n := range []string{"node-1", "worker-long-name"} {
			t := e(plan.Transferred, n, "images", "images/import")
			t.Message, t.Bytes, t.Total = "images", i*100<<20, 400<<20
			at(t)
		}
		c.t = c.t.Add(6 * time.Second)
	}
	started := e(plan.StepStarted, "node-1", "control-plane", "controlplane/init")
	started.Message = "kubeadm init v1.36.3"
	at(started)
	failed := e(plan.StepFailed, "worker-long-name", "workers", "worker/join")
	failed.Error = "kubeadm join: exit status 1: " + strings.Repeat("long ", 40) + "\nsecond line"
	at(failed)
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
	}
}

func TestUI_plainLines(t *testing.T) {
	for _, tt := range []struct {
		name  string
		color bool
	}{{"plain.golden", false}, {"color.golden", true}} {
		var out, errs bytes.Buffer
		c := &clock{time.Unix(1e9, 0)}
		u := ui.New(ui.Options{Out: &out, Err: &errs, Color: tt.color, Now: c.now, Log: zerolog.Nop()})
		run(u, c)
		u.Close()
		if out.Len() > 0 {
			t.Errorf("progress on stdout: %s", out.Bytes())
		}
		golden(t, tt.name, errs.Bytes())
	}
}

func TestUI_barNeverStaysBehind(t *testing.T) {
	var errs bytes.Buffer
	c := &clock{time.Unix(1e9, 0)}
	u := ui.New(ui.Options{Out: &bytes.Buffer{}, Err: &errs, Terminal: true, Now: c.now, Log: zerolog.Nop()})
	run(u, c)
	u.Close()
	if !strings.Contains(errs.String(), "images node-1: ") {
		t.Error("no bar was drawn")
	}
	for _, l := range strings.Split(errs.String(), "\n") {
		// What stands after the last carriage return is what stays on the screen.
		l = l[strings.LastIndex(l, "\r")+1:]
		if strings.Contains(l, "MiB]") || strings.Contains(l, "[=") {
			t.Errorf("the bar stays on the line %q", l)
		}
	}
}

func TestUI_jsonLinesOnStdoutAlone(t *testing.T) {
	var out, errs, log bytes.Buffer
	c := &clock{time.Unix(1e9, 0)}
	u := ui.New(ui.Options{Out: &out, Err: &errs, JSON: true, Terminal: true, Now: c.now, Log: zerolog.Nop()})
	u.LogTo(&log)
	run(u, c)
	u.Progress("download", 1, 2)
	u.Command(host.Entry{Node: "node-1", What: "kubeadm init", Err: errors.New("exit status 1")})
	u.Close()
	if errs.Len() > 0 {
		t.Errorf("on stderr: %s", errs.Bytes())
	}
	for _, text := range []string{out.String(), log.String()} {
		for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
			var v map[string]any
			if err := json.Unmarshal([]byte(l), &v); err != nil {
				t.Errorf("not JSON: %s", l)
			}
		}
	}
	if n := strings.Count(out.String(), "\n"); n != 19 {
		t.Errorf("%d events on stdout", n)
	}
	if strings.Contains(log.String(), "transferred") || !strings.Contains(log.String(), `"command":"kubeadm init"`) {
		t.Errorf("log: %s", log.String())
	}
}

func TestResult_kindAndCodeComeFirst(t *testing.T) {
	for _, tt := range []struct {
		v    any
		want string
	}{
		{struct{}{}, `{"kind":"result","exitCode":7}`},
		{map[string]int{"a": 1}, `{"kind":"result","exitCode":7,"a":1}`},
	} {
		var b bytes.Buffer
		if err := ui.Result(&b, 7, tt.v); err != nil || strings.TrimSpace(b.String()) != tt.want {
			t.Errorf("%s, %v; want %s", b.String(), err, tt.want)
		}
	}
	if err := ui.Result(&bytes.Buffer{}, 0, []int{1}); err == nil {
		t.Error("a list is not a result")
	}
}

func TestWords(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{ui.Duration(12 * time.Millisecond), "12 ms"},
		{ui.Duration(3200 * time.Millisecond), "3.2 s"},
		{ui.Duration(125 * time.Second), "2 min 5 s"},
		{ui.Duration(3725 * time.Second), "1 h 2 min"},
		{ui.Bytes(1023), "1023 B"},
		{ui.Bytes(1 << 20), "1.0 MiB"},
		{ui.Bytes(3 << 30), "3.0 GiB"},
		{ui.Count(1, "host"), "1 host"},
		{ui.Count(0, "host"), "0 hosts"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s, want %s", tt.got, tt.want)
		}
	}
}
