package kubeadmrun_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/plan"
)

// unit is a host on which kubeadm runs in its unit for as long as active says.
type unit struct {
	*hosttest.Machine
	active atomic.Int64 // how many times it is still seen at work
	starts atomic.Int64
	argv   []string
	code   string
	end    func() // called when it is seen at work for the last time
}

func newUnit() *unit {
	u := &unit{Machine: hosttest.New("n"), code: "0"}
	u.Install(func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		switch argv[0] {
		case "systemd-run":
			u.starts.Add(1)
			u.argv = argv
			i := slices.Index(argv, "kocli-kubeadm")
			m.Delete(argv[i+1])
			m.Write(argv[i+1]+"/job", 0o600, argv[i+2]+"\n")
			u.finish()
			return hosttest.Reply{}, true
		case "systemctl":
			if u.active.Load() > 0 && u.active.Add(-1) >= 0 {
				if u.end != nil && u.active.Load() == 0 {
					u.end()
				}
				return hosttest.Reply{Stdout: "ActiveState=active\n"}, true
			}
			return hosttest.Reply{Stdout: "ActiveState=inactive\n"}, true
		}
		return hosttest.Reply{}, false
	})
	return u
}

const said = "[upgrade] one\nerror execution phase control-plane: timed out\n"

func (u *unit) finish() {
	u.Write(kubeadmrun.Dir()+"/log", 0o600, said)
	if u.code != "" {
		u.Write(kubeadmrun.Dir()+"/status", 0o600, u.code+"\n")
	}
}

// leave is what a killed kocli left on the host.
func (u *unit) leave(job string) { u.Write(kubeadmrun.Dir()+"/job", 0o600, job+"\n") }

const sameJob = "to v1.37.2: kubeadm upgrade apply v1.37.2"

func (u *unit) run(ctx context.Context) error {
	return kubeadmrun.Detached(ctx, u, "to v1.37.2", "upgrade", "apply", "v1.37.2")
}

// heard runs something as a step, and returns what it reports.
func heard(t *testing.T, do func(ctx context.Context) error) (events []plan.Event, err error) {
	t.Helper()
	m := hosttest.New("n")
	p, cerr := plan.Compile([]plan.Phase{{Name: "p", Nodes: []string{"n"}, Steps: func(string) ([]plan.Step, error) {
		return []plan.Step{step(do)}, nil
	}}}, plan.Options{})
	if cerr != nil {
		t.Fatal(cerr)
	}
	_, err = p.Execute(t.Context(), dialer{m}, func(e plan.Event) { events = append(events, e) })
	return events, err
}

type step func(ctx context.Context) error

func (s step) ID() string { return "s" }

func (s step) Check(context.Context, host.Reader) ([]plan.Change, error) {
	return []plan.Change{{Object: "x"}}, nil
}
func (s step) Apply(ctx context.Context, _ host.Host) error { return s(ctx) }

type dialer struct{ m *hosttest.Machine }

func (d dialer) Look(context.Context, string) (host.Reader, error) { return d.m, nil }
func (d dialer) Dial(context.Context, string) (host.Host, error)   { return d.m, nil }

func messages(events []plan.Event, k plan.Kind) string {
	var out []string
	for _, e := range events {
		if e.Kind == k {
			out = append(out, e.Message)
		}
	}
	return strings.Join(out, "\n")
}

func TestDetached_runsInAUnitOfItsOwn(t *testing.T) {
	u := newUnit()
	events, _ := heard(t, u.run)
	if u.starts.Load() != 1 || !slices.Contains(u.argv, "--collect") || !slices.Contains(u.argv, "--unit="+kubeadmrun.Unit) {
		t.Errorf("%d starts, %v", u.starts.Load(), u.argv)
	}
	if !slices.Equal(u.argv[len(u.argv)-4:], []string{"/usr/bin/kubeadm", "upgrade", "apply", "v1.37.2"}) || !slices.Contains(u.argv, "flock") {
		t.Errorf("it ran %v", u.argv)
	}
	for _, a := range u.argv { // systemd would put something in its place
		if strings.Contains(a, "${") || strings.Contains(a, "$$") || strings.HasPrefix(a, "$") || strings.Contains(a, "%") {
			t.Errorf("systemd replaces part of %q", a)
		}
	}
	if got := messages(events, plan.Said); got != strings.TrimSpace(said) {
		t.Errorf("the log of the run has %q", got)
	}
	if _, left := u.Read(kubeadmrun.Dir() + "/job"); left {
		t.Error("what it left is still there")
	}
}

func TestDetached_failsAsKubeadmDoes(t *testing.T) {
	u := newUnit()
	u.code = "1"
	err := u.run(t.Context())
	var x *host.ExitError
	if !errors.As(err, &x) || x.Code != 1 || !strings.HasPrefix(err.Error(), "kubeadm upgrade: error execution phase control-plane: timed out") || kubeadmrun.Said(err) == "" {
		t.Errorf("%v", err)
	}
	if errors.Is(err, kubeadmrun.ErrGoesOn) {
		t.Error("it has ended")
	}
	if _, left := u.Read(kubeadmrun.Dir() + "/job"); left {
		t.Error("what it left is still there")
	}
	u.code = ""
	if err := u.run(t.Context()); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("without a status: %v", err)
	}
}

func TestDetached_thatSystemdDoesNotStart(t *testing.T) {
	u := newUnit()
	u.Install(func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		return hosttest.Reply{Stderr: "Failed to start transient service unit: no room\n", Code: 1}, argv[0] == "systemd-run"
	})
	err := u.run(t.Context())
	if !errors.Is(err, kubeadmrun.ErrNotStarted) || errors.Is(err, kubeadmrun.ErrGoesOn) || !strings.Contains(err.Error(), "no room") || fault.HintOf(err) == "" {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
}

// What an earlier run of kocli has started is waited for, and not started again.
func TestDetached_joinsWhatRunsAlready(t *testing.T) {
	for code, want := range map[string]string{"0": "", "1": "timed out"} {
		u := newUnit()
		u.leave(sameJob)
		u.active.Store(3)
		u.code, u.end = code, u.finish
		events, err := heard(t, func(ctx context.Context) error {
			err := u.run(ctx)
			if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("status %s: %v", code, err)
			}
			return err
		})
		if u.starts.Load() != 0 || err == nil || !strings.Contains(messages(events, plan.Note), "still at work") || !strings.Contains(messages(events, plan.Said), "[upgrade] one") {
			t.Errorf("status %s: %d starts, %+v", code, u.starts.Load(), events)
		}
	}
}

func TestDetached_takesTheResultOfWhatHasEnded(t *testing.T) {
	for name, c := range map[string]struct {
		job, code string
		starts    int64
		fails     bool
	}{
		"well":                                   {sameJob, "0", 0, false},
		"badly":                                  {sameJob, "1", 0, true},
		"killed with its host":                   {sameJob, "", 1, false},
		"ended by a signal":                      {sameJob, "143", 1, false},
		"another job, badly":                     {"to v1.36.3: kubeadm upgrade apply v1.36.3", "1", 1, false},
		"another job of the same words, badly":   {"to v1.36.3: kubeadm upgrade apply v1.37.2", "1", 1, false},
		"a status that is none":                  {sameJob, "x", 1, false},
		"a status that is none, and looks so":    {sameJob, "-1", 1, false},
		"nothing, and a status that says nobody": {"", "0", 1, false},
	} {
		u := newUnit()
		u.leave(c.job)
		u.code = c.code
		u.finish()
		u.code = "0"
		err := u.run(t.Context())
		if u.starts.Load() != c.starts || (err != nil) != c.fails {
			t.Errorf("%s: %d starts, %v", name, u.starts.Load(), err)
		}
		if _, left := u.Read(kubeadmrun.Dir() + "/job"); left {
			t.Errorf("%s: what it left is still there", name)
		}
	}
}

// Ctrl-C and a lost connection end kocli's waiting, and not kubeadm.
func TestDetached_goesOnWithoutKocli(t *testing.T) {
	for name, end := range map[string]func(*unit, context.CancelFunc){
		"Ctrl-C":     func(_ *unit, cancel context.CancelFunc) { cancel() },
		"connection": func(u *unit, _ context.CancelFunc) { u.Cut() },
	} {
		u := newUnit()
		u.leave(sameJob)
		u.active.Store(1000)
		events, _ := heard(t, func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			time.AfterFunc(50*time.Millisecond, func() { end(u, cancel) })
			err := u.run(ctx)
			want := map[string]fault.Code{"Ctrl-C": fault.Interrupted, "connection": fault.Unreachable}[name]
			if !errors.Is(err, kubeadmrun.ErrGoesOn) || fault.CodeOf(err) != want || !strings.Contains(fault.HintOf(err), "run the same command again") {
				t.Errorf("%s: %v, code %d, hint %q", name, err, fault.CodeOf(err), fault.HintOf(err))
			}
			return err
		})
		says := map[string]string{"Ctrl-C": "kubeadm goes on on the host; the same command joins it", "connection": "kubeadm may be at work on the host; the same command joins it"}[name]
		if !strings.Contains(messages(events, plan.Note), says) {
			t.Errorf("%s: the screen says %q", name, messages(events, plan.Note))
		}
		if _, there := u.Read(kubeadmrun.Dir() + "/job"); !there || u.starts.Load() != 0 {
			t.Errorf("%s: the job is gone", name)
		}
	}
}

// A host that cannot be asked is an error of its own where nothing is known to run.
func TestWait(t *testing.T) {
	u := newUnit()
	if err := kubeadmrun.Wait(t.Context(), u); err != nil {
		t.Error(err)
	}
	u.active.Store(2)
	if err := kubeadmrun.Wait(t.Context(), u); err != nil || u.active.Load() != 0 {
		t.Errorf("%v", err)
	}
	u.Cut()
	if err := kubeadmrun.Wait(t.Context(), u); !errors.Is(err, hosttest.ErrCut) || errors.Is(err, kubeadmrun.ErrGoesOn) {
		t.Errorf("%v", err)
	}
	// A systemd that does not answer may still run it.
	m := hosttest.New("n", func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		return "Failed to connect to bus", 1, argv[0] == "systemctl"
	})
	if err := kubeadmrun.Wait(t.Context(), m); !errors.Is(err, kubeadmrun.ErrGoesOn) || !strings.Contains(err.Error(), "Failed to connect to bus") {
		t.Errorf("%v", err)
	}
}

func TestForget(t *testing.T) {
	u := newUnit()
	u.CutBefore(0)
	if err := kubeadmrun.Forget(t.Context(), u); err != nil || u.Writes() > 0 {
		t.Errorf("%v, %v", err, u.Log())
	}
	u.leave(sameJob)
	u.active.Store(2)
	if err := kubeadmrun.Forget(t.Context(), u); err != nil || u.active.Load() != 0 {
		t.Errorf("%v", err)
	}
	if _, left := u.Read(kubeadmrun.Dir() + "/job"); left {
		t.Error("it is still there")
	}
}

// The script is run by a real shell: modes, the status, and what is said.
func TestDetached_scriptInARealShell(t *testing.T) {
	u := newUnit()
	if err := u.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	i := slices.Index(u.argv, "/bin/sh")
	for code, command := range map[string][]string{
		"0\n": {"sh", "-c", "echo out; echo err >&2; umask"},
		"7\n": {"sh", "-c", "echo out; echo err >&2; umask; exit 7"},
	} {
		dir := filepath.Join(t.TempDir(), "kubeadm")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "status"), []byte("0"), 0o644); err != nil {
			t.Fatal(err)
		}
		argv := append([]string{"-c", u.argv[i+2], "kocli-kubeadm", dir, "a job"}, command...)
		if out, err := exec.CommandContext(t.Context(), "/bin/sh", argv...).CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("%v: %s", err, out)
		}
		for name, want := range map[string]string{"job": "a job\n", "log": "out\nerr\n0022\n", "status": code} {
			file := filepath.Join(dir, name)
			data, err := os.ReadFile(file)
			if err != nil || string(data) != want {
				t.Errorf("%s: %q, %v", name, data, err)
			}
			if info, err := os.Stat(file); err == nil && info.Mode().Perm() != 0o600 {
				t.Errorf("%s: mode %v", name, info.Mode())
			}
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
}
