// Package sshtest is an SSH server in the test's own process: real programs run
// by a real shell, real SFTP, a sudo that really wants its password, and faults
// on demand. Only tests import it.
package sshtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
)

// User is somebody who may log in.
type User struct {
	Password    string          // empty: no login by password
	Interactive bool            // the password is asked for by keyboard-interactive alone
	Keys        []ssh.PublicKey // that are accepted
	Sudo        Sudo
	SudoSecret  string // what sudo wants to hear
}

// Options describe a server.
type Options struct {
	HostKeys []ssh.Signer // one ed25519 key by default
	Users    map[string]User
	NoSFTP   bool
	Sessions int  // at once, as sshd's MaxSessions; zero means 10
	Signals  bool // deliver signals; sshd refuses them to root
	Silent   bool // accept connections and never say a word
	// Functions are shell functions that stand for programs, such as systemctl, in
	// scripts that come on stdin.
	Functions string
}

// Server is a running server on a loopback port.
type Server struct {
	Port int
	Key  ssh.PublicKey // the first host key

	t        testing.TB
	o        Options
	config   *ssh.ServerConfig
	listener net.Listener
	home     string // what exec requests run in
	bins     map[Sudo]string

	wg      sync.WaitGroup
	mu      sync.Mutex
	conns   map[net.Conn]struct{}
	groups  map[int]struct{} // process groups that run
	closed  bool
	cutAt   int64 // bytes to read from clients before a cut; 0 means never
	logins  atomic.Int64
	execs   atomic.Int64
	tunnels atomic.Int64
}

// Signer returns a new ed25519 key.
func Signer(t testing.TB) ssh.Signer {
	t.Helper()
	s, _ := KeyFile(t)
	return s
}

// KeyFile returns a new ed25519 key and a file that holds it.
func KeyFile(t testing.TB) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "test")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s, path
}

// Start runs a server until the test ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	if len(o.HostKeys) == 0 {
		o.HostKeys = []ssh.Signer{Signer(t)}
	}
	if o.Sessions == 0 {
		o.Sessions = 10
	}
	s := &Server{t: t, o: o, home: t.TempDir(), Key: o.HostKeys[0].PublicKey(), conns: map[net.Conn]struct{}{}, groups: map[int]struct{}{}}
	s.bins = programs(t)
	for name, u := range o.Users {
		if err := os.WriteFile(s.secret(name), []byte(u.SudoSecret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.config = s.authentication()
	for _, k := range o.HostKeys {
		s.config.AddHostKey(k)
	}
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if s.Port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	s.wg.Go(s.accept)
	t.Cleanup(s.Close)
	return s
}

var errRefused = errors.New("refused")

func (s *Server) authentication() *ssh.ServerConfig {
	return &ssh.ServerConfig{
		MaxAuthTries: 6,
		// Counted before the client hears of it, so that a test sees it too.
		AuthLogCallback: func(_ ssh.ConnMetadata, _ string, err error) {
			if err == nil {
				s.logins.Add(1)
			}
		},
		PasswordCallback: func(c ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			u, ok := s.o.Users[c.User()]
			if !ok || u.Interactive || u.Password == "" || string(password) != u.Password {
				return nil, errRefused
			}
			return nil, nil
		},
		KeyboardInteractiveCallback: func(c ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			u, ok := s.o.Users[c.User()]
			if !ok || !u.Interactive {
				return nil, errRefused
			}
			answers, err := ask("", "", []string{"Your name: ", "Password: "}, []bool{true, false})
			if err != nil || len(answers) != 2 || answers[0] != "" || answers[1] != u.Password {
				return nil, errRefused // a client that echoes its password is not let in
			}
			return nil, nil
		},
		PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			for _, k := range s.o.Users[c.User()].Keys {
				if string(k.Marshal()) == string(key.Marshal()) {
					return nil, nil
				}
			}
			return nil, errRefused
		},
	}
}

// Addr is host:port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Home is the folder that commands run in.
func (s *Server) Home() string { return s.home }

// Logins counts the logins that succeeded.
func (s *Server) Logins() int64 { return s.logins.Load() }

// Execs counts the commands that were asked for.
func (s *Server) Execs() int64 { return s.execs.Load() }

// Tunnels counts the connections that were opened for clients.
func (s *Server) Tunnels() int64 { return s.tunnels.Load() }

// CutAfter loses every connection once n more bytes have been read from
// clients, without a word of farewell.
func (s *Server) CutAfter(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutAt = n
}

// Drop loses every connection now. New ones are accepted.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// Close ends the server, its connections and what runs on them.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	_ = s.listener.Close()
	s.Drop()
	s.kill()
	s.wg.Wait()
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			_ = c.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() {
			s.serve(&counted{c, s})
			_ = c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// counted is a connection that is cut where the server was told to.
type counted struct {
	net.Conn
	s *Server
}

// Read counts what arrives.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.s.mu.Lock()
	cut := false
	if c.s.cutAt > 0 {
		if c.s.cutAt -= int64(n); c.s.cutAt <= 0 {
			c.s.cutAt, cut = 0, true
		}
	}
	c.s.mu.Unlock()
	if cut {
		if t, ok := c.Conn.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // a reset, as from a host that lost its power
		}
		c.s.Drop()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

func (s *Server) serve(c net.Conn) {
	if s.o.Silent {
		_, _ = io.Copy(io.Discard, c)
		return
	}
	conn, channels, requests, err := ssh.NewServerConn(c, s.config)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for r := range requests {
			_ = r.Reply(false, nil) // an answer is all that a keep-alive wants
		}
	})
	var sessions atomic.Int64
	for nc := range channels {
		switch nc.ChannelType() {
		case "session":
			if sessions.Add(1) > int64(s.o.Sessions) {
				sessions.Add(-1)
				_ = nc.Reject(ssh.ResourceShortage, "open failed")
				continue
			}
			wg.Go(func() {
				defer sessions.Add(-1)
				s.session(nc, conn.User())
			})
		case "direct-tcpip":
			wg.Go(func() { s.tunnel(nc) })
		default:
			_ = nc.Reject(ssh.UnknownChannelType, "not here")
		}
	}
}

// tunnel connects a client to where it wants to go.
func (s *Server) tunnel(nc ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if ssh.Unmarshal(nc.ExtraData(), &to) != nil {
		_ = nc.Reject(ssh.ConnectionFailed, "malformed")
		return
	}
	out, err := net.Dial("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	if err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	s.tunnels.Add(1)
	ch, requests, err := nc.Accept()
	if err != nil {
		_ = out.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(out, ch); _ = out.Close() })
	wg.Go(func() { _, _ = io.Copy(ch, out); _ = ch.Close() })
	wg.Wait()
}
