package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// hashTimeout is how long a member may take to hash all that it keeps: it reads
// all of it.
const hashTimeout = 3 * time.Minute

// Hash is a member's own hash of its keys and values up to a revision. It differs
// where the history that is still kept differs, so that the revision up to which
// it was compacted belongs to it.
type Hash struct {
	Value           uint32 `json:"hash"`
	Revision        int64  `json:"revision"`
	CompactRevision int64  `json:"compactRevision"`
}

// Sample is one object as it was at the revision of a Mark.
type Sample struct {
	Key         string `json:"key"`
	ModRevision int64  `json:"modRevision"`
	SHA256      string `json:"sha256"` // of the value, in hex
}

// Mark is what etcd holds at a revision: a snapshot that is taken afterwards holds
// it too, so that the two can be compared years later.
type Mark struct {
	Hash
	Keys    int64    `json:"keys"` // how many there are at the revision
	Version string   `json:"etcdVersion"`
	Samples []Sample `json:"samples"`
}

// local is where the view's own node serves clients.
const local = "https://127.0.0.1:" + Port

// own connects to the member of the view's own node, for questions that take
// longer than callTimeout. None is asked without a limit.
func (v *View) own(ctx context.Context, limit time.Duration, ask func(context.Context, *clientv3.Client) error) error {
	c, err := v.client(local)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // nothing is pending
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return ask(ctx, c)
}

// Mark asks the member of the view's own node what it holds now: it needs a
// quorum, which proves that the member is not behind.
func (v *View) Mark(ctx context.Context) (Mark, error) {
	var m Mark
	err := v.own(ctx, hashTimeout, func(ctx context.Context, c *clientv3.Client) error {
		s, err := c.Status(ctx, local)
		if err != nil {
			return err
		}
		m.Version = s.Version
		now, err := c.Get(ctx, everything, clientv3.WithFromKey(), clientv3.WithCountOnly())
		if err != nil {
			return err
		}
		h, err := hashAt(ctx, c, now.Header.Revision)
		if err != nil {
			return err
		}
		m.Hash, m.Keys = h, now.Count
		m.Samples, err = samples(ctx, c, now.Header.Revision)
		return err
	})
	if err != nil {
		return m, fmt.Errorf("ask etcd on %s what it holds: %w", v.node, err)
	}
	return m, nil
}

// everything is the smallest key.
const everything = "\x00"

// HashAt asks the member of the view's own node for its hash up to a revision.
func (v *View) HashAt(ctx context.Context, revision int64) (Hash, error) {
	var h Hash
	err := v.own(ctx, hashTimeout, func(ctx context.Context, c *clientv3.Client) (err error) {
		h, err = hashAt(ctx, c, revision)
		return err
	})
	if err != nil {
		return h, fmt.Errorf("hash etcd on %s at revision %d: %w", v.node, revision, err)
	}
	return h, nil
}

func hashAt(ctx context.Context, c *clientv3.Client, revision int64) (Hash, error) {
	h, err := c.HashKV(ctx, local, revision)
	if err != nil {
		return Hash{}, err
	}
	return Hash{Value: h.Hash, Revision: revision, CompactRevision: h.CompactRevision}, nil
}

const (
	maxSamples = 16
	maxListed  = 2000 // keys that are looked at from either end
)

// samples takes objects from both ends of the key space, evenly.
func samples(ctx context.Context, c *clientv3.Client, revision int64) ([]Sample, error) {
	var keys []string
	seen := map[string]bool{}
	for _, order := range []clientv3.SortOrder{clientv3.SortAscend, clientv3.SortDescend} {
		r, err := c.Get(ctx, everything, clientv3.WithFromKey(), clientv3.WithKeysOnly(), clientv3.WithLimit(maxListed),
			clientv3.WithSort(clientv3.SortByKey, order), clientv3.WithRev(revision))
		if err != nil {
			return nil, err
		}
		for i := range r.Kvs {
			if k := string(r.Kvs[i].Key); !seen[k] {
				seen[k] = true
				keys = append(keys, k)
			}
		}
	}
	out := []Sample{}
	for i := range min(maxSamples, len(keys)) {
		k := keys[i*len(keys)/min(maxSamples, len(keys))]
		r, err := c.Get(ctx, k, clientv3.WithRev(revision))
		if err != nil {
			return nil, err
		}
		if len(r.Kvs) != 1 {
			return nil, fmt.Errorf("key %q is gone at revision %d", k, revision)
		}
		sum := sha256.Sum256(r.Kvs[0].Value)
		out = append(out, Sample{Key: k, ModRevision: r.Kvs[0].ModRevision, SHA256: hex.EncodeToString(sum[:])})
	}
	return out, nil
}

// ErrSnapshot says that a snapshot did not arrive as the member sent it.
var ErrSnapshot = errors.New("the snapshot is not what etcd sent")

// Snapshot takes a snapshot of the member on the view's own node, which needs no
// quorum. begin is told its size in bytes, the digest at its end included, and
// returns where it goes. What arrived is held against that digest, which etcd
// made while it sent: an error that is ErrSnapshot where they differ.
func (v *View) Snapshot(ctx context.Context, begin func(size int64) (io.Writer, error)) error {
	err := v.snapshot(ctx, begin)
	if err != nil {
		return fmt.Errorf("take a snapshot of etcd on %s: %w", v.node, err)
	}
	return nil
}

func (v *View) snapshot(ctx context.Context, begin func(size int64) (io.Writer, error)) error {
	c, err := v.client(local)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // nothing is pending
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewMaintenanceClient(c.ActiveConnection()).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		return err
	}
	var w io.Writer
	s := arrival{sum: sha256.New()}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return s.end()
		}
		if err != nil {
			return err
		}
		if w == nil {
			s.size = int64(len(r.Blob)) + int64(r.RemainingBytes) + sha256.Size //nolint:gosec // a database is smaller than that
			if w, err = begin(s.size); err != nil {
				return err
			}
		}
		s.take(r.Blob)
		if _, err := w.Write(r.Blob); err != nil {
			return err
		}
	}
}

// arrival sums up all that arrives but for the digest at the end.
type arrival struct {
	sum  hash.Hash
	last []byte // up to 32 bytes, which may be the digest
	n    int64  // bytes
	size int64  // that were announced
}

func (a *arrival) take(b []byte) {
	a.n += int64(len(b))
	a.last = append(a.last, b...)
	if more := len(a.last) - sha256.Size; more > 0 {
		_, _ = a.sum.Write(a.last[:more]) // never fails
		a.last = append(a.last[:0:0], a.last[more:]...)
	}
}

func (a *arrival) end() error {
	if a.n != a.size || a.n <= sha256.Size {
		return fmt.Errorf("%w: %d of %d bytes came", ErrSnapshot, a.n, a.size)
	}
	if got := a.sum.Sum(nil); !bytes.Equal(got, a.last) {
		return fmt.Errorf("%w: its digest is %x, and %x was announced", ErrSnapshot, got, a.last)
	}
	return nil
}

// Follower returns the healthy voting member that a snapshot is best taken from: a
// follower, since the leader has enough to do; the leader where there is none.
func (v *View) Follower(ctx context.Context) (Member, error) {
	all, err := v.Health(ctx)
	if err != nil {
		return Member{}, err
	}
	leader, err := v.leader(ctx)
	if err != nil {
		return Member{}, err
	}
	var best *Member
	for i := range all {
		m := &all[i]
		if m.Err != nil || m.Learner {
			continue
		}
		if best == nil || best.ID == leader {
			best = &m.Member
		}
	}
	if best == nil {
		return Member{}, fmt.Errorf("no member of etcd is healthy, asked through %s", v.node)
	}
	return *best, nil
}

// leader is the ID of the member that leads.
func (v *View) leader(ctx context.Context) (uint64, error) {
	var id uint64
	err := v.through(ctx, func(ctx context.Context, c *clientv3.Client) error {
		s, err := c.Status(ctx, local)
		if err == nil {
			id = s.Leader
		}
		return err
	})
	return id, err
}
