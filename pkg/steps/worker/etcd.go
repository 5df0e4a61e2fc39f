package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kubeadm"
)

// Etcd is the cluster's etcd, as a control plane that joins has to know it. Its
// methods are safe for concurrent use, retry nothing, and end with ctx.
type Etcd interface {
	// Members lists the members that a quorum agrees on.
	Members(ctx context.Context) ([]etcd.Member, error)
	// Healthy returns nil when every started voting member answers and they have a
	// leader; otherwise an error that names those that do not.
	Healthy(ctx context.Context) error
	// Remove takes a member out. No error where there is none with that id.
	Remove(ctx context.Context, id uint64) error
}

// Turn lets one control plane after the other become a member of etcd, which
// takes one learner at a time. A run has one, and all its joins share it: first
// come, first served.
type Turn struct{ sem *semaphore.Weighted }

// NewTurn returns a Turn that nobody has taken.
func NewTurn() *Turn { return &Turn{semaphore.NewWeighted(1)} }

// take waits for the turn; a nil Turn is always free.
func (t *Turn) take(ctx context.Context) (release func(), err error) {
	if t == nil {
		return func() {}, nil
	}
	if err := t.sem.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return func() { t.sem.Release(1) }, nil
}

// Where kubeadm keeps the etcd of a host.
const (
	etcdData     = "/var/lib/etcd/member"
	etcdManifest = kubeadm.EtcdManifestPath
	etcdPeerPort = 2380
)

// How long a join waits for an etcd that is not ready for one more member, and
// how often it asks.
const (
	etcdPatience = 5 * time.Minute
	etcdInterval = time.Second
	etcdVoting   = 2 * time.Minute // for a member that kubeadm calls joined
)

// peerURL is how kubeadm announces the etcd of this node.
func (o Options) peerURL() string {
	return "https://" + net.JoinHostPort(o.Node.IP, strconv.Itoa(etcdPeerPort))
}

func (o Options) own(m etcd.Member) bool { return slices.Contains(m.PeerURLs, o.peerURL()) }

// becomeMember has kubeadm make the host a member of etcd, when it is the host's
// turn and etcd is ready for it. It reports whether kubeadm had to be called.
func (o Options) becomeMember(ctx context.Context, h host.Host, kubeadm func() error) (bool, error) {
	wait, cancel := context.WithTimeout(ctx, etcdPatience)
	defer cancel()
	var busy error
	for {
		release, err := o.Turn.take(ctx)
		if err != nil {
			return false, err
		}
		var voting bool
		voting, busy, err = o.settle(ctx, h)
		if err == nil && busy == nil && !voting {
			if err = kubeadm(); err == nil {
				err = o.votes(ctx, h)
			}
		}
		release()
		if err != nil || busy == nil {
			return !voting, err
		}
		if err := pause(wait); err != nil { // the turn is free meanwhile: the learner may be one of this run
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	return false, fault.New(fault.Unhealthy, "see what is wrong with it: kocli status -f cluster.yaml; then run the same command again",
		fmt.Errorf("etcd has not been ready for %s as one more member for %s: %w", o.Node.Name, etcdPatience, busy))
}

// settle looks whether etcd can take this host as a member. It takes out what an
// earlier join of the host has left, where the host has nothing of it.
//   - voting: it is a member already, complete on both sides
//   - busy: not now; it may pass
func (o Options) settle(ctx context.Context, h host.Host) (voting bool, busy, err error) {
	if o.Etcd == nil {
		return false, nil, nil // kubeadm's own check has to do
	}
	data, err1 := exists(ctx, h, etcdData)
	manifest, err2 := exists(ctx, h, etcdManifest)
	members, err3 := o.Etcd.Members(ctx)
	if err := errors.Join(err1, err2); err != nil {
		return false, nil, err
	}
	if errors.Is(err3, etcd.ErrNone) {
		return false, nil, nil // it is elsewhere
	}
	if err3 != nil && fault.CodeOf(err3) == fault.Unreachable {
		return false, nil, err3
	}
	if err3 != nil {
		return false, err3, nil
	}
	at := slices.IndexFunc(members, o.own)
	switch {
	case at < 0 && data:
		return false, nil, fault.New(fault.Failure, fmt.Sprintf("if that data is not needed, move it away: kocli exec %[1]s --root -- mv %[2]s %[2]s.old; then run the same command again", h.Name(), etcdData),
			fmt.Errorf("%s has the data of an etcd that it is no member of (%s): of a member that was removed, or of another cluster", h.Name(), etcdData))
	case at < 0:
	case !members[at].Learner && members[at].Started:
		if data && manifest {
			return true, nil, nil
		}
		if !data {
			return false, nil, fault.New(fault.Failure, fmt.Sprintf("take the lost member out first: kocli node remove %s --dead", h.Name()),
				fmt.Errorf("etcd has a voting member %x of %s, and the host has not its data any more", members[at].ID, h.Name()))
		}
		return false, nil, nil // its manifest alone is written again
	case !data && !manifest:
		if err := o.Etcd.Remove(ctx, members[at].ID); err != nil {
			return false, nil, fmt.Errorf("remove the unfinished etcd member %x of %s: %w", members[at].ID, h.Name(), err)
		}
	}
	for _, m := range members {
		switch {
		case o.own(m):
		case !m.Started:
			return false, fmt.Errorf("member %x at %v has not started", m.ID, m.PeerURLs), nil
		case m.Learner:
			return false, fmt.Errorf("member %s (%x) is a learner, and etcd takes one at a time", m.Name, m.ID), nil
		}
	}
	return false, o.Etcd.Healthy(ctx), nil
}

// votes waits until the host is a started, voting member of a healthy etcd: the
// next one may come.
func (o Options) votes(ctx context.Context, h host.Host) error {
	if o.Etcd == nil {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, etcdVoting)
	defer cancel()
	for {
		err := o.voting(ctx)
		if err == nil || fault.CodeOf(err) == fault.Unreachable {
			return err
		}
		// A host that was lost meanwhile will not vote; etcd is asked through another.
		if _, lost := h.Stat(ctx, etcdManifest); fault.CodeOf(lost) == fault.Unreachable {
			return lost
		}
		if pause(wait) != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// voting says why the host is no started, voting member of a healthy etcd.
func (o Options) voting(ctx context.Context) error {
	members, err := o.Etcd.Members(ctx)
	if errors.Is(err, etcd.ErrNone) {
		return nil // it is elsewhere
	}
	if err != nil {
		return err
	}
	at := slices.IndexFunc(members, o.own)
	switch {
	case at < 0:
		return fmt.Errorf("etcd has no member at %s, which kubeadm added", o.peerURL())
	case !members[at].Started:
		return fmt.Errorf("etcd member %x of %s has not started", members[at].ID, o.Node.Name)
	case members[at].Learner:
		return fmt.Errorf("etcd member %x of %s has not been promoted", members[at].ID, o.Node.Name)
	}
	return o.Etcd.Healthy(ctx)
}

// pause waits until etcd is asked again.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(etcdInterval):
		return nil
	}
}

func exists(ctx context.Context, r host.Reader, p string) (bool, error) {
	_, err := r.Stat(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
