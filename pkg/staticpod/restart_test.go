package staticpod_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/staticpod"
)

// pod is a static pod in memory: deaf ones end by SIGKILL alone, and none is started
// anew before the kubelet has waited.
type pod struct {
	mu      sync.Mutex
	running string
	deaf    bool
	next    string
	wait    time.Duration
	signals []string
}

func (p *pod) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = p.next
}

func (p *pod) ctr(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := strings.Join(argv, " ")
	switch {
	case strings.HasSuffix(line, "tasks ls"):
		out := "TASK PID STATUS\n"
		if p.running != "" {
			out += p.running + " 7 RUNNING\n"
		}
		return hosttest.Reply{Stdout: out}, true
	case strings.Contains(line, "containers ls"):
		return hosttest.Reply{Stdout: "old\nnew\n"}, true
	case strings.Contains(line, "tasks kill"):
		if argv[len(argv)-1] != p.running {
			return hosttest.Reply{Stderr: "ctr: task not found: not found", Code: 1}, true
		}
		signal := argv[len(argv)-2]
		p.signals = append(p.signals, signal)
		if !p.deaf || signal == "SIGKILL" {
			p.running = ""
			if p.next != "" {
				time.AfterFunc(p.wait, p.start)
			}
		}
		return hosttest.Reply{}, true
	}
	return hosttest.Reply{}, false
}

func TestRestart(t *testing.T) {
	for name, x := range map[string]struct {
		pod     *pod
		old     []string
		signals []string
		took    time.Duration // at most, and more than nine tenths of it
		err     string
	}{
		"ends by itself":                      {&pod{running: "old", next: "new", wait: 10 * time.Second}, []string{"old"}, []string{"SIGTERM"}, 10500 * time.Millisecond, ""},
		"has to be killed":                    {&pod{running: "old", deaf: true, next: "new", wait: time.Second}, []string{"old"}, []string{"SIGTERM", "SIGKILL"}, 78 * time.Second, ""},
		"has been restarted already":          {&pod{running: "new"}, []string{"old"}, nil, 0, ""},
		"is not started by the kubelet":       {&pod{running: "old"}, []string{"old"}, []string{"SIGTERM"}, 0, "has not started etcd anew within 6m0s"},
		"runs, and did not when it was begun": {&pod{running: "new"}, nil, nil, 0, ""},
		"did not run, and does not":           {&pod{}, nil, nil, 0, "has not started etcd anew within 6m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := x.pod
				m := hosttest.New("cp-1")
				m.Install(p.ctr)
				start := time.Now()
				err := staticpod.Restart(t.Context(), m, "etcd", x.old)
				if x.err == "" && err != nil || x.err != "" && (err == nil || !strings.Contains(err.Error(), x.err)) {
					t.Errorf("got %v", err)
				}
				if took := time.Since(start); x.took > 0 && (took > x.took || took < x.took*9/10) {
					t.Errorf("it took %s", took)
				}
				if !slices.Equal(p.signals, x.signals) {
					t.Errorf("signals: %v", p.signals)
				}
			})
		})
	}
}
