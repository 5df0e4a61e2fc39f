// Package sshhost is host.Host over one SSH connection. It is the only importer
// of x/crypto/ssh and pkg/sftp. It checks host keys always, prefers the cipher
// that is fast in Go (aes128-gcm), and runs root commands through sudo with or
// without a password, which travels on stdin and nowhere else.
package sshhost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/kocli/kocli/pkg/fault"
)

// Target says how to reach and enter a machine.
type Target struct {
	Name    string // node name, for messages
	Address string // IP or DNS name
	Port    int    // zero means 22
	Login
	Bastion *Target // nil means directly
}

// Login is who logs in, and how. The secrets are never shown.
type Login struct {
	User         string
	KeyFile      string // private key; empty for none
	Passphrase   string // of the key
	Password     string // for password and keyboard-interactive
	SudoPassword string // empty means sudo without one
	Agent        bool   // ask the agent at SSH_AUTH_SOCK too
	AgentSocket  string // path of the agent's socket
}

// Options are shared by the connections of a run.
type Options struct {
	Keys    *KnownHosts
	Timeout time.Duration // for TCP and handshake together; zero means 10 s
	// Dial opens TCP connections; nil means a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// KeepAlive is the interval of probes that notice a cut cable; zero means 10 s.
	KeepAlive time.Duration
}

const (
	defaultTimeout   = 10 * time.Second
	defaultKeepAlive = 10 * time.Second
)

// ciphers in the order of their speed in Go. The default order starts with
// chacha20, which is four times slower here.
func ciphers() []string {
	return []string{
		"aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr",
	}
}

func (t Target) addr() string {
	port := t.Port
	if port == 0 {
		port = 22
	}
	return net.JoinHostPort(t.Address, strconv.Itoa(port))
}

// Dial connects, checks the host key, logs in and learns how root is had.
func Dial(ctx context.Context, t Target, o Options) (*Host, error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = defaultKeepAlive
	}
	client, closers, err := connect(ctx, t, o)
	if err != nil {
		return nil, unreachable(t, err)
	}
	h := newHost(t, o, client, closers)
	go h.keepAlive(o.KeepAlive)
	if t.User != "root" {
		if err := h.checkSudo(ctx); err != nil {
			_ = h.Close()
			return nil, err
		}
	}
	return h, nil
}

func connect(ctx context.Context, t Target, o Options) (*ssh.Client, []func() error, error) {
	var closers []func() error
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	if t.Bastion != nil {
		via, more, err := connect(ctx, *t.Bastion, o)
		if err != nil {
			return nil, nil, fmt.Errorf("bastion %s: %w", t.Bastion.addr(), err)
		}
		closers = append(more, via.Close)
		dial = via.DialContext
	}
	fail := func(err error) (*ssh.Client, []func() error, error) {
		for _, c := range closers {
			_ = c() // the error that is returned says more
		}
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	auth, done, err := methods(t)
	if err != nil {
		return fail(err)
	}
	defer done()
	conn, err := dial(ctx, "tcp", t.addr())
	if err != nil {
		return fail(err)
	}
	raw := conn
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	conn = coalesce(raw)
	callback, algorithms := o.Keys.check(t.addr())
	cfg := &ssh.ClientConfig{
		User: t.User, Auth: auth, HostKeyCallback: callback, HostKeyAlgorithms: algorithms,
		Config: ssh.Config{Ciphers: ciphers()}, ClientVersion: "SSH-2.0-kocli", Timeout: o.Timeout,
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, t.addr(), cfg)
	if err != nil {
		_ = conn.Close()
		if strings.Contains(err.Error(), "unexpected message type 51") {
			// A refusal before the first question of keyboard-interactive.
			err = fmt.Errorf("ssh: unable to authenticate: %s was refused", t.User)
		}
		if ctx.Err() != nil && !errors.Is(err, ErrHostKey) {
			err = fmt.Errorf("no SSH answer from %s within %s: %w", t.addr(), o.Timeout, ctx.Err())
		}
		return fail(err)
	}
	return ssh.NewClient(c, chans, reqs), closers, nil
}

// methods lists what the target's login offers, keys first.
func methods(t Target) ([]ssh.AuthMethod, func(), error) {
	var out []ssh.AuthMethod
	done := func() {}
	var signers []ssh.Signer
	if t.KeyFile != "" {
		pem, err := os.ReadFile(t.KeyFile)
		if err != nil {
			return nil, done, fmt.Errorf("read SSH key: %w", err)
		}
		var s ssh.Signer
		if t.Passphrase != "" {
			s, err = ssh.ParsePrivateKeyWithPassphrase(pem, []byte(t.Passphrase))
		} else {
			s, err = ssh.ParsePrivateKey(pem)
		}
		if err != nil {
			return nil, done, fmt.Errorf("SSH key %s: %w", t.KeyFile, err)
		}
		signers = append(signers, s)
	}
	if len(signers) > 0 {
		out = append(out, ssh.PublicKeys(signers...))
	}
	if t.Agent && t.AgentSocket != "" {
		conn, err := net.Dial("unix", t.AgentSocket)
		if err != nil {
			return nil, done, fmt.Errorf("SSH agent: %w", err)
		}
		done = func() { _ = conn.Close() }
		out = append(out, ssh.PublicKeysCallback(agent.NewClient(conn).Signers))
	}
	if t.Password != "" {
		password := t.Password
		out = append(out, ssh.Password(password), ssh.KeyboardInteractive(
			func(_, _ string, questions []string, echos []bool) ([]string, error) {
				answers := make([]string, len(questions))
				for i := range questions {
					if !echos[i] { // never answer an echoed question with a secret
						answers[i] = password
					}
				}
				return answers, nil
			}))
	}
	if len(out) == 0 {
		return nil, done, errors.New("no way to log in: neither key, agent nor password is configured")
	}
	return out, done, nil
}

// unreachable explains a failed connection and what to do about it.
func unreachable(t Target, err error) error {
	hint := fmt.Sprintf("check that %s is up and that sshd answers: ssh -p %s %s@%s true", t.Name, portOf(t), t.User, t.Address)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, ErrHostKey):
		hint = HintOf(err)
	case strings.Contains(err.Error(), "unable to authenticate"):
		hint = fmt.Sprintf("%s refused user %s: check spec.ssh (user, keyFile, password) and try: ssh -p %s %s@%s true", t.Name, t.User, portOf(t), t.User, t.Address)
	}
	return &fault.Error{Op: "connect to " + t.addr(), Node: t.Name, Code: fault.Unreachable, Hint: hint, Err: err}
}

func portOf(t Target) string {
	_, p, _ := net.SplitHostPort(t.addr()) // addr has joined it
	return p
}
