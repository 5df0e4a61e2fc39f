package hosttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// Subject is a host under test.
type Subject struct {
	Host  host.Full
	Dir   string       // an empty folder on it that a test may write in
	Owner string       // user:group that new files may have
	Other string       // another user:group that files may be given; empty where that cannot be
	Trips func() int64 // round trips so far; nil where nothing counts them
}

// Factory makes a fresh subject, which lives as long as the test.
type Factory func(t *testing.T) Subject

// The shell scripts that the suite runs. A machine in memory knows them by heart.
const (
	scriptFails   = `printf out; printf 'first\nlast words\n' >&2; exit 7`
	scriptBinary  = `printf '\000\377\n\n'; printf 'e\n\n' >&2`
	scriptLeaks   = `echo "the password is $1" >&2; exit 1`
	scriptDevours = `cat >/dev/null; echo done`
	scriptIgnores = `exec <&-; echo early`
)

// Run proves that a host is what package host says a host is. Every
// implementation runs it, the one in memory included.
func Run(t *testing.T, factory Factory) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(*testing.T, Subject)
	}{
		{"arguments arrive byte for byte", testQuoting},
		{"exit status, stdout and stderr are kept apart", testExit},
		{"output is binary safe", testBinary},
		{"stdin is streamed", testStdin},
		{"a program may leave its stdin unread", testUnreadStdin},
		{"a broken source is an error", testBrokenSource},
		{"secrets are masked", testSecrets},
		{"queries that could write are refused", testQueries},
		{"a missing file is fs.ErrNotExist", testNotExist},
		{"files are read and described", testRead},
		{"put writes what differs and nothing else", testPut},
		{"put refuses what has another digest", testDigest},
		{"put of a large file", testLarge},
		{"put replaces a link, and not what it points to", testLink},
		{"many puts at once", testManyPuts},
		{"remove", testRemove},
		{"a cancelled context ends a command", testCancel},
		{"a time-out ends a command", testTimeout},
		{"a batch", testBatch},
		{"a batch of 300 in one round trip", testManyQuestions},
		{"a batch with a large answer", testLargeAnswer},
		{"a batch in which one question hangs", testHangingQuestion},
		{"a reader that batches", testBatchReader},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, factory(t)) })
	}
}

func sh(script string, args ...string) host.Cmd {
	return host.Command(append([]string{"sh", "-c", script, "sh"}, args...)...)
}

func testQuoting(t *testing.T, s Subject) {
	var all strings.Builder
	for b := 1; b < 256; b++ {
		all.WriteByte(byte(b))
	}
	for _, arg := range []string{all.String(), "", " ", "'", `"`, `\`, "$HOME", "`id`", "$(id)", "-n", "--", "*", "~", "a\nb", "\n", ";", "é\xff", "kocli-ready"} {
		out, err := s.Host.Query(t.Context(), host.Command("printf", "%s", arg))
		if err != nil || string(out.Stdout) != arg {
			t.Errorf("%q came back as %q, %v", arg, out.Stdout, err)
		}
	}
}

func testExit(t *testing.T, s Subject) {
	out, err := s.Host.Run(t.Context(), sh(scriptFails))
	var x *host.ExitError
	if !errors.As(err, &x) {
		t.Fatalf("got %v, want an ExitError", err)
	}
	if x.Code != 7 || string(x.Stderr) != "first\nlast words\n" || !strings.HasPrefix(x.Cmd, "sh -c ") {
		t.Errorf("got %+v", x)
	}
	if !strings.HasSuffix(x.Error(), "exit status 7: last words") {
		t.Errorf("the error reads %q", x)
	}
	if string(out.Stdout) != "out" || string(out.Stderr) != "first\nlast words\n" {
		t.Errorf("output %q, %q", out.Stdout, out.Stderr)
	}
	if _, err := s.Host.Run(t.Context(), host.Cmd{}); err == nil {
		t.Error("an empty command has to be an error")
	}
}

func testBinary(t *testing.T, s Subject) {
	out, err := s.Host.Run(t.Context(), sh(scriptBinary))
	if err != nil || string(out.Stdout) != "\x00\xff\n\n" || string(out.Stderr) != "e\n\n" {
		t.Errorf("%q, %q, %v", out.Stdout, out.Stderr, err)
	}
}

// noise is n bytes that do not compress and repeat nowhere near.
func noise(n int) []byte {
	out := make([]byte, 0, n+32)
	sum := sha256.Sum256([]byte("seed"))
	for len(out) < n {
		out = append(out, sum[:]...)
		sum = sha256.Sum256(sum[:])
	}
	return out[:n]
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func testStdin(t *testing.T, s Subject) {
	data := noise(5<<20 + 3)
	c := host.Command("sha256sum")
	c.Stdin = bytes.NewReader(data)
	out, err := s.Host.Run(t.Context(), c)
	if err != nil || !strings.HasPrefix(out.Text(), digest(data)) {
		t.Errorf("%q, %v", out.Text(), err)
	}
}

func testUnreadStdin(t *testing.T, s Subject) {
	c := sh(scriptIgnores)
	c.Stdin = bytes.NewReader(noise(4 << 20))
	out, err := s.Host.Run(t.Context(), c)
	if err != nil || out.Text() != "early" {
		t.Errorf("%q, %v", out.Text(), err)
	}
}

// broken is a source that fails after some bytes.
func broken(n int) io.Reader {
	return io.MultiReader(bytes.NewReader(noise(n)), failing{})
}

type failing struct{}

var errSource = errors.New("the source broke")

func (failing) Read([]byte) (int, error) { return 0, errSource }

func testBrokenSource(t *testing.T, s Subject) {
	c := sh(scriptDevours)
	c.Stdin = broken(100_000)
	if out, err := s.Host.Run(t.Context(), c); !errors.Is(err, errSource) {
		t.Errorf("%q, %v", out.Text(), err)
	}
}

func testSecrets(t *testing.T, s Subject) {
	const canary = "c'an ary"
	c := sh(scriptLeaks, canary)
	c.Secrets = []string{canary}
	_, err := s.Host.Run(t.Context(), c)
	var x *host.ExitError
	if !errors.As(err, &x) {
		t.Fatalf("got %v", err)
	}
	for _, text := range []string{err.Error(), x.Cmd, string(x.Stderr)} {
		if strings.Contains(text, "an ary") || !strings.Contains(text, "***") {
			t.Errorf("%q is not masked", text)
		}
	}
}

func testQueries(t *testing.T, s Subject) {
	for _, argv := range [][]string{{"rm", "-rf", s.Dir}, {"sh", "-c", "true"}, {"find", s.Dir, "-delete"}, {"systemctl", "stop", "x"}} {
		if _, err := s.Host.Query(t.Context(), host.Command(argv...)); !errors.Is(err, host.ErrNotQuery) {
			t.Errorf("%v: %v", argv, err)
		}
	}
	if _, err := s.Host.Stat(t.Context(), s.Dir); err != nil {
		t.Errorf("the folder is gone: %v", err)
	}
}

func testNotExist(t *testing.T, s Subject) {
	for _, name := range []string{"absent", "absent/deeper", "-absent", "it's $HOME"} {
		p := path.Join(s.Dir, name)
		if _, err := s.Host.ReadFile(t.Context(), p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("read %s: %v", name, err)
		}
		if _, err := s.Host.Stat(t.Context(), p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat %s: %v", name, err)
		}
	}
	put(t, s, "file", 0o600, "x")
	if _, err := s.Host.ReadFile(t.Context(), path.Join(s.Dir, "file", "below")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read below a file: %v", err)
	}
	if _, err := s.Host.ReadFile(t.Context(), s.Dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read a folder: %v", err)
	}
}

// put writes a small file and fails the test where that fails.
func put(t *testing.T, s Subject, name string, mode fs.FileMode, data string) bool {
	t.Helper()
	f := host.Bytes(path.Join(s.Dir, name), mode, []byte(data))
	f.Owner = s.Owner
	changed, err := s.Host.Put(t.Context(), f)
	if err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
	return changed
}

// shows fails the test unless a file is as described.
func shows(t *testing.T, s Subject, name string, mode fs.FileMode, owner, data string) {
	t.Helper()
	p := path.Join(s.Dir, name)
	got, err := s.Host.ReadFile(t.Context(), p)
	if err != nil || string(got) != data {
		t.Errorf("%s holds %d bytes, want %d, %v", name, len(got), len(data), err)
	}
	info, err := s.Host.Stat(t.Context(), p)
	if err != nil {
		t.Errorf("stat %s: %v", name, err)
		return
	}
	if info.Mode() != mode || info.Sys() != owner || info.Size() != int64(len(data)) || info.Name() != path.Base(name) {
		t.Errorf("%s is %v, %v, %d bytes, called %s", name, info.Mode(), info.Sys(), info.Size(), info.Name())
	}
}

func testRead(t *testing.T, s Subject) {
	put(t, s, "a b/é'\n", 0o640, "\x00\xff\r\n\n")
	shows(t, s, "a b/é'\n", 0o640, s.Owner, "\x00\xff\r\n\n")
	put(t, s, "empty", 0o600, "")
	shows(t, s, "empty", 0o600, s.Owner, "")
	info, err := s.Host.Stat(t.Context(), path.Join(s.Dir, "a b"))
	if err != nil || !info.IsDir() {
		t.Errorf("a folder: %v, %v", info, err)
	}
}

func testPut(t *testing.T, s Subject) {
	for _, step := range []struct {
		what, data string
		mode       fs.FileMode
		changed    bool
	}{
		{"new", "one", 0o600, true},
		{"the same", "one", 0o600, false},
		{"another content of the same length", "two", 0o600, true},
		{"another length", "three", 0o600, true},
		{"another mode", "three", 0o644, true},
		{"the same again", "three", 0o644, false},
		{"empty", "", 0o644, true},
		{"an executable", "#!", 0o755, true},
	} {
		if changed := put(t, s, "deep/er/file", step.mode, step.data); changed != step.changed {
			t.Errorf("%s: changed is %t", step.what, changed)
		}
		shows(t, s, "deep/er/file", step.mode, s.Owner, step.data)
	}
	if s.Other != "" {
		f := host.Bytes(path.Join(s.Dir, "deep/er/file"), 0o755, []byte("#!"))
		f.Owner = s.Other
		for i, want := range []bool{true, false} {
			if changed, err := s.Host.Put(t.Context(), f); err != nil || changed != want {
				t.Errorf("another owner, time %d: %t, %v", i+1, changed, err)
			}
		}
		shows(t, s, "deep/er/file", 0o755, s.Other, "#!")
	}
	nothingElse(t, s, "deep/er", "file")
}

// nothingElse fails the test when a folder holds more than the files named,
// such as a temporary file that was left.
func nothingElse(t *testing.T, s Subject, dir string, names ...string) {
	t.Helper()
	out, err := s.Host.Query(t.Context(), host.Command("find", path.Join(s.Dir, dir), "-mindepth", "1", "-maxdepth", "1"))
	if err != nil {
		t.Fatalf("list %s: %v", dir, err)
	}
	want := map[string]bool{}
	for _, n := range names {
		want[path.Join(s.Dir, dir, n)] = true
	}
	for _, l := range strings.Split(out.Text(), "\n") {
		if l != "" && !want[l] {
			t.Errorf("%s was left", l)
		}
	}
}

func testDigest(t *testing.T, s Subject) {
	put(t, s, "d/file", 0o600, "the old content")
	for _, size := range []int{20, 3 << 20} {
		data := noise(size)
		good := host.Bytes(path.Join(s.Dir, "d/file"), 0o600, data)
		good.Owner = s.Owner
		flipped := bytes.Clone(data)
		flipped[size/2] ^= 1
		for what, src := range map[string]func() (io.ReadCloser, error){
			"a flipped bit": func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(flipped)), nil },
			"cut short":     func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data[:size-1])), nil },
			"too long": func() (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(append(bytes.Clone(data), 'x'))), nil
			},
			"a source that breaks": func() (io.ReadCloser, error) {
				return io.NopCloser(io.MultiReader(bytes.NewReader(data[:size/2]), failing{})), nil
			},
			"a source that cannot be opened": func() (io.ReadCloser, error) { return nil, errSource },
		} {
			f := good
			f.Open = src
			changed, err := s.Host.Put(t.Context(), f)
			if what == "too long" && err == nil {
				// A writer that stops at the size that was announced is right too.
				shows(t, s, "d/file", 0o600, s.Owner, string(data))
				put(t, s, "d/file", 0o600, "the old content")
				continue
			}
			if err == nil || changed {
				t.Errorf("%s of %d bytes: %t, %v", what, size, changed, err)
			}
			if what == "a flipped bit" && !errors.Is(err, host.ErrDigest) {
				t.Errorf("%s of %d bytes is not called a digest mismatch: %v", what, size, err)
			}
			shows(t, s, "d/file", 0o600, s.Owner, "the old content")
		}
	}
	nothingElse(t, s, "d", "file")
}

func testLarge(t *testing.T, s Subject) {
	data := noise(6<<20 + 1)
	f := host.Bytes(path.Join(s.Dir, "new/large"), 0o755, data)
	f.Owner = s.Owner
	for i, want := range []bool{true, false} {
		if changed, err := s.Host.Put(t.Context(), f); err != nil || changed != want {
			t.Errorf("time %d: %t, %v", i+1, changed, err)
		}
	}
	shows(t, s, "new/large", 0o755, s.Owner, string(data))
	nothingElse(t, s, "new", "large")
}

func testLink(t *testing.T, s Subject) {
	put(t, s, "target", 0o600, "mine")
	if _, err := s.Host.Run(t.Context(), host.Command("ln", "-s", path.Join(s.Dir, "target"), path.Join(s.Dir, "link"))); err != nil {
		t.Fatal(err)
	}
	if info, err := s.Host.Stat(t.Context(), path.Join(s.Dir, "link")); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("stat follows the link: %v, %v", info, err)
	}
	if !put(t, s, "link", 0o600, "mine") {
		t.Error("a link to the same content is not the file that was asked for")
	}
	shows(t, s, "link", 0o600, s.Owner, "mine")
	put(t, s, "link", 0o600, "other")
	shows(t, s, "target", 0o600, s.Owner, "mine")
}

func testManyPuts(t *testing.T, s Subject) {
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			f := host.Bytes(path.Join(s.Dir, fmt.Sprintf("many/%d", i)), 0o600, noise(1000*i))
			f.Owner = s.Owner
			if changed, err := s.Host.Put(t.Context(), f); err != nil || !changed {
				t.Errorf("%d: %t, %v", i, changed, err)
			}
		})
	}
	wg.Wait()
	for _, i := range []int{0, 7, 23} {
		shows(t, s, fmt.Sprintf("many/%d", i), 0o600, s.Owner, string(noise(1000*i)))
	}
}

func testRemove(t *testing.T, s Subject) {
	put(t, s, "tree/a/b", 0o600, "x")
	put(t, s, "tree-2", 0o600, "x")
	for range 2 { // the second time there is nothing left
		if err := s.Host.Remove(t.Context(), path.Join(s.Dir, "tree")); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if _, err := s.Host.Stat(t.Context(), path.Join(s.Dir, "tree/a/b")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	shows(t, s, "tree-2", 0o600, s.Owner, "x")
	for _, p := range []string{"", "/", "//", "/.", "/x/.."} {
		if err := s.Host.Remove(t.Context(), p); err == nil {
			t.Errorf("remove %q is not refused", p)
		}
	}
}

func testCancel(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	start := time.Now()
	if _, err := s.Host.Run(ctx, host.Command("sleep", "60")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if _, err := s.Host.Run(ctx, host.Command("true")); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if _, err := s.Host.Query(t.Context(), host.Command("true")); err != nil {
		t.Errorf("the host is of no use any more: %v", err)
	}
}

func testTimeout(t *testing.T, s Subject) {
	c := host.Command("sleep", "60")
	c.Timeout = 30 * time.Millisecond
	if _, err := s.Host.Run(t.Context(), c); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "sleep 60") {
		t.Errorf("got %v", err)
	}
}

// once fails the test unless f costs one round trip.
func once(t *testing.T, s Subject, f func()) {
	t.Helper()
	if s.Trips == nil {
		f()
		return
	}
	before := s.Trips()
	f()
	if n := s.Trips() - before; n != 1 {
		t.Errorf("%d round trips, want one", n)
	}
}

func testBatch(t *testing.T, s Subject) {
	put(t, s, "binary", 0o600, "\x00\xff[7]|\n\n")
	put(t, s, "empty", 0o600, "")
	cmds := []host.Cmd{
		host.Command("cat", "--", path.Join(s.Dir, "binary")),
		host.Command("cat", "--", path.Join(s.Dir, "absent")),
		host.Command("cat", "--", path.Join(s.Dir, "empty")),
		host.Command("printf", "%s", "it's [0]|\n"),
		host.Command("true"),
		host.StatCommand(path.Join(s.Dir, "binary")),
	}
	var res []host.Result
	var err error
	once(t, s, func() { res, err = s.Host.Batch(t.Context(), cmds) })
	if err != nil || len(res) != len(cmds) {
		t.Fatalf("%d results, %v", len(res), err)
	}
	if string(res[0].Stdout) != "\x00\xff[7]|\n\n" || res[0].Code != 0 || len(res[0].Stderr) != 0 {
		t.Errorf("binary: %+v", res[0])
	}
	if res[1].Code != 1 || !strings.Contains(string(res[1].Stderr), "No such file") || len(res[1].Stdout) != 0 {
		t.Errorf("absent: %+v", res[1])
	}
	if res[2].Code != 0 || len(res[2].Stdout) != 0 {
		t.Errorf("empty: %+v", res[2])
	}
	if string(res[3].Stdout) != "it's [0]|\n" {
		t.Errorf("printf: %q", res[3].Stdout)
	}
	if res[4].Code != 0 {
		t.Errorf("true: %+v", res[4])
	}
	if info, err := host.ParseStat("binary", res[5].Text()); err != nil || info.Size() != 8 {
		t.Errorf("stat: %v", err)
	}
	if res, err := s.Host.Batch(t.Context(), nil); err != nil || len(res) != 0 {
		t.Errorf("an empty batch: %v, %v", res, err)
	}
	if _, err := s.Host.Batch(t.Context(), []host.Cmd{host.Command("true"), host.Command("rm", "-rf", path.Join(s.Dir, "binary"))}); !errors.Is(err, host.ErrNotQuery) {
		t.Errorf("a batch that could write: %v", err)
	}
	shows(t, s, "binary", 0o600, s.Owner, "\x00\xff[7]|\n\n")
}

func testManyQuestions(t *testing.T, s Subject) {
	cmds := make([]host.Cmd, 300)
	for i := range cmds {
		cmds[i] = host.Command("printf", "%s", fmt.Sprintf("answer %d", i))
	}
	var res []host.Result
	var err error
	once(t, s, func() { res, err = s.Host.Batch(t.Context(), cmds) })
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range res {
		if r.Text() != fmt.Sprintf("answer %d", i) || r.Code != 0 {
			t.Errorf("%d: %q, %d", i, r.Stdout, r.Code)
		}
	}
}

// A question that has a time-out and hangs costs no other its answer.
func testHangingQuestion(t *testing.T, s Subject) {
	pipe := path.Join(s.Dir, "pipe")
	if _, err := s.Host.Run(t.Context(), host.Command("mkfifo", pipe)); err != nil {
		t.Fatal(err)
	}
	hangs := host.Command("cat", "--", pipe)
	hangs.Timeout = 30 * time.Millisecond
	res, err := s.Host.Batch(t.Context(), []host.Cmd{host.Command("printf", "%s", "before"), hangs, host.Command("printf", "%s", "after")})
	if err != nil || len(res) != 3 {
		t.Fatalf("%v, %v", res, err)
	}
	if string(res[0].Stdout) != "before" || string(res[2].Stdout) != "after" || res[0].Err != nil || res[2].Err != nil {
		t.Errorf("the others: %+v", res)
	}
	if err := res[1].Err; !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "cat -- "+pipe) {
		t.Errorf("got %v", err)
	}
	b := host.NewBatch(s.Host.Name(), s.Host, time.Millisecond)
	if _, err := b.Query(t.Context(), hangs); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "cat -- "+pipe) {
		t.Errorf("through a reader that batches: %v", err)
	}
}

func testLargeAnswer(t *testing.T, s Subject) {
	data := noise(5 << 20)
	put(t, s, "large", 0o600, string(data))
	var res []host.Result
	var err error
	once(t, s, func() {
		res, err = s.Host.Batch(t.Context(), []host.Cmd{host.Command("cat", "--", path.Join(s.Dir, "large")), host.Command("printf", "%s", "x")})
	})
	if err != nil || !bytes.Equal(res[0].Stdout, data) || string(res[1].Stdout) != "x" {
		t.Errorf("%d bytes, %v", len(res[0].Stdout), err)
	}
}

func testBatchReader(t *testing.T, s Subject) {
	put(t, s, "file", 0o640, "content")
	f := host.Bytes(path.Join(s.Dir, "file"), 0o640, []byte("content"))
	f.Owner = s.Owner
	b := host.NewBatch(s.Host.Name(), s.Host, 20*time.Millisecond)
	for want, change := range map[string]func(*host.File){
		"":                 func(*host.File) {},
		"absent":           func(f *host.File) { f.Path += "-absent" },
		"content":          func(f *host.File) { *f = host.Bytes(f.Path, f.Mode, []byte("Content")); f.Owner = s.Owner },
		"mode 0640":        func(f *host.File) { f.Mode = 0o600 },
		"owner " + s.Owner: func(f *host.File) { f.Owner = "nobody:nogroup" },
	} {
		g := f
		change(&g)
		var got string
		var err error
		b.Forget()
		once(t, s, func() { got, err = host.Differs(t.Context(), b, g) })
		if err != nil || got != want {
			t.Errorf("got %q, want %q, %v", got, want, err)
		}
	}
	dir := f
	dir.Path = s.Dir
	if got, err := host.Differs(t.Context(), b, dir); err != nil || got != "not a regular file" {
		t.Errorf("a folder: %q, %v", got, err)
	}
}
