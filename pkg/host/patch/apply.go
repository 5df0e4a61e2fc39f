package patch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/delta"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/internal/atomicfile"
)

const (
	copySize = 512 << 10                   // bytes of the buffer of copies
	maxOrder = 2 * archive.MaxManifestSize // bytes
)

// reserve is what is left free on the host, in bytes, as a push does.
const reserve = 256 << 20

// Apply makes the blobs that the order on in names, in the content store below
// root, and says on out how far it is. Blobs that stand in one of the folders
// also, under the hex of their digests, may be bases. Nothing is written where
// one cannot be made, or where there is no room.
func Apply(ctx context.Context, in io.Reader, out io.Writer, root string, also ...string) (err error) {
	var o Order
	if err := json.NewDecoder(io.LimitReader(in, maxOrder)).Decode(&o); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	if err := o.check(); err != nil {
		return fault.New(fault.Bundle, "", fmt.Errorf("read the order: %w", err))
	}
	release, err := hold(ctx, root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	a := &applier{order: o, root: root, bases: bases{root, also, o.Files}, buf: make([]byte, copySize)}
	if err := a.clear(); err != nil {
		return err
	}
	say := &voice{to: json.NewEncoder(out)}
	ctx, end := say.beat(ctx)
	defer end()
	return a.run(ctx, say)
}

// heartbeat is how often Apply says that it lives. Where nobody hears it, because
// the SSH session has ended, it does not go on.
const heartbeat = 300 * time.Millisecond

// voice says how far Apply is.
type voice struct {
	mu sync.Mutex
	to *json.Encoder
}

func (v *voice) say(bytes int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.to.Encode(made{bytes})
}

// beat says something from time to time, until end is called. The context that it
// returns ends when nobody hears it.
func (v *voice) beat(ctx context.Context) (_ context.Context, end func()) {
	ctx, fail := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := v.say(0); err != nil {
					fail(fmt.Errorf("the operator's machine is gone: %w", err))
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return ctx, func() { fail(nil); wg.Wait() }
}

// patience is how long the store may be taken: a process that was killed gives it
// back when it has ended.
const patience = 2 * time.Second

func hold(ctx context.Context, root string) (release func() error, err error) {
	for start := time.Now(); ; {
		release, err = fanout.Hold(root)
		if fault.CodeOf(err) != fault.Locked || time.Since(start) > patience {
			return release, err
		}
		select {
		case <-time.After(heartbeat):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// check refuses an order that cannot be meant.
func (o Order) check() error {
	for _, b := range o.Blobs {
		if err := b.Validate(); err != nil {
			return fmt.Errorf("blob %.80q: %w", b.Digest, err)
		}
		if len(b.Frames) == 0 {
			return fmt.Errorf("blob %s is none that is made", b.Digest)
		}
	}
	for d, p := range o.Files {
		if !fanout.ValidDigest(d) || !filepath.IsAbs(p) || filepath.Clean(p) != p {
			return fmt.Errorf("file %.80q of %.80q is not valid", p, d)
		}
	}
	for _, d := range o.Drop {
		if !fanout.ValidDigest(d) {
			return fmt.Errorf("digest %.80q is not valid", d)
		}
	}
	return nil
}

// applier is one run of Apply.
type applier struct {
	order Order
	root  string
	bases bases
	buf   []byte
}

// clear removes what a killed run has left half made.
func (a *applier) clear() error {
	left, err := filepath.Glob(fanout.MadePath(a.root, "*"))
	for _, p := range left {
		err = errors.Join(err, os.Remove(p))
	}
	return err
}

func (a *applier) run(ctx context.Context, out *voice) (err error) {
	todo := a.lacking()
	if err := a.possible(todo); err != nil {
		return err
	}
	limit, err := a.room(todo)
	if err != nil {
		return err
	}
	if len(todo) > 0 {
		build, err := delta.NewBuilder(a.bases, a.bases.stored, filepath.Join(a.root, "part"), limit)
		if err != nil {
			return err
		}
		err = a.make(ctx, build, todo, out)
		if err = errors.Join(err, build.Close()); err != nil {
			return err
		}
	}
	for _, d := range a.order.Drop {
		if err := os.Remove(fanout.Path(a.root, d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// lacking are the blobs that are not there yet, each once.
func (a *applier) lacking() []archive.DeltaBlob {
	var out []archive.DeltaBlob
	seen := map[string]bool{}
	for _, b := range a.order.Blobs {
		st, err := os.Lstat(fanout.Path(a.root, b.Digest))
		there := err == nil && st.Mode().IsRegular() && st.Size() == b.Size
		if !there && !seen[b.Digest] {
			out = append(out, b)
		}
		seen[b.Digest] = true
	}
	return out
}

// possible refuses blobs of which there is not all that makes them.
func (a *applier) possible(todo []archive.DeltaBlob) error {
	var errs []error
	for _, b := range todo {
		if !delta.Builds(b, a.bases) {
			errs = append(errs, fmt.Errorf("%s: its base %s is not on this host", b.Digest, b.Base))
		}
		if st, err := os.Lstat(fanout.Path(a.root, b.Stored.Digest)); err != nil || !st.Mode().IsRegular() || st.Size() != b.Stored.Size {
			errs = append(errs, fmt.Errorf("%s: what the delta stores for it, %s, has not come", b.Digest, b.Stored.Digest))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fault.New(fault.Bundle, "run the same command again: it asks the host what it has", errors.Join(errs...))
}

// room refuses what the disk has no room for, and returns how many bytes the
// content of a base may take.
func (a *applier) room(todo []archive.DeltaBlob) (int64, error) {
	var need, base int64
	for _, b := range todo {
		need += b.Size
		for _, f := range b.Frames {
			base = max(base, f.From+f.Dict) // it has that many bytes at least
		}
	}
	free, err := atomicfile.Free(a.root)
	if err != nil {
		return 0, err
	}
	if need > 0 && need+base+reserve > free {
		return 0, a.full(need+base, free)
	}
	return free - reserve - need, nil
}

func (a *applier) full(need, free int64) error {
	return fault.New(fault.Failure, "free space below "+a.root+" (or mount a larger disk there), then run the same command again: what was made stays",
		fmt.Errorf("%d MiB are needed, %d MiB are free, and %d MiB of them have to stay free", need>>20+1, free>>20, int64(reserve)>>20))
}

// make makes blobs one after another. A patch goes with its last blob.
func (a *applier) make(ctx context.Context, build *delta.Builder, todo []archive.DeltaBlob, out *voice) error {
	users := map[string]int{}
	for _, b := range todo {
		users[b.Stored.Digest]++
	}
	for _, b := range todo {
		if err := a.one(ctx, build, b); err != nil {
			return fmt.Errorf("make %s: %w", b.Digest, err)
		}
		if users[b.Stored.Digest]--; users[b.Stored.Digest] == 0 {
			if err := os.Remove(fanout.Path(a.root, b.Stored.Digest)); err != nil {
				return err
			}
		}
		if err := out.say(b.Size); err != nil {
			return err
		}
	}
	return nil
}

// one makes a blob, and gives it its name when it is what its digest says.
func (a *applier) one(ctx context.Context, build *delta.Builder, b archive.DeltaBlob) error {
	tmp := fanout.MadePath(a.root, b.Digest)
	err := a.write(ctx, build, b, tmp)
	if err == nil {
		err = os.Rename(tmp, fanout.Path(a.root, b.Digest))
	}
	if err == nil {
		return nil
	}
	if rerr := os.Remove(tmp); !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, delta.ErrTooLarge):
		free, ferr := atomicfile.Free(a.root)
		return errors.Join(err, a.full(b.Size, free), ferr)
	case delta.Damaged(err):
		return archive.DamagedDelta("", err)
	}
	return err
}

func (a *applier) write(ctx context.Context, build *delta.Builder, b archive.DeltaBlob, tmp string) error {
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	r, err := build.Open(ctx, b)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	sum := sha256.New()
	w := struct{ io.Writer }{io.MultiWriter(f, sum)}
	n, err := io.CopyBuffer(w, &until{ctx, io.LimitReader(r, b.Size+1)}, a.buf)
	if err = errors.Join(err, r.Close(), f.Close()); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); n != b.Size || got != b.Digest {
		err = fmt.Errorf("what came out has digest %s and %d bytes", got, n)
		if n > b.Size {
			err = fmt.Errorf("what came out has more than %d bytes", b.Size)
		}
		if b.Recipe != nil {
			return fault.New(fault.Bundle, strings.TrimSpace("use kocli "+a.order.BuiltBy)+", which made the delta and may compress in another way; otherwise copy the delta again", err)
		}
		return archive.DamagedDelta("", err)
	}
	return nil
}

// until reads until ctx ends.
type until struct {
	ctx context.Context
	r   io.Reader
}

// Read reads.
func (u *until) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(p)
}
