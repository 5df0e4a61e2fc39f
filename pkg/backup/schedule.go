package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/backup/target"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/sshhost"
)

// Where a control plane keeps what its own backups are made with. All but the units
// are 0600.
const (
	ScheduleConfigPath = ScheduleDir + "/config.json"
	ScheduleKeyPath    = ScheduleDir + "/id"          // that logs in to an SFTP server
	ScheduleHostsPath  = ScheduleDir + "/known_hosts" // its host key
	ServicePath        = "/etc/systemd/system/kocli-backup.service"
	TimerPath          = "/etc/systemd/system/kocli-backup.timer"
	Timer              = "kocli-backup.timer"
	Service            = "kocli-backup.service"
)

// ReportPaths are where the result of the last backup is: on the disk, or in memory
// where the disk had no room for it.
func ReportPaths() []string {
	return []string{"/var/lib/kocli/backup/last.json", "/run/kocli-backup/last.json"}
}

// Schedule is what a control plane makes its own backups with. It holds secrets.
type Schedule struct {
	Request   Request          `json:"request"`
	Target    string           `json:"target"`
	Retention Retention        `json:"retention"`
	Login     sshhost.Login    `json:"login,omitzero"` // of SFTP; the key is at ScheduleKeyPath
	S3        target.S3Options `json:"s3,omitzero"`
}

// String hides the secrets.
func (s Schedule) String() string { return "backups to " + s.Target }

// GoString hides the secrets.
func (s Schedule) GoString() string { return s.String() }

// Report is how a scheduled backup went. Its JSON is stable.
type Report struct {
	Node     string        `json:"node"`
	Time     time.Time     `json:"time"` // when it began
	Duration time.Duration `json:"durationNs"`
	OK       bool          `json:"ok"`
	// LeftTo is the node that makes the backup this time.
	LeftTo  string   `json:"leftTo,omitempty"`
	Target  string   `json:"target"`
	Receipt *Receipt `json:"backup,omitempty"`
	Pruned  int      `json:"pruned,omitempty"`
	Error   string   `json:"error,omitempty"`
	Hint    string   `json:"hint,omitempty"`
	// LastGood is when the last one that went well began, of this node.
	LastGood time.Time `json:"lastGood,omitzero"`
}

// Run makes the backup that is due on the control plane that r reads, and removes
// those that are kept no longer. Where the target is one for all control planes, the
// one whose etcd does not lead makes it; in a folder each keeps its own.
func (s Schedule) Run(ctx context.Context, r host.Reader, now func() time.Time) Report {
	rep := Report{Node: s.Request.Node, Time: now().UTC().Truncate(time.Second), Target: s.Target}
	err := s.run(ctx, r, now, &rep)
	rep.Duration = now().Sub(rep.Time)
	rep.OK = err == nil
	if err != nil {
		rep.Error, rep.Hint = err.Error(), fault.HintOf(err)
	}
	return rep
}

func (s Schedule) run(ctx context.Context, r host.Reader, now func() time.Time, rep *Report) error {
	if strings.Contains(s.Target, "://") {
		v, err := etcd.Look(ctx, r)
		if err != nil {
			return err
		}
		m, err := v.Follower(ctx)
		if err != nil {
			return fault.New(fault.Unhealthy, "bring back enough control planes for a quorum: kocli status", err)
		}
		if m.Name != s.Request.Node {
			rep.LeftTo = m.Name
			return nil
		}
	}
	s.Request.Created = rep.Time
	o, err := s.Request.Options()
	if err != nil {
		return err
	}
	t, err := target.Open(ctx, s.Target, target.Options{Login: s.Login, S3: s.S3, SSH: sshhost.Options{Keys: &sshhost.KnownHosts{File: ScheduleHostsPath}}})
	if err != nil {
		return err
	}
	defer func() { _ = t.Close() }() // nothing is pending
	store := Store{t}
	name := Name(Header{Cluster: s.Request.Cluster, Node: s.Request.Node, Created: rep.Time}, len(o.Recipients) > 0)
	rc, err := store.Save(ctx, name, o.Key, func(w io.Writer) (Receipt, error) { return Write(ctx, w, r, o) })
	if err != nil {
		return err
	}
	rep.Receipt = &rc
	gone, err := store.Prune(ctx, s.Request.Cluster, s.Retention, Trust{Keys: []archive.PublicKey{o.Key.Public()}}, now(), false)
	rep.Pruned = len(gone)
	return err
}

// ReadSchedule reads what RunScheduled is run with.
func ReadSchedule(path string) (Schedule, error) {
	var s Schedule
	data, err := os.ReadFile(path) //nolint:gosec // kocli wrote it
	if err != nil {
		return s, err
	}
	if json.Unmarshal(data, &s) != nil {
		return s, fmt.Errorf("%s is damaged: kocli backup schedule writes it again", path) // never quoted: it holds secrets
	}
	return s, nil
}

// Keep writes a report below root, which is "/" but in tests: to the disk, or to
// memory where that is full. What an earlier report says of the last good backup is
// carried on.
func (r Report) Keep(root string) error {
	for _, p := range ReportPaths() {
		data, err := os.ReadFile(filepath.Join(root, p))
		var last Report
		if err == nil && json.Unmarshal(data, &last) == nil && last.LastGood.After(r.LastGood) {
			r.LastGood = last.LastGood
		}
	}
	if r.OK && r.LeftTo == "" {
		r.LastGood = r.Time
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range ReportPaths() {
		p = filepath.Join(root, p)
		err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700))
		if err == nil {
			err = renameio.WriteFile(p, data, 0o600)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
