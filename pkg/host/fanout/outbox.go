package fanout

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// outbox is the stdin of a relay: orders, and between them the bytes of blobs
// where the operator's machine itself sends. Orders never wait for the relay;
// one that hangs holds up nobody else.
type outbox struct {
	src  *bundle
	sent func(int)   // told the bytes of blobs
	bad  func(error) // told when the source cannot be read

	mu     sync.Mutex
	wake   *sync.Cond
	orders []order
	feed   []span // what is still to be sent; nil when nothing is
	closed bool

	once sync.Once
	pipe *io.PipeReader
}

func newOutbox(src *bundle, sent func(int), bad func(error)) *outbox {
	b := &outbox{src: src, sent: sent, bad: bad}
	b.wake = sync.NewCond(&b.mu)
	return b
}

// put adds an order.
func (b *outbox) put(o order) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.orders = append(b.orders, o)
	b.wake.Signal()
}

// send begins to send what a relay lacks.
func (b *outbox) send(lacks []span) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.feed = append([]span{}, lacks...)
	b.wake.Signal()
}

// stop ends what send began.
func (b *outbox) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.feed = nil
	b.orders = append(b.orders, order{Unfeed: true})
	b.wake.Signal()
}

// close ends the stream once all orders are out.
func (b *outbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.feed, b.closed = nil, true
	b.wake.Signal()
}

// next waits for something to write: an order, or a piece of a blob.
func (b *outbox) next() (o order, piece *data, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case len(b.orders) > 0:
			o, b.orders = b.orders[0], b.orders[1:]
			return o, nil, true
		case b.closed:
			return o, nil, false
		case b.feed != nil && len(b.feed) == 0:
			b.feed = nil
			return order{End: true}, nil, true
		case b.feed != nil:
			s := &b.feed[0]
			d := &data{ID: s.ID, Off: s.Have, N: int(min(s.Size-s.Have, frameData))}
			if s.Have += int64(d.N); s.Have == s.Size {
				b.feed = b.feed[1:]
			}
			return order{Data: d}, d, true
		}
		b.wake.Wait()
	}
}

// WriteTo writes the stream until it is closed.
func (b *outbox) WriteTo(w io.Writer) (total int64, err error) {
	buf := make([]byte, 0, frameData+256)
	for {
		o, piece, ok := b.next()
		if !ok {
			return total, nil
		}
		line, err := json.Marshal(o)
		if err != nil {
			return total, err
		}
		buf = append(append(buf[:0], line...), '\n')
		if piece != nil {
			n := len(buf)
			buf = append(buf, make([]byte, piece.N)...)
			if err := b.src.readAt(piece.ID, buf[n:], piece.Off); err != nil {
				b.bad(fmt.Errorf("read blob %d at %d: %w", piece.ID, piece.Off, err))
				return total, nil
			}
		}
		n, err := w.Write(buf)
		total += int64(n)
		if err != nil {
			return total, err
		}
		if piece != nil {
			b.sent(piece.N)
		}
	}
}

// Read is for hosts that do not know WriteTo.
func (b *outbox) Read(p []byte) (int, error) {
	b.once.Do(func() {
		r, w := io.Pipe()
		b.pipe = r
		go func() {
			_, err := b.WriteTo(w)
			_ = w.CloseWithError(err)
		}()
	})
	return b.pipe.Read(p)
}

// Close ends a Read that waits.
func (b *outbox) Close() error {
	b.close()
	b.once.Do(func() { b.pipe, _ = io.Pipe() })
	return b.pipe.Close()
}

// words says something from time to time, so that the relay knows that it is
// still wanted.
func (b *outbox) words(ctx context.Context) {
	for pause(ctx, word); ctx.Err() == nil; pause(ctx, word) {
		b.put(order{})
	}
}
