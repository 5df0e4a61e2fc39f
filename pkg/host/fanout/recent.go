package fanout

import "sync"

// recent holds the frames that came in last, open, so that a host that keeps up is
// handed on what is still in memory. It holds them only while somebody is handed on to.
type recent struct {
	mu     sync.Mutex
	users  int // whom is handed on to
	frames [8]*arrived
	next   int
}

// arrived is a frame as link.receive opened it: its kind, its head and bytes of a blob.
type arrived struct {
	id    int
	off   int64
	size  int // of the bytes
	box   []byte
	users int // that read it
}

// use says that frames are wanted, until end is called.
func (r *recent) use() (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users++
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.users--
	})
}

// put keeps the frame in box, and returns room for another one.
func (r *recent) put(id int, off int64, size int, box []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users == 0 {
		return box
	}
	old := r.frames[r.next]
	r.frames[r.next] = &arrived{id: id, off: off, size: size, box: box}
	r.next = (r.next + 1) % len(r.frames)
	if old == nil || old.users > 0 { // it is still read
		return nil
	}
	return old.box
}

// get returns the frame of a blob's bytes; nil where it is gone, or never was.
func (r *recent) get(id int, off int64, size int) (open []byte, done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.frames {
		if f != nil && f.id == id && f.off == off && f.size == size {
			f.users++
			return f.box[:1+dataHead+size], func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				f.users--
			}
		}
	}
	return nil, nil
}

// clear forgets all frames.
func (r *recent) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frames = [len(r.frames)]*arrived{}
}
