package sshhost

import (
	"net"
	"sync"
	"time"
)

// coalesced is a connection whose writes are put together: SSH writes every
// packet of 32 KiB by itself, and each costs a system call and wakes the other
// side. What is written while a write is under way goes out as one.
type coalesced struct {
	net.Conn

	mu     sync.Mutex
	wake   *sync.Cond
	buf    []byte // what is to be written next
	err    error  // of the last write
	closed bool
	done   chan struct{}
}

// coalesceMax is how much may wait, in bytes; who writes more waits.
const coalesceMax = 512 << 10

// lastWords is how long a connection that is closed may take to write what waits.
const lastWords = time.Second

func coalesce(c net.Conn) net.Conn {
	w := &coalesced{Conn: c, done: make(chan struct{})}
	w.wake = sync.NewCond(&w.mu)
	go w.flush()
	return w
}

// Write takes p, which is written soon. An error is that of an earlier write.
func (w *coalesced) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.buf) > 0 && len(w.buf)+len(p) > coalesceMax && w.err == nil && !w.closed {
		w.wake.Wait()
	}
	if w.err != nil {
		return 0, w.err
	}
	if w.closed {
		return 0, net.ErrClosed
	}
	w.buf = append(w.buf, p...)
	w.wake.Broadcast()
	return len(p), nil
}

func (w *coalesced) flush() {
	defer close(w.done)
	var out []byte
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.buf) == 0 && !w.closed {
			w.wake.Wait()
		}
		if len(w.buf) == 0 {
			return
		}
		out, w.buf = w.buf, out[:0]
		w.wake.Broadcast()
		w.mu.Unlock()
		_, err := w.Conn.Write(out)
		w.mu.Lock()
		if err != nil {
			w.err, w.buf = err, nil
			w.wake.Broadcast()
			return
		}
	}
}

// Close writes what waits, if that is quick, and closes the connection.
func (w *coalesced) Close() error {
	w.mu.Lock()
	w.closed = true
	w.wake.Broadcast()
	w.mu.Unlock()
	select {
	case <-w.done:
	case <-time.After(lastWords):
	}
	err := w.Conn.Close()
	<-w.done
	return err
}
