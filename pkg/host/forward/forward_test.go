package forward_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/host/forward"
	"github.com/kocli/kocli/pkg/host/hosttest"
)

// echo answers every connection with a name.
func echo(t *testing.T, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, name)
			_ = c.Close()
		}
	}()
	return l.Addr().String()
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func ask(addr string) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	data, err := io.ReadAll(c)
	return string(data), err
}

func TestServe_passesOnToTheFirstThatAnswersAndSharesItsPort(t *testing.T) {
	listen, target := free(t), echo(t, "api")
	var ends []func() error
	for range 2 { // a second one on the same port
		in, hold := io.Pipe()
		done := make(chan error, 1)
		go func() { done <- forward.Serve(t.Context(), in, listen, []string{free(t), target}) }()
		ends = append(ends, func() error { return errors.Join(hold.Close(), <-done) })
	}
	var got string
	var err error
	for range 100 {
		if got, err = ask(listen); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if got != "api" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, end := range ends {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
	if _, err := ask(listen); err == nil {
		t.Error("something still listens")
	}
}

func TestDuring_lastsUntilItIsStopped(t *testing.T) {
	m := hosttest.New("n")
	ran := make(chan bool, 1)
	m.Install(func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		if strings.Join(argv, " ") != "/k node forward --listen 127.0.0.1:8443 --to a:1 --to b:2" {
			return hosttest.Reply{}, false
		}
		ran <- true // a machine in memory runs a program when its stdin has ended
		return hosttest.Reply{}, true
	})
	dials := 0
	m.OnDial(func(context.Context, string, string) (net.Conn, error) {
		if dials++; dials < 3 {
			return nil, errors.New("refused")
		}
		c, _ := net.Pipe()
		return c, nil
	})
	stop, err := forward.During(t.Context(), m, "/k", "127.0.0.1:8443", []string{"a:1", "b:2"})
	if err != nil || dials != 3 {
		t.Fatal(dials, err)
	}
	select {
	case <-ran:
		t.Error("it has ended already")
	case <-time.After(50 * time.Millisecond):
	}
	stop()
	if !<-ran {
		t.Error("it did not run")
	}
}

func TestDuring_saysWhyThereIsNone(t *testing.T) {
	m := hosttest.New("n")
	m.Cut()
	m.OnDial(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") })
	if _, err := forward.During(t.Context(), m, "/k", "127.0.0.1:8443", nil); !errors.Is(err, hosttest.ErrCut) {
		t.Error(err)
	}
}
