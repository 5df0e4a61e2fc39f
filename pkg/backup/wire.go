package backup

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/kocli/kocli/pkg/archive"
)

// Protocol is the version of what kocli on a control plane and kocli on the
// operator's machine say to each other.
const Protocol = "1"

// Request asks kocli on a control plane for a backup. It travels on stdin, and holds
// the key that signs.
type Request struct {
	Cluster    string    `json:"cluster"`
	Node       string    `json:"node"`
	Kocli      string    `json:"kocliVersion"`
	Kubernetes string    `json:"kubernetes"`
	Created    time.Time `json:"created"`
	Recipients []string  `json:"recipients,omitempty"`
	Plain      bool      `json:"plain,omitempty"`
	Key        string    `json:"key"` // PEM
	Spec       []byte    `json:"spec,omitempty"`
	State      []byte    `json:"state,omitempty"`
}

// String hides the key.
func (r Request) String() string { return "backup of " + r.Cluster }

// GoString hides the key.
func (r Request) GoString() string { return r.String() }

// Options are what a request asks for.
func (r Request) Options() (Options, error) {
	o := Options{Cluster: r.Cluster, Kocli: r.Kocli, Kubernetes: r.Kubernetes, Created: r.Created, Plain: r.Plain, Spec: r.Spec, State: r.State}
	var err1, err2 error
	o.Recipients, err1 = Recipients(r.Recipients)
	o.Key, err2 = archive.ParsePrivateKey([]byte(r.Key))
	return o, errors.Join(err1, err2)
}

// maxFrame is the largest piece, in bytes.
const maxFrame = 1 << 20

// Sender writes an archive in pieces, each after its length, and the receipt after
// one of no length: so the other side knows that it is complete, and its digest.
type Sender struct{ W io.Writer }

func (s Sender) Write(p []byte) (int, error) {
	sent := 0
	for len(p) > 0 {
		n := min(len(p), maxFrame)
		if err := s.frame(p[:n]); err != nil {
			return sent, err
		}
		p, sent = p[n:], sent+n
	}
	return sent, nil
}

func (s Sender) frame(p []byte) error {
	var head [4]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(p))) //nolint:gosec // at most maxFrame
	if _, err := s.W.Write(head[:]); err != nil {
		return err
	}
	_, err := s.W.Write(p)
	return err
}

// End sends the receipt.
func (s Sender) End(r Receipt) error {
	doc, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := s.frame(nil); err != nil {
		return err
	}
	return s.frame(doc)
}

// Receiver takes what a Sender wrote, and passes the archive on to W. Err is the
// error of W, which is none of the sender's.
type Receiver struct {
	W   io.Writer
	Err error

	got   counter
	buf   []byte
	left  int  // of the piece that comes
	ended bool // the receipt comes
	doc   bytes.Buffer
}

func (r *Receiver) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if r.left == 0 {
			n := min(4-len(r.buf), len(p))
			r.buf, p = append(r.buf, p[:n]...), p[n:]
			if len(r.buf) < 4 {
				break
			}
			r.left = int(binary.BigEndian.Uint32(r.buf))
			r.buf = r.buf[:0]
			if r.left > maxFrame {
				return 0, fmt.Errorf("a piece of %d bytes: the host speaks another protocol", r.left)
			}
			r.ended = r.ended || r.left == 0
			continue
		}
		n := min(r.left, len(p))
		if err := r.take(p[:n]); err != nil {
			return 0, err
		}
		r.left, p = r.left-n, p[n:]
	}
	return total, nil
}

func (r *Receiver) take(p []byte) error {
	if r.ended {
		_, err := r.doc.Write(p)
		return err
	}
	if r.got.h == nil {
		r.got = *newCounter(r.W)
	}
	_, err := r.got.Write(p)
	if err != nil {
		r.Err = err
	}
	return err
}

// Receipt returns what the sender said of the archive, once all of it has arrived as
// it was sent.
func (r *Receiver) Receipt() (Receipt, error) {
	var rc Receipt
	if !r.ended || r.left > 0 || r.got.h == nil {
		return rc, io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(r.doc.Bytes(), &rc); err != nil {
		return rc, err
	}
	if rc.Size != r.got.n || rc.SHA256 != r.got.sum() {
		return rc, fmt.Errorf("the archive changed on its way: %d bytes with digest %s arrived, and %d with %s were sent", r.got.n, r.got.sum(), rc.Size, rc.SHA256)
	}
	return rc, nil
}
