package datadir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/kocli/kocli/pkg/internal/atomicfile"
)

// Protocol is the version of what kocli on a control plane is asked with.
const Protocol = "1"

// Request asks for a data directory. It holds no secret.
type Request struct {
	// ID names the restore: a directory that carries it is left as it is.
	ID string `json:"id"`
	// Dir is etcd's data directory. What is in it is kept beside, under another name.
	Dir string `json:"dir"`
	// Snapshot is the file; empty means the database that is in Dir: that of a member
	// which survived alone.
	Snapshot string `json:"snapshot,omitempty"`
	Member   Member `json:"member"`
}

// MarkerPath is the file in a data directory that says which restore made it. It
// comes there together with the data.
func MarkerPath(dir string) string { return filepath.Join(dir, "member", "kocli-restore.json") }

// marker is what is in it.
type marker struct {
	ID string `json:"id"`
}

// Marker is the content of a data directory's marker.
func Marker(id string) []byte {
	data, err := json.Marshal(marker{id})
	if err != nil {
		return nil // a string has no such error
	}
	return data
}

// MarkerID returns the ID in a marker; empty where it is none.
func MarkerID(data []byte) string {
	var m marker
	if json.Unmarshal(data, &m) != nil {
		return ""
	}
	return m.ID
}

// staging is where a data directory is made. It is in the directory itself, which
// may be a mount.
const staging = ".kocli-restore"

// lockName is the file that whoever makes a data directory holds locked.
const lockName = ".kocli-restore.lock"

// Install makes a data directory and puts it in its place. What was there stays
// beside it as member.before-ID. It may be killed at any moment and called again:
// the old data, or the new, is whole. etcd must not run.
func Install(r Request) error {
	if r.ID == "" || r.Dir == "" || !filepath.IsAbs(r.Dir) || r.Member.Name == "" {
		return errors.New("the request names no restore, directory or member")
	}
	// One that was asked for by a kocli that was killed may go on still: it ends first.
	l := flock.New(filepath.Join(r.Dir, lockName), flock.SetPermissions(0o600))
	if err := l.Lock(); err != nil {
		return fmt.Errorf("lock %s: %w", r.Dir, err)
	}
	defer func() { _ = l.Close() }() // which ends with the process too
	if data, err := os.ReadFile(MarkerPath(r.Dir)); err == nil && MarkerID(data) == r.ID {
		return os.RemoveAll(filepath.Join(r.Dir, staging))
	}
	live := filepath.Join(r.Dir, "member")
	before := live + ".before-" + r.ID
	from, copied := r.Snapshot, false
	if from == "" {
		from, copied = filepath.Join(live, "snap", "db"), true
		if _, err := os.Stat(live); errors.Is(err, fs.ErrNotExist) { // killed between the two renames
			from = filepath.Join(before, "snap", "db")
		}
	}
	if _, err := os.Stat(from); err != nil {
		return err
	}
	if err := idle(filepath.Join(live, "snap", "db")); err != nil {
		return err
	}
	stage := filepath.Join(r.Dir, staging)
	if err := os.RemoveAll(stage); err != nil {
		return err
	}
	if err := os.MkdirAll(stage, 0o700); err != nil {
		return err
	}
	if err := Restore(from, stage, r.Member, copied); err != nil {
		return errors.Join(err, os.RemoveAll(stage))
	}
	fresh := filepath.Join(stage, "member")
	if err := os.WriteFile(MarkerPath(stage), Marker(r.ID), 0o600); err != nil {
		return err
	}
	if err := syncTree(fresh); err != nil {
		return err
	}
	if err := idle(filepath.Join(live, "snap", "db")); err != nil { // a kubelet may have started it meanwhile
		return err
	}
	if _, err := os.Stat(live); err == nil {
		if err := os.Rename(live, before); err != nil {
			return fmt.Errorf("keep the data that was there: %w", err)
		}
	}
	if err := os.Rename(fresh, live); err != nil {
		return err
	}
	return errors.Join(atomicfile.SyncFolder(r.Dir), os.RemoveAll(stage))
}

// idle returns nil when no etcd has a database open.
func idle(db string) error {
	if _, err := os.Stat(db); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	b, err := bbolt.Open(db, 0o600, &bbolt.Options{Timeout: time.Second, ReadOnly: true})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("etcd runs: it has %s open", db)
	}
	if err != nil {
		return nil //nolint:nilerr // damaged, as it may be: that is why it is replaced
	}
	return b.Close()
}

// syncTree has all files below dir on the disk.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
