package fanout

import (
	"bytes"
	"crypto/rand"
	"net"
	"testing"
	"time"
)

// halves passes writes on in two parts, the second one late: what a busy network
// does to a frame.
type halves struct {
	net.Conn
	late time.Duration
}

func (h halves) Write(p []byte) (int, error) {
	if h.late == 0 || len(p) < frameData {
		return h.Conn.Write(p)
	}
	n, err := h.Conn.Write(p[:len(p)/4])
	if err != nil {
		return n, err
	}
	time.Sleep(h.late)
	m, err := h.Conn.Write(p[len(p)/4:])
	return n + m, err
}

// The last frame of a link may come in pieces, and nothing comes after it: its
// reader is woken for what is left of it, not for a whole frame once more.
func TestLink_aFrameThatComesInPiecesIsReadToItsEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	key, body := make([]byte, keySize), make([]byte, frameData)
	if _, err := rand.Read(body); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			sent <- err
			return
		}
		out, err := newLink(halves{c, 200 * time.Millisecond}, key, true)
		if err == nil {
			copy(out.frame(kindData, len(body)), body)
			err = out.send()
		}
		sent <- err
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	in, err := newLink(c, key, false)
	if err != nil {
		t.Fatal(err)
	}
	hang := time.AfterFunc(10*time.Second, func() { _ = c.Close() })
	defer hang.Stop()
	kind, got, err := in.receive()
	if err != nil || kind != kindData || !bytes.Equal(got, body) {
		t.Errorf("kind %d, %d bytes, %v", kind, len(got), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}
