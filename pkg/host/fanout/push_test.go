package fanout

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
)

// TestMain lets this program be a push that can be killed, and what runs on hosts.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KOCLI_TEST_PUSH"); dir != "" {
		pushUntilKilled(dir)
	}
	if root := os.Getenv("KOCLI_TEST_RELAY"); root != "" {
		onHost(Relay(context.Background(), os.Stdin, os.Stdout, root))
	}
	if root := os.Getenv("KOCLI_TEST_LANE"); root != "" {
		onHost(Lane(context.Background(), os.Stdin, root))
	}
	goleak.VerifyTestMain(m)
}

// machine is a host whose relay runs in this process, in a folder of its own.
type machine struct {
	name string
	root string
	stop func(error)  // ends the relay without a word, as kill -9 does
	port atomic.Int64 // of the relay
	err  error        // what Run returns instead of running
}

func newMachine(t *testing.T, name string) *machine {
	return &machine{name: name, root: filepath.Join(t.TempDir(), name)}
}

func (m *machine) Name() string { return m.name }

func (m *machine) Run(ctx context.Context, c host.Cmd) (host.Output, error) {
	if m.err != nil {
		return host.Output{}, m.err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	in, w := io.Pipe()
	m.stop = func(err error) { cancel(err) }
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := io.Copy(w, c.Stdin)
		_ = w.CloseWithError(err)
	})
	err := Relay(ctx, in, writer(func(p []byte) {
		var e event
		if json.Unmarshal(p, &e) == nil && e.Ready != nil {
			m.port.Store(int64(e.Ready.Port))
		}
		_, _ = c.Stdout.Write(p) // the pipe of the push
	}), m.root)
	_ = in.CloseWithError(io.ErrClosedPipe)
	if r, ok := c.Stdin.(io.Closer); ok {
		_ = r.Close()
	}
	wg.Wait()
	if err != nil && fault.CodeOf(err) == fault.Locked {
		return host.Output{}, &host.ExitError{Cmd: "relay", Code: int(fault.Locked), Stderr: []byte(err.Error())}
	}
	return host.Output{}, err
}

func items(sizes ...int64) []Item {
	var out []Item
	for i, n := range sizes {
		data := make([]byte, n)
		r := rand.NewChaCha8([32]byte{byte(i + 1)})
		_, _ = r.Read(data)
		sum := sha256.Sum256(data)
		out = append(out, Item{Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: n, Content: bytes.NewReader(data)})
	}
	return out
}

// cluster is a push in the making.
type cluster struct {
	t        testing.TB
	machines []*machine
	options  Options
	mu       sync.Mutex
	said     []string
}

func newCluster(t *testing.T, n int, mode Mode, sizes ...int64) *cluster {
	c := &cluster{t: t, options: Options{Items: items(sizes...), Mode: mode, Now: time.Now}}
	c.options.Say = func(s string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.said = append(c.said, s)
		t.Log(s)
	}
	for i := range n {
		m := newMachine(t, fmt.Sprintf("host%d", i+1))
		c.machines = append(c.machines, m)
		var all []int
		for j := range sizes {
			all = append(all, j)
		}
		c.options.Targets = append(c.options.Targets, Target{Host: m, IP: "127.0.0.1", Relay: []string{"relay"}, Blobs: all})
	}
	return c
}

func (c *cluster) push() Report {
	c.t.Helper()
	r, err := Push(c.t.Context(), c.options)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// check holds what hosts have against what they should have.
func (c *cluster) check(machines ...*machine) {
	c.t.Helper()
	for _, m := range machines {
		for _, tg := range c.options.Targets {
			if tg.Host.Name() != m.name {
				continue
			}
			for _, i := range tg.Blobs {
				it := c.options.Items[i]
				want := make([]byte, it.Size)
				if _, err := it.Content.ReadAt(want, 0); err != nil && !errors.Is(err, io.EOF) {
					c.t.Fatal(err)
				}
				got, err := os.ReadFile(Path(m.root, it.Digest))
				if err != nil || !bytes.Equal(got, want) {
					c.t.Errorf("%s: blob %d: %v, %d bytes of %d", m.name, i, err, len(got), len(want))
				}
			}
		}
		if parts, err := os.ReadDir(filepath.Join(m.root, "part")); err != nil || len(parts) > 0 {
			c.t.Errorf("%s: parts are left: %v, %v", m.name, parts, err)
		}
	}
}

const unit = 256 << 10

func TestPush_everyModeBringsEverything(t *testing.T) {
	for _, mode := range []Mode{Chain, SSH, Auto} {
		t.Run(string(mode), func(t *testing.T) {
			c := newCluster(t, 4, mode, 3*unit+17, 0, 1, 9*unit, frameData, 2*frameData)
			var total int64
			for _, it := range c.options.Items {
				total += it.Size
			}
			r := c.push()
			c.check(c.machines...)
			want := total
			if mode != Chain { // little as this is, Auto takes no chain
				want = 4 * total
			}
			if r.Sent != want {
				t.Errorf("%d bytes left the operator, want %d", r.Sent, want)
			}
			for n, missing := range r.Missing {
				if missing != total {
					t.Errorf("%s lacked %d of %d bytes", n, missing, total)
				}
			}
			again := c.push()
			if again.Sent != 0 || again.Links != 0 {
				t.Errorf("a second push sent %d bytes over %d links", again.Sent, again.Links)
			}
		})
	}
}

func TestPush_eachHostGetsWhatItsRoleNeeds(t *testing.T) {
	c := newCluster(t, 4, Chain, unit, 2*unit, 3*unit)
	c.options.Targets[0].Blobs = []int{0, 2} // workers
	c.options.Targets[1].Blobs = []int{0, 1}
	c.options.Targets[2].Blobs = []int{0}
	r := c.push()
	c.check(c.machines...)
	if r.Sent != 6*unit {
		t.Errorf("%d bytes left the operator, want one copy of each blob", r.Sent)
	}
	if _, err := os.Stat(Path(c.machines[2].root, c.options.Items[1].Digest)); err == nil {
		t.Error("a host has a blob that it does not need")
	}
}

// watched is content whose reading a test watches.
type watched struct {
	r    io.ReaderAt
	gate func(off int64)
}

func (s watched) ReadAt(p []byte, off int64) (int, error) {
	s.gate(off)
	return s.r.ReadAt(p, off)
}

// at runs f once, when the operator reads this byte of the second blob.
func (c *cluster) at(off int64, f func()) {
	var once sync.Once
	c.options.Items[1].Content = watched{r: c.options.Items[1].Content, gate: func(o int64) {
		if o >= off {
			once.Do(f)
		}
	}}
}

func TestPush_bridgesAHostThatDies(t *testing.T) {
	for dead := range 4 {
		t.Run(fmt.Sprint("host", dead+1), func(t *testing.T) {
			c := newCluster(t, 4, Chain, 8*unit, 8*unit)
			c.at(4*unit, func() { c.machines[dead].stop(errors.New("killed")) })
			_, err := Push(t.Context(), c.options)
			if err == nil || !strings.Contains(err.Error(), fmt.Sprint("host", dead+1)) || strings.Count(err.Error(), "push content") != 1 {
				t.Errorf("got %v", err)
			}
			var alive []*machine
			for i, m := range c.machines {
				if i != dead {
					alive = append(alive, m)
				}
			}
			c.check(alive...)
		})
	}
}

func TestPush_goesOnAfterAKill(t *testing.T) {
	for _, mode := range []Mode{Chain, SSH} {
		t.Run(string(mode), func(t *testing.T) {
			c := newCluster(t, 3, mode, 16*unit, 16*unit)
			ctx, cancel := context.WithCancel(t.Context())
			clean := c.options.Items[1].Content
			c.at(4*unit, func() { cancel() })
			if _, err := Push(ctx, c.options); !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v", err)
			}
			c.options.Items[1].Content = clean
			var left int64
			for _, m := range c.machines {
				st, err := os.Stat(filepath.Join(m.root, "part", c.options.Items[1].Digest[7:]))
				if err != nil {
					continue
				}
				left += st.Size()
			}
			r := c.push()
			c.check(c.machines...)
			var missing int64
			for _, n := range r.Missing {
				missing += n
			}
			if want := int64(3*16*unit) - left; missing > want+3*16*unit || left > 0 && missing >= 2*3*16*unit {
				t.Errorf("%d bytes were sent again, %d were there", missing, left)
			}
		})
	}
}

func TestPush_aPartThatIsNotRightIsSentAgain(t *testing.T) {
	c := newCluster(t, 1, SSH, 3*chunkSize)
	m, it := c.machines[0], c.options.Items[0]
	data := make([]byte, 2*chunkSize+5)
	if _, err := it.Content.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	data[chunkSize+1] ^= 1 // what a loss of power may leave
	if err := os.MkdirAll(filepath.Join(m.root, "part"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.root, "part", it.Digest[7:]), data, 0o600); err != nil {
		t.Fatal(err)
	}
	r := c.push()
	c.check(m)
	if want := int64(2*chunkSize - 5); r.Missing["host1"] != want || r.Sent != want {
		t.Errorf("%d bytes sent, %d missing: the first chunk was right, and the start of the third", r.Sent, r.Missing["host1"])
	}
}

func TestPush_hostsThatCannotReachEachOther(t *testing.T) {
	c := newCluster(t, 3, Chain, 2*unit)
	// 240.0.0.0/8 is nobody's: the relays listen on their loopback alone.
	for i := range c.options.Targets {
		c.options.Targets[i].IP = fmt.Sprint("240.0.0.", i+1)
	}
	r := c.push()
	c.check(c.machines...)
	if r.Sent != 3*2*unit || r.Links != 0 {
		t.Errorf("%d bytes sent, %d links", r.Sent, r.Links)
	}
}

func TestPush_aLinkThatIsClosed(t *testing.T) {
	c := newCluster(t, 3, Chain, 2*unit)
	// The second host claims an address at which nobody listens.
	c.options.Targets[1].Host = elsewhere{c.machines[1]}
	r := c.push()
	c.check(c.machines...)
	if r.Moved == 0 || r.Sent != 2*2*unit {
		t.Errorf("moved %d, sent %d", r.Moved, r.Sent)
	}
}

// elsewhere is a machine whose relay tells a port at which nobody answers.
type elsewhere struct{ *machine }

func (e elsewhere) Run(ctx context.Context, c host.Cmd) (host.Output, error) {
	out := c.Stdout
	c.Stdout = writer(func(p []byte) {
		port := fmt.Sprintf(`"port":%d,`, e.port.Load())
		_, _ = out.Write(bytes.Replace(p, []byte(port), []byte(`"port":1,`), 1)) // the pipe of the push
	})
	return e.machine.Run(ctx, c)
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestPush_wrongBytesOfAHostAreNotedAndReplaced(t *testing.T) {
	c := newCluster(t, 3, Chain, 8*unit)
	// host1 has the blob already, and it is rotten.
	m, it := c.machines[0], c.options.Items[0]
	rotten := make([]byte, it.Size)
	if err := os.MkdirAll(filepath.Join(m.root, "sha256"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(Path(m.root, it.Digest), rotten, 0o600); err != nil {
		t.Fatal(err)
	}
	c.push()
	c.check(c.machines[1:]...)
	if text := strings.Join(c.said, "\n"); !strings.Contains(text, "wrong bytes") {
		t.Errorf("nobody was told: %q", text)
	}
}

func TestPush_aBundleThatLiesIsNotSentForEver(t *testing.T) {
	c := newCluster(t, 2, SSH, unit)
	c.options.Items[0].Content = bytes.NewReader(make([]byte, unit))
	r, err := Push(t.Context(), c.options)
	if fault.CodeOf(err) != fault.Bundle || r.Sent != 4*unit {
		t.Errorf("%v, %d bytes sent", err, r.Sent)
	}
}

func TestPush_twoAtOnce(t *testing.T) {
	c := newCluster(t, 2, SSH, unit)
	s, err := openStore(c.machines[0].root, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Push(t.Context(), c.options)
	if fault.CodeOf(err) != fault.Locked || !strings.Contains(err.Error(), "host1") || !strings.Contains(err.Error(), "another kocli") {
		t.Errorf("got %v", err)
	}
	c.check(c.machines[1])
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	c.push()
	c.check(c.machines...)
}

// smallDisk gives a machine a disk of its own.
func smallDisk(t *testing.T, m *machine, size string) {
	t.Helper()
	m.root = filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(m.root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", m.root, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("this test mounts a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(m.root, 0); err != nil {
			t.Error(err)
		}
	})
}

func TestPush_diskFull(t *testing.T) {
	c := newCluster(t, 1, SSH, unit)
	smallDisk(t, c.machines[0], "512k")
	_, err := Push(t.Context(), c.options)
	if err == nil || !strings.Contains(err.Error(), "MiB are free") || !strings.Contains(fault.HintOf(err), "free space below "+c.machines[0].root) {
		t.Errorf("got %v, hint %q", err, fault.HintOf(err))
	}
}

func TestPush_aDiskThatFillsUpOnTheWay(t *testing.T) {
	for _, mode := range []Mode{Chain, SSH} {
		t.Run(string(mode), func(t *testing.T) {
			c := newCluster(t, 3, mode, 32*unit, 32*unit)
			m := c.machines[1]
			smallDisk(t, m, "280m") // enough for what comes, and what has to stay free
			ballast := filepath.Join(m.root, "of others")
			clean := c.options.Items[1].Content
			c.at(unit, func() {
				f, err := os.Create(ballast)
				if err != nil {
					t.Error(err)
					return
				}
				for err == nil {
					_, err = f.Write(make([]byte, 4096))
				}
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			})
			_, err := Push(t.Context(), c.options)
			if err == nil || !strings.Contains(err.Error(), "host2") || !strings.Contains(err.Error(), "MiB are free") || strings.Count(err.Error(), "push content") != 1 {
				t.Errorf("got %v", err)
			}
			c.check(c.machines[0], c.machines[2]) // the others lose nothing
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			c.options.Items[1].Content = clean
			r := c.push()
			c.check(c.machines...)
			if n := r.Missing["host2"]; n == 0 || n > 32*unit {
				t.Errorf("%d bytes were sent to the host again", n)
			}
		})
	}
}

func TestPush_aHostThatCannotBeReached(t *testing.T) {
	c := newCluster(t, 3, Chain, unit)
	c.machines[1].err = fault.New(fault.Unreachable, "check that it is up", errors.New("no answer"))
	_, err := Push(t.Context(), c.options)
	if fault.CodeOf(err) != fault.Unreachable || !strings.Contains(err.Error(), "host2") {
		t.Errorf("got %v", err)
	}
	c.check(c.machines[0], c.machines[2])
}

func TestRelay_leavesNoPortBehind(t *testing.T) {
	c := newCluster(t, 1, SSH, unit)
	c.push()
	port := c.machines[0].port.Load()
	conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
	if port == 0 || err == nil {
		t.Errorf("port %d still answers", port)
		_ = conn.Close()
	}
}
