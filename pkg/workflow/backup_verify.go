package workflow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/etcd/datadir"
	"github.com/kocli/kocli/pkg/fault"
)

// WhichBackup names a backup, and says how it is read.
type WhichBackup struct {
	// Name is a backup at the target, or the path of a file. Empty means the newest at
	// the target.
	Name     string
	Target   string // empty: spec.backup.target
	Identity string // file of private keys of age
	Keys     []archive.PublicKey
	Accept   string // ID of a key that is trusted
}

// Drill is what a backup was proved to be. Its JSON is stable.
type Drill struct {
	Name       string        `json:"name"`
	Cluster    string        `json:"cluster"`
	Node       string        `json:"node"`
	Created    time.Time     `json:"created"`
	Age        time.Duration `json:"ageNs"`
	Kubernetes string        `json:"kubernetes"`
	Etcd       string        `json:"etcdVersion"`
	Signer     string        `json:"signer"`
	Files      int           `json:"files"`
	Missing    []string      `json:"missing"` // files without which it cannot be restored
	// Keys and Revision are of the manifest, Restored what the restored snapshot has.
	Keys     int64         `json:"keys"`
	Revision int64         `json:"revision"`
	Hash     string        `json:"etcdHash"`
	Samples  int           `json:"samples"`
	Restored datadir.Facts `json:"restored"`
	Duration time.Duration `json:"durationNs"`
}

// VerifyBackup is a drill: it decrypts a backup, holds all of it against its signed
// manifest, restores the snapshot into a scratch etcd, and compares that with what
// etcd said when it was taken. maxAge is how old it may be; zero means any age.
// scratch is where the restored data, which is in the clear, is for that long; empty
// means the system's folder for such.
func VerifyBackup(ctx context.Context, o Options, which WhichBackup, maxAge time.Duration, scratch string) (d *Drill, err error) {
	start := o.Clock.Now()
	dir, err := os.MkdirTemp(scratch, "kocli-drill-") // 0700
	if err != nil {
		return nil, fault.New(fault.Usage, "name a folder with room for the restored data: --scratch FOLDER", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	db := filepath.Join(dir, "snapshot.db")
	f, err := os.OpenFile(db, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	name, c, err := readBackup(ctx, o, which, f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	d = &Drill{
		Name: name, Cluster: c.Cluster, Node: c.Node, Created: c.Created, Age: start.Sub(c.Created), Kubernetes: c.Kubernetes, Etcd: c.Etcd.Version,
		Signer: c.Signer.ID(), Files: len(c.Files), Missing: c.Missing(), Keys: c.Etcd.Keys, Revision: c.Etcd.Revision,
		Hash: fmt.Sprintf("%08x", c.Etcd.Value), Samples: len(c.Etcd.Samples),
	}
	d.Restored, err = datadir.Check(ctx, db, dir, c.Etcd, c.Etcd.Hash, c.After)
	d.Duration = o.Clock.Now().Sub(start)
	bad := func(err error) error {
		return fault.New(fault.Backup, "make a new one: kocli backup create; kocli backup list shows the others", err)
	}
	switch {
	case err != nil && ctx.Err() == nil:
		return d, bad(fmt.Errorf("%s does not hold what etcd had: %w", name, err))
	case err != nil:
		return d, err
	case len(d.Missing) > 0:
		return d, bad(fmt.Errorf("%s lacks %s", name, strings.Join(d.Missing, ", ")))
	case maxAge > 0 && d.Age > maxAge:
		return d, bad(fmt.Errorf("%s is %s old, and may be %s", name, d.Age.Truncate(time.Second), maxAge))
	}
	return d, nil
}

// readBackup reads a backup to its end and proves it, but for what is in the
// snapshot, which goes to db.
func readBackup(ctx context.Context, o Options, which WhichBackup, db io.Writer) (name string, c *backup.Contents, err error) {
	ids, err := backup.Identities(which.Identity)
	if err != nil {
		return "", nil, err
	}
	b, err := findBackup(ctx, o, which)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = b.close() }() // only read
	c, err = b.read(ctx, ids, db)
	if err != nil {
		return b.name, nil, &fault.Error{Op: "read " + b.name, Err: err}
	}
	if err := b.trust.Check(c.Signer); err != nil {
		return b.name, nil, err
	}
	return b.name, c, ours(o, c)
}

// ours refuses a backup of another cluster.
func ours(o Options, c *backup.Contents) error {
	if c.Cluster == o.Inventory.Name {
		return nil
	}
	return fault.New(fault.Backup, fmt.Sprintf("name a backup of %s, or the YAML of %s with -f", o.Inventory.Name, c.Cluster),
		fmt.Errorf("it is a backup of cluster %s, and %s describes cluster %s", c.Cluster, o.SpecFile, o.Inventory.Name))
}

// found is a backup that can be read, more than once.
type found struct {
	name  string
	trust backup.Trust
	open  func(ctx context.Context) (io.ReadCloser, error)
	close func() error
}

func (f *found) read(ctx context.Context, ids []age.Identity, db io.Writer) (*backup.Contents, error) {
	r, err := f.open(ctx)
	if err != nil {
		return nil, err
	}
	c, err := backup.Read(ctx, r, ids, db)
	return c, errors.Join(err, r.Close())
}

// findBackup finds a file, or a backup at the target.
func findBackup(ctx context.Context, o Options, which WhichBackup) (*found, error) {
	if st, err := os.Stat(which.Name); which.Name != "" && err == nil && st.Mode().IsRegular() {
		t, err := trust(o, which.Keys, which.Accept)
		return &found{
			name: which.Name, trust: t, close: func() error { return nil },
			open: func(context.Context) (io.ReadCloser, error) { return os.Open(which.Name) },
		}, err
	}
	if strings.ContainsRune(which.Name, filepath.Separator) {
		return nil, fault.New(fault.Backup, "kocli backup list shows the backups at the target", fmt.Errorf("%s: %w", which.Name, fs.ErrNotExist))
	}
	store, err := OpenBackups(ctx, o, which.Target, which.Keys, which.Accept)
	if err != nil {
		return nil, err
	}
	i, err := store.Find(ctx, o.Inventory.Name, which.Name)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return &found{name: i.Name, trust: store.Trust, close: store.Close, open: func(ctx context.Context) (io.ReadCloser, error) { return store.Open(ctx, i.Name) }}, nil
}

// BackupList is what is at a target. Its JSON is stable.
type BackupList struct {
	Target  string         `json:"target"`
	Backups []ListedBackup `json:"backups"` // the newest first
	Notes   []string       `json:"notes"`   // what is wrong with others
}

// ListedBackup is one of them.
type ListedBackup struct {
	backup.Receipt
	Signer  string        `json:"signer"`
	Trusted bool          `json:"trusted"` // signed by a key that this machine knows
	Age     time.Duration `json:"ageNs"`
}

// ListBackups lists the backups of a cluster; of all where all is set.
func ListBackups(ctx context.Context, o Options, to string, keys []archive.PublicKey, all bool) (*BackupList, error) {
	store, err := OpenBackups(ctx, o, to, keys, "")
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }() // only read
	cluster := o.Inventory.Name
	if all {
		cluster = ""
	}
	items, notes, err := store.All(ctx, cluster)
	if err != nil {
		return nil, err
	}
	out := &BackupList{Target: store.String(), Backups: []ListedBackup{}, Notes: append([]string{}, notes...)}
	for _, i := range items {
		out.Backups = append(out.Backups, ListedBackup{Receipt: i.Receipt, Signer: i.Signer.ID(), Trusted: store.Trust.Check(i.Signer) == nil, Age: o.Clock.Now().Sub(i.Created)})
	}
	return out, nil
}

// PruneBackups removes backups that are kept no longer. r says how long; where it is
// empty the YAML does.
func PruneBackups(ctx context.Context, o Options, to string, r backup.Retention, dry bool) ([]string, error) {
	if r == (backup.Retention{}) {
		spec := o.Inventory.Spec.Backup.Retention
		r = backup.Retention{Keep: spec.Keep, MaxAge: spec.MaxAge.Value()}
	}
	if r == (backup.Retention{}) {
		return nil, fault.New(fault.Usage, "say it with --keep or --max-age, or in spec.backup.retention", errors.New("it is not said how long backups are kept"))
	}
	store, err := OpenBackups(ctx, o, to, nil, "")
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }() // nothing is pending
	gone, err := store.Prune(ctx, o.Inventory.Name, r, store.Trust, o.Clock.Now(), dry)
	out := []string{}
	for _, g := range gone {
		out = append(out, g.Name)
	}
	return out, err
}
