package fanout

import "testing"

// A frame that is read is not written over, and what nobody asks for is not kept.
func TestRecent(t *testing.T) {
	var r recent
	box := func() []byte { return append([]byte{kindData}, make([]byte, dataHead+2)...) }
	first := box()
	if got := r.put(0, 0, 2, first); &got[0] != &first[0] {
		t.Error("a frame is kept that nobody asks for")
	}
	end := r.use()
	if got := r.put(0, 0, 2, first); got != nil {
		t.Error("the frame that is kept is given away")
	}
	open, done := r.get(0, 0, 2)
	if len(open) != 1+dataHead+2 || &open[0] != &first[0] {
		t.Fatalf("got %v", open)
	}
	for _, x := range []struct {
		id   int
		off  int64
		size int
	}{{1, 0, 2}, {0, 1, 2}, {0, 0, 1}} {
		if open, _ := r.get(x.id, x.off, x.size); open != nil {
			t.Errorf("%v is another frame", x)
		}
	}
	for i := range len(r.frames) {
		if got := r.put(1, int64(2*i), 2, box()); got != nil {
			t.Error("a frame that is read is given away")
		}
	}
	done()
	if got := r.put(1, 100, 2, box()); got == nil {
		t.Error("a frame that nobody reads is not used again")
	}
	if open, _ := r.get(0, 0, 2); open != nil {
		t.Error("the oldest frame is still there")
	}
	r.clear()
	if open, _ := r.get(1, 100, 2); open != nil {
		t.Error("a frame is there after all were forgotten")
	}
	end()
	if b := box(); &r.put(1, 0, 2, b)[0] != &b[0] {
		t.Error("a frame is kept after the last one who asked has gone")
	}
}
