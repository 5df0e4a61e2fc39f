// Package datadir makes and examines data directories of etcd on the machine that
// it runs on, with etcd's own library. Nothing of it speaks to a member.
package datadir

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/pkg/v3/traceutil"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"

	"github.com/kocli/kocli/pkg/etcd"
)

// RevisionBump is how many revisions a restored cluster starts above the snapshot:
// more than any cluster writes between two backups, so that no revision is given
// out a second time and clients that watched before notice.
const RevisionBump = 1_000_000_000

// lockTime is how long a database that another process has open is waited for.
const lockTime = 5 * time.Second

// Member says which member of which cluster a data directory is for.
type Member struct {
	Name    string // of the node
	PeerURL string // "https://10.0.0.1:2380"
	Cluster string // "a=https://10.0.0.1:2380,b=..."
	Token   string // of the new cluster: members of the old one are not taken for its own
}

// Restore makes a data directory of a snapshot. dir must not exist, or be empty.
// The revision is bumped, and all before it marked as compacted, so that those who
// watched the old cluster start anew. copied says that the snapshot is the file of
// a member that does not run, which has no digest at its end.
func Restore(snapshotFile, dir string, m Member, copied bool) error {
	return restore(snapshotFile, dir, m, copied, RevisionBump)
}

func restore(snapshotFile, dir string, m Member, copied bool, bump uint64) error {
	err := guard(func() error {
		return snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
			SnapshotPath: snapshotFile, OutputDataDir: dir, Name: m.Name, PeerURLs: []string{m.PeerURL}, InitialCluster: m.Cluster,
			InitialClusterToken: m.Token, SkipHashCheck: copied, RevisionBump: bump, MarkCompacted: bump > 0,
		})
	})
	if err != nil {
		return fmt.Errorf("restore the snapshot of etcd: %w", err)
	}
	return nil
}

// guard turns a panic of the storage, which is how it meets a damaged file, into
// an error.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the database is damaged: %v", p)
		}
	}()
	return f()
}

// Facts are what a snapshot holds.
type Facts struct {
	Revision int64 `json:"revision"` // the last one
	Keys     int64 `json:"keys"`     // at the last revision
	Size     int64 `json:"sizeBytes"`
}

// Check restores a snapshot into scratch, a folder that is its own, as a cluster of
// one member, and compares it with what etcd said before it was taken. The error
// names all that differs. hashes are those that etcd gave before and after it: what
// is still kept of the history may have been compacted in between.
func Check(ctx context.Context, snapshotFile, scratch string, mark etcd.Mark, hashes ...etcd.Hash) (Facts, error) {
	var f Facts
	dir := filepath.Join(scratch, "etcd")
	m := Member{Name: "drill", PeerURL: "http://127.0.0.1:2380", Cluster: "drill=http://127.0.0.1:2380", Token: "drill"}
	// The storage meets a damaged file with a panic in a goroutine of its own, so that
	// nothing is opened before its digest was held against it.
	if err := digest(snapshotFile); err != nil {
		return f, fmt.Errorf("read the snapshot of etcd: %w", err)
	}
	err := guard(func() error {
		st, err := snapshot.NewV3(zap.NewNop()).Status(snapshotFile)
		if err != nil {
			return err
		}
		f = Facts{Revision: st.Revision, Keys: int64(st.TotalKey), Size: st.TotalSize}
		return nil
	})
	if err != nil {
		return f, fmt.Errorf("read the snapshot of etcd: %w", err)
	}
	if err := restore(snapshotFile, dir, m, false, 0); err != nil {
		return f, err
	}
	err = guard(func() error { return compare(ctx, filepath.Join(dir, "member", "snap", "db"), mark, hashes) })
	return f, err
}

// digest returns nil when a snapshot ends in the digest of all before it.
func digest(file string) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() <= sha256.Size {
		return fmt.Errorf("%w: it has %d bytes", etcd.ErrSnapshot, st.Size())
	}
	h, want := sha256.New(), make([]byte, sha256.Size)
	if _, err := io.CopyN(h, f, st.Size()-sha256.Size); err != nil {
		return err
	}
	if _, err := io.ReadFull(f, want); err != nil {
		return err
	}
	if !bytes.Equal(h.Sum(nil), want) {
		return fmt.Errorf("%w: its digest does not match", etcd.ErrSnapshot)
	}
	return nil
}

// compare opens a restored database as etcd does.
func compare(ctx context.Context, db string, mark etcd.Mark, hashes []etcd.Hash) error {
	lg := zap.NewNop()
	b := backend.NewDefaultBackend(lg, db, backend.WithTimeout(lockTime))
	defer func() { _ = b.Close() }() // scratch
	st := mvcc.NewStore(lg, b, &lease.FakeLessor{LeaseSet: map[lease.LeaseID]struct{}{}}, mvcc.StoreConfig{})
	defer func() { _ = st.Close() }() // scratch
	if st.Rev() < mark.Revision {
		return fmt.Errorf("the snapshot ends at revision %d, before %d, which etcd had when it was taken", st.Rev(), mark.Revision)
	}
	h, _, err := mvcc.NewHashStorage(lg, st).HashByRev(mark.Revision)
	if err != nil {
		return fmt.Errorf("hash revision %d: %w", mark.Revision, err)
	}
	var errs []error
	got := etcd.Hash{Value: h.Hash, Revision: mark.Revision, CompactRevision: h.CompactRevision}
	if !slices.Contains(hashes, got) {
		errs = append(errs, fmt.Errorf("its hash at revision %d is %08x, compacted up to %d; etcd said %s", mark.Revision, got.Value, got.CompactRevision, said(hashes)))
	}
	tx := st.Read(mvcc.ConcurrentReadTxMode, traceutil.TODO())
	defer tx.End()
	r, err := tx.Range(ctx, []byte{0}, []byte{}, mvcc.RangeOptions{Rev: mark.Revision, CountOnly: true})
	if err != nil {
		return err
	}
	if int64(r.Count) != mark.Keys {
		errs = append(errs, fmt.Errorf("it has %d keys at revision %d; etcd said %d", r.Count, mark.Revision, mark.Keys))
	}
	for _, s := range mark.Samples {
		errs = append(errs, same(ctx, tx, mark.Revision, s))
	}
	return errors.Join(errs...)
}

func said(hashes []etcd.Hash) string {
	var out []string
	for _, h := range hashes {
		out = append(out, fmt.Sprintf("%08x, compacted up to %d", h.Value, h.CompactRevision))
	}
	return strings.Join(out, ", or ")
}

// same returns nil when an object is what it was.
func same(ctx context.Context, tx mvcc.TxnRead, revision int64, want etcd.Sample) error {
	r, err := tx.Range(ctx, []byte(want.Key), nil, mvcc.RangeOptions{Rev: revision})
	if err != nil {
		return fmt.Errorf("read %s: %w", want.Key, err)
	}
	if len(r.KVs) != 1 {
		return fmt.Errorf("object %s is not in it", want.Key)
	}
	sum := sha256.Sum256(r.KVs[0].Value)
	if hex.EncodeToString(sum[:]) != want.SHA256 || r.KVs[0].ModRevision != want.ModRevision {
		return fmt.Errorf("object %s is another than it was", want.Key)
	}
	return nil
}
