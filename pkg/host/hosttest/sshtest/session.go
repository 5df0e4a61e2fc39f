package sshtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// Sudo says what sudo does for a user.
type Sudo string

// The ways of sudo.
const (
	SudoAbsent     Sudo = ""           // not installed
	SudoFree       Sudo = "free"       // NOPASSWD
	SudoPassword   Sudo = "password"   // wants SudoSecret
	SudoNotAllowed Sudo = "notallowed" // takes the password and refuses still
)

// sudo behaves as the real one does for the options that kocli uses: it reads
// the password from stdin byte by byte, so that what follows belongs to the
// command, asks three times, and says the same words.
const sudo = `#!/bin/sh
n= s= p='[sudo] password: '
while [ $# -gt 0 ]; do case $1 in
  -n) n=1; shift;; -S) s=1; shift;; -p) p=$2; shift 2;; --) shift; break;; *) echo "sudo: unexpected $1" >&2; exit 1;;
esac; done
if [ "$TEST_SUDO" != free ]; then
  if [ -n "$n" ]; then echo 'sudo: a password is required' >&2; exit 1; fi
  if [ -z "$s" ]; then echo 'sudo: a terminal is required to read the password' >&2; exit 1; fi
  tries=0
  while :; do
    printf %s "$p" >&2
    if ! IFS= read -r word; then
      echo >&2; echo 'sudo: no password was provided' >&2
      [ $tries = 0 ] || echo "sudo: $tries incorrect password attempt" >&2
      exit 1
    fi
    tries=$((tries+1))
    [ "$word" = "$(cat "$TEST_SUDO_SECRET")" ] && break
    if [ $tries = 3 ]; then echo 'sudo: 3 incorrect password attempts' >&2; exit 1; fi
    echo 'Sorry, try again.' >&2
  done
  if [ "$TEST_SUDO" = notallowed ]; then echo 'ops is not in the sudoers file.' >&2; exit 1; fi
fi
unset TEST_SUDO TEST_SUDO_SECRET
SUDO_USER=ops; export SUDO_USER
exec "$@"
`

// programs makes one folder with a shell and nothing else, and one with sudo.
func programs(t testing.TB) map[Sudo]string {
	t.Helper()
	without, with := t.TempDir(), t.TempDir()
	for _, dir := range []string{without, with} {
		if err := os.Symlink("/bin/sh", filepath.Join(dir, "sh")); err != nil {
			t.Fatal(err)
		}
	}
	cat, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(cat, filepath.Join(with, "cat")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(with, "sudo"), []byte(sudo), 0o755); err != nil {
		t.Fatal(err)
	}
	return map[Sudo]string{SudoAbsent: without, SudoFree: with, SudoPassword: with, SudoNotAllowed: with}
}

// session serves one channel: one command, or SFTP.
func (s *Server) session(nc ssh.NewChannel, user string) {
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer func() { _ = ch.Close() }()
	started := make(chan *exec.Cmd, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	for r := range requests {
		switch r.Type {
		case "exec":
			var body struct{ Line string }
			if ssh.Unmarshal(r.Payload, &body) != nil {
				_ = r.Reply(false, nil)
				continue
			}
			_ = r.Reply(true, nil)
			s.execs.Add(1)
			wg.Go(func() { s.exec(ch, user, body.Line, started) })
		case "subsystem":
			var body struct{ Name string }
			if s.o.NoSFTP || ssh.Unmarshal(r.Payload, &body) != nil || body.Name != "sftp" {
				_ = r.Reply(false, nil)
				continue
			}
			_ = r.Reply(true, nil)
			wg.Go(func() {
				if server, err := sftp.NewServer(ch); err == nil {
					_ = server.Serve()
					_ = server.Close()
				}
				_ = ch.Close()
			})
		case "signal":
			if s.o.Signals {
				select {
				case cmd := <-started:
					_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				default:
				}
			}
		default:
			_ = r.Reply(false, nil)
		}
	}
}

// exec runs a line as the user's login shell would, and reports how it ended.
func (s *Server) exec(ch ssh.Channel, user, line string, started chan<- *exec.Cmd) {
	u := s.o.Users[user]
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Dir = s.home
	cmd.Env = []string{"PATH=" + s.bins[u.Sudo], "HOME=" + s.home, "USER=" + user, "LC_ALL=fr_FR.UTF-8",
		"TEST_SUDO=" + string(u.Sudo), "TEST_SUDO_SECRET=" + s.secret(user)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	stderr, err3 := cmd.StderrPipe()
	if err := errors.Join(err1, err2, err3, cmd.Start()); err != nil {
		s.t.Error(err)
		return
	}
	s.track(cmd.Process.Pid, true)
	defer s.track(cmd.Process.Pid, false)
	started <- cmd
	var in io.Reader = ch
	if strings.HasSuffix(line, "sh -s") {
		in = io.MultiReader(strings.NewReader(s.o.Functions), ch)
	}
	s.wg.Go(func() { _, _ = io.Copy(stdin, in); _ = stdin.Close() })
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(ch, stdout); _ = stdout.Close() })
	wg.Go(func() { _, _ = io.Copy(ch.Stderr(), stderr); _ = stderr.Close() })
	wg.Wait()
	err := cmd.Wait()
	var x *exec.ExitError
	status := syscall.WaitStatus(0)
	if errors.As(err, &x) {
		status, _ = x.Sys().(syscall.WaitStatus)
	}
	if status.Signaled() {
		_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name    string
			Core    bool
			Message string
			Lang    string
		}{Name: signalName(status.Signal())}))
	} else {
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status.ExitStatus())}))
	}
	_ = ch.Close()
}

// secret is the file that sudo compares a user's password with.
func (s *Server) secret(user string) string { return filepath.Join(s.home, ".sudo-"+user) }

func signalName(s syscall.Signal) string {
	switch s {
	case syscall.SIGKILL:
		return "KILL"
	case syscall.SIGTERM:
		return "TERM"
	}
	return fmt.Sprint(int(s))
}

// track keeps the process groups that run, so that none outlives the test.
func (s *Server) track(pid int, runs bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if runs {
		s.groups[pid] = struct{}{}
	} else {
		delete(s.groups, pid)
	}
}

func (s *Server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid := range s.groups {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
}
