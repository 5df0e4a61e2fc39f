package containerd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"github.com/kocli/kocli/pkg/fault"
)

// Address is where containerd listens.
const Address = "/run/containerd/containerd.sock"

// patience is how long a containerd that was restarted may take to answer.
const patience = 30 * time.Second

// Connect returns a client of the containerd that listens at address, once that
// answers. It has to be closed.
func Connect(ctx context.Context, address string) (*client.Client, error) {
	c, err := client.New(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if ok, err := c.IsServing(ctx); err != nil || !ok {
		return nil, errors.Join(fault.New(fault.Failure, "see why with: journalctl -u containerd", fmt.Errorf("containerd does not answer at %s", address)), err, c.Close())
	}
	return c, nil
}

// reserve is what an import leaves free, in bytes, as a push does.
const reserve = 256 << 20

// room refuses an import whose blobs alone have no room where containerd keeps
// its content. How large they are unpacked is not known before.
func (i *importer) room(ctx context.Context) error {
	var need int64
	for _, list := range [][]string{i.lacks, i.stored} {
		for _, d := range list {
			need += i.blobs[d].desc.Size
		}
	}
	if need == 0 {
		return nil
	}
	p, err := i.client.IntrospectionService().Plugins(ctx, "type==io.containerd.content.v1")
	if err != nil {
		return fmt.Errorf("ask containerd where it keeps its content: %w", err)
	}
	for _, p := range p.Plugins {
		dir := p.Exports["root"]
		if dir == "" {
			continue
		}
		var st unix.Statfs_t
		for err = unix.Statfs(dir, &st); errors.Is(err, unix.ENOENT); err = unix.Statfs(dir, &st) {
			dir = filepath.Dir(dir) // it is made with the first blob
		}
		if err != nil {
			return fmt.Errorf("free space of %s: %w", dir, err)
		}
		if free := int64(st.Bavail) * int64(st.Bsize); need+reserve > free { //nolint:gosec // of a disk
			return full(fmt.Errorf("%d MiB of images are to come into %s, %d MiB are free there, and %d MiB of them have to stay free", need>>20, dir, free>>20, int64(reserve)>>20))
		}
	}
	return nil
}

func full(err error) error {
	return fault.New(fault.Failure, "free space below the root folder of containerd (/var/lib/containerd), then run the same command again: what has arrived stays", err)
}

// explain says what to do about an error of containerd, where that is known.
func explain(err error) error {
	if strings.Contains(err.Error(), unix.ENOSPC.Error()) { // it comes through gRPC as text
		return full(err)
	}
	return err
}
