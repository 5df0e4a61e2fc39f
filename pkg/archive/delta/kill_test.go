package delta

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMain lets this program be a command that can be killed.
func TestMain(m *testing.M) {
	if args := strings.Split(os.Getenv("KOCLI_TEST_DELTA"), "\n"); len(args) == 4 {
		run := map[string]func(context.Context, Options) error{
			"make":  func(ctx context.Context, o Options) error { _, err := Make(ctx, o); return err },
			"apply": func(ctx context.Context, o Options) error { _, err := Apply(ctx, o); return err },
		}[args[0]]
		calls := 0
		err := run(context.Background(), Options{Base: args[1], Input: args[2], Output: args[3], Each: func(int64, int64) {
			if calls++; calls == 3 {
				fmt.Println("in the middle")
				select {} // until it is killed
			}
		}})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// killed runs a command and kills it in the middle.
func killed(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KOCLI_TEST_DELTA="+strings.Join(args, "\n"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "in the middle\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("it was not killed")
	}
}

func TestDelta_killedLeavesWhatWasThereAndIsDoneByTheNext(t *testing.T) {
	old, next := release(t, "v1", 0, nil), release(t, "v2", 0x30, nil)
	dir := t.TempDir()
	file, joined := filepath.Join(dir, "d.tar"), filepath.Join(dir, "new.tar")
	for _, path := range []string{file, joined} {
		if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	killed(t, "make", old, next, file)
	if string(read(t, file)) != "before" {
		t.Error("half a delta is there")
	}
	if _, err := Make(t.Context(), Options{Base: old, Input: next, Output: file}); err != nil {
		t.Fatal(err)
	}
	killed(t, "apply", old, file, joined)
	if string(read(t, joined)) != "before" {
		t.Error("half a bundle is there")
	}
	if _, err := Apply(t.Context(), Options{Base: old, Input: file, Output: joined}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, next), read(t, joined)) {
		t.Error("it is another bundle")
	}
	if l, err := os.ReadDir(dir); err != nil || len(l) != 2 {
		t.Errorf("left behind: %v, %v", l, err)
	}
}
