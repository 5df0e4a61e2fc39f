package plan_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dialer hands out machines in memory, and counts.
type dialer struct {
	mu       sync.Mutex
	machines map[string]*hosttest.Machine
	dials    int
	lost     map[string]error // nodes that cannot be reached
}

func newDialer() *dialer {
	return &dialer{machines: map[string]*hosttest.Machine{}, lost: map[string]error{}}
}

func (d *dialer) machine(node string) *hosttest.Machine {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.machines[node] == nil {
		d.machines[node] = hosttest.New(node)
	}
	return d.machines[node]
}

func (d *dialer) Look(_ context.Context, node string) (host.Reader, error) {
	if err := d.lost[node]; err != nil {
		return nil, err
	}
	return host.NewBatch(node, d.machine(node), 100*time.Microsecond), nil
}

func (d *dialer) Dial(_ context.Context, node string) (host.Host, error) {
	m := d.machine(node)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dials++
	return m, nil
}

// file is a step that has a file there.
func file(id string) plan.Step {
	return converge.Files{Name: id, List: func(context.Context, host.Reader) ([]host.File, error) {
		return []host.File{host.Bytes("/"+id, 0o600, []byte(id))}, nil
	}}
}

// step is a file whose Apply calls f first.
func step(id string, f func(ctx context.Context, node string) error) plan.Step {
	inner := file(id)
	return converge.Func{Name: id, CheckFn: inner.Check, ApplyFn: func(ctx context.Context, h host.Host) error {
		if err := f(ctx, h.Name()); err != nil {
			return err
		}
		return inner.Apply(ctx, h)
	}}
}

func fixed(steps ...plan.Step) func(string) ([]plan.Step, error) {
	return func(string) ([]plan.Step, error) { return steps, nil }
}

func compile(t *testing.T, phases ...plan.Phase) *plan.Plan {
	t.Helper()
	p, err := plan.Compile(phases, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCompile_errors(t *testing.T) {
	nodes := []string{"a"}
	for name, c := range map[string]struct {
		phases  []plan.Phase
		options plan.Options
		says    string
	}{
		"needs a phase that does not exist": {[]plan.Phase{{Name: "x", Needs: []string{"y"}}}, plan.Options{}, "y, which is not listed before"},
		"follows one that comes later":      {[]plan.Phase{{Name: "x", Follows: []string{"y"}}, {Name: "y"}}, plan.Options{}, "y, which is not listed before"},
		"needs itself":                      {[]plan.Phase{{Name: "x", Needs: []string{"x"}}}, plan.Options{}, "x, which is not listed before"},
		"a name twice":                      {[]plan.Phase{{Name: "x"}, {Name: "x"}}, plan.Options{}, "listed twice"},
		"a step twice on a node":            {[]plan.Phase{{Name: "x", Nodes: nodes, Steps: fixed(file("s"), file("s"))}}, plan.Options{}, "step s stands twice on a"},
		"a step in two phases":              {[]plan.Phase{{Name: "x", Nodes: nodes, Steps: fixed(file("s"))}, {Name: "y", Nodes: nodes, Steps: fixed(file("s"))}}, plan.Options{}, "step s stands twice"},
		"steps that cannot be made":         {[]plan.Phase{{Name: "x", Nodes: nodes, Steps: func(string) ([]plan.Step, error) { return nil, errors.New("no bundle") }}}, plan.Options{}, "phase x on a: no bundle"},
		"only what does not exist":          {[]plan.Phase{{Name: "x", Nodes: nodes, Steps: fixed(file("s"))}}, plan.Options{Only: []string{"t"}}, `no step or phase is called "t"`},
		"skip what does not exist":          {[]plan.Phase{{Name: "x", Nodes: nodes, Steps: fixed(file("s"))}}, plan.Options{Skip: []string{"t"}}, `no step or phase is called "t"`},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := plan.Compile(c.phases, c.options); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestCompile_onlyAndSkip(t *testing.T) {
	phases := []plan.Phase{
		{Name: "one", Nodes: []string{"a", "b"}, Steps: fixed(file("one/x"), file("one/y"))},
		{Name: "two", Needs: []string{"one"}, Nodes: []string{"b", "c"}, Steps: fixed(file("two/x"))},
	}
	for name, c := range map[string]struct {
		o    plan.Options
		want string
	}{
		"all":                   {plan.Options{}, "one/x one/y two/x"},
		"only a phase":          {plan.Options{Only: []string{"two"}}, "two/x"},
		"only a step":           {plan.Options{Only: []string{"one/y"}}, "one/y"},
		"only both":             {plan.Options{Only: []string{"one/y", "two"}}, "one/y two/x"},
		"skip a step":           {plan.Options{Skip: []string{"one/x"}}, "one/y two/x"},
		"skip wins over only":   {plan.Options{Only: []string{"one"}, Skip: []string{"one/x"}}, "one/y"},
		"skip a phase":          {plan.Options{Skip: []string{"one"}}, "two/x"},
		"skip all that is left": {plan.Options{Only: []string{"two"}, Skip: []string{"two/x"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := plan.Compile(phases, c.o)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(p.StepIDs(), " "); got != c.want {
				t.Errorf("steps %q, want %q", got, c.want)
			}
			if got := strings.Join(p.Nodes(), " "); got != "a b c" {
				t.Errorf("nodes %q", got)
			}
			d := newDialer()
			if _, err := p.Execute(t.Context(), d, nil); err != nil {
				t.Fatal(err)
			}
			changes, err := p.Preview(t.Context(), d)
			if err != nil || len(changes) > 0 {
				t.Errorf("after it ran: %v, %v", changes, err)
			}
		})
	}
}

func TestPreview_looksAndNeverDials(t *testing.T) {
	p := compile(t,
		plan.Phase{Name: "one", Nodes: []string{"a", "b"}, Steps: fixed(file("x"), file("y"))},
		plan.Phase{Name: "two", Needs: []string{"one"}, Nodes: []string{"a"}, Steps: fixed(file("z"))},
	)
	d := newDialer()
	d.machine("b").Write("/y", 0o600, "y")
	changes, err := p.Preview(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changes {
		got = append(got, c.Phase+" "+c.Node+" "+c.Step)
	}
	if want := []string{"one a x", "one a y", "one b x", "two a z"}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if d.dials > 0 || d.machine("a").Writes()+d.machine("b").Writes() > 0 {
		t.Errorf("%d dials", d.dials)
	}
}

// All checks of a node meet, so that their questions travel together; and of very
// many nodes, some wait.
func TestPreview_checksOfANodeMeetAndVeryManyNodesWait(t *testing.T) {
	const n = 200
	var nodes []string
	meet := map[string]*sync.WaitGroup{}
	for i := range n {
		nodes = append(nodes, fmt.Sprintf("n-%d", i))
		meet[nodes[i]] = &sync.WaitGroup{}
		meet[nodes[i]].Add(2)
	}
	var mu sync.Mutex
	inside, most := 0, 0
	count := func(d int) {
		mu.Lock()
		defer mu.Unlock()
		inside += d
		most = max(most, inside)
	}
	one := func(id string) plan.Step {
		return converge.Func{Name: id, CheckFn: func(_ context.Context, r host.Reader) ([]plan.Change, error) {
			count(1)
			defer count(-1)
			meet[r.Name()].Done()
			meet[r.Name()].Wait()
			return []plan.Change{{Object: id}}, nil
		}}
	}
	p := compile(t, plan.Phase{Name: "one", Nodes: nodes, Steps: fixed(one("x"))}, plan.Phase{Name: "two", Nodes: nodes, Steps: fixed(one("y"))})
	changes, err := p.Preview(t.Context(), newDialer())
	if err != nil || len(changes) != 2*n {
		t.Errorf("%d changes, %v", len(changes), err)
	}
	if most > 2*64 {
		t.Errorf("%d checks at once", most)
	}
}

func TestPreview_reportsEveryNodeThatCannotBeReachedAndTheChangesOfTheOthers(t *testing.T) {
	p := compile(t, plan.Phase{Name: "one", Nodes: []string{"a", "b", "c"}, Steps: fixed(file("x"))})
	d := newDialer()
	d.lost["a"], d.lost["c"] = errors.New("a is gone"), errors.New("c is gone")
	changes, err := p.Preview(t.Context(), d)
	if err == nil || !strings.Contains(err.Error(), "a is gone") || !strings.Contains(err.Error(), "c is gone") || len(changes) != 1 || changes[0].Node != "b" {
		t.Errorf("%v, %v", changes, err)
	}
	d = newDialer()
	d.machine("b").Cut()
	changes, err = p.Preview(t.Context(), d)
	if !errors.Is(err, hosttest.ErrCut) || !strings.Contains(err.Error(), "check x on b") || len(changes) != 2 {
		t.Errorf("%v, %v", changes, err)
	}
}

// order records when things happen.
type order struct {
	mu   sync.Mutex
	list []string
}

func (o *order) add(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, fmt.Sprintf(format, args...))
}

func (o *order) before(t *testing.T, first, second string) {
	t.Helper()
	i, j := slices.Index(o.list, first), slices.Index(o.list, second)
	if i < 0 || j < 0 || i > j {
		t.Errorf("%q is not before %q in %v", first, second, o.list)
	}
}

func TestExecute_needsWaitsForAllNodesAndFollowsForItsOwn(t *testing.T) {
	var o order
	freed := make(chan struct{})
	p := compile(t,
		plan.Phase{Name: "one", Nodes: []string{"a", "b"}, Steps: fixed(step("one", func(_ context.Context, n string) error {
			if n == "b" {
				<-freed // b is slow: only what follows on a can free it
			}
			o.add("one %s", n)
			return nil
		}))},
		plan.Phase{Name: "follows", Follows: []string{"one"}, Nodes: []string{"a", "b"}, Steps: fixed(step("follows", func(_ context.Context, n string) error {
			o.add("follows %s", n)
			if n == "a" {
				close(freed)
			}
			return nil
		}))},
		plan.Phase{Name: "needs", Needs: []string{"one"}, Nodes: []string{"a", "c"}, Steps: fixed(step("needs", func(_ context.Context, n string) error {
			o.add("needs %s", n)
			return nil
		}))},
	)
	if _, err := p.Execute(t.Context(), newDialer(), nil); err != nil {
		t.Fatal(err)
	}
	o.before(t, "follows a", "one b")
	o.before(t, "one b", "follows b")
	o.before(t, "one b", "needs a")
	o.before(t, "one b", "needs c")
}

func TestExecute_width(t *testing.T) {
	for _, width := range []int{0, 1, 3} {
		var mu sync.Mutex
		running, most := 0, 0
		nodes := []string{"a", "b", "c", "d", "e", "f"}
		want := width
		if want == 0 {
			want = len(nodes)
		}
		full := make(chan struct{})
		p := compile(t, plan.Phase{Name: "one", Nodes: nodes, Width: width, Steps: fixed(step("x", func(context.Context, string) error {
			mu.Lock()
			running++
			if most = max(most, running); most == want {
				select {
				case <-full:
				default:
					close(full)
				}
			}
			mu.Unlock()
			<-full // until as many run as may
			mu.Lock()
			running--
			mu.Unlock()
			return nil
		}))})
		if _, err := p.Execute(t.Context(), newDialer(), nil); err != nil || most != want {
			t.Errorf("width %d: %d at once, %v", width, most, err)
		}
	}
}

func TestExecute_theFirstErrorStopsNewTasksAndWaitsForRunningOnes(t *testing.T) {
	failed := make(chan struct{})
	var o order
	p := compile(t,
		plan.Phase{Name: "one", Nodes: []string{"a", "b", "c"}, Width: 2, Steps: fixed(step("one", func(_ context.Context, n string) error {
			o.add("one %s", n)
			o.mu.Lock()
			first := len(o.list) == 1
			o.mu.Unlock()
			if first {
				<-failed // runs while the other one fails
				return fmt.Errorf("slow %s broke too", n)
			}
			defer close(failed)
			return fmt.Errorf("fast %s broke", n)
		}), file("after"))},
		plan.Phase{Name: "two", Needs: []string{"one"}, Nodes: []string{"a"}, Steps: fixed(file("two"))},
	)
	d := newDialer()
	var events []plan.Event
	report, err := p.Execute(t.Context(), d, func(e plan.Event) { events = append(events, e) })
	if err == nil || !strings.Contains(err.Error(), "fast ") || !strings.Contains(err.Error(), "slow ") {
		t.Fatalf("not all errors are reported: %v", err)
	}
	if len(o.list) != 2 || len(report.Changed) > 0 {
		t.Errorf("ran %v, changed %v", o.list, report.Changed)
	}
	for _, n := range []string{"a", "b", "c"} {
		for _, f := range []string{"/after", "/two"} {
			if _, ok := d.machine(n).Read(f); ok {
				t.Errorf("%s on %s was still made", f, n)
			}
		}
	}
	var x *fault.Error
	if !errors.As(err, &x) || x.Op != "one" || x.Node == "" {
		t.Errorf("the error does not say where: %#v", x)
	}
	count := 0
	for _, e := range events {
		if e.Kind == plan.StepFailed {
			count++
			if e.Error == "" || e.Node == "" || e.Step != "one" {
				t.Errorf("event %+v", e)
			}
		}
	}
	if count != 2 {
		t.Errorf("%d failures among the events", count)
	}
}

func TestExecute_aStepThatDoesNotConvergeIsAnError(t *testing.T) {
	never := converge.Func{
		Name: "x",
		CheckFn: func(context.Context, host.Reader) ([]plan.Change, error) {
			return []plan.Change{{Object: "windmill"}}, nil
		},
		ApplyFn: func(context.Context, host.Host) error { return nil },
	}
	p := compile(t, plan.Phase{Name: "one", Nodes: []string{"a"}, Steps: fixed(never)})
	if _, err := p.Execute(t.Context(), newDialer(), nil); !errors.Is(err, plan.ErrNotConverged) || !strings.Contains(err.Error(), "windmill") {
		t.Errorf("got %v", err)
	}
}

func TestExecute_anErrorOfACheckIsOne(t *testing.T) {
	p := compile(t, plan.Phase{Name: "one", Nodes: []string{"a"}, Steps: fixed(file("x"))})
	d := newDialer()
	d.machine("a").Cut()
	if _, err := p.Execute(t.Context(), d, nil); !errors.Is(err, hosttest.ErrCut) || d.dials > 0 {
		t.Errorf("%v, %d dials", err, d.dials)
	}
	d = newDialer()
	d.lost["a"] = errors.New("a is gone")
	if _, err := p.Execute(t.Context(), d, nil); err == nil || !strings.Contains(err.Error(), "a is gone") {
		t.Errorf("got %v", err)
	}
}

func TestExecute_aHostThatIsRightIsNotDialled(t *testing.T) {
	p := compile(t, plan.Phase{Name: "one", Nodes: []string{"a", "b"}, Steps: fixed(file("x"))})
	d := newDialer()
	for _, n := range []string{"a", "b"} {
		d.machine(n).Write("/x", 0o600, "x")
	}
	report, err := p.Execute(t.Context(), d, nil)
	if err != nil || d.dials > 0 || len(report.Changed) > 0 {
		t.Errorf("%v, %d dials, %v", err, d.dials, report.Changed)
	}
}

// A check that ran before anything was applied says nothing about what it finds
// after.
func TestExecute_checksAgainOnceSomethingWasApplied(t *testing.T) {
	undo := converge.Func{
		Name: "two",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			if _, err := r.Stat(ctx, "/one"); err == nil {
				return []plan.Change{{Object: "/one", To: "remove"}}, nil
			}
			return nil, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error { return h.Remove(ctx, "/one") },
	}
	p := compile(t,
		plan.Phase{Name: "one", Nodes: []string{"a"}, Steps: fixed(file("one"))},
		plan.Phase{Name: "two", Needs: []string{"one"}, Nodes: []string{"a"}, Steps: fixed(undo)},
	)
	d := newDialer()
	report, err := p.Execute(t.Context(), d, nil)
	if err != nil || len(report.Changed) != 2 {
		t.Errorf("%v, %v", report.Changed, err)
	}
}

func TestExecute_cancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var o order
	p := compile(t,
		plan.Phase{Name: "one", Nodes: []string{"a", "b"}, Width: 1, Steps: fixed(step("one", func(ctx context.Context, n string) error {
			o.add("one %s", n)
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}))},
		plan.Phase{Name: "two", Needs: []string{"one"}, Nodes: []string{"a"}, Steps: fixed(file("two"))},
	)
	_, err := p.Execute(ctx, newDialer(), nil)
	if !errors.Is(err, context.Canceled) || fault.CodeOf(err) != fault.Interrupted || len(o.list) != 1 {
		t.Errorf("%v, code %d, ran %v", err, fault.CodeOf(err), o.list)
	}
	if _, err := p.Execute(ctx, newDialer(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestExecute_eventsInOrder(t *testing.T) {
	now := time.Unix(0, 0)
	var mu sync.Mutex
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Second)
		return now
	}
	p, err := plan.Compile([]plan.Phase{
		{Name: "one", Nodes: []string{"a"}, Steps: fixed(step("there", nil), step("new", func(ctx context.Context, _ string) error {
			plan.Say(ctx, "hello")
			plan.Transfer(ctx, "files", 1, 2)
			return nil
		}))},
		{Name: "two", Needs: []string{"one"}, Nodes: []string{"b"}, Steps: fixed(step("fails", func(context.Context, string) error {
			return fault.New(fault.Failure, "turn it off and on", errors.New("broken"))
		}))},
	}, plan.Options{Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	d := newDialer()
	d.machine("a").Write("/there", 0o600, "there")
	var got []string
	var last time.Time
	_, err = p.Execute(t.Context(), d, func(e plan.Event) {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s", e.Kind, e.Phase, e.Node, e.Step, e.Message)))
		if !e.Time.After(last) {
			t.Errorf("time goes back at %s", e.Kind)
		}
		last = e.Time
		if e.Kind == plan.StepFailed && e.Hint != "turn it off and on" {
			t.Errorf("hint %q", e.Hint)
		}
	})
	if err == nil {
		t.Error("no error")
	}
	want := []string{
		"phase-started one a", "step-unchanged one a there", "step-started one a new file /new", "note one a new hello", "transferred one a new files",
		"step-changed one a new", "phase-ended one a", "phase-started two b", "step-started two b fails file /fails", "step-failed two b fails",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

func TestExecute_phaseWithoutNodesIsComplete(t *testing.T) {
	p := compile(t,
		plan.Phase{Name: "workers"},
		plan.Phase{Name: "verify", Needs: []string{"workers"}, Nodes: []string{"a"}, Steps: fixed(file("x"))},
	)
	d := newDialer()
	if _, err := p.Execute(t.Context(), d, nil); err != nil {
		t.Fatal(err)
	}
	if _, ok := d.machine("a").Read("/x"); !ok {
		t.Error("what needs a phase without nodes did not run")
	}
}

// What a phase without nodes needs, needs whoever needs that phase.
func TestExecute_needsReachThroughAPhaseWithoutNodes(t *testing.T) {
	var o order
	release := make(chan struct{})
	p := compile(t,
		plan.Phase{Name: "one", Nodes: []string{"a"}, Steps: fixed(step("one", func(_ context.Context, n string) error {
			<-release
			o.add("%s", n)
			return nil
		}))},
		plan.Phase{Name: "free", Nodes: []string{"d"}, Steps: fixed(step("free", func(context.Context, string) error {
			time.AfterFunc(20*time.Millisecond, func() { close(release) }) // time for a phase that does not wait
			return nil
		}))},
		plan.Phase{Name: "empty", Needs: []string{"one"}},
		plan.Phase{Name: "three", Needs: []string{"empty"}, Nodes: []string{"c"}, Steps: fixed(step("three", func(_ context.Context, n string) error {
			o.add("%s", n)
			return nil
		}))},
	)
	if _, err := p.Execute(t.Context(), newDialer(), nil); err != nil {
		t.Fatal(err)
	}
	o.before(t, "a", "c")
}

func TestChange_String(t *testing.T) {
	for want, c := range map[string]plan.Change{
		"file /x: create":    {Object: "file /x", To: "create"},
		"mode: 0600 -> 0644": {Object: "mode", From: "0600", To: "0644"},
		"swap: now on":       {Object: "swap", From: "on"},
		"join: node a (known after control-plane/x)": {Object: "join", To: "node a", After: "control-plane/x"},
	} {
		if c.String() != want {
			t.Errorf("got %q, want %q", c, want)
		}
	}
}

func TestTransferAndSay_outsideOfARunDoNothing(t *testing.T) {
	plan.Transfer(t.Context(), "x", 1, 2)
	plan.Say(t.Context(), "x")
}
