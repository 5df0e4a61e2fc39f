package fanout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kocli/kocli/pkg/host/hosttest/sshtest"
	"github.com/kocli/kocli/pkg/host/sshhost"
)

// onHost ends a process that is what kocli runs on a host.
func onHost(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// road is a TCP proxy that carries every byte late, as a long way does, however
// many of them are under way.
type road struct {
	to    string
	late  time.Duration // in each direction
	limit atomic.Int64  // connections that are let in; negative: any number

	listener net.Listener
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn // of those that came, in their order
}

func newRoad(t testing.TB, to string, late time.Duration) *road {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &road{to: to, late: late, listener: l}
	r.limit.Store(-1)
	r.wg.Go(r.accept)
	t.Cleanup(func() {
		_ = l.Close()
		for i := range r.count() {
			r.cut(i)
		}
		r.wg.Wait()
	})
	return r
}

func (r *road) port() int { return r.listener.Addr().(*net.TCPAddr).Port }

func (r *road) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}

// cut closes the i-th connection.
func (r *road) cut(i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.conns[i].Close()
}

func (r *road) accept() {
	for {
		near, err := r.listener.Accept()
		if err != nil {
			return
		}
		if n := r.limit.Load(); n >= 0 && int64(r.count()) >= n {
			_ = near.Close() // as MaxStartups does
			continue
		}
		far, err := net.Dial("tcp", r.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, near)
		r.mu.Unlock()
		r.wg.Go(func() { r.carry(far, near) })
		r.wg.Go(func() { r.carry(near, far) })
	}
}

// carry passes on what comes from one side, late.
func (r *road) carry(to, from net.Conn) {
	type load struct {
		due  time.Time
		data []byte
	}
	loads := make(chan load, 4096)
	var wg sync.WaitGroup
	wg.Go(func() {
		for l := range loads {
			time.Sleep(time.Until(l.due))
			if _, err := to.Write(l.data); err != nil {
				_ = from.Close()
			}
		}
		_ = to.Close()
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			loads <- load{time.Now().Add(r.late), append([]byte{}, buf[:n]...)}
		}
		if err != nil {
			close(loads)
			wg.Wait()
			return
		}
	}
}

// sshLine makes connections to a host in this process.
type sshLine struct{ *sshhost.Host }

func (l sshLine) Another(ctx context.Context) (Connection, error) { return l.Host.Another(ctx) }

// remote is a push to one host at the end of a road.
func remote(t testing.TB, late time.Duration, sizes ...int64) (*cluster, *road) {
	t.Helper()
	signer, file := sshtest.KeyFile(t)
	s := sshtest.Start(t, sshtest.Options{Users: map[string]sshtest.User{"root": {Keys: []ssh.PublicKey{signer.PublicKey()}}}})
	r := newRoad(t, s.Addr(), late)
	h, err := sshhost.Dial(t.Context(), sshhost.Target{
		Name: "host1", Address: "127.0.0.1", Port: r.port(), Login: sshhost.Login{User: "root", KeyFile: file},
	}, sshhost.Options{
		Keys:    &sshhost.KnownHosts{File: filepath.Join(t.TempDir(), "known_hosts"), Accept: func(string, ssh.PublicKey) bool { return true }},
		Timeout: 20 * time.Second, KeepAlive: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	c := &cluster{t: t, options: Options{Items: items(sizes...), Mode: SSH, Now: time.Now}}
	c.options.wanting = 1e-9 // however busy this machine is
	c.options.Say = func(s string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.said = append(c.said, s)
		t.Log(s)
	}
	root := filepath.Join(t.TempDir(), "content")
	c.machines = []*machine{{name: "host1", root: root}}
	tg := Target{
		Host: h, Line: sshLine{h}, IP: "127.0.0.1",
		Relay: []string{"env", "KOCLI_TEST_RELAY=" + root, os.Args[0]},
		Lane:  []string{"env", "KOCLI_TEST_LANE=" + root, os.Args[0]},
	}
	for i := range sizes {
		tg.Blobs = append(tg.Blobs, i)
	}
	c.options.Targets = []Target{tg}
	return c, r
}

const longTrip = 15 * time.Millisecond // each way

func TestPush_aLongWayGetsSeveralConnections(t *testing.T) {
	c, r := remote(t, longTrip, 20<<20+5, 3*unit+1, 0, 28<<20)
	report := c.push()
	c.check(c.machines...)
	var total int64
	for _, it := range c.options.Items {
		total += it.Size
	}
	if report.Lanes == 0 || report.Lanes >= maxLines || r.count() < 1+report.Lanes {
		t.Errorf("%d lanes, %d connections", report.Lanes, r.count())
	}
	if report.Sent != total || report.Missing["host1"] != total {
		t.Errorf("%d bytes sent, %d missing, of %d", report.Sent, report.Missing["host1"], total)
	}
	if again := c.push(); again.Sent != 0 || again.Lanes != 0 {
		t.Errorf("a second push sent %d bytes over %d lanes", again.Sent, again.Lanes)
	}
	if _, err := os.Stat(lanePath(c.machines[0].root)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestPush_aShortWayGetsOneConnection(t *testing.T) {
	c, r := remote(t, 0, 24<<20)
	c.options.wanting = 0
	if report := c.push(); report.Lanes != 0 || r.count() != 1 {
		t.Errorf("%d lanes, %d connections", report.Lanes, r.count())
	}
	c.check(c.machines...)
}

func TestPush_aHostThatRefusesAnotherLogin(t *testing.T) {
	for _, allowed := range []int64{1, 2} {
		t.Run(fmt.Sprint(allowed, " are let in"), func(t *testing.T) {
			c, r := remote(t, longTrip, 64<<20)
			r.limit.Store(allowed)
			report := c.push()
			c.check(c.machines...)
			if report.Lanes != int(allowed)-1 || report.Sent != 64<<20 {
				t.Errorf("%d lanes, %d bytes sent", report.Lanes, report.Sent)
			}
			if text := strings.Join(c.said, "\n"); !strings.Contains(text, fmt.Sprintf("lets nobody in for another connection, %d have to do", allowed)) {
				t.Errorf("nobody was told: %q", text)
			}
		})
	}
}

func TestPush_aConnectionOfSeveralThatIsCut(t *testing.T) {
	const size = 64 << 20
	c, r := remote(t, longTrip, size)
	var once sync.Once
	c.options.Items[0].Content = watched{r: c.options.Items[0].Content, gate: func(off int64) {
		if off > size/2 && r.count() > 1 {
			once.Do(func() { r.cut(1) })
		}
	}}
	report := c.push()
	c.check(c.machines...)
	// What was under way on it is sent again, and nothing else.
	if lost := report.Sent - size; report.Lanes == 0 || lost < 0 || lost > 2*channelWindow+4*frameData {
		t.Errorf("%d lanes, %d bytes were sent again", report.Lanes, lost)
	}
	once.Do(func() { t.Error("nothing was cut") })
}

func TestPush_killedWithSeveralConnectionsGoesOnExactly(t *testing.T) {
	const size = 64 << 20
	c, r := remote(t, longTrip, size)
	ctx, cancel := context.WithCancel(t.Context())
	clean := c.options.Items[0].Content
	c.options.Items[0].Content = watched{r: clean, gate: func(off int64) {
		if off > size/2 && r.count() > 1 {
			cancel()
		}
	}}
	if _, err := Push(ctx, c.options); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	// What the host has: every chunk of the part that is as in the source.
	f, err := os.Open(filepath.Join(c.machines[0].root, "part", c.options.Items[0].Digest[7:]))
	if err != nil {
		t.Fatal(err)
	}
	var there int64
	mine, theirs := make([]byte, chunkSize), make([]byte, chunkSize)
	for off := int64(0); off < size; off += chunkSize {
		if n, _ := f.ReadAt(theirs, off); n == chunkSize {
			if _, err := clean.ReadAt(mine, off); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			if string(mine) == string(theirs) {
				there += chunkSize
			}
		}
	}
	if err := f.Close(); err != nil || there < size/4 {
		t.Fatalf("%d bytes are there, %v", there, err)
	}
	c.options.Items[0].Content = clean
	report := c.push()
	c.check(c.machines...)
	if report.Missing["host1"] != size-there || report.Sent != size-there {
		t.Errorf("%d bytes sent, %d missing: %d of %d were there", report.Sent, report.Missing["host1"], there, int64(size))
	}
}

// Pieces come in any order, from several sides, and some of them twice.
func TestStore_takesPiecesInAnyOrder(t *testing.T) {
	it := items(41*frameData + 17)[0]
	s, err := openStore(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.want(Blob{ID: 3, Digest: it.Digest, Size: it.Size}); err != nil {
		t.Fatal(err)
	}
	var offs []int64
	for off := int64(0); off < it.Size; off += frameData {
		offs = append(offs, off)
	}
	rand.Shuffle(len(offs), func(i, j int) { offs[i], offs[j] = offs[j], offs[i] })
	last := offs[len(offs)-1]
	put := func(off int64) {
		p := make([]byte, min(frameData, it.Size-off))
		if _, err := it.Content.ReadAt(p, off); err != nil && !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		if err := s.append(3, off, p); err != nil {
			t.Error(err)
		}
	}
	var wg sync.WaitGroup
	for lane := range 4 {
		wg.Go(func() {
			for i := lane; i < len(offs)-1; i += 4 {
				put(offs[i])
				put(offs[(i+1)%(len(offs)-1)])
			}
		})
	}
	wg.Wait()
	end := min(last+frameData, it.Size)
	missing, have := s.lacking()
	if len(missing) != 1 || missing[0] != (span{3, last, end}) || have != it.Size-(end-last) {
		t.Errorf("%v is missing, %d bytes are there; all but those from %d are", missing, have, last)
	}
	put(last)
	if missing, have := s.lacking(); len(missing) != 0 || have != it.Size {
		t.Errorf("%v is missing, %d bytes are there", missing, have)
	}
	if err := s.append(3, it.Size, []byte("x")); err == nil {
		t.Error("a piece beyond the end was taken")
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkPushLongRoundTrip is the time that several connections take for as many
// bytes as one, where a round trip takes 50 ms: the metric is their ratio.
func BenchmarkPushLongRoundTrip(b *testing.B) {
	const size = 256 << 20
	for b.Loop() {
		took := func(several bool) float64 {
			c, _ := remote(b, 25*time.Millisecond, size)
			c.options.wanting = 0
			if !several {
				c.options.Targets[0].Line = nil
			}
			start := time.Now()
			if _, err := Push(b.Context(), c.options); err != nil {
				b.Fatal(err)
			}
			return time.Since(start).Seconds()
		}
		one := took(false)
		many := took(true)
		b.ReportMetric(many/one, "x-of-one-connection")
		b.ReportMetric(one, "s-one")
		b.ReportMetric(many, "s-several")
	}
}
