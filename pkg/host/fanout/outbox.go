package fanout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// outbox is the stdin of a relay: orders, and between them the bytes of blobs
// where the operator's machine itself sends. Orders never wait for the relay;
// one that hangs holds up nobody else. Lanes take pieces from it too.
type outbox struct {
	src  *bundle
	sent func(int)   // told the bytes of blobs
	bad  func(error) // told when the source cannot be read
	torn func()      // told when lanes have lost pieces, and all others are out

	mu     sync.Mutex
	wake   *sync.Cond
	orders []order
	feed   []span // what is still to be sent; nil when nothing is
	number int    // of the feed; grows with each
	passed int64  // bytes of the feed that were written
	lanes  int    // that may have pieces under way
	lost   bool   // a lane broke off
	closed bool

	once sync.Once
	pipe *io.PipeReader
}

func newOutbox(src *bundle, sent func(int), bad func(error), torn func()) *outbox {
	b := &outbox{src: src, sent: sent, bad: bad, torn: torn}
	b.wake = sync.NewCond(&b.mu)
	return b
}

// put adds an order.
func (b *outbox) put(o order) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.orders = append(b.orders, o)
	b.wake.Broadcast()
}

// send begins to send what a relay lacks, as its n-th feed.
func (b *outbox) send(n int, lacks []span) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.feed, b.number, b.passed, b.lost = append([]span{}, lacks...), n, 0, false
	b.wake.Broadcast()
}

// stop ends what send began.
func (b *outbox) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.feed, b.number = nil, 0
	b.orders = append(b.orders, order{Unfeed: true})
	b.wake.Broadcast()
}

// close ends the stream once all orders are out.
func (b *outbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.feed, b.number, b.closed = nil, 0, true
	b.wake.Broadcast()
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
		case len(b.feed) > 0:
			d := b.piece()
			return order{Data: d}, d, true
		case b.feed != nil && b.lanes == 0:
			b.feed, b.number = nil, 0
			if !b.lost {
				return order{End: true}, nil, true
			}
			b.torn()
		}
		b.wake.Wait()
	}
}

// piece takes the next piece of the feed. Pieces end where the chunks of a part do,
// so that a hole costs no more than itself. The lock is held.
func (b *outbox) piece() *data {
	s := &b.feed[0]
	d := &data{ID: s.ID, Off: s.Have, N: int(min(s.Size-s.Have, frameData-s.Have%frameData))}
	if s.Have += int64(d.N); s.Have == s.Size {
		b.feed = b.feed[1:]
	}
	return d
}

// WriteTo writes the stream until it is closed.
func (b *outbox) WriteTo(w io.Writer) (total int64, err error) {
	buf := make([]byte, 0, frameData+256)
	for {
		o, piece, ok := b.next()
		if !ok {
			return total, nil
		}
		n, err := b.write(w, &buf, o, piece)
		total += n
		if errors.Is(err, errSource) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// errSource is a source that cannot be read, which bad has been told.
var errSource = errors.New("the source cannot be read")

// write writes an order and the piece that goes with it.
func (b *outbox) write(w io.Writer, buf *[]byte, o order, piece *data) (int64, error) {
	line, err := json.Marshal(o)
	if err != nil {
		return 0, err
	}
	out := append(append((*buf)[:0], line...), '\n')
	if piece != nil {
		n := len(out)
		out = slices.Grow(out, piece.N)[:n+piece.N]
		if err := b.src.readAt(piece.ID, out[n:], piece.Off); err != nil {
			b.bad(fmt.Errorf("read blob %d at %d: %w", piece.ID, piece.Off, err))
			return 0, errSource
		}
	}
	*buf = out
	n, err := w.Write(out)
	if err == nil && piece != nil {
		b.sent(piece.N)
		b.mu.Lock()
		b.passed += int64(piece.N)
		b.mu.Unlock()
	}
	return int64(n), err
}

// progress says how many bytes of a feed were written, and how many are to come.
func (b *outbox) progress(feed int) (passed, left int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.number == feed {
		for _, s := range b.feed {
			left += s.Size - s.Have
		}
	}
	return b.passed, left
}

// enter opens a lane of a feed; false when there is nothing left for it.
func (b *outbox) enter(feed int) (*lane, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.number != feed || len(b.feed) == 0 {
		return nil, false
	}
	b.lanes++
	return &lane{out: b, feed: feed}, true
}

// leave ends a lane. broke says that pieces may be lost that it took.
func (b *outbox) leave(l *lane, broke bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lanes--
	l.left = true
	if broke && l.took && b.number == l.feed {
		b.lost = true
	}
	b.wake.Broadcast()
}

// lane is the stdin of a lane.
type lane struct {
	out  *outbox
	feed int
	took bool // a piece; guarded by the outbox, like the next
	left bool // it takes no more
	once sync.Once
	pipe *io.PipeReader
}

func (l *lane) next() *data {
	l.out.mu.Lock()
	defer l.out.mu.Unlock()
	if l.left || l.out.number != l.feed || len(l.out.feed) == 0 {
		return nil
	}
	l.took = true
	return l.out.piece()
}

// WriteTo writes pieces until there are no more.
func (l *lane) WriteTo(w io.Writer) (total int64, err error) {
	buf := make([]byte, 0, frameData+256)
	o, piece := order{Feed: l.feed}, (*data)(nil)
	for {
		n, err := l.out.write(w, &buf, o, piece)
		total += n
		if err != nil {
			return total, err
		}
		if piece = l.next(); piece == nil {
			return total, nil
		}
		o = order{Data: piece}
	}
}

// Read is for hosts that do not know WriteTo.
func (l *lane) Read(p []byte) (int, error) {
	l.once.Do(func() { l.pipe = piped(l) })
	return l.pipe.Read(p)
}

// Close ends a Read that waits.
func (l *lane) Close() error {
	l.once.Do(func() { l.pipe, _ = io.Pipe() })
	return l.pipe.Close()
}

// piped reads what a stream writes.
func piped(s io.WriterTo) *io.PipeReader {
	r, w := io.Pipe()
	go func() {
		_, err := s.WriteTo(w)
		_ = w.CloseWithError(err)
	}()
	return r
}

// Read is for hosts that do not know WriteTo.
func (b *outbox) Read(p []byte) (int, error) {
	b.once.Do(func() { b.pipe = piped(b) })
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
