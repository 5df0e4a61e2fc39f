package sshhost_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/hosttest/sshtest"
	"github.com/kocli/kocli/pkg/host/sshhost"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// canary is a password that must not show up anywhere.
const canary = "s3cr3t c'anary"

func yes(string, ssh.PublicKey) bool { return true }

// options accept the key of any host, as --accept-new-host-keys does.
func options(t *testing.T) sshhost.Options {
	t.Helper()
	return sshhost.Options{Keys: &sshhost.KnownHosts{File: filepath.Join(t.TempDir(), "known_hosts"), Accept: yes}, Timeout: 20 * time.Second}
}

func target(s *sshtest.Server, user string) sshhost.Target {
	return sshhost.Target{Name: "node-1", Address: "127.0.0.1", Port: s.Port, Login: sshhost.Login{User: user, Password: canary}}
}

// dial connects until the test ends.
func dial(t *testing.T, to sshhost.Target, o sshhost.Options) *sshhost.Host {
	t.Helper()
	h, err := sshhost.Dial(t.Context(), to, o)
	if err != nil {
		t.Fatalf("dial: %v (%s)", err, fault.HintOf(err))
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// me is who owns the files that the test's own process makes.
func me(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	g, err := user.LookupGroupId(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	return u.Username + ":" + g.Name
}

func subject(t *testing.T, h *sshhost.Host) hosttest.Subject {
	t.Helper()
	s := hosttest.Subject{Host: h, Dir: t.TempDir(), Owner: me(t), Trips: h.Trips}
	if os.Geteuid() == 0 {
		s.Other = "daemon:daemon"
	}
	return s
}

func TestHost_conforms(t *testing.T) {
	for name, o := range map[string]struct {
		server sshtest.Options
		login  sshhost.Login
		via    bool
	}{
		"as root":                       {sshtest.Options{Users: map[string]sshtest.User{"root": {Password: canary}}}, sshhost.Login{User: "root", Password: canary}, false},
		"as root without SFTP":          {sshtest.Options{NoSFTP: true, Users: map[string]sshtest.User{"root": {Password: canary}}}, sshhost.Login{User: "root", Password: canary}, false},
		"with sudo and a password":      {sshtest.Options{Users: map[string]sshtest.User{"ops": {Password: "x", Sudo: sshtest.SudoPassword, SudoSecret: canary}}}, sshhost.Login{User: "ops", Password: "x", SudoPassword: canary}, false},
		"with sudo without a password":  {sshtest.Options{Users: map[string]sshtest.User{"deploy": {Password: "x", Sudo: sshtest.SudoFree}}}, sshhost.Login{User: "deploy", Password: "x"}, false},
		"through a bastion, 2 sessions": {sshtest.Options{Sessions: 2, Users: map[string]sshtest.User{"root": {Password: canary}}}, sshhost.Login{User: "root", Password: canary}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := sshtest.Start(t, o.server)
			to := sshhost.Target{Name: "node-1", Address: "127.0.0.1", Port: server.Port, Login: o.login}
			if o.via {
				bastion := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"jump": {Password: "j"}}})
				to.Bastion = &sshhost.Target{Name: "bastion", Address: "127.0.0.1", Port: bastion.Port, Login: sshhost.Login{User: "jump", Password: "j"}}
			}
			hosttest.Run(t, func(t *testing.T) hosttest.Subject { return subject(t, dial(t, to, options(t))) })
		})
	}
}

func TestHost_aPasswordForSudoThatWantsNone(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"ops": {Password: canary, Sudo: sshtest.SudoFree}}})
	to := target(server, "ops")
	to.SudoPassword = canary
	h := dial(t, to, options(t))
	c := host.Command("cat")
	c.Stdin = strings.NewReader("for the command alone")
	if out, err := h.Run(t.Context(), c); err != nil || out.Text() != "for the command alone" {
		t.Errorf("%q, %v", out.Text(), err)
	}
}

func TestHost_sudoPasswordReachesNothingButSudo(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"ops": {Password: "x", Sudo: sshtest.SudoPassword, SudoSecret: canary}}})
	to := target(server, "ops")
	to.Password, to.SudoPassword = "x", canary
	h := dial(t, to, options(t))
	// Everything that a process of the host can see of it.
	out, err := h.Run(t.Context(), host.Command("sh", "-c", `env; cat /proc/$$/cmdline /proc/$PPID/cmdline | tr '\000' '\n'; cat`))
	if err != nil {
		t.Fatal(err)
	}
	if text := string(out.Stdout) + string(out.Stderr); strings.Contains(text, "c'anary") || !strings.Contains(text, "SUDO_USER=ops") {
		t.Errorf("the command saw %q", text)
	}
	if out, err := h.Run(t.Context(), host.Cmd{Argv: []string{"sh", "-c", "echo ${SUDO_USER-none}"}}); err != nil || out.Text() != "none" {
		t.Errorf("a command that does not want root: %q, %v", out.Text(), err)
	}
}

func TestDial_sudoRefused(t *testing.T) {
	for name, c := range map[string]struct {
		user     sshtest.User
		password string
		says     string
		hint     string
	}{
		"the password is wrong":        {sshtest.User{Sudo: sshtest.SudoPassword, SudoSecret: "right"}, canary, "incorrect password", "spec.ssh.sudoPassword"},
		"a password is wanted":         {sshtest.User{Sudo: sshtest.SudoPassword, SudoSecret: "right"}, "", "password is required", "spec.ssh.sudoPassword"},
		"the user may not":             {sshtest.User{Sudo: sshtest.SudoNotAllowed, SudoSecret: canary}, canary, "not in the sudoers", "sudo -v"},
		"there is no sudo":             {sshtest.User{}, "", "not found", "log in as root"},
		"there is no sudo, a password": {sshtest.User{}, canary, "not found", "log in as root"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.user.Password = "login"
			server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"ops": c.user}})
			to := target(server, "ops")
			to.Password, to.SudoPassword = "login", c.password
			_, err := sshhost.Dial(t.Context(), to, options(t))
			if !errors.Is(err, sshhost.ErrSudo) || fault.CodeOf(err) != fault.Unreachable || fault.NodeOf(err) != "node-1" {
				t.Fatalf("got %v, code %d", err, fault.CodeOf(err))
			}
			if !strings.Contains(err.Error(), c.says) || !strings.Contains(fault.HintOf(err), c.hint) {
				t.Errorf("it says %q, and hints %q", err, fault.HintOf(err))
			}
			if strings.Contains(err.Error()+fault.HintOf(err), "c'anary") {
				t.Error("the password shows")
			}
		})
	}
}

func TestDial_logins(t *testing.T) {
	known, knownFile := sshtest.KeyFile(t)
	_, otherFile := sshtest.KeyFile(t)
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{
		"root":  {Password: canary, Keys: []ssh.PublicKey{known.PublicKey()}},
		"asked": {Password: canary, Interactive: true, Sudo: sshtest.SudoFree},
	}})
	for name, c := range map[string]struct {
		login sshhost.Login
		says  string // "" means that it works
	}{
		"a key":                        {sshhost.Login{User: "root", KeyFile: knownFile}, ""},
		"a password":                   {sshhost.Login{User: "root", Password: canary}, ""},
		"a wrong key, then a password": {sshhost.Login{User: "root", KeyFile: otherFile, Password: canary}, ""},
		"keyboard-interactive":         {sshhost.Login{User: "asked", Password: canary}, ""},
		"a wrong password":             {sshhost.Login{User: "root", Password: "wrong " + canary}, "unable to authenticate"},
		"a wrong key":                  {sshhost.Login{User: "root", KeyFile: otherFile}, "unable to authenticate"},
		"an unknown user":              {sshhost.Login{User: "nobody", Password: canary}, "unable to authenticate"},
		"a key that is not there":      {sshhost.Login{User: "root", KeyFile: "/absent"}, "no such file"},
		"nothing":                      {sshhost.Login{User: "root"}, "no way to log in"},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := sshhost.Dial(t.Context(), sshhost.Target{Name: "node-1", Address: "127.0.0.1", Port: server.Port, Login: c.login}, options(t))
			if c.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				_ = h.Close()
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || fault.CodeOf(err) != fault.Unreachable || fault.HintOf(err) == "" {
				t.Errorf("got %v, code %d, hint %q", err, fault.CodeOf(err), fault.HintOf(err))
			}
			if strings.Contains(fmt.Sprint(err)+fault.HintOf(err), "c'anary") {
				t.Error("the password shows")
			}
		})
	}
}

func TestDial_unreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	_, err = sshhost.Dial(t.Context(), sshhost.Target{Name: "n", Address: "127.0.0.1", Port: port, Login: sshhost.Login{User: "root", Password: "x"}}, options(t))
	if fault.CodeOf(err) != fault.Unreachable || !strings.Contains(fault.HintOf(err), "ssh -p "+strconv.Itoa(port)) {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
	silent := sshtest.Start(t, sshtest.Options{Silent: true})
	o := options(t)
	o.Timeout = 50 * time.Millisecond
	_, err = sshhost.Dial(t.Context(), target(silent, "root"), o)
	if fault.CodeOf(err) != fault.Unreachable || !strings.Contains(err.Error(), "no SSH answer") {
		t.Errorf("a server that says nothing: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = sshhost.Dial(ctx, target(silent, "root"), o); !errors.Is(err, context.Canceled) || fault.CodeOf(err) != fault.Interrupted {
		t.Errorf("interrupted: %v, code %d", err, fault.CodeOf(err))
	}
}

func TestKnownHosts_firstContact(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Password: canary}}})
	file := filepath.Join(t.TempDir(), "deep", "known_hosts")
	_, err := sshhost.Dial(t.Context(), target(server, "root"), sshhost.Options{Keys: &sshhost.KnownHosts{File: file}})
	if !errors.Is(err, sshhost.ErrHostKey) || !strings.Contains(fault.HintOf(err), "--accept-new-host-keys") ||
		!strings.Contains(err.Error(), ssh.FingerprintSHA256(server.Key)) || fault.CodeOf(err) != fault.Unreachable {
		t.Errorf("unknown, nobody accepts: %v, hint %q", err, fault.HintOf(err))
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a key that nobody accepted was recorded")
	}
	_ = dial(t, target(server, "root"), sshhost.Options{Keys: &sshhost.KnownHosts{File: file, Accept: yes}})
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the record: %v, %v", info, err)
	}
	refuse := func(string, ssh.PublicKey) bool { t.Error("asked about a key on record"); return false }
	_ = dial(t, target(server, "root"), sshhost.Options{Keys: &sshhost.KnownHosts{File: file, Accept: refuse}})
	// Another file, such as the user's own, is as good.
	_ = dial(t, target(server, "root"), sshhost.Options{Keys: &sshhost.KnownHosts{File: file + "-absent", More: []string{"/absent", file}}})
	if server.Logins() != 3 {
		t.Errorf("%d logins", server.Logins())
	}
}

func TestKnownHosts_changedKeyIsRefused(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Password: canary}}})
	file := record(t, server.Port, sshtest.Signer(t).PublicKey())
	_, err := sshhost.Dial(t.Context(), target(server, "root"), sshhost.Options{Keys: &sshhost.KnownHosts{File: file, Accept: yes}})
	if !errors.Is(err, sshhost.ErrHostKey) || !strings.Contains(fault.HintOf(err), "ssh-keygen -f "+file) || !strings.Contains(fault.HintOf(err), "line 1") {
		t.Errorf("got %v, hint %q", err, fault.HintOf(err))
	}
	if server.Logins() != 0 {
		t.Error("it logged in all the same")
	}
}

// record writes a known_hosts file with keys for the server.
func record(t *testing.T, port int, keys ...ssh.PublicKey) string {
	t.Helper()
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, "[127.0.0.1]:%d %s", port, ssh.MarshalAuthorizedKey(k))
	}
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A server shows the best key that the client asks for; the client must ask for
// one that it knows.
func TestKnownHosts_asksForTheKeyThatItKnows(t *testing.T) {
	keys := []ssh.Signer{sshtest.Signer(t), sshtest.ECDSA(t), sshtest.RSA(t)}
	server := sshtest.Start(t, sshtest.Options{HostKeys: keys, Users: map[string]sshtest.User{"root": {Password: canary}}})
	for _, k := range keys {
		file := record(t, server.Port, k.PublicKey())
		h, err := sshhost.Dial(t.Context(), target(server, "root"), sshhost.Options{Keys: &sshhost.KnownHosts{File: file}})
		if err != nil {
			t.Errorf("%s alone is known: %v", k.PublicKey().Type(), err)
			continue
		}
		_ = h.Close()
	}
}

func TestKnownHosts_severalHostsAtOnce(t *testing.T) {
	o := options(t)
	var wg sync.WaitGroup
	for range 8 {
		server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Password: canary}}})
		wg.Go(func() {
			h, err := sshhost.Dial(t.Context(), target(server, "root"), o)
			if err != nil {
				t.Error(err)
				return
			}
			_ = h.Close()
		})
	}
	wg.Wait()
	data, err := os.ReadFile(o.Keys.File)
	if err != nil || bytes.Count(data, []byte("\n")) != 8 {
		t.Errorf("%d keys on record, %v", bytes.Count(data, []byte("\n")), err)
	}
}

func TestDial_bastion(t *testing.T) {
	users := map[string]sshtest.User{"root": {Password: canary}}
	bastion, server := sshtest.Start(t, sshtest.Options{Users: users}), sshtest.Start(t, sshtest.Options{Users: users})
	to := target(server, "root")
	via := target(bastion, "root")
	to.Bastion = &via
	h := dial(t, to, options(t))
	if _, err := h.Query(t.Context(), host.Command("true")); err != nil || bastion.Tunnels() != 1 || bastion.Execs() != 0 {
		t.Errorf("%v, %d tunnels", err, bastion.Tunnels())
	}
	// Both keys are checked.
	file := record(t, bastion.Port, bastion.Key)
	_, err := sshhost.Dial(t.Context(), to, sshhost.Options{Keys: &sshhost.KnownHosts{File: file}})
	if !errors.Is(err, sshhost.ErrHostKey) {
		t.Errorf("the host behind it: %v", err)
	}
	via.Password = "wrong"
	_, err = sshhost.Dial(t.Context(), to, options(t))
	if err == nil || !strings.Contains(err.Error(), "bastion "+bastion.Addr()) {
		t.Errorf("a bastion that refuses: %v", err)
	}
}

func TestHost_tunnel(t *testing.T) {
	users := map[string]sshtest.User{"root": {Password: canary}}
	server, other := sshtest.Start(t, sshtest.Options{Users: users}), sshtest.Start(t, sshtest.Options{Users: users})
	h := dial(t, target(server, "root"), options(t))
	c, err := h.DialContext(t.Context(), "tcp", other.Addr())
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4)
	if _, err := c.Read(buf); err != nil || string(buf) != "SSH-" {
		t.Errorf("%q, %v", buf, err)
	}
	_ = c.Close()
	if _, err := h.DialContext(t.Context(), "tcp", "127.0.0.1:1"); err == nil || fault.CodeOf(err) == fault.Unreachable || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a port where nobody listens: %v", err)
	}
}

// gone waits until a process has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return
		}
	}
	t.Errorf("process %d still runs", pid)
}

// pid waits for a process to write its number.
func pid(t *testing.T, file string) int {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		data, err := os.ReadFile(file)
		if n, aerr := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && aerr == nil && strings.HasSuffix(string(data), "\n") {
			return n
		}
	}
	t.Fatal("the command did not start")
	return 0
}

// endless is stdin that never ends.
type endless struct{ done <-chan struct{} }

func (e endless) Read([]byte) (int, error) { <-e.done; return 0, context.Canceled }

// sshd refuses signals to root, so that the end of stdin is all that tells a
// process on the other side.
func TestHost_cancelEndsTheRemoteProcess(t *testing.T) {
	users := map[string]sshtest.User{"root": {Password: canary}, "ops": {Password: canary, Sudo: sshtest.SudoPassword, SudoSecret: canary}}
	for _, who := range []string{"root", "ops"} {
		for name, c := range map[string]struct {
			script string
			stdin  bool
			lose   bool
		}{
			"without stdin":                         {`echo $$ >"$1"; exec sleep 600`, false, false},
			"with stdin":                            {`echo $$ >"$1"; exec cat`, true, false},
			"without stdin, the connection is lost": {`echo $$ >"$1"; exec sleep 600`, false, true},
			"with stdin, the connection is lost":    {`echo $$ >"$1"; exec cat`, true, true},
		} {
			t.Run(who+" "+name, func(t *testing.T) {
				t.Parallel()
				server := sshtest.Start(t, sshtest.Options{Users: users})
				to := target(server, who)
				to.SudoPassword = canary
				h := dial(t, to, options(t))
				file := filepath.Join(t.TempDir(), "pid")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				cmd := host.Command("sh", "-c", c.script, "sh", file)
				if c.stdin {
					cmd.Stdin = endless{ctx.Done()}
				}
				ended := make(chan error, 1)
				go func() { _, err := h.Run(ctx, cmd); ended <- err }()
				p := pid(t, file)
				if c.lose {
					server.Drop()
				} else {
					cancel()
				}
				err := <-ended
				if c.lose && fault.CodeOf(err) != fault.Unreachable || !c.lose && !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
				gone(t, p)
			})
		}
	}
}

func TestHost_aProcessThatIsKilledHasACode(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Password: canary}}})
	h := dial(t, target(server, "root"), options(t))
	for _, withStdin := range []bool{false, true} {
		c := host.Command("sh", "-c", "kill -KILL $$")
		if withStdin {
			c.Stdin = strings.NewReader("x")
		}
		_, err := h.Run(t.Context(), c)
		var x *host.ExitError
		if !errors.As(err, &x) || x.Code != 128+9 {
			t.Errorf("with stdin %t: %v", withStdin, err)
		}
	}
}

func TestHost_lostConnection(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Password: canary}}})
	h := dial(t, target(server, "root"), options(t))
	server.Drop()
	_, err1 := h.Query(t.Context(), host.Command("true"))
	_, err2 := h.ReadFile(t.Context(), "/etc/hosts")
	_, err3 := h.Stat(t.Context(), "/etc/hosts")
	_, err4 := h.Batch(t.Context(), []host.Cmd{host.Command("true")})
	_, err5 := h.Put(t.Context(), host.Bytes(filepath.Join(t.TempDir(), "x"), 0o600, nil))
	err6 := h.Remove(t.Context(), filepath.Join(t.TempDir(), "x"))
	_, err7 := h.DialContext(t.Context(), "tcp", server.Addr())
	for i, err := range []error{err1, err2, err3, err4, err5, err6, err7} {
		if fault.CodeOf(err) != fault.Unreachable || fault.NodeOf(err) != "node-1" || !strings.Contains(fault.HintOf(err), "run the same command again") ||
			errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%d: %v, code %d, hint %q", i+1, err, fault.CodeOf(err), fault.HintOf(err))
		}
	}
}

func TestHost_keepAliveNoticesACutCable(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Password: canary}}})
	cable := sshtest.NewCable(t, server.Addr())
	o := options(t)
	o.KeepAlive = 20 * time.Millisecond
	o.Dial = cable.DialContext
	h := dial(t, target(server, "root"), o)
	if _, err := h.Query(t.Context(), host.Command("true")); err != nil {
		t.Fatal(err)
	}
	cable.Cut()
	_, err := h.Run(t.Context(), host.Command("sleep", "600"))
	if fault.CodeOf(err) != fault.Unreachable || !strings.Contains(err.Error(), "no answer for") {
		t.Errorf("got %v", err)
	}
}

func TestHost_cancelReturnsOnADeadConnection(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Password: canary}}})
	cable := sshtest.NewCable(t, server.Addr())
	o := options(t)
	o.Dial, o.KeepAlive = cable.DialContext, time.Hour
	h := dial(t, target(server, "root"), o)
	file := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() {
		_, err := h.Run(ctx, host.Command("sh", "-c", `echo $$ >"$1"; exec sleep 600`, "sh", file))
		ended <- err
	}()
	p := pid(t, file)
	cable.Cut()
	go func() { _, err := h.Query(ctx, host.Command("true")); ended <- err }()
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	server.Drop()
	gone(t, p)
}

// Of many questions that travel together, the one that hangs is named.
func TestHost_aBatchTellsFilesAndComplaintsAsTheyAre(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Password: canary}}})
	h := dial(t, target(server, "root"), options(t))
	dir := t.TempDir()
	write := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	all := string([]byte{0, 1, '\n', '|', '!', '[', '3', ']', ':', 0xff, '\''})
	missing := filepath.Join(dir, "näme|3:!\n")
	var cmds []host.Cmd
	for _, p := range []string{write("all", all), write("empty", ""), write("a b\n'c", "x"), missing, dir} {
		cmds = append(cmds, host.Command("cat", "--", p))
	}
	got := mustBatch(t, h, append(cmds, host.Command("cat", "--", cmds[0].Argv[2], missing)))
	for i, want := range []string{all, "", "x"} {
		if string(got[i].Stdout) != want || got[i].Code != 0 || len(got[i].Stderr) != 0 {
			t.Errorf("file %d: %+v", i, got[i])
		}
	}
	if r := got[3]; r.Code != 1 || len(r.Stdout) != 0 || !strings.Contains(string(r.Stderr), "No such file") {
		t.Errorf("a file that is not there: %d %q %q", r.Code, r.Stdout, r.Stderr)
	}
	if r := got[4]; r.Code != 1 || len(r.Stdout) != 0 || !strings.Contains(string(r.Stderr), "Is a directory") {
		t.Errorf("a folder: %d %q %q", r.Code, r.Stdout, r.Stderr)
	}
	if r := got[5]; r.Code != 1 || string(r.Stdout) != all || !strings.Contains(string(r.Stderr), "No such file") {
		t.Errorf("one of two files: %d %q %q", r.Code, r.Stdout, r.Stderr)
	}
}

func mustBatch(t *testing.T, h *sshhost.Host, cmds []host.Cmd) []host.Result {
	t.Helper()
	out, err := h.Batch(t.Context(), cmds)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestHost_aBatchNamesTheQuestionThatHangs(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Password: canary}}})
	h := dial(t, target(server, "root"), options(t))
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("the test has waited long enough")
	writer := make(chan *os.File, 1)
	go func() {
		f, err := os.OpenFile(pipe, os.O_WRONLY, 0) // waits for the question that reads it
		if err != nil {
			t.Error(err)
		}
		time.Sleep(300 * time.Millisecond) // the answers before it are on their way
		cancel(enough)
		writer <- f
	}()
	_, err := h.Batch(ctx, []host.Cmd{host.Command("printf", "%s", "a"), host.StatCommand(pipe), host.Command("cat", "--", pipe), host.Command("printf", "%s", "b")})
	if !errors.Is(err, enough) || !strings.HasPrefix(err.Error(), "cat -- "+pipe+": ") {
		t.Errorf("got %v", err)
	}
	if f := <-writer; f != nil {
		_ = f.Close()
	}
}

func TestPut_cutInMidUploadLeavesTheOldFile(t *testing.T) {
	users := map[string]sshtest.User{"root": {Password: canary}, "ops": {Password: canary, Sudo: sshtest.SudoPassword, SudoSecret: canary}}
	for _, c := range []struct {
		name, user string
		noSFTP     bool
		size       int
	}{
		{"through SFTP", "root", false, 8 << 20},
		{"through the shell", "root", true, 8 << 20},
		{"a file below the size for SFTP", "root", false, 900 << 10},
		{"through sudo", "ops", false, 8 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := sshtest.Start(t, sshtest.Options{Users: users, NoSFTP: c.noSFTP})
			to := target(server, c.user)
			to.SudoPassword = canary
			o := options(t)
			dir := t.TempDir()
			file := filepath.Join(dir, "file")
			if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			data := bytes.Repeat([]byte("0123456789abcdef"), c.size/16)
			f := host.Bytes(file, 0o600, data)
			f.Owner = me(t)
			h := dial(t, to, o)
			server.CutAfter(int64(c.size / 2))
			if changed, err := h.Put(t.Context(), f); err == nil || changed || fault.CodeOf(err) != fault.Unreachable {
				t.Errorf("cut: %t, %v, code %d", changed, err, fault.CodeOf(err))
			}
			if got, err := os.ReadFile(file); err != nil || string(got) != "old" {
				t.Errorf("the file holds %d bytes, %v", len(got), err)
			}
			again := dial(t, to, o)
			if changed, err := again.Put(t.Context(), f); err != nil || !changed {
				t.Errorf("again: %t, %v", changed, err)
			}
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, data) {
				t.Errorf("the file holds %d bytes, %v", len(got), err)
			}
			// What the cut left is cleared away by the time the next upload is done.
			for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				left, err := os.ReadDir(dir)
				if err != nil {
					t.Fatal(err)
				}
				if len(left) == 1 {
					break
				}
				if time.Now().After(end) {
					t.Errorf("left: %v", left)
					break
				}
			}
		})
	}
}

func TestHost_anUnchangedLargeFileIsNotSent(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Password: canary}}})
	h := dial(t, target(server, "root"), options(t))
	f := host.Bytes(filepath.Join(t.TempDir(), "f"), 0o600, bytes.Repeat([]byte("x"), 3<<20))
	f.Owner = me(t)
	if _, err := h.Put(t.Context(), f); err != nil || h.Sent() < 3<<20 {
		t.Fatalf("%v, %d bytes sent", err, h.Sent())
	}
	before := h.Sent()
	if changed, err := h.Put(t.Context(), f); err != nil || changed || h.Sent()-before > 10_000 {
		t.Errorf("%t, %v, %d bytes sent", changed, err, h.Sent()-before)
	}
}

func TestHost_localeAndPathAreTheSameEverywhere(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Password: canary}}})
	h := dial(t, target(server, "root"), options(t))
	out, err := h.Run(t.Context(), host.Command("sh", "-c", "echo $LC_ALL $PATH"))
	if err != nil || !strings.HasPrefix(out.Text(), "C /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") {
		t.Errorf("%q, %v", out.Text(), err)
	}
}

func TestHost_logsInOnceMore(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Password: canary}}})
	h := dial(t, target(s, "root"), options(t))
	if d, err := h.RoundTrip(t.Context()); err != nil || d <= 0 {
		t.Errorf("a round trip of %s, %v", d, err)
	}
	more, err := h.Another(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Logins() != 2 {
		t.Errorf("%d logins", s.Logins())
	}
	if err := more.Close(); err != nil {
		t.Error(err)
	}
	if _, err := more.RoundTrip(t.Context()); fault.CodeOf(err) != fault.Unreachable {
		t.Errorf("a connection that is closed answers: %v", err)
	}
	if out, err := h.Run(t.Context(), host.Command("echo", "there")); err != nil || out.Text() != "there" {
		t.Errorf("the first connection: %q, %v", out.Text(), err)
	}
}

func TestHost_moreCommandsThanSessions(t *testing.T) {
	server := sshtest.Start(t, sshtest.Options{Sessions: 3, Users: map[string]sshtest.User{"root": {Password: canary}}})
	h := dial(t, target(server, "root"), options(t))
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			out, err := h.Query(t.Context(), host.Command("printf", "%s", strconv.Itoa(i)))
			if err != nil || out.Text() != strconv.Itoa(i) {
				t.Errorf("%d: %q, %v", i, out.Text(), err)
			}
		})
	}
	wg.Wait()
}
