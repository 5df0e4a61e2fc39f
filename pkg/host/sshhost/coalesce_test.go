package sshhost

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// pair is a connection whose other side is read when the test says so.
func pair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return coalesce(a), b
}

func TestCoalesce_bytesArriveInOrderAndBeforeTheEnd(t *testing.T) {
	a, b := pair(t)
	var want bytes.Buffer
	got := make(chan []byte, 1)
	go func() {
		data, _ := io.ReadAll(b) // what came
		got <- data
	}()
	for i := range 3000 {
		p := bytes.Repeat([]byte{byte(i)}, i%700+1)
		want.Write(p)
		if n, err := a.Write(p); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
		clear(p) // it is the caller's again
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if data := <-got; !bytes.Equal(data, want.Bytes()) {
		t.Errorf("%d bytes of %d, or in another order", len(data), want.Len())
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

func TestCoalesce_aLostConnectionIsNoticed(t *testing.T) {
	a, b := pair(t)
	if err := b.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	var err error
	for i := 0; err == nil && i < 100_000; i++ {
		_, err = a.Write(make([]byte, 32<<10))
	}
	if err == nil {
		t.Error("nothing was noticed")
	}
	_ = a.Close()
}

func TestCoalesce_aPeerThatDoesNotReadHoldsUpTheWriterAndNotClose(t *testing.T) {
	a, b := pair(t)
	defer func() { _ = b.Close() }()
	stuck := make(chan error, 1)
	go func() {
		for {
			if _, err := a.Write(make([]byte, 256<<10)); err != nil {
				stuck <- err
				return
			}
		}
	}()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := <-stuck; err == nil {
		t.Error("the writer goes on")
	}
}
