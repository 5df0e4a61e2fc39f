package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/host/ledger"
)

// Host is a host with a ledger that takes many files in one stream, where
// kocli's own binary is on it already.
type Host struct {
	*ledger.Host
	reader *host.Batch
	binary string // path of kocli on the host
}

var _ host.Bulk = (*Host)(nil)

// Wrap returns h with a sink. reader asks which files are there already.
func Wrap(h *ledger.Host, reader *host.Batch, binary string) *Host {
	return &Host{Host: h, reader: reader, binary: binary}
}

// PutAll sends those files that differ in one stream.
func (h *Host) PutAll(ctx context.Context, files []host.File, sent func(int64)) error {
	h.reader.Forget()
	send, stored, err := h.differing(ctx, files)
	if err != nil || len(send) == 0 {
		return err
	}
	r, w := io.Pipe()
	defer func() { _ = r.Close() }() // ends the writer, if it still writes
	there := func(f host.File) bool {
		blob, size := f.Blob()
		ok := stored[blob] == size && size > 0
		delete(stored, blob) // it is taken out
		return ok
	}
	var last time.Time
	go func() {
		w.CloseWithError(Write(w, send, there, func(n int64) {
			if now := time.Now(); now.Sub(last) > 200*time.Millisecond {
				last = now
				sent(n)
			}
		}))
	}()
	c := host.Command(h.binary, "node", "receive", "--protocol", Protocol)
	c.Stdin = r
	_, err = h.Run(ctx, c)
	h.reader.Forget()
	var x *host.ExitError
	if errors.As(err, &x) && (x.Code == 126 || x.Code == 127 || x.Code == 2) {
		return host.ErrNoBulk // no kocli there, or one that speaks another protocol
	}
	if err != nil {
		return fmt.Errorf("send %d files: %w", len(send), err)
	}
	for _, f := range send {
		h.Remember(f.Path)
	}
	return nil
}

// differing returns the files that are not as described, and what the content
// store of the host holds.
func (h *Host) differing(ctx context.Context, files []host.File) ([]host.File, map[string]int64, error) {
	diffs := make([]string, len(files))
	errs := make([]error, len(files)+1)
	var stored map[string]int64
	var wg sync.WaitGroup
	wg.Go(func() { stored, errs[len(files)] = fanout.Stored(ctx, h.reader) })
	for i, f := range files {
		wg.Go(func() { diffs[i], errs[i] = ledger.Differs(ctx, h.reader, f) })
	}
	wg.Wait()
	var out []host.File
	for i, d := range diffs {
		if d != "" {
			out = append(out, files[i])
		}
	}
	return out, stored, errors.Join(errs...)
}
