package state_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/state"
)

// The test binary is also the second process: see TestMain.
const (
	roleVariable = "KOCLI_STATE_TEST"
	homeVariable = "KOCLI_STATE_TEST_HOME"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "lock":
		holdLock()
	case "save":
		saveForEver()
	}
}

// holdLock takes the lock, says so, and keeps it until stdin ends.
func holdLock() {
	d := state.Open(os.Getenv(homeVariable), "c")
	release, err := d.Lock(context.Background(), state.Holder{PID: os.Getpid(), User: "other", Host: "elsewhere", Command: "kocli create", Since: time.Unix(0, 0)})
	if err != nil {
		_, _ = io.WriteString(os.Stdout, "refused: "+err.Error()+"\n")
		return
	}
	_, _ = io.WriteString(os.Stdout, "locked\n")
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = release()
}

// saveForEver saves records as fast as it can.
func saveForEver() {
	d := state.Open(os.Getenv(homeVariable), "c")
	r, _ := d.Load()
	_, _ = io.WriteString(os.Stdout, "saving\n")
	for {
		r.Spec = strings.Repeat("x", 100_000)
		if err := d.Save(&r); err != nil {
			_, _ = io.WriteString(os.Stdout, err.Error()+"\n")
			return
		}
	}
}

// process starts a second process and returns its first line.
func process(t *testing.T, role, home string) (cmd *exec.Cmd, stdin io.Closer, line string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(self) //nolint:gosec // itself
	cmd.Env = append(os.Environ(), roleVariable+"="+role, homeVariable+"="+home)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	line, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd, in, strings.TrimSpace(line)
}

func TestLock_twoProcessesContend(t *testing.T) {
	home := t.TempDir()
	cmd, stdin, line := process(t, "lock", home)
	if line != "locked" {
		t.Fatal(line)
	}
	d := state.Open(home, "c")
	_, err := d.Lock(t.Context(), state.Holder{})
	if fault.CodeOf(err) != fault.Locked || !strings.Contains(err.Error(), `"kocli create" of other@elsewhere`) || !strings.Contains(fault.HintOf(err), "ps -fp") {
		t.Errorf("%v, code %d, hint %q", err, fault.CodeOf(err), fault.HintOf(err))
	}
	if h, err := d.Holder(); err != nil || h == nil || h.PID != cmd.Process.Pid {
		t.Errorf("holder %+v, %v", h, err)
	}
	// Another cluster is free.
	release, err := state.Open(home, "d").Lock(t.Context(), state.Holder{})
	if err != nil {
		t.Error(err)
	} else if err := release(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	release, err = d.Lock(t.Context(), state.Holder{PID: os.Getpid()})
	if err != nil {
		t.Fatalf("after it ended: %v", err)
	}
	if _, _, line := process(t, "lock", home); !strings.HasPrefix(line, "refused") {
		t.Errorf("the other one got it too: %s", line)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	if h, err := d.Holder(); err != nil || h != nil {
		t.Errorf("holder %+v, %v", h, err)
	}
}

func TestLock_killFreesIt(t *testing.T) {
	home := t.TempDir()
	cmd, _, line := process(t, "lock", home)
	if line != "locked" {
		t.Fatal(line)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	release, err := state.Open(home, "c").Lock(t.Context(), state.Holder{PID: os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

func TestLock_ofAnUnknownHolder(t *testing.T) {
	home := t.TempDir()
	_, _, _ = process(t, "lock", home)
	d := state.Open(home, "c")
	if err := os.WriteFile(filepath.Join(d.Root(), "lock.holder"), []byte("{cut o"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := d.Lock(t.Context(), state.Holder{})
	if fault.CodeOf(err) != fault.Locked || strings.Contains(fault.HintOf(err), "ps -fp 0") {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
	if h, err := d.Holder(); err != nil || h != nil {
		t.Errorf("holder %+v, %v", h, err)
	}
}

func TestSave_killedAnywhereLeavesAWholeRecord(t *testing.T) {
	home := t.TempDir()
	d := state.Open(home, "c")
	if err := d.Save(&state.Record{Spec: "first"}); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		cmd, _, line := process(t, "save", home)
		if line != "saving" {
			t.Fatal(line)
		}
		time.Sleep(time.Duration(i) * 700 * time.Microsecond) // kill it at another moment every time
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if r, err := d.Load(); err != nil || r.Generation < 1 || r.Spec != "first" && len(r.Spec) != 100_000 {
			t.Fatalf("kill %d: generation %d, %d bytes, %v", i, r.Generation, len(r.Spec), err)
		}
	}
}

func TestSave_aCrashBetweenWriteAndRenameLeavesTheOldRecord(t *testing.T) {
	home := t.TempDir()
	d := state.Open(home, "c")
	if err := d.Save(&state.Record{Spec: "old"}); err != nil {
		t.Fatal(err)
	}
	// What a crash leaves: a temporary file beside the record.
	for _, name := range []string{".state.json123", "state.json.tmp"} {
		if err := os.WriteFile(filepath.Join(d.Root(), name), []byte(`{"schema":1,"gener`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := d.Load()
	if err != nil || r.Spec != "old" || r.Generation != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	r.Spec = "new"
	if err := d.Save(&r); err != nil || r.Generation != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestSave_refusesAStaleRecord(t *testing.T) {
	d := state.Open(t.TempDir(), "c")
	if _, err := d.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the first run: %v", err)
	}
	if err := d.Save(&state.Record{}); err != nil {
		t.Fatal(err)
	}
	mine, err1 := d.Load()
	theirs, err2 := d.Load()
	if err := errors.Join(err1, err2, d.Save(&theirs)); err != nil {
		t.Fatal(err)
	}
	mine.Spec = "lost"
	if err := d.Save(&mine); !errors.Is(err, state.ErrStale) {
		t.Errorf("got %v", err)
	}
	if r, err := d.Load(); err != nil || r.Spec == "lost" || r.Generation != 2 || r.Cluster != "c" || r.Schema != state.Schema {
		t.Errorf("%+v, %v", r, err)
	}
	if err := d.Save(&state.Record{}); !errors.Is(err, state.ErrStale) {
		t.Errorf("a first save of a second one: %v", err)
	}
}

func TestLoad_refusesANewerSchemaAndWhatIsDamaged(t *testing.T) {
	for name, c := range map[string]struct{ text, says, hint string }{
		"newer":   {`{"schema":2,"generation":7}`, "schema 2", "newer kocli"},
		"damaged": {`{"schema":1,"gen`, "unexpected end", "move it away"},
	} {
		t.Run(name, func(t *testing.T) {
			d := state.Open(t.TempDir(), "c")
			if err := d.Write(filepath.Join(d.Root(), "state.json"), []byte(c.text)); err != nil {
				t.Fatal(err)
			}
			_, err := d.Load()
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(fault.HintOf(err), c.hint) {
				t.Errorf("%v, hint %q", err, fault.HintOf(err))
			}
			if err := d.Save(&state.Record{}); err == nil {
				t.Error("it was overwritten")
			}
		})
	}
}

func TestDir_nobodyElseCanReadIt(t *testing.T) {
	d := state.Open(t.TempDir(), "c")
	if err := errors.Join(d.Save(&state.Record{}), d.Write(d.Kubeconfig(), []byte("x")), d.Write(d.Secret("key"), []byte("x"))); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a journal is appended to
		j, err := d.Journal("run-1", "run.log")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(j, "line\n"); err != nil {
			t.Error(err)
		}
		_ = j.Close()
	}
	if data, err := os.ReadFile(filepath.Join(d.RunDir("run-1"), "run.log")); err != nil || string(data) != "line\nline\n" {
		t.Errorf("%q, %v", data, err)
	}
	err := filepath.WalkDir(d.Root(), func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", p, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestForget_keepsTheRuns(t *testing.T) {
	home := t.TempDir()
	d := state.Open(home, "c")
	if id, err := d.LastRun(); err != nil || id != "" {
		t.Errorf("%q, %v", id, err)
	}
	for _, id := range []string{"20260101T000000.000Z", "20260102T000000.000Z"} {
		j, err := d.Journal(id, "run.log")
		if err != nil {
			t.Fatal(err)
		}
		_ = j.Close()
	}
	if err := errors.Join(d.Save(&state.Record{}), d.Write(d.Kubeconfig(), nil), d.Write(d.Secret("key"), nil), d.Forget(), d.Forget()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record: %v", err)
	}
	if _, err := os.Stat(d.Secret("key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a secret: %v", err)
	}
	if id, err := d.LastRun(); err != nil || id != "20260102T000000.000Z" {
		t.Errorf("%q, %v", id, err)
	}
	if names, err := state.Clusters(home); err != nil || len(names) != 1 || names[0] != "c" {
		t.Errorf("%v, %v", names, err)
	}
	if names, err := state.Clusters(filepath.Join(home, "absent")); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
}
