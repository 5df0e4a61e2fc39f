package backup_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/backup/target"
	"github.com/kocli/kocli/pkg/etcd/etcdtest"
	"github.com/kocli/kocli/pkg/host/hosttest"
)

// scheduled is what a control plane makes its backups with, into a folder.
func scheduled(t *testing.T, dir string) backup.Schedule {
	t.Helper()
	name := filepath.Join(t.TempDir(), "site")
	if _, _, _, err := archive.GenerateKey(name); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(name + ".key")
	if err != nil {
		t.Fatal(err)
	}
	return backup.Schedule{
		Target: dir, Retention: backup.Retention{Keep: 1},
		Request: backup.Request{Cluster: "prod", Node: "cp-1", Key: string(pem), Recipients: []string{identity(t).Recipient().String()}},
	}
}

func lastReport(t *testing.T, root string) backup.Report {
	t.Helper()
	for _, p := range backup.ReportPaths() {
		data, err := os.ReadFile(filepath.Join(root, p))
		if err != nil {
			continue
		}
		var r backup.Report
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	t.Fatal("there is no report")
	return backup.Report{}
}

func TestSchedule_makesPrunesAndReports(t *testing.T) {
	m, dir, root := plane(t), filepath.Join(t.TempDir(), "backups"), t.TempDir()
	s := scheduled(t, dir)
	at := time.Date(2026, 11, 25, 2, 30, 0, 0, time.UTC)
	now := func() time.Time { at = at.Add(time.Hour); return at }
	for i := range 2 {
		r := s.Run(t.Context(), m, now)
		if !r.OK || r.Receipt == nil || r.Receipt.Keys != 100 || r.Pruned != i {
			t.Fatalf("%+v", r)
		}
		if err := r.Keep(root); err != nil {
			t.Fatal(err)
		}
	}
	good := lastReport(t, root)
	if !good.LastGood.Equal(good.Time) {
		t.Errorf("%+v", good)
	}
	f, err := target.Folder(dir)
	if err != nil {
		t.Fatal(err)
	}
	items, notes, err := backup.Store{Target: f}.All(t.Context(), "prod")
	if err != nil || len(items) != 1 || len(notes) > 0 || !items[0].Created.Equal(good.Time) {
		t.Errorf("%+v, %v, %v", items, notes, err)
	}
	// The timer fires while the disk is full.
	next := at.Add(time.Hour)
	link := filepath.Join(dir, ".partial-"+backup.Name(backup.Header{Cluster: "prod", Node: "cp-1", Created: next}, true))
	if err := os.Symlink("/dev/full", link); err != nil {
		t.Fatal(err)
	}
	r := s.Run(t.Context(), m, now)
	if r.OK || !strings.Contains(r.Error, "no space left") || !strings.Contains(r.Hint, "make room") {
		t.Errorf("%+v", r)
	}
	if err := r.Keep(root); err != nil {
		t.Fatal(err)
	}
	if bad := lastReport(t, root); bad.OK || !bad.LastGood.Equal(good.Time) {
		t.Errorf("the last good one is forgotten: %+v", bad)
	}
	if items, _, err := (backup.Store{Target: f}).All(t.Context(), "prod"); err != nil || len(items) != 1 {
		t.Errorf("the last good backup is gone: %v, %v", items, err)
	}
}

func TestSchedule_isOneNodesWorkWhereTheTargetIsShared(t *testing.T) {
	e := etcdtest.New(t)
	m := hosttest.New("cp-1")
	e.Install(m)
	m.OnDial(e.Dial)
	e.Add("cp-1", "10.0.0.1") // leads: its ID is 1
	e.Add("cp-2", "10.0.0.2")
	s := scheduled(t, "s3://backups/prod")
	if r := s.Run(t.Context(), m, time.Now); !r.OK || r.LeftTo != "cp-2" || r.Receipt != nil {
		t.Errorf("%+v", r)
	}
	r := s.Run(t.Context(), hosttest.New("worker"), time.Now)
	if r.OK || r.Error == "" {
		t.Errorf("%+v", r)
	}
}

func TestReport_isKeptInMemoryWhereTheDiskTakesNone(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "var/lib"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/kocli"), nil, 0o600); err != nil { // nothing can be below it
		t.Fatal(err)
	}
	if err := (backup.Report{Node: "cp-1", Error: "x"}).Keep(root); err != nil {
		t.Fatal(err)
	}
	if r := lastReport(t, root); r.Error != "x" {
		t.Errorf("%+v", r)
	}
}

func TestSchedule_showsNoSecret(t *testing.T) {
	s := scheduled(t, "/x")
	s.Login.Password, s.S3.SecretKey = canary, canary
	for _, text := range []string{s.String(), s.GoString(), s.Request.String(), s.S3.String()} {
		if strings.Contains(text, canary) || strings.Contains(text, "PRIVATE") {
			t.Error(text)
		}
	}
	file := filepath.Join(t.TempDir(), "config.json")
	doc, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, doc, 0o600); err != nil {
		t.Fatal(err)
	}
	back, err := backup.ReadSchedule(file)
	if err != nil || back.Login.Password != canary || back.S3.SecretKey != canary || back.Request.Key != s.Request.Key {
		t.Errorf("what is written is not what is read: %v", err)
	}
	if err := os.WriteFile(file, doc[:len(doc)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.ReadSchedule(file); err == nil || strings.Contains(err.Error(), canary) {
		t.Error(err)
	}
}
