package patch

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/host/fanout"
)

// stops is a writer that stands still from the n-th line on.
type stops struct{ left int }

func (s *stops) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(`:0}`)) { // it only lives
		return len(p), nil
	}
	if s.left--; s.left < 0 {
		fmt.Println("in the middle")
		select {} // until it is killed
	}
	return len(p), nil
}

// TestMain lets this program be an Apply that can be killed.
func TestMain(m *testing.M) {
	if root := os.Getenv("KOCLI_TEST_PATCH"); root != "" {
		fmt.Fprintln(os.Stderr, Apply(context.Background(), os.Stdin, &stops{2}, root))
		os.Exit(1)
	}
	code := m.Run()
	if paths, err := files(); err == nil {
		_ = os.RemoveAll(filepath.Dir(paths[0]))
	}
	os.Exit(code)
}

// run starts an Apply that stands still once two blobs are there and a third is.
func (w *world) run(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KOCLI_TEST_PATCH="+w.root)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(w.raw(t)), os.Stderr
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
	return cmd
}

func TestApply_killedInTheMiddleGoesOn(t *testing.T) {
	w := newWorld(t)
	cmd := w.run(t)
	if _, err := w.apply(t); err == nil {
		t.Error("two at once")
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("it was not killed")
	}
	var made []string
	for _, b := range w.order.Blobs {
		if _, err := os.Stat(fanout.Path(w.root, b.Digest)); err == nil {
			made = append(made, b.Digest)
		}
	}
	if len(made) != 3 {
		t.Errorf("%d blobs are there", len(made))
	}
	// What is half made is no blob.
	half := fanout.MadePath(w.root, w.order.Blobs[4].Digest)
	if err := os.WriteFile(half, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := map[string]time.Time{}
	for _, d := range made {
		st, err := os.Stat(fanout.Path(w.root, d))
		if err != nil {
			t.Fatal(err)
		}
		before[d] = st.ModTime()
	}
	if _, err := w.apply(t); err != nil {
		t.Fatal(err)
	}
	w.check(t)
	for d, at := range before {
		if st, err := os.Stat(fanout.Path(w.root, d)); err != nil || !st.ModTime().Equal(at) {
			t.Errorf("%s was made again: %v", filepath.Base(d), err)
		}
	}
}
