package host_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// batcher answers every question with its own words, in order of a script.
type batcher struct {
	answer func(round int, cmds []host.Cmd) ([]host.Result, error)

	mu     sync.Mutex
	rounds [][]string
}

func (b *batcher) Batch(_ context.Context, cmds []host.Cmd) ([]host.Result, error) {
	b.mu.Lock()
	var asked []string
	for _, c := range cmds {
		asked = append(asked, c.String())
	}
	b.rounds = append(b.rounds, asked)
	round := len(b.rounds)
	b.mu.Unlock()
	if b.answer != nil {
		return b.answer(round, cmds)
	}
	return echo(cmds), nil
}

func echo(cmds []host.Cmd) []host.Result {
	out := make([]host.Result, len(cmds))
	for i, c := range cmds {
		out[i].Stdout = []byte(c.String())
	}
	return out
}

func (b *batcher) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.rounds)
}

func TestBatch_collectsQuestionsIntoOneRoundTripAndDropsDoubles(t *testing.T) {
	inner := &batcher{}
	b := host.NewBatch("n", inner, 50*time.Millisecond)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			out, err := b.Query(t.Context(), host.Command("cat", "--", fmt.Sprintf("/f%d", i%10)))
			if err != nil || out.Text() != fmt.Sprintf("cat -- /f%d", i%10) {
				t.Errorf("%d: %q, %v", i, out.Text(), err)
			}
		})
	}
	wg.Wait()
	if inner.count() != 1 || len(inner.rounds[0]) != 10 {
		t.Errorf("40 questions, 10 of them different, were asked as %v", inner.rounds)
	}
	if _, err := b.ReadFile(t.Context(), "/f1"); err != nil || inner.count() != 1 {
		t.Errorf("a known answer was asked for again: %v, %d rounds", err, inner.count())
	}
	b.Forget()
	if _, err := b.ReadFile(t.Context(), "/f1"); err != nil || inner.count() != 2 {
		t.Errorf("after Forget: %v, %d rounds", err, inner.count())
	}
}

func TestBatch_keepsRootAndUserApart(t *testing.T) {
	inner := &batcher{}
	b := host.NewBatch("n", inner, time.Millisecond)
	for _, root := range []bool{true, false} {
		if _, err := b.Query(t.Context(), host.Cmd{Argv: []string{"id"}, Root: root}); err != nil {
			t.Fatal(err)
		}
	}
	if inner.count() != 2 {
		t.Errorf("id as root and as the user are one question")
	}
}

func TestBatch_doesNotRememberALostConnection(t *testing.T) {
	inner := &batcher{answer: func(round int, cmds []host.Cmd) ([]host.Result, error) {
		if round == 1 {
			return nil, errors.New("cut")
		}
		return echo(cmds), nil
	}}
	b := host.NewBatch("n", inner, time.Millisecond)
	if _, err := b.Query(t.Context(), host.Command("id")); err == nil {
		t.Error("the first question has to fail")
	}
	if _, err := b.Query(t.Context(), host.Command("id")); err != nil {
		t.Errorf("the second still fails: %v", err)
	}
}

// A question that is asked after Forget may travel with older ones.
func TestBatch_doesNotRememberWhatIsAskedOnce(t *testing.T) {
	inner := &batcher{}
	b := host.NewBatch("n", inner, time.Millisecond)
	for _, x := range []struct {
		once bool
		want int // round trips so far
	}{{true, 1}, {true, 2}, {false, 3}, {false, 3}, {true, 3}} {
		c := host.Command("cat", "--", "/proc/config.gz")
		c.Once = x.once
		if _, err := b.Query(t.Context(), c); err != nil || inner.count() != x.want {
			t.Errorf("%d round trips, want %d: %v", inner.count(), x.want, err)
		}
	}
}

func TestBatch_doesNotRememberALostConnectionAcrossForget(t *testing.T) {
	inner := &batcher{answer: func(round int, cmds []host.Cmd) ([]host.Result, error) {
		if round == 1 {
			return nil, errors.New("cut")
		}
		return echo(cmds), nil
	}}
	b := host.NewBatch("n", inner, 100*time.Millisecond)
	var wg sync.WaitGroup
	asked := make(chan struct{})
	wg.Go(func() {
		close(asked)
		_, _ = b.Query(t.Context(), host.Command("uname"))
	})
	<-asked
	time.Sleep(20 * time.Millisecond) // let the question stand in line
	b.Forget()
	_, _ = b.Query(t.Context(), host.Command("id"))
	wg.Wait()
	if _, err := b.Query(t.Context(), host.Command("id")); err != nil {
		t.Errorf("the error was remembered: %v", err)
	}
}

func TestBatch_answersOfCommandsThatFail(t *testing.T) {
	inner := &batcher{answer: func(_ int, cmds []host.Cmd) ([]host.Result, error) {
		out := make([]host.Result, len(cmds))
		for i, c := range cmds {
			out[i] = host.Result{Code: 1, Output: host.Output{Stderr: []byte(c.Argv[0] + ": x: No such file or directory")}}
			if c.Argv[0] == "id" {
				out[i] = host.Result{Code: 3, Output: host.Output{Stdout: []byte("out"), Stderr: []byte("the canary is tweet")}}
			}
		}
		return out, nil
	}}
	b := host.NewBatch("n", inner, time.Millisecond)
	c := host.Command("id")
	c.Secrets = []string{"tweet"}
	out, err := b.Query(t.Context(), c)
	var x *host.ExitError
	if !errors.As(err, &x) || x.Code != 3 || string(out.Stdout) != "out" || strings.Contains(err.Error()+string(x.Stderr), "tweet") {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := b.ReadFile(t.Context(), "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile: %v", err)
	}
	if _, err := b.Stat(t.Context(), "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat: %v", err)
	}
	if _, err := b.Query(t.Context(), host.Command("rm", "x")); !errors.Is(err, host.ErrNotQuery) {
		t.Errorf("rm: %v", err)
	}
	if inner.count() != 3 {
		t.Errorf("%d rounds", inner.count())
	}
}

func TestBatch_returnsWhenTheAskerIsCancelled(t *testing.T) {
	release := make(chan struct{})
	inner := &batcher{answer: func(_ int, cmds []host.Cmd) ([]host.Result, error) { <-release; return echo(cmds), nil }}
	b := host.NewBatch("n", inner, time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Query(ctx, host.Command("id")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	if out, err := b.Query(t.Context(), host.Command("id")); err != nil || out.Text() != "id" {
		t.Errorf("another asker of the same: %q, %v", out.Text(), err)
	}
}

func TestParseStat(t *testing.T) {
	for _, c := range []struct {
		line string
		mode fs.FileMode
		ok   bool
	}{
		{"81a4 12 1700000000 root:root", 0o644, true},
		{"41ed 0 0 root:root", fs.ModeDir | 0o755, true},
		{"a1ff 3 0 root:root", fs.ModeSymlink | 0o777, true},
		{"c1ed 0 0 root:root", fs.ModeSocket | 0o755, true},
		{"1180 0 0 root:root", fs.ModeNamedPipe | 0o600, true},
		{"21b6 0 0 root:root", fs.ModeDevice | fs.ModeCharDevice | 0o666, true},
		{"61b0 0 0 root:disk", fs.ModeDevice | 0o660, true},
		{"43ff 0 0 root:root", fs.ModeDir | fs.ModeSticky | 0o777, true},
		{"89ed 0 0 root:root", fs.ModeSetuid | 0o755, true},
		{"", 0, false},
		{"xyz 1 1 a:b", 0, false},
		{"81a4 1 1", 0, false},
		{"81a4 x 1 a:b", 0, false},
	} {
		info, err := host.ParseStat("/a/b", c.line)
		if (err == nil) != c.ok {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		if c.ok && (info.Mode() != c.mode || info.Name() != "b") {
			t.Errorf("%q: mode %v, name %s", c.line, info.Mode(), info.Name())
		}
	}
}
