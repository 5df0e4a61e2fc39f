package sshtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"net"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// ECDSA returns a new key of that kind.
func ECDSA(t testing.TB) ssh.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return signer(t, k, err)
}

// RSA returns a new key of that kind.
func RSA(t testing.TB) ssh.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	return signer(t, k, err)
}

func signer(t testing.TB, k crypto.Signer, err error) ssh.Signer {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromSigner(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Cable is a connection that can go dead without being closed.
type Cable struct {
	addr string
	once sync.Once
	dead chan struct{}
	stop chan struct{}
}

// NewCable leads to an address until the test ends.
func NewCable(t testing.TB, addr string) *Cable {
	t.Helper()
	c := &Cable{addr: addr, dead: make(chan struct{}), stop: make(chan struct{})}
	t.Cleanup(func() { close(c.stop) })
	return c
}

// DialContext connects to the cable's address, whatever is asked for.
func (c *Cable) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return nil, err
	}
	return &wire{Conn: conn, c: c, closed: make(chan struct{})}, nil
}

// Cut lets nothing pass any more, in either direction, and tells nobody.
func (c *Cable) Cut() { c.once.Do(func() { close(c.dead) }) }

type wire struct {
	net.Conn
	c      *Cable
	once   sync.Once
	closed chan struct{}
}

// Read stands still once the cable is cut.
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	select {
	case <-w.c.dead:
	default:
		return n, err
	}
	select {
	case <-w.closed:
	case <-w.c.stop:
	}
	return 0, net.ErrClosed
}

// Write loses what is written once the cable is cut.
func (w *wire) Write(p []byte) (int, error) {
	select {
	case <-w.c.dead:
		return len(p), nil
	default:
		return w.Conn.Write(p)
	}
}

// Close closes the near end.
func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return w.Conn.Close()
}
