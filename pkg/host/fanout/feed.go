package fanout

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// source is where the bytes of blobs come from: a store that is still being
// filled, or the operator's bundle.
type source interface {
	// wait returns how many bytes of a blob are there, once that is more than off.
	wait(ctx context.Context, id int, off int64) (int64, error)
	// readAt fills p with bytes that wait has promised.
	readAt(id int, p []byte, off int64) error
	// frame returns the open frame of n bytes that wait has promised, where it is still in
	// memory, for as long as done is not called; nil elsewhere.
	frame(id int, off int64, n int) (open []byte, done func())
}

// feed sends over a link what its receiver lacks, as the source gets it, and
// returns when the receiver says that all is whole. sent is told the bytes.
func feed(ctx context.Context, l *link, src source, sent func(int)) error {
	kind, body, err := l.receive()
	if err != nil {
		return fmt.Errorf("wait for the receiver: %w", err)
	}
	var lacks []span
	if kind != kindHello {
		return errors.New("the receiver does not begin with a greeting")
	}
	if err := json.Unmarshal(body, &lacks); err != nil {
		return fmt.Errorf("greeting of the receiver: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { cancel(answer(l)) }()
	stop := context.AfterFunc(ctx, func() { _ = l.conn.Close() }) // ends a write that waits
	defer stop()
	for _, s := range lacks {
		if err := feedBlob(ctx, l, src, s, sent); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
	}
	l.frame(kindEnd, 0)
	if err := l.send(); err != nil {
		return err
	}
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, errWhole) {
		return cause
	}
	return nil
}

var errWhole = errors.New("the receiver has all")

// answer reads the one thing that a receiver says after its greeting.
func answer(l *link) error {
	kind, _, err := l.receive()
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("the receiver closed the connection")
	case err != nil:
		return err
	case kind != kindEnd:
		return fmt.Errorf("the receiver sent a frame of kind %d", kind)
	}
	return errWhole
}

func feedBlob(ctx context.Context, l *link, src source, s span, sent func(int)) error {
	for off := s.Have; off < s.Size; {
		have, err := src.wait(ctx, s.ID, off)
		if err != nil {
			return err
		}
		for end := min(have, s.Size); off < end; {
			n := int(min(end-off, frameData))
			if open, done := src.frame(s.ID, off, n); open != nil {
				l.seal(open)
				done()
			} else {
				body := l.frame(kindData, dataHead+n)
				binary.BigEndian.PutUint32(body, uint32(s.ID))
				binary.BigEndian.PutUint64(body[4:], uint64(off))
				if err := src.readAt(s.ID, body[dataHead:], off); err != nil {
					return fmt.Errorf("read blob %d at %d: %w", s.ID, off, err)
				}
				l.seal(l.buf)
			}
			if err := l.flush(); err != nil {
				return err
			}
			off += int64(n)
			sent(n)
		}
	}
	return nil
}

// take receives over a link what the store lacks. It returns nil when all is
// whole, and ErrDigest when a blob was not what it should be.
func take(l *link, s *store) error {
	defer s.recent.clear() // who sends next may know better
	lacks, _ := s.lacking()
	if err := l.sendJSON(kindHello, lacks); err != nil {
		return err
	}
	for {
		kind, body, err := l.receive()
		if errors.Is(err, io.EOF) {
			err = errors.New("the sender closed the connection")
		}
		if err != nil {
			return err
		}
		switch {
		case kind == kindData && len(body) >= dataHead:
			id, off := int(binary.BigEndian.Uint32(body)), binary.BigEndian.Uint64(body[4:])
			if err := s.add(id, int64(off), body[dataHead:], l); err != nil {
				return err
			}
		case kind == kindEnd:
			if left, _ := s.lacking(); len(left) > 0 {
				return fmt.Errorf("the sender ended, and %d blobs are not whole", len(left))
			}
			l.frame(kindEnd, 0)
			return l.send()
		default:
			return fmt.Errorf("a frame of kind %d", kind)
		}
	}
}
