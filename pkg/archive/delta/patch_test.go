package delta

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// program is something like machine code: instructions with addresses in them.
func program(r *rand.Rand, n int, shift uint32) []byte {
	var out []byte
	for i := 0; len(out) < n; i++ {
		op := make([]byte, 3+r.IntN(6))
		for j := range op {
			op[j] = byte(r.IntN(40))
		}
		addr := r.Uint32N(1<<24) + shift
		out = append(out, op...)
		out = append(out, byte(addr), byte(addr>>8), byte(addr>>16))
	}
	return out[:n]
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func check(t testing.TB, d *differ, old, new []byte) int {
	t.Helper()
	p := slices.Clone(d.patch(old, new, nil))
	got, err := applyPatch(nil, old, p, len(new))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, new) {
		t.Fatalf("%d bytes of old, %d of new: the patch makes something else", len(old), len(new))
	}
	return len(d.extra)
}

func TestPatch_roundTrips(t *testing.T) {
	r := newRand(1)
	base := program(r, 60_000, 0)
	random := make([]byte, 5000)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	d := newDiffer(100, 100)
	for name, x := range map[string][2][]byte{
		"both empty":        {nil, nil},
		"nothing old":       {nil, base},
		"nothing new":       {base, nil},
		"the same":          {base, base},
		"one byte":          {base, []byte("x")},
		"short":             {[]byte("abcdefg"), []byte("abcdefgh")},
		"moved":             {base, slices.Concat(base[30_000:], base[:30_000])},
		"inserted":          {base, slices.Concat(base[:20_000], random, base[20_000:])},
		"removed":           {base, slices.Concat(base[:20_000], base[40_000:])},
		"repeated":          {base[:5000], bytes.Repeat(base[:5000], 5)},
		"unrelated":         {base, random},
		"zeros":             {make([]byte, 9000), make([]byte, 10_000)},
		"addresses shifted": {base, program(newRand(1), 60_000, 0x30)},
	} {
		extra := check(t, &d, x[0], x[1])
		if name == "addresses shifted" && extra > 600 {
			t.Errorf("%s: %d of %d bytes are new", name, extra, len(x[1]))
		}
	}
	for i := range 200 {
		r := newRand(uint64(i))
		old := program(r, r.IntN(3000), 0)
		new := slices.Clone(old)
		for range r.IntN(6) {
			at := r.IntN(len(new) + 1)
			new = slices.Concat(new[:at], program(r, r.IntN(200), 0), new[min(len(new), at+r.IntN(100)):])
		}
		check(t, &d, old, new)
	}
}

func FuzzPatch(f *testing.F) {
	f.Add([]byte("the old content of this"), []byte("the new content of this"))
	f.Add(bytes.Repeat([]byte("ab"), 40), bytes.Repeat([]byte("ba"), 50))
	f.Fuzz(func(t *testing.T, old, new []byte) {
		d := newDiffer(len(old), len(new))
		check(t, &d, old, new)
	})
}

// Whatever the patch says, it makes as many bytes as were asked for, of what is
// there.
func FuzzApplyPatch(f *testing.F) {
	old := program(newRand(1), 500, 0)
	d := newDiffer(len(old), 500)
	f.Add(d.patch(old, program(newRand(1), 500, 9), nil), 500)
	f.Add([]byte{}, 0)
	f.Add([]byte{3, 5, 0, 1, 1, 2, 3, 4, 5}, 5)
	f.Add([]byte{12, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0}, 5)
	f.Fuzz(func(t *testing.T, p []byte, size int) {
		out, err := applyPatch(nil, old, p, size)
		if err == nil && len(out) != size {
			t.Fatalf("%d bytes, want %d", len(out), size)
		}
	})
}
