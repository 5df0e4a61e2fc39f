package fanout

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// A lane is a further SSH connection to a host, whose stdin brings pieces to the
// relay there. `kocli node lane` passes them on through a socket in the content
// store, which nobody else can reach.

func lanePath(root string) string { return filepath.Join(root, "lane") }

// laneAddress is the socket's address: below the folder that is open as dir, as an
// address has no room for long paths.
func laneAddress(dir *os.File) *net.UnixAddr {
	return &net.UnixAddr{Name: lanePath(fmt.Sprintf("/proc/self/fd/%d", dir.Fd())), Net: "unix"}
}

// Lane passes on what comes on in to the relay whose content store is at root. It
// returns when the relay has taken in all of it.
func Lane(ctx context.Context, in io.Reader, root string) (err error) {
	dir, err := os.Open(root)
	if err != nil {
		return err
	}
	conn, err := net.DialUnix("unix", nil, laneAddress(dir))
	if err = errors.Join(err, dir.Close()); err != nil {
		return fmt.Errorf("no relay takes content in: %w", err)
	}
	defer func() { _ = conn.Close() }() // all has been said on it, or nothing more can be
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	widePipe(in)
	if _, err := io.Copy(conn, in); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 64))
	if err == nil && string(answer) != taken {
		err = errors.New("the relay did not take all of it")
	}
	return err
}

// taken is what a relay says at the end of a lane.
const taken = "taken\n"

// listenLanes takes lanes until ctx ends.
func (r *relay) listenLanes(ctx context.Context) error {
	if err := os.Remove(lanePath(r.store.root)); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a relay that was killed
		return err
	}
	dir, err := os.Open(r.store.root)
	if err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", laneAddress(dir))
	if err != nil {
		return errors.Join(err, dir.Close())
	}
	r.wg.Go(func() {
		<-ctx.Done()
		_ = l.Close() // ends accept, and removes the socket
		_ = dir.Close()
	})
	r.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			r.wg.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				defer stop()
				defer func() { _ = conn.Close() }() // taken was said, or the other side sees that it was not
				if r.lane(conn) == nil {
					_, _ = io.WriteString(conn, taken) // a lane that has gone does not wait for it
				}
			})
		}
	})
	return nil
}

// lane takes in the pieces of one feed. Its error tells only that it was cut: what
// came in before counts.
func (r *relay) lane(conn io.Reader) error {
	br := bufio.NewReaderSize(conn, orderSize)
	buf := make([]byte, frameData)
	feed := 0
	for {
		line, err := readLine(br)
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		var o order
		if err := json.Unmarshal(line, &o); err != nil {
			return err
		}
		switch {
		case o.Feed > 0:
			feed = o.Feed
			continue
		case o.Data == nil || o.Data.N < 0 || o.Data.N > frameData:
			return fmt.Errorf("order %.80q on a lane", line)
		}
		if _, err := io.ReadFull(br, buf[:o.Data.N]); err != nil {
			return err
		}
		if err := r.fed(feed, *o.Data, buf[:o.Data.N]); err != nil {
			r.fail(err) // as on the main stream
			return err
		}
	}
}
