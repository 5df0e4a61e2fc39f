package staticpod

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// How long a container is given to end by itself before it is killed, and the kubelet
// to start another one. An API server lets requests come to their end for a minute;
// a kubelet that has seen a container fail waits for up to five minutes.
const (
	endTime   = 75 * time.Second
	startTime = 6 * time.Minute
	pollTime  = 500 * time.Millisecond
)

// Replaced reports whether other containers of a name run than those of old.
func Replaced(ctx context.Context, r host.Reader, container string, old []string) (bool, error) {
	now, err := Running(ctx, r, container)
	if err != nil || len(now) == 0 {
		return false, err
	}
	return !slices.ContainsFunc(now, func(id string) bool { return slices.Contains(old, id) }), nil
}

// Restart ends the containers of old and waits until the kubelet runs another one of
// that name. It may be called again with the same old: what has ended is not ended
// twice. With no old ones it waits for one to run.
func Restart(ctx context.Context, h host.Host, container string, old []string) error {
	if _, err := kill(ctx, h, "SIGTERM", old); err != nil {
		return err
	}
	start, killed := time.Now(), len(old) == 0
	for {
		done, err := Replaced(ctx, h, container, old)
		if err != nil || done {
			return err
		}
		waited := time.Since(start)
		if !killed && waited > endTime {
			if _, err := kill(ctx, h, "SIGKILL", old); err != nil {
				return err
			}
			killed = true
		}
		if waited > startTime {
			return fmt.Errorf("the kubelet has not started %s anew within %s", container, startTime)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollTime):
		}
	}
}
