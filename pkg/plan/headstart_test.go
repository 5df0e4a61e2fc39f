package plan

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
)

// onMachines gives a machine to every node.
type onMachines struct{}

func (onMachines) Look(_ context.Context, n string) (host.Reader, error) { return hosttest.New(n), nil }
func (onMachines) Dial(_ context.Context, n string) (host.Host, error)   { return hosttest.New(n), nil }

// slowStep takes its time, once.
type slowStep struct {
	id   string
	took time.Duration
	done *bool
}

func (s slowStep) ID() string { return s.id }
func (s slowStep) Check(context.Context, host.Reader) ([]Change, error) {
	if *s.done {
		return nil, nil
	}
	return []Change{{Object: s.id}}, nil
}
func (s slowStep) Apply(context.Context, host.Host) error {
	time.Sleep(s.took)
	*s.done = true
	return nil
}

func TestExecute_headStartLetsTheSeedGoFirst(t *testing.T) {
	for _, tt := range []struct {
		name         string
		prepare, max time.Duration
		want         time.Duration // when the worker begins
	}{
		{"until the seed has begun", 3 * time.Second, 7 * time.Second, 3 * time.Second},
		{"and no longer than allowed", 30 * time.Second, 7 * time.Second, 7 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				step := func(id string, d time.Duration) []Step { return []Step{slowStep{id, d, new(bool)}} }
				p, err := Compile([]Phase{
					{Name: "prepare", Nodes: []string{"seed", "worker"}, HeadStart: &HeadStart{Phase: "init", Max: tt.max},
						Steps: func(n string) ([]Step, error) { return step("prepare/"+n, tt.prepare), nil }},
					{Name: "init", Follows: []string{"prepare"}, Nodes: []string{"seed"}, Steps: func(string) ([]Step, error) { return step("init", time.Second), nil }},
				}, Options{Now: time.Now})
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				var began time.Duration
				_, err = p.Execute(t.Context(), onMachines{}, func(e Event) {
					if e.Kind == PhaseStarted && e.Node == "worker" {
						began = time.Since(start)
					}
				})
				if err != nil || began != tt.want {
					t.Errorf("the worker began after %s, wanted %s: %v", began, tt.want, err)
				}
			})
		})
	}
}
