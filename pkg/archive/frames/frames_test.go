package frames

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is the size of frames in these tests; the format does not depend on it.
const small = 64 << 10

// words is content that shrinks as programs do.
func words(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]byte, 0, n+16)
	for len(out) < n {
		k := r.IntN(3000)
		out = append(out, byte(k), byte(k>>8), 'a', 'b', byte(r.IntN(4)))
	}
	return out[:n]
}

func codec(t testing.TB, workers int) *Codec {
	t.Helper()
	c, err := newCodec(workers, small)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func compress(t testing.TB, c *Codec, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := c.Write(t.Context(), &out, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func expand(c *Codec, raw []byte, size int) ([]byte, error) {
	r := c.Reader(bytes.NewReader(raw), int64(size))
	got, err := io.ReadAll(r)
	return got, errors.Join(err, r.Close())
}

func TestCodec_anySizeComesBack(t *testing.T) {
	for _, n := range []int{0, 1, 100, small - 1, small, small + 1, 3*small + small/2} {
		content := words(n, 7)
		c := codec(t, 3)
		raw := compress(t, c, content)
		if got, err := expand(c, raw, n); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
		}
		if n > 1000 && len(raw) > n*2/3 {
			t.Errorf("%d bytes became %d", n, len(raw))
		}
		z, err := zstd.NewReader(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: an ordinary zstd reader got %d, %v", n, len(got), err)
		}
		z.Close()
	}
}

func TestCodec_theSameBytesWhateverTheCoresAndWhateverCameBefore(t *testing.T) {
	content := words(5*small+17, 3)
	one := codec(t, 1)
	want := compress(t, one, content)
	many := codec(t, 5)
	compress(t, many, words(small+1, 9))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if !bytes.Equal(compress(t, many, content), want) {
				t.Error("other bytes")
			}
			compress(t, many, words(1000, 4))
		})
	}
	wg.Wait()
	var slow bytes.Buffer
	if err := many.Write(t.Context(), &slow, iotest.HalfReader(bytes.NewReader(content))); err != nil || !bytes.Equal(slow.Bytes(), want) {
		t.Errorf("other bytes when they come in pieces, %v", err)
	}
}

func TestCodec_isTheOneThatItsNameSays(t *testing.T) {
	mod, err := os.ReadFile("../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version := strings.Split(Form, "-")[1]
	if !strings.Contains(string(mod), "github.com/klauspost/compress "+version) {
		t.Fatalf("go.mod has another version than %s: change Form, so that caches are not mixed", version)
	}
}

func TestReader_refusesWhatWriteDidNotWrite(t *testing.T) {
	c := codec(t, 2)
	content := words(small+5000, 1)
	raw := compress(t, c, content)
	bomb := func(o ...zstd.EOption) []byte {
		e, err := zstd.NewWriter(nil, o...)
		if err != nil {
			t.Fatal(err)
		}
		return e.EncodeAll(make([]byte, 64<<20), nil)
	}
	var stream bytes.Buffer
	e, err := zstd.NewWriter(&stream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Write(content[:100]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.Flush(), e.Close()); err != nil {
		t.Fatal(err)
	}
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, raw...)
	for name, x := range map[string]struct {
		raw  []byte
		size int
	}{
		"one byte more than expected":      {raw, len(content) - 1},
		"one byte less than expected":      {raw, len(content) + 1},
		"nothing":                          {nil, 1},
		"a frame of 64 MB of zeros":        {bomb(), 64 << 20},
		"64 MB of zeros in a small window": {bomb(zstd.WithWindowSize(1 << 20)), 64 << 20},
		"content of unknown size":          {stream.Bytes(), 100},
		"a skippable frame":                {skippable, len(content)},
		"a frame that is cut off":          {raw[:len(raw)-1], len(content)},
		"something after the last":         {append(bytes.Clone(raw), 1), len(content)},
		"gzip":                             {[]byte("\x1f\x8b\x08\x00 is not zstd at all"), 10},
	} {
		if _, err := expand(c, x.raw, x.size); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := expand(c, raw, len(content)); err != nil {
		t.Fatalf("afterwards: %v", err)
	}
}

func TestReader_closedInTheMiddleGivesBackWhatItHeld(t *testing.T) {
	c := codec(t, 2)
	raw := compress(t, c, words(4*small, 1))
	for range 5 {
		r := c.Reader(bytes.NewReader(raw), 4*small)
		if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Read(make([]byte, 1)); err == nil {
			t.Fatal("read after close")
		}
	}
	if len(c.ahead) != 0 {
		t.Fatalf("%d places are still taken", len(c.ahead))
	}
}

func TestWrite_endsWithTheErrorOfItsSourceSinkOrContext(t *testing.T) {
	c := codec(t, 2)
	boom := errors.New("boom")
	content := words(3*small, 1)
	if err := c.Write(t.Context(), io.Discard, io.MultiReader(bytes.NewReader(content), iotest.ErrReader(boom))); !errors.Is(err, boom) {
		t.Errorf("source: %v", err)
	}
	r, w := io.Pipe()
	if err := r.CloseWithError(boom); err != nil {
		t.Fatal(err)
	}
	if err := c.Write(t.Context(), w, bytes.NewReader(content)); !errors.Is(err, boom) {
		t.Errorf("sink: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Write(ctx, io.Discard, bytes.NewReader(content)); !errors.Is(err, context.Canceled) {
		t.Errorf("context: %v", err)
	}
	if len(c.ahead) != 0 {
		t.Fatalf("%d places are still taken", len(c.ahead))
	}
}

func FuzzReader_neverGivesMoreThanExpected(f *testing.F) {
	c := codec(f, 1)
	content := words(5000, 1)
	var raw bytes.Buffer
	if err := c.Write(f.Context(), &raw, bytes.NewReader(content)); err != nil {
		f.Fatal(err)
	}
	f.Add(raw.Bytes(), 5000)
	f.Add(raw.Bytes()[:50], 5000)
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0xff, 0xff, 0x7f, 0, 3, 0, 0x40, 0}, 1<<23)
	f.Fuzz(func(t *testing.T, raw []byte, size int) {
		size = max(0, min(size, 1<<24))
		got, err := expand(c, raw, size)
		if len(got) > size || (err == nil && len(got) != size) {
			t.Fatalf("%d bytes of %d, %v", len(got), size, err)
		}
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	})
}
