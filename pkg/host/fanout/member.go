package fanout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// Runner is what a push needs of a host.
type Runner interface {
	Name() string
	Run(ctx context.Context, c host.Cmd) (host.Output, error)
	host.Tunnel
}

// Target is a host that content is brought to.
type Target struct {
	Host  Runner
	IP    string   // of the host, among the hosts
	Relay []string // program and arguments that run Relay there
	Blobs []int    // what it should have: indexes of Options.Blobs
}

// member is a target during a push.
type member struct {
	*peer
	target Target
	in     *io.PipeReader
	stdin  *io.PipeWriter
	orders *lines
	port   int
	tries  int    // links so far
	bad    int    // blobs that were not what they should be
	why    string // what was wrong with the last link
	err    error
	unfeed context.CancelFunc // ends the operator's own feed
	ended  bool               // the relay's process
}

// note is what the push hears of a member.
type note struct {
	from  *member
	what  string
	event event // of a relay, where what is noteEvent
	kept  int64 // bytes of parts that are right, where what is noteKept
	err   error
}

// What a note is about.
const (
	noteEvent = "event"
	noteKept  = "kept"
	noteFeed  = "feed"  // the operator's own feed broke
	noteFatal = "fatal" // the host cannot be helped
	noteEnded = "ended" // the relay's process
)

func newMember(t Target, items []Item) *member {
	m := &member{target: t, peer: &peer{name: t.Host.Name(), wants: map[int]int64{}, lacks: map[int]bool{}}}
	for _, i := range t.Blobs {
		m.wants[i], m.lacks[i] = items[i].Size, true
		m.total += items[i].Size
	}
	m.in, m.stdin = io.Pipe()
	m.orders = &lines{w: m.stdin}
	return m
}

// run has the relay run on its host until its stdin is closed.
func (m *member) run(ctx context.Context, blobs []Blob, key []byte, heard func(note)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	out, stdout := io.Pipe()
	var nonsense error
	wg.Go(func() {
		nonsense = readLines(out, func(e event) error { heard(note{from: m, what: noteEvent, event: e}); return nil })
		_ = out.CloseWithError(nonsense) // a relay that talks nonsense is not listened to
	})
	wg.Go(func() { m.greet(ctx, blobs, key) })
	c := host.Command(m.target.Relay...)
	c.Stdin, c.Stdout = m.in, stdout
	_, err := m.target.Host.Run(ctx, c)
	cancel()
	_ = m.in.CloseWithError(io.ErrClosedPipe) // an order that waits is in vain
	_ = stdout.Close()
	wg.Wait()
	if err == nil && nonsense != nil {
		err = fmt.Errorf("answers of the relay: %w", nonsense)
	}
	heard(note{from: m, what: noteEnded, err: err})
}

// greet sends the first order, and then a word from time to time, so that the
// relay knows that it is still wanted.
func (m *member) greet(ctx context.Context, blobs []Blob, key []byte) {
	s := &start{Protocol: Protocol, Key: key, Listen: m.target.IP, Blobs: []Blob{}}
	for _, i := range m.target.Blobs {
		s.Blobs = append(s.Blobs, blobs[i])
	}
	if m.orders.write(order{Start: s}) != nil {
		return // the process ended, which says why
	}
	tick := time.NewTicker(word)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if m.orders.write(order{}) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// settle compares the parts that a relay has with the blobs themselves.
func settle(src *bundle, parts []part) (out []keep, kept int64, err error) {
	for _, p := range parts {
		if p.ID < 0 || p.ID >= len(src.items) || p.Size > src.items[p.ID].Size {
			return nil, 0, fmt.Errorf("it has %d bytes of blob %d", p.Size, p.ID)
		}
		n, err := p.matching(io.NewSectionReader(src.items[p.ID].Content, 0, src.items[p.ID].Size))
		if err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", src.items[p.ID].Digest, err)
		}
		out, kept = append(out, keep{p.ID, n}), kept+n
	}
	return out, kept, nil
}

func (m *member) addr() string { return net.JoinHostPort(m.target.IP, strconv.Itoa(m.port)) }

// dial connects to the relay: directly where that is wanted and works, through
// SSH elsewhere.
func (m *member) dial(ctx context.Context, direct bool) (net.Conn, error) {
	if direct && !m.local {
		d := net.Dialer{Timeout: time.Second}
		if conn, err := d.DialContext(ctx, "tcp", m.addr()); err == nil {
			return conn, nil
		}
	}
	addr := m.addr()
	if m.local {
		addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(m.port))
	}
	return m.target.Host.DialContext(ctx, "tcp", addr)
}

// Item is a blob and where its bytes are.
type Item struct {
	Digest  string // "sha256:..."
	Size    int64
	Content io.ReaderAt
}

// bundle is the operator's source: all of it is there from the start.
type bundle struct {
	items []Item
}

func (b *bundle) wait(_ context.Context, id int, off int64) (int64, error) {
	if id < 0 || id >= len(b.items) || off > b.items[id].Size {
		return 0, fmt.Errorf("blob %d has no byte %d", id, off)
	}
	return b.items[id].Size, nil
}

func (b *bundle) readAt(id int, p []byte, off int64) error {
	n, err := b.items[id].Content.ReadAt(p, off)
	if n == len(p) && errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// blobs numbers the items.
func (b *bundle) blobs() []Blob {
	out := make([]Blob, len(b.items))
	for i, it := range b.items {
		out[i] = Blob{ID: i, Digest: it.Digest, Size: it.Size}
	}
	return slices.Clip(out)
}
