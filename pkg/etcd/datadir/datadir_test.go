package datadir_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/etcd/datadir"
	"github.com/kocli/kocli/pkg/etcd/etcdtest"
	"github.com/kocli/kocli/pkg/host/hosttest"
)

// taken is a snapshot of a real etcd, and what that said of itself.
type taken struct {
	file  string
	mark  etcd.Mark
	after etcd.Hash
}

func put(t *testing.T, c *clientv3.Client, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if _, err := c.Put(t.Context(), fmt.Sprintf("/registry/things/%03d", i), strings.Repeat(fmt.Sprint(i), 50)); err != nil {
			t.Fatal(err)
		}
	}
}

// take fills an etcd, and takes a snapshot while others write and compact.
func take(t *testing.T) taken {
	t.Helper()
	r := etcdtest.NewReal(t, t.TempDir(), "a", "http://127.0.0.1:2380")
	c := r.Client(t)
	put(t, c, 0, 60)
	if _, err := c.Delete(t.Context(), "/registry/things/007"); err != nil {
		t.Fatal(err)
	}
	m := hosttest.New("a")
	r.Install(m)
	v, err := etcd.Look(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	out := taken{file: filepath.Join(t.TempDir(), "snapshot.db")}
	if out.mark, err = v.Mark(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, c, 60, 70) // between the question and the snapshot
	if _, err := c.Compact(t.Context(), 20, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	var size int64
	err = v.Snapshot(t.Context(), func(n int64) (io.Writer, error) { size = n; return &b, nil })
	if err != nil || int64(b.Len()) != size {
		t.Fatalf("%v: %d of %d bytes", err, b.Len(), size)
	}
	if out.after, err = v.HashAt(t.Context(), out.mark.Revision); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(out.file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCheck_provesASnapshotThatWasTakenWhileOthersWroteAndCompacted(t *testing.T) {
	s := take(t)
	if s.mark.Keys != 59 || len(s.mark.Samples) != 16 || s.mark.Hash == s.after {
		t.Fatalf("%+v, %+v", s.mark, s.after)
	}
	f, err := datadir.Check(t.Context(), s.file, t.TempDir(), s.mark, s.mark.Hash, s.after)
	if err != nil || f.Keys != 69 || f.Revision != s.mark.Revision+10 {
		t.Errorf("%+v, %v", f, err)
	}
	other := s.mark
	other.Keys++
	other.Samples = slices.Clone(other.Samples)
	other.Samples[3].SHA256 = "00"
	other.Samples[4].Key += "x"
	_, err = datadir.Check(t.Context(), s.file, t.TempDir(), other, s.mark.Hash)
	for _, want := range []string{"59 keys", "etcd said 60", "its hash at", other.Samples[3].Key + " is another", other.Samples[4].Key + " is not in it"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	other = s.mark
	other.Revision += 1000
	if _, err := datadir.Check(t.Context(), s.file, t.TempDir(), other, s.after); err == nil || !strings.Contains(err.Error(), "ends at revision") {
		t.Errorf("a snapshot that is older than its manifest: %v", err)
	}
}

func TestCheck_refusesADamagedSnapshot(t *testing.T) {
	s := take(t)
	data, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string][]byte{
		"cut short":    data[:len(data)/2],
		"a byte flips": append(append(slices.Clone(data[:8200]), data[8200]^0xff), data[8201:]...),
		"empty":        nil,
	} {
		f := filepath.Join(t.TempDir(), "snapshot.db")
		if err := os.WriteFile(f, damage, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := datadir.Check(t.Context(), f, t.TempDir(), s.mark, s.mark.Hash, s.after); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

// Who watched before must not be told of a past that is not theirs: the revision
// goes up, and all before it is compacted.
func TestRestore_givesClientsNoStaleEvents(t *testing.T) {
	s := take(t)
	dir := filepath.Join(t.TempDir(), "etcd")
	const peer = "http://127.0.0.1:2380"
	if err := datadir.Restore(s.file, dir, datadir.Member{Name: "b", PeerURL: peer, Cluster: "b=" + peer, Token: "new"}, false); err != nil {
		t.Fatal(err)
	}
	c := etcdtest.NewReal(t, dir, "b", peer).Client(t)
	r, err := c.Get(t.Context(), "/registry/things/", clientv3.WithPrefix())
	if err != nil || len(r.Kvs) != 69 || r.Header.Revision < s.mark.Revision+datadir.RevisionBump {
		t.Fatalf("%d objects at revision %d, %v", len(r.Kvs), r.Header.Revision, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	w := <-c.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(s.mark.Revision+1))
	if w.CompactRevision == 0 || len(w.Events) > 0 {
		t.Errorf("a watch from before the restore gets %d events, %v", len(w.Events), w.Err())
	}
	p, err := c.Put(t.Context(), "/registry/things/new", "x")
	if err != nil || p.Header.Revision <= r.Header.Revision {
		t.Errorf("a write has revision %d, %v", p.Header.Revision, err)
	}
}

// A member that survived alone has no snapshot, but a database.
func TestRestore_takesTheDatabaseOfAMemberThatStopped(t *testing.T) {
	old := t.TempDir()
	r := etcdtest.NewReal(t, old, "a", "http://127.0.0.1:2380")
	put(t, r.Client(t), 0, 10)
	r.Stop()
	dir := filepath.Join(t.TempDir(), "etcd")
	const peer = "http://127.0.0.1:2390"
	m := datadir.Member{Name: "a", PeerURL: peer, Cluster: "a=" + peer, Token: "new"}
	db := filepath.Join(old, "member", "snap", "db")
	if err := datadir.Restore(db, dir, m, false); err == nil {
		t.Error("a database without a digest is taken for a snapshot")
	}
	if err := datadir.Restore(db, filepath.Join(t.TempDir(), "x"), m, true); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := datadir.Restore(db, dir, m, true); err != nil {
		t.Fatal(err)
	}
	got, err := etcdtest.NewReal(t, dir, "a", peer).Client(t).Get(t.Context(), "/registry/", clientv3.WithPrefix())
	if err != nil || len(got.Kvs) != 10 {
		t.Errorf("%d objects, %v", len(got.Kvs), err)
	}
}

// A restore that is killed anywhere and run again ends with the new data, and the old
// is whole beside it.
func TestInstall_goesOnAfterAKillAndKeepsWhatWasThere(t *testing.T) {
	s := take(t)
	const peer = "http://127.0.0.1:2380"
	member := datadir.Member{Name: "b", PeerURL: peer, Cluster: "b=" + peer, Token: "new"}
	for name, prepare := range map[string]func(t *testing.T, dir string){
		"on an empty host": func(*testing.T, string) {},
		"while it was made": func(t *testing.T, dir string) {
			if err := os.MkdirAll(filepath.Join(dir, ".kocli-restore", "member", "wal"), 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"between the two renames": func(t *testing.T, dir string) {
			if err := os.Rename(filepath.Join(dir, "member"), filepath.Join(dir, "member.before-id")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if name != "on an empty host" {
				old := etcdtest.NewReal(t, dir, "b", peer)
				put(t, old.Client(t), 0, 3)
				if err := datadir.Install(datadir.Request{ID: "id", Dir: dir, Snapshot: s.file, Member: member}); err == nil || !strings.Contains(err.Error(), "etcd runs") {
					t.Errorf("under an etcd that runs: %v", err)
				}
				old.Stop()
			}
			prepare(t, dir)
			for range 2 { // again changes nothing
				if err := datadir.Install(datadir.Request{ID: "id", Dir: dir, Snapshot: s.file, Member: member}); err != nil {
					t.Fatal(err)
				}
			}
			marker, err := os.ReadFile(datadir.MarkerPath(dir))
			if err != nil || datadir.MarkerID(marker) != "id" {
				t.Errorf("%s, %v", marker, err)
			}
			if _, err := os.Stat(filepath.Join(dir, ".kocli-restore")); err == nil {
				t.Error("what it was made in is left")
			}
			_, err = os.Stat(filepath.Join(dir, "member.before-id", "snap", "db"))
			if (err == nil) != (name != "on an empty host") {
				t.Errorf("the old data: %v", err)
			}
			got, err := etcdtest.NewReal(t, dir, "b", peer).Client(t).Get(t.Context(), "/registry/", clientv3.WithPrefix())
			if err != nil || len(got.Kvs) != 69 {
				t.Errorf("%d objects, %v", len(got.Kvs), err)
			}
		})
	}
}

// A kocli that was killed leaves one behind that goes on: two of them in one folder would
// put half of the data in its place.
func TestInstall_waitsForOneThatGoesOn(t *testing.T) {
	dir := t.TempDir()
	other := flock.New(filepath.Join(dir, ".kocli-restore.lock"))
	if err := other.Lock(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- datadir.Install(datadir.Request{ID: "id", Dir: dir, Snapshot: "/nowhere", Member: datadir.Member{Name: "b"}})
	}()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	marker := datadir.MarkerPath(dir)
	if err := errors.Join(os.MkdirAll(filepath.Dir(marker), 0o700), os.WriteFile(marker, datadir.Marker("id"), 0o600), other.Unlock()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("what the other one made does not count: %v", err)
	}
}

func TestInstall_ofASurvivorTakesItsOwnData(t *testing.T) {
	const peer = "http://127.0.0.1:2380"
	for _, killed := range []bool{false, true} {
		dir := t.TempDir()
		r := etcdtest.NewReal(t, dir, "a", peer)
		put(t, r.Client(t), 0, 10)
		r.Stop()
		if killed {
			if err := os.Rename(filepath.Join(dir, "member"), filepath.Join(dir, "member.before-id")); err != nil {
				t.Fatal(err)
			}
		}
		err := datadir.Install(datadir.Request{ID: "id", Dir: dir, Member: datadir.Member{Name: "a", PeerURL: peer, Cluster: "a=" + peer, Token: "new"}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := etcdtest.NewReal(t, dir, "a", peer).Client(t).Get(t.Context(), "/registry/", clientv3.WithPrefix())
		if err != nil || len(got.Kvs) != 10 || got.Header.Revision < datadir.RevisionBump {
			t.Errorf("killed %t: %+v, %v", killed, got, err)
		}
	}
}
