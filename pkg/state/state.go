// Package state is kocli's memory of a cluster on the operator's machine: one
// folder that holds intent, never facts. One process writes at a time; every
// write is atomic.
package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/fault"
)

// Schema is the version of the record that this kocli writes. Older ones are
// migrated, newer ones refused.
const Schema = 1

// ErrStale says that the record was saved by somebody else since it was loaded.
var ErrStale = errors.New("the state was changed by another run")

// Record is what is kept of a cluster.
type Record struct {
	Schema     int    `json:"schema"`
	Generation int64  `json:"generation"` // grows with every save
	Cluster    string `json:"cluster"`
	Kubernetes string `json:"kubernetes"` // version that was last asked for
	Bundle     string `json:"bundle"`     // digest of the bundle that was last used
	Spec       string `json:"spec"`       // the YAML that was last applied
	// Leaving are hosts that left the YAML and have not been taken out yet.
	Leaving    []Leaver  `json:"leaving,omitempty"`
	KocliBuild string    `json:"kocliVersion"`
	Updated    time.Time `json:"updated"`
}

// Leaver is a host that is to be taken out of the cluster, with the logins that
// its YAML had.
type Leaver struct {
	Host v1alpha1.Host `json:"host"`
	SSH  v1alpha1.SSH  `json:"ssh"`
}

// Dir is the folder of one cluster.
type Dir struct {
	root    string
	cluster string
}

// Open returns the folder of a cluster under home. Nothing is created until
// something is written.
func Open(home, cluster string) *Dir {
	return &Dir{root: filepath.Join(home, "clusters", cluster), cluster: cluster}
}

// Root is the folder itself.
func (d *Dir) Root() string { return d.root }

// Kubeconfig is the path of the administrator's kubeconfig.
func (d *Dir) Kubeconfig() string { return filepath.Join(d.root, "kubeconfig") }

// Renewal is the path of what is kept of a renewal of certificates that has begun.
func (d *Dir) Renewal() string { return filepath.Join(d.root, "certs-renewal.json") }

// Restore is the path of what is kept of a restore that has begun.
func (d *Dir) Restore() string { return filepath.Join(d.root, "restore.json") }

// Secret is the path of a file with a secret.
func (d *Dir) Secret(name string) string { return filepath.Join(d.root, "secrets", name) }

// RunDir is the folder of one run.
func (d *Dir) RunDir(id string) string { return filepath.Join(d.root, "runs", id) }

func (d *Dir) record() string { return filepath.Join(d.root, "state.json") }
func (d *Dir) lock() string   { return filepath.Join(d.root, "lock") }

// Holder says who holds a lock.
type Holder struct {
	PID     int       `json:"pid"`
	User    string    `json:"user"`
	Host    string    `json:"host"`
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
}

// Lock keeps other processes out until release is called or this process ends.
// It fails at once, saying who holds it.
func (d *Dir) Lock(_ context.Context, me Holder) (release func() error, err error) {
	if err := os.MkdirAll(d.root, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	f := flock.New(d.lock(), flock.SetPermissions(0o600))
	ok, err := f.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", d.root, err)
	}
	if !ok {
		return nil, d.locked()
	}
	data, err := json.Marshal(me)
	if err == nil {
		err = os.WriteFile(d.lock()+".holder", data, 0o600)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", d.root, err), f.Unlock())
	}
	return func() error { return errors.Join(os.Remove(d.lock()+".holder"), f.Unlock()) }, nil
}

func (d *Dir) locked() error {
	var h Holder
	who, hint := "another process", "wait for it to end, or look for it: ps -fC kocli"
	if data, err := os.ReadFile(d.lock() + ".holder"); err == nil && json.Unmarshal(data, &h) == nil {
		who = fmt.Sprintf("%q of %s@%s (pid %d), since %s", h.Command, h.User, h.Host, h.PID, h.Since.Local().Format(time.DateTime))
		hint = fmt.Sprintf("wait for it to end, or look at it: ps -fp %d", h.PID)
	}
	return fault.New(fault.Locked, hint, fmt.Errorf("cluster %s is being worked on by %s", d.cluster, who))
}

// Load returns the record. fs.ErrNotExist before the first run.
func (d *Dir) Load() (Record, error) {
	data, err := os.ReadFile(d.record())
	if err != nil {
		return Record{}, err
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fault.New(fault.Failure, "the file is damaged; move it away and run again: kocli looks at the hosts for what is true",
			fmt.Errorf("read %s: %w", d.record(), err))
	}
	if r.Schema > Schema {
		return Record{}, fault.New(fault.Failure, "use the newer kocli that wrote it",
			fmt.Errorf("%s has schema %d, this kocli knows %d", d.record(), r.Schema, Schema))
	}
	return r, nil
}

// Save writes the record, and fails with ErrStale when somebody saved since r
// was loaded. The generation of r grows by one.
func (d *Dir) Save(r *Record) error {
	now, err := d.Load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if now.Generation != r.Generation {
		return fmt.Errorf("generation %d, expected %d: %w", now.Generation, r.Generation, ErrStale)
	}
	r.Schema, r.Cluster = Schema, d.cluster
	r.Generation++
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return d.Write(d.record(), append(data, '\n'))
}

// Write replaces a file of the folder: temporary file, fsync, rename. Mode 0600.
func (d *Dir) Write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := renameio.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Journal opens a file of a run for appending.
func (d *Dir) Journal(runID, name string) (io.WriteCloser, error) {
	if err := os.MkdirAll(d.RunDir(runID), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(d.RunDir(runID), name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// Forget removes the record and kubeconfig after a reset. The runs stay.
func (d *Dir) Forget() error {
	var errs []error
	for _, p := range []string{d.record(), d.Kubeconfig(), d.Renewal(), d.Restore(), filepath.Join(d.root, "secrets")} {
		errs = append(errs, os.RemoveAll(p))
	}
	return errors.Join(errs...)
}

// Clusters lists the clusters that home knows.
func Clusters(home string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(home, "clusters"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, err
}
