package fanout

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kocli/kocli/pkg/fault"
)

// heartbeat is how often a relay says how far it is.
const heartbeat = 300 * time.Millisecond

// patience is how long a relay goes on without a word from the operator, who
// says something every few seconds: a cut cable leaves no process and no port.
const (
	patience = time.Minute
	word     = 10 * time.Second
)

// reserve is what a push leaves free on a host, in bytes: a full disk harms more
// than a push that is refused.
const reserve = 256 << 20

// orderSize is the room for an order, in bytes: the piece that follows it goes past
// this buffer into its own.
const orderSize = 4 << 10

// relay is the process on a host.
type relay struct {
	store *store
	key   []byte
	say   *lines
	fail  context.CancelCauseFunc

	mu       sync.Mutex
	parent   net.Conn                      // who sends at the moment
	children map[string]context.CancelFunc // whom this relay hands on to
	feeding  int                           // the number of the operator's feed; zero while it does not send

	begun  chan struct{} // closed when it is settled what there is
	taking chan struct{} // full while somebody sends
	done   sync.Once     // all is there, and that was said
	wg     sync.WaitGroup
}

// Relay runs on a host: it obeys the orders on in, reports on out, and keeps its
// content store in the folder root. Blobs that stand in one of the folders also,
// under the hex of their digests, are there already. It ends, and with it its port and all its
// connections, when in ends: it never outlives the SSH session that it belongs to.
func Relay(ctx context.Context, in io.Reader, out io.Writer, root string, also ...string) (err error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	r := &relay{say: &lines{w: out}, fail: fail, children: map[string]context.CancelFunc{}, begun: make(chan struct{}), taking: make(chan struct{}, 1)}
	if r.store, err = openStore(root, also); err != nil {
		return err
	}
	defer func() {
		fail(nil)
		r.close()
		err = errors.Join(err, r.store.close())
	}()
	ended := make(chan error, 1)
	silence := time.AfterFunc(patience, func() { fail(errors.New("nothing was heard from the operator's machine for " + patience.String())) })
	defer silence.Stop()
	go func() {
		ended <- r.listen(ctx, in, silence)
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close ends the parent's connection and waits for all that runs.
func (r *relay) close() {
	r.mu.Lock()
	if r.parent != nil {
		_ = r.parent.Close() // ends the read that waits on it
	}
	r.mu.Unlock()
	r.wg.Wait()
}

// listen reads the orders, and the bytes between them.
func (r *relay) listen(ctx context.Context, in io.Reader, silence *time.Timer) error {
	widePipe(in)
	br := bufio.NewReaderSize(in, orderSize)
	buf := make([]byte, frameData)
	defer r.unfeed()
	for {
		line, err := readLine(br)
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read orders: %w", err)
		}
		var o order
		if err := json.Unmarshal(line, &o); err != nil {
			return fmt.Errorf("order %.80q: %w", line, err)
		}
		silence.Reset(patience)
		if o.Data == nil {
			err = r.obey(ctx, o)
		} else if o.Data.N < 0 || o.Data.N > frameData {
			err = fmt.Errorf("a piece of %d bytes", o.Data.N)
		} else if _, err = io.ReadFull(br, buf[:o.Data.N]); err == nil {
			err = r.fed(r.feed(), *o.Data, buf[:o.Data.N])
		}
		if err != nil {
			return err
		}
	}
}

// feed is the number of the operator's feed; zero while it does not send.
func (r *relay) feed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.feeding
}

// readLine reads one order.
func readLine(br *bufio.Reader) ([]byte, error) {
	line, err := br.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	long := slices.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) && len(long) < maxLine {
		line, err = br.ReadSlice('\n')
		long = append(long, line...)
	}
	return long, err
}

// beFed stops whoever sends, and says to the operator what is lacking.
func (r *relay) beFed(ctx context.Context, n int) {
	r.mu.Lock()
	if r.parent != nil {
		_ = r.parent.Close()
		r.parent = nil
	}
	r.mu.Unlock()
	if r.feed() == 0 && !r.turn(ctx) {
		return
	}
	r.mu.Lock()
	r.feeding = n
	r.mu.Unlock()
	left, _ := r.store.lacking()
	r.tell(event{Lacks: &lacks{n, left}})
}

// fed takes a piece of one of the operator's feeds.
func (r *relay) fed(feed int, d data, p []byte) error {
	if feed == 0 || feed != r.feed() {
		return nil // it was under way when it was called off
	}
	err := r.store.append(d.ID, d.Off, p)
	switch {
	case errors.Is(err, ErrDigest):
		r.unfeed()
		r.tell(event{Bad: err.Error()})
	case errors.Is(err, syscall.ENOSPC):
		return r.full()
	default:
		return err
	}
	return nil
}

// unfeed lets others send again.
func (r *relay) unfeed() {
	r.mu.Lock()
	fed := r.feeding > 0
	r.feeding = 0
	r.mu.Unlock()
	if fed {
		<-r.taking
	}
}

// turn waits until nobody else sends; false when the relay ends.
func (r *relay) turn(ctx context.Context) bool {
	select {
	case r.taking <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *relay) obey(ctx context.Context, o order) error {
	switch {
	case o.Start != nil:
		return r.start(ctx, *o.Start)
	case r.key == nil:
		return errors.New("the first order is not start")
	case o.Send != nil:
		r.send(ctx, *o.Send)
	case o.Feed > 0:
		r.beFed(ctx, o.Feed)
	case o.End:
		if left, _ := r.store.lacking(); r.feed() > 0 && len(left) > 0 {
			r.tell(event{Bad: fmt.Sprintf("the operator's machine ended, and %d blobs are not whole", len(left))})
		}
		r.unfeed()
		r.report()
	case o.Unfeed:
		r.unfeed()
	case o.Drop != "":
		r.mu.Lock()
		defer r.mu.Unlock()
		if cancel := r.children[o.Drop]; cancel != nil {
			cancel()
		}
	}
	for _, k := range o.Keep {
		if err := r.store.keep(k.ID, k.N, k.More); err != nil {
			return err
		}
	}
	if o.Go {
		return r.begin(ctx)
	}
	return nil
}

func (r *relay) start(ctx context.Context, s start) error {
	if s.Protocol != Protocol || r.key != nil || len(s.Key) != keySize {
		return fmt.Errorf("this kocli relays with protocol %s, not %q", Protocol, s.Protocol)
	}
	r.key = s.Key
	answer := ready{Whole: []int{}}
	var need int64
	for _, b := range s.Blobs {
		whole, p, err := r.store.want(b)
		switch {
		case err != nil:
			return err
		case whole:
			answer.Whole = append(answer.Whole, b.ID)
			continue
		case p != nil:
			answer.Parts = append(answer.Parts, *p)
			need -= p.Size
		}
		need += b.Size
	}
	var err error
	if answer.Free, err = space(r.store.root); err != nil {
		return err
	}
	if need > 0 && need+reserve > answer.Free {
		return full(r.store.root, need, answer.Free)
	}
	l, local, err := listen(s.Listen)
	if err != nil {
		return err
	}
	answer.Local = local
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		answer.Port = a.Port
	}
	r.wg.Go(func() {
		<-ctx.Done()
		_ = l.Close() // ends accept
	})
	r.wg.Go(func() { r.accept(ctx, l) })
	if err := r.listenLanes(ctx); err != nil {
		return err
	}
	return r.say.write(event{Ready: &answer})
}

// listen takes a free port at an address of this host, or at the loopback where
// the host does not know that address.
func listen(ip string) (l net.Listener, local bool, err error) {
	if l, err = net.Listen("tcp", net.JoinHostPort(ip, "0")); err == nil {
		return l, false, nil
	}
	l, err = net.Listen("tcp", "127.0.0.1:0")
	return l, true, err
}

func space(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:gosec // of a disk
}

func full(dir string, need, free int64) error {
	return fault.New(fault.Failure, "free space below "+dir+" (or mount a larger disk there), then run the same command again: what has arrived stays",
		fmt.Errorf("%d MiB are to come, %d MiB are free, and %d MiB of them have to stay free", need>>20, free>>20, int64(reserve)>>20))
}

// full is the error of a disk that had no room left on the way.
func (r *relay) full() error {
	var need int64
	lacks, _ := r.store.lacking()
	for _, s := range lacks {
		need += s.Size - s.Have
	}
	free, err := space(r.store.root)
	return errors.Join(full(r.store.root, need, free), err)
}

// begin starts to report, and lets parents send.
func (r *relay) begin(ctx context.Context) error {
	lacks, _ := r.store.lacking()
	for _, s := range lacks {
		if s.Have == s.Size { // nothing is to come: only the digest was not looked at
			if err := r.store.append(s.ID, s.Size, nil); err != nil && (s.Size == 0 || !errors.Is(err, ErrDigest)) {
				return err
			}
		}
	}
	close(r.begun)
	r.wg.Go(func() {
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			r.report()
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return nil
}

// report says how far this relay is, and once that all is there.
func (r *relay) report() {
	select {
	case <-r.begun:
	default:
		return
	}
	missing, have := r.store.lacking()
	r.tell(event{At: &have})
	if len(missing) == 0 {
		r.done.Do(func() { r.tell(event{Done: true}) })
	}
}

// accept takes connections of parents. A new one takes the place of the old.
func (r *relay) accept(ctx context.Context, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed
		}
		r.wg.Go(func() { r.serve(ctx, conn) })
	}
}

func (r *relay) serve(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }() // whatever was said on it has been said
	l, err := newLink(conn, r.key, false)
	if err != nil {
		return // not one of ours
	}
	select {
	case <-r.begun:
	case <-ctx.Done():
		return
	}
	r.mu.Lock()
	if ctx.Err() != nil {
		r.mu.Unlock()
		return
	}
	old := r.parent
	r.parent = conn
	r.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
	if !r.turn(ctx) {
		return
	}
	err = take(l, r.store)
	<-r.taking
	r.mu.Lock()
	current := r.parent == conn
	if current {
		r.parent = nil
	}
	r.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case err == nil:
		r.report()
	case errors.Is(err, syscall.ENOSPC):
		r.fail(r.full())
	case errors.Is(err, ErrDigest):
		r.tell(event{Bad: err.Error()})
	case current:
		r.tell(event{Orphan: err.Error()})
	}
}

func (r *relay) tell(e event) {
	if err := r.say.write(e); err != nil {
		r.fail(err)
	}
}

// send hands on to a child until that has all, or is dropped.
func (r *relay) send(ctx context.Context, c child) {
	ctx, cancel := context.WithCancel(ctx)
	r.mu.Lock()
	if old := r.children[c.Name]; old != nil {
		old()
	}
	r.children[c.Name] = cancel
	r.mu.Unlock()
	r.wg.Go(func() {
		defer cancel()
		defer r.store.recent.use()()
		err := handOn(ctx, c.Addr, r.key, r.store)
		switch {
		case err == nil:
			r.tell(event{Sent: c.Name})
		case ctx.Err() == nil:
			r.tell(event{Lost: &failed{c.Name, err.Error()}})
		}
	})
}

// handOn dials a relay and feeds it.
func handOn(ctx context.Context, addr string, key []byte, src source) error {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // feed has said all
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	l, err := newLink(conn, key, true)
	if err != nil {
		return err
	}
	return feed(ctx, l, src, func(int) {})
}

// dialTimeout is how long another host may take to answer: a firewall that
// drops packets says nothing.
const dialTimeout = 3 * time.Second
