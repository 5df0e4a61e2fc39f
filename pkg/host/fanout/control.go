package fanout

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// What the operator tells a relay, one JSON object a line on its stdin. One
// field is set; after data, that many bytes follow the line.
type order struct {
	Start *start `json:"start,omitempty"`
	Keep  []keep `json:"keep,omitempty"` // ends the comparison of parts; may be empty, see Go
	Go    bool   `json:"go,omitempty"`   // parents may connect from now on
	Send  *child `json:"send,omitempty"` // hand on to this host
	Drop  string `json:"drop,omitempty"` // hand nothing on to this host any more

	Feed   int   `json:"feed,omitempty"`   // the operator's machine will send, for the n-th time: say what is lacking
	Data   *data `json:"data,omitempty"`   // bytes of a blob
	End    bool  `json:"end,omitempty"`    // all was sent
	Unfeed bool  `json:"unfeed,omitempty"` // the operator's machine sends no more
}

// data is a piece of a blob.
type data struct {
	ID  int   `json:"i"`
	Off int64 `json:"o"`
	N   int   `json:"n"`
}

// start is the first order.
type start struct {
	Protocol string `json:"protocol"`
	Key      []byte `json:"key"`
	Listen   string `json:"listen"` // IP address among the hosts
	Blobs    []Blob `json:"blobs"`
}

// keep says which bytes of a part are right: the first N, and pieces beyond them.
type keep struct {
	ID   int    `json:"i"`
	N    int64  `json:"n"`
	More []span `json:"m,omitempty"`
}

// child is a host that is handed on to.
type child struct {
	Name string `json:"name"`
	Addr string `json:"addr"` // IP address and port
}

// What a relay says, one JSON object a line on its stdout. One field is set.
type event struct {
	Ready  *ready  `json:"ready,omitempty"`
	Lacks  *lacks  `json:"lacks,omitempty"`  // the answer to feed
	At     *int64  `json:"at,omitempty"`     // bytes that are there; also a sign of life
	Lost   *failed `json:"lost,omitempty"`   // could not hand on to this host
	Sent   string  `json:"sent,omitempty"`   // this host has all
	Orphan string  `json:"orphan,omitempty"` // why nobody sends to this relay any more
	Bad    string  `json:"bad,omitempty"`    // a blob arrived that was not what it should be
	Done   bool    `json:"done,omitempty"`   // all is whole
}

// lacks answers feed.
type lacks struct {
	Feed  int    `json:"feed"`
	Spans []span `json:"spans"`
}

// ready answers start.
type ready struct {
	Port  int    `json:"port"`
	Local bool   `json:"local,omitempty"` // reachable from the host itself only
	Whole []int  `json:"whole"`
	Parts []part `json:"parts,omitempty"`
	Free  int64  `json:"free"` // bytes
}

// failed is a host and why it cannot be reached.
type failed struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

// maxLine bounds one message: a start that lists tens of thousands of blobs.
const maxLine = 16 << 20

// lines writes JSON objects, one a line. Safe for concurrent use.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) write(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.w.Write(append(data, '\n'))
	return err
}

// readLines calls f for each object until the stream ends.
func readLines[T any](r io.Reader, f func(T) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxLine)
	for sc.Scan() {
		var v T
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			return fmt.Errorf("message %.80q: %w", sc.Bytes(), err)
		}
		if err := f(v); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
