package fanout

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	killHosts = 3
	killUnit  = 4 << 20 // enough for the kill to come in the middle
	killSize  = 3*killUnit + 17
)

// killCluster is the cluster of a push that is killed, and of the one after it.
func killCluster(t *testing.T, dir string, mode Mode) *cluster {
	c := &cluster{t: t, options: Options{Items: items(killSize, killSize), Mode: mode, Now: time.Now, Say: func(string) {}}}
	for i := range killHosts {
		m := &machine{name: fmt.Sprintf("host%d", i+1), root: filepath.Join(dir, fmt.Sprint(i))}
		c.machines = append(c.machines, m)
		c.options.Targets = append(c.options.Targets, Target{Host: m, IP: "127.0.0.1", Relay: []string{"relay"}, Blobs: []int{0, 1}})
	}
	return c
}

// pushUntilKilled is a process that pushes, hosts and all, and stops in the
// middle of the second blob.
func pushUntilKilled(arg string) {
	mode, dir, _ := strings.Cut(arg, ":")
	c := killCluster(nil, dir, Mode(mode))
	c.at(2*killUnit+4*frameData, func() {
		time.Sleep(300 * time.Millisecond) // what was sent arrives
		fmt.Println("in the middle")
		select {} // until it is killed
	})
	_, err := Push(context.Background(), c.options)
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestPush_goesOnAfterAKillOfTheProcess(t *testing.T) {
	for _, mode := range []Mode{Chain, SSH} {
		t.Run(string(mode), func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "KOCLI_TEST_PUSH="+string(mode)+":"+dir)
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
			c := killCluster(t, dir, mode)
			var there int64 // of whole blobs, and of whole chunks of parts
			for _, m := range c.machines {
				for _, it := range c.options.Items {
					if _, err := os.Stat(Path(m.root, it.Digest)); err == nil {
						there += it.Size
					} else if st, err := os.Stat(filepath.Join(m.root, "part", it.Digest[7:])); err == nil {
						there += st.Size() / chunkSize * chunkSize
					}
				}
			}
			if there < killSize+killUnit {
				t.Fatalf("only %d bytes were there", there)
			}
			r := c.push()
			c.check(c.machines...)
			var missing int64
			for _, n := range r.Missing {
				missing += n
			}
			if most := int64(killHosts*2*killSize) - there; missing > most {
				t.Errorf("%d bytes were sent, %d were there already, %d were lacking", missing, there, most)
			}
		})
	}
}
