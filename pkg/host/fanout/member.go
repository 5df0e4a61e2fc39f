package fanout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// Runner is what a push needs of a host.
type Runner interface {
	Name() string
	Run(ctx context.Context, c host.Cmd) (host.Output, error)
}

// Target is a host that content is brought to.
type Target struct {
	Host  Runner
	IP    string   // of the host, among the hosts
	Relay []string // program and arguments that run Relay there
	Blobs []int    // what it should have: indexes of Options.Blobs
	Line  Line     // for further connections; nil where there are none
	Lane  []string // program and arguments that run Lane there
}

// member is a target during a push.
type member struct {
	*peer
	target  Target
	out     *outbox
	port    int
	settled bool   // what it has is known, and it was told to begin
	tries   int    // links so far
	bad     int    // blobs that were not what they should be
	why     string // what was wrong with the last link
	over    string // who it got nothing from while all stood still
	err     error
	unfeed  context.CancelFunc // ends the operator's own feed over a link
	feeds   int                // through SSH, so far
	fed     bool               // through SSH, at the moment
	ended   bool               // the relay's process
	trip    atomic.Int64       // a round trip to it, in nanoseconds; zero while it is not known
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
	noteFeed  = "feed"  // the operator's own link broke
	noteSSH   = "ssh"   // there is no link: it has to go through SSH
	noteTorn  = "torn"  // a lane broke off, and all else has been sent
	noteFatal = "fatal" // the host cannot be helped
	noteEnded = "ended" // the relay's process
)

func newMember(t Target, src *bundle, sent func(int), heard func(note)) *member {
	m := &member{target: t, peer: &peer{name: t.Host.Name(), wants: map[int]int64{}, lacks: map[int]bool{}}}
	for _, i := range t.Blobs {
		m.wants[i], m.lacks[i] = src.items[i].Size, true
		m.total += src.items[i].Size
	}
	m.out = newOutbox(src, sent, func(err error) { go heard(note{from: m, what: noteFatal, err: err}) },
		func() { go heard(note{from: m, what: noteTorn}) })
	return m
}

// run has the relay run on its host until its stdin is closed.
func (m *member) run(ctx context.Context, key []byte, heard func(note)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &start{Protocol: Protocol, Key: key, Listen: m.target.IP, Blobs: []Blob{}}
	for _, i := range m.target.Blobs {
		s.Blobs = append(s.Blobs, Blob{ID: i, Digest: m.out.src.items[i].Digest, Size: m.out.src.items[i].Size})
	}
	m.out.put(order{Start: s})
	var wg sync.WaitGroup
	out, stdout := io.Pipe()
	var nonsense error
	wg.Go(func() {
		nonsense = readLines(out, func(e event) error { heard(note{from: m, what: noteEvent, event: e}); return nil })
		_ = out.CloseWithError(nonsense) // a relay that talks nonsense is not listened to
	})
	wg.Go(func() { m.out.words(ctx) })
	wg.Go(func() { m.measure(ctx) })
	c := host.Command(m.target.Relay...)
	c.Stdin, c.Stdout = m.out, stdout
	_, err := m.target.Host.Run(ctx, c)
	cancel()
	_ = m.out.Close() // nobody reads it any more
	_ = stdout.Close()
	wg.Wait()
	if err == nil && nonsense != nil {
		err = fmt.Errorf("answers of the relay: %w", nonsense)
	}
	heard(note{from: m, what: noteEnded, err: err})
}

// settle compares the parts that a relay has with the blobs themselves.
func settle(src *bundle, parts []part) (out []keep, kept int64, err error) {
	for _, p := range parts {
		if p.ID < 0 || p.ID >= len(src.items) || p.Size > src.items[p.ID].Size {
			return nil, 0, fmt.Errorf("it has %d bytes of blob %d", p.Size, p.ID)
		}
		n, more, err := p.matching(src.items[p.ID].Content)
		if err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", src.items[p.ID].Digest, err)
		}
		out, kept = append(out, keep{p.ID, n, more}), kept+n
		for _, s := range more {
			kept += s.Size - s.Have
		}
	}
	return out, kept, nil
}

// starve ends what the operator's machine sends to it.
func (m *member) starve() {
	if m.unfeed != nil {
		m.unfeed()
		m.unfeed = nil
	}
	if m.fed {
		m.fed = false
		m.out.stop()
	}
}

func (m *member) addr() string { return net.JoinHostPort(m.target.IP, strconv.Itoa(m.port)) }

// dial connects to the relay, where that can be done.
func (m *member) dial(ctx context.Context) (net.Conn, error) {
	if m.local {
		return nil, errors.New("its relay listens for its own host alone")
	}
	d := net.Dialer{Timeout: time.Second}
	return d.DialContext(ctx, "tcp", m.addr())
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

// frame is never there: the operator's machine makes all of its frames.
func (b *bundle) frame(int, int64, int) (open []byte, done func()) { return nil, nil }
