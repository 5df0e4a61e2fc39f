package fanout

import (
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Protocol is the version of what relays and operators say to each other. It is
// part of the keys: two versions never understand each other by accident.
const Protocol = "3"

const (
	keySize   = 32
	nonceSize = 32
	frameData = 256 << 10 // bytes of a blob in one frame
	frameMax  = 1 << 20   // no frame is longer
	dataHead  = 12        // blob and offset before the bytes
)

// Kinds of frames.
const (
	kindHello byte = iota + 1 // JSON: what the receiver lacks
	kindData                  // blob, offset, bytes
	kindEnd                   // sender: all was sent; receiver: all is whole
)

// span is what a receiver lacks of a blob, or has of it: the bytes from Have to
// Size. Of one blob there may be several.
type span struct {
	ID   int   `json:"i"`
	Have int64 `json:"h"`
	Size int64 `json:"n"`
}

func sortSpans(s []span) {
	slices.SortFunc(s, func(a, b span) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Have, b.Have)) })
}

// stall is how long a link may stand still before it is given up: a host that
// lost its power does not say so.
const stall = 5 * time.Second

// link is one sealed connection.
type link struct {
	conn     net.Conn
	stalled  *time.Timer // closes conn when a write waits too long
	in, out  cipher.AEAD
	got, put uint64 // frames so far: the nonces
	buf      []byte // the frame that is made
	sealed   []byte // the frame that is sent
	box      []byte // the frame that came
}

// newLink agrees on keys. Both sides throw in random bytes, so that no frame of
// another connection can be played again. dialled says which side this is.
func newLink(conn net.Conn, key []byte, dialled bool) (*link, error) {
	if len(key) != keySize {
		return nil, fmt.Errorf("a key of %d bytes", len(key))
	}
	mine, theirs := make([]byte, nonceSize), make([]byte, nonceSize)
	if _, err := rand.Read(mine); err != nil {
		return nil, err
	}
	l := &link{conn: conn}
	// A timer, because a tunnel through SSH knows no deadlines.
	l.stalled = time.AfterFunc(stall, func() { _ = conn.Close() })
	defer l.stalled.Stop()
	if _, err := conn.Write(mine); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, theirs); err != nil {
		return nil, err
	}
	first, second := mine, theirs
	if !dialled {
		first, second = theirs, mine
	}
	salt := append(slices.Clone(first), second...)
	there, err1 := seal(key, salt, "there")
	back, err2 := seal(key, salt, "back")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	l.in, l.out = back, there
	if !dialled {
		l.in, l.out = there, back
	}
	return l, l.prove(dialled)
}

// prove shows to the side that accepted the connection that the other one has
// the key, before it counts for anything.
func (l *link) prove(dialled bool) error {
	if dialled {
		l.frame(kindHello, 0)
		return l.send()
	}
	kind, body, err := l.receive()
	if err == nil && (kind != kindHello || len(body) != 0) {
		err = fmt.Errorf("a frame of kind %d before the greeting", kind)
	}
	return err
}

func seal(key, salt []byte, direction string) (cipher.AEAD, error) {
	k, err := hkdf.Key(sha256.New, key, salt, "kocli fanout "+Protocol+" "+direction, keySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func nonce(n uint64) []byte {
	out := make([]byte, 12)
	binary.BigEndian.PutUint64(out[4:], n)
	return out
}

// frame returns room for a frame's body, for send.
func (l *link) frame(kind byte, size int) []byte {
	if cap(l.buf) < size+1 {
		l.buf = make([]byte, size+1, max(size+1, frameData+dataHead+1))
	}
	l.buf = l.buf[:size+1]
	l.buf[0] = kind
	return l.buf[1:]
}

// send seals and writes what frame gave.
func (l *link) send() error {
	l.seal(l.buf)
	return l.flush()
}

// seal makes the next frame of an open one, for flush.
func (l *link) seal(open []byte) {
	l.sealed = append(l.sealed[:0], 0, 0, 0, 0)
	l.sealed = l.out.Seal(l.sealed, nonce(l.put), open, nil)
	l.put++
	binary.BigEndian.PutUint32(l.sealed, uint32(len(l.sealed)-4))
}

// flush writes what seal made.
func (l *link) flush() error {
	l.stalled.Reset(stall)
	_, err := l.conn.Write(l.sealed)
	if !l.stalled.Stop() && err != nil {
		err = fmt.Errorf("nothing was taken for %s: %w", stall, err)
	}
	return err
}

func (l *link) sendJSON(kind byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) >= frameMax-64 {
		return fmt.Errorf("a message of %d bytes", len(data))
	}
	copy(l.frame(kind, len(data)), data)
	return l.send()
}

// wakeAt has the kernel wake this process only when so many bytes have come: a
// frame is not read in many small pieces.
func (l *link) wakeAt(n int) error {
	c, ok := l.conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, min(n, frameMax))
	})
	return errors.Join(err, failed)
}

// receive reads the next frame. The body is valid until the next call.
func (l *link) receive() (kind byte, body []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(l.conn, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n < 1+l.in.Overhead() || n > frameMax {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	if cap(l.box) < n {
		l.box = make([]byte, n, max(n, frameData+64))
	}
	l.box = l.box[:n]
	for got := 0; got < n; {
		// For what is left of the frame: were it for all of it, the end of the last
		// one would wake nobody.
		if err := l.wakeAt(n - got); err != nil {
			return 0, nil, err
		}
		m, err := l.conn.Read(l.box[got:])
		if got += m; err != nil && got < n {
			return 0, nil, err
		}
	}
	if err := l.wakeAt(1); err != nil {
		return 0, nil, err
	}
	open, err := l.in.Open(l.box[:0], nonce(l.got), l.box, nil)
	if err != nil {
		return 0, nil, fmt.Errorf("a frame that was not sealed with the key of this run: %w", err)
	}
	l.got++
	return open[0], open[1:], nil
}
