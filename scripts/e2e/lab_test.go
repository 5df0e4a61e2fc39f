//go:build e2e

// Package e2e holds the journeys: kocli against lab hosts with real sshd,
// systemd, containerd and kubeadm. scripts/e2e/run.sh prepares and runs them, in
// the order of the files: each goes on where the last one ended.
package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func env(t *testing.T, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Fatalf("%s is not set: run scripts/e2e/run.sh", name)
	}
	return v
}

// result is a kocli that ended.
type result struct {
	out, err string
	code     int
	took     time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("exit %d after %s\nstdout:\n%s\nstderr:\n%s", r.code, r.took.Round(time.Millisecond), r.out, r.err)
}

// home is kocli's folder of a user; known hosts are those of the lab as it is
// now: a host that was made anew has another key.
func home(t *testing.T, user string) string {
	t.Helper()
	dir := filepath.Join(env(t, "KOCLI_E2E_WORK"), "home-"+user)
	known := filepath.Join(dir, "known_hosts")
	data, err := os.ReadFile(env(t, "KOCLI_LAB_KNOWN_HOSTS"))
	if err != nil {
		t.Fatal(err)
	}
	if have, err := os.ReadFile(known); err == nil && bytes.Equal(have, data) {
		return dir
	}
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(known, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func yaml(t *testing.T, user string) string {
	t.Helper()
	return filepath.Join(env(t, "KOCLI_E2E_WORK"), user+".yaml")
}

// command is a kocli of a user. Commands that take a bundle get it.
func command(t *testing.T, user string, args ...string) *exec.Cmd {
	t.Helper()
	verb := 1
	switch args[0] {
	case "bundle": // bundle push BUNDLE
		args, verb = append([]string{args[0], args[1], env(t, "KOCLI_E2E_BUNDLE")}, args[2:]...), 3
	case "node", "certs", "backup", "registry", "addon":
		verb = 2
	}
	all := append(slices.Clone(args[:verb]), "--home", home(t, user), "-f", yaml(t, user))
	joins := args[0] == "node" && (args[1] == "add" || args[1] == "replace") || args[0] == "scale"
	joins = joins || args[0] == "backup" && args[1] == "restore" || args[0] == "addon" && slices.Contains([]string{"install", "upgrade", "values"}, args[1])
	if args[0] == "create" || args[0] == "plan" || args[0] == "preflight" || joins {
		all = append(all, "--bundle", env(t, "KOCLI_E2E_BUNDLE"))
	}
	if args[0] == "upgrade" {
		all = append(all, "--yes", "--bundle", env(t, "KOCLI_E2E_NEXT_BUNDLE"))
	}
	return exec.Command(env(t, "KOCLI_E2E_KOCLI"), append(all, args[verb:]...)...)
}

// kocli runs kocli to its end.
func kocli(t *testing.T, user string, args ...string) result {
	t.Helper()
	c := command(t, user, args...)
	var out, stderr bytes.Buffer
	c.Stdout, c.Stderr = &out, &stderr
	start := time.Now()
	err := c.Run()
	var x *exec.ExitError
	if err != nil && !errors.As(err, &x) {
		t.Fatal(err)
	}
	return result{out.String(), stderr.String(), c.ProcessState.ExitCode(), time.Since(start)}
}

// want runs kocli and fails the test when the exit code is another one.
func want(t *testing.T, code int, user string, args ...string) result {
	t.Helper()
	r := kocli(t, user, args...)
	if r.code != code {
		t.Fatalf("kocli %s: wanted exit %d\n%s", strings.Join(args, " "), code, r)
	}
	return r
}

// event is a line of -o json.
type event struct {
	Kind, Phase, Node, Step, Error string
	Changed                        int
	Hosts                          map[string]struct{ RoundTrips, BytesSent int64 }
	MissingBytes                   map[string]int64
	SentBytes, Links, MadeBlobs    int64
}

// lastLine decodes the last line of -o json.
func lastLine(t *testing.T, out string) event {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var e event
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil {
		t.Fatalf("last line of -o json: %v\n%s", err, out)
	}
	return e
}

// signalAt runs kocli with -o json and sends it a signal when an event arrives
// that at likes. It returns the exit code; -1 for a process that was killed.
func signalAt(t *testing.T, user string, sig syscall.Signal, at func(event) bool, args ...string) int {
	t.Helper()
	c := command(t, user, append(args, "-o", "json")...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	sent := false
	s := bufio.NewScanner(out)
	s.Buffer(nil, 1<<20)
	var all strings.Builder
	for s.Scan() {
		all.WriteString(s.Text() + "\n")
		var e event
		if json.Unmarshal(s.Bytes(), &e) == nil && !sent && at(e) {
			sent = true
			if err := c.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = c.Wait() // the exit code is the answer
	if !sent {
		t.Fatalf("the moment never came:\n%s\n%s", all.String(), stderr.String())
	}
	return c.ProcessState.ExitCode()
}

// lab runs lab.sh.
func lab(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(env(t, "KOCLI_E2E_LAB"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("lab.sh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// copyTo copies a file to a host, past kocli and SSH.
func copyTo(t *testing.T, host, src, dst, mode string) {
	t.Helper()
	f, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	c := exec.Command(env(t, "KOCLI_E2E_LAB"), "exec", "e2e", host, "--", "sh", "-c", "cat >"+dst+"; chmod "+mode+" "+dst)
	c.Stdin = f
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", src, err, out)
	}
}

// sh runs a shell line on a host as root, past kocli and SSH.
func sh(t *testing.T, host, script string) string {
	t.Helper()
	return strings.TrimSpace(lab(t, "exec", "e2e", host, "--", "sh", "-c", script))
}

// kubectl runs kubectl on the control plane.
func kubectl(t *testing.T, args string) string {
	t.Helper()
	return sh(t, "host1", "kubectl --cache-dir /tmp/kube --kubeconfig /etc/kubernetes/admin.conf "+args)
}

// healthy waits until three nodes are ready and every pod runs, and fails after
// the given time.
func healthy(t *testing.T, within time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		out, err := exec.Command(env(t, "KOCLI_E2E_LAB"), "exec", "e2e", "host1", "--", "sh", "-c",
			`kubectl --cache-dir /tmp/kube --kubeconfig /etc/kubernetes/admin.conf get nodes --no-headers && echo -- && kubectl --cache-dir /tmp/kube --kubeconfig /etc/kubernetes/admin.conf get pods -A --no-headers`).CombinedOutput()
		nodes, pods, ok := strings.Cut(string(out), "--\n")
		if err == nil && ok && strings.Count(nodes, " Ready ") == 3 && allRunning(pods) {
			return time.Since(start)
		}
		if time.Since(start) > within {
			t.Fatalf("not healthy after %s: %v\n%s", within, err, out)
		}
		time.Sleep(time.Second)
	}
}

// allRunning reports whether every pod of a listing runs with all containers.
func allRunning(pods string) bool {
	n := 0
	for _, l := range strings.Split(strings.TrimSpace(pods), "\n") {
		f := strings.Fields(l)
		if len(f) < 4 || f[3] != "Running" {
			return false
		}
		if ready, all, _ := strings.Cut(f[2], "/"); ready != all {
			return false
		}
		n++
	}
	return n >= 10
}

// figure prints a measured value.
func figure(t *testing.T, name string, value any) { t.Logf("figure %s %v", name, value) }
