package workflow

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/steps/schedule"
)

func TestSchedule_isTheSameFromRunToRun(t *testing.T) {
	t.Parallel()
	w := newBackupWorld(t)
	w.s.inv.Spec.Backup.Schedule = "daily"
	text := func() string {
		o, err := w.s.schedule(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		doc, err := json.Marshal(o.Schedule)
		if err != nil {
			t.Fatal(err)
		}
		return string(doc)
	}
	first := text()
	w.s.start = w.s.start.Add(time.Hour)
	if text() != first {
		t.Error("a second run would write it again")
	}
	w.s.inv.Spec.Backup.Target = "sftp://ops@10.0.0.9/srv"
	if _, err := w.s.schedule(t.Context()); fault.CodeOf(err) != fault.Usage || !strings.Contains(err.Error(), "log in") {
		t.Errorf("a login that only this machine has: %v", err)
	}
}

func TestStatus_showsScheduledBackups(t *testing.T) {
	t.Parallel()
	cp1, cp2, cp3 := hosttest.OS(hosttest.New("cp-1")), hosttest.New("cp-2"), hosttest.New("cp-3")
	s := session(t, machines{"cp-1": cp1, "cp-2": cp2, "cp-3": cp3})
	s.o.SpecFile = "cluster.yaml"
	if got := s.scheduled(t.Context()); got != nil {
		t.Errorf("without a schedule: %+v", got)
	}
	s.inv.Spec.Backup.Schedule, s.inv.Spec.Backup.Target = "daily", "/srv"
	steps, err := schedule.Steps(schedule.Options{When: "daily", Kocli: kocliPath()})
	if err != nil {
		t.Fatal(err)
	}
	if err := steps[0].Apply(t.Context(), cp1); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 25, 2, 30, 0, 0, time.UTC)
	put := func(path string, r backup.Report) {
		doc, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		cp1.Write(path, 0o600, string(doc))
	}
	put(backup.ReportPaths()[0], backup.Report{Node: "cp-1", Time: at, OK: true, LastGood: at})
	got := s.scheduled(t.Context())
	if len(got.Nodes) != 1 || !got.Nodes[0].LastGood.Equal(at) || len(got.Problems) != 2 || !strings.Contains(got.Problems[0], "cp-2 makes no backups: kocli backup schedule") {
		t.Errorf("%+v", got)
	}
	// A later one failed, and could say so in memory only.
	put(backup.ReportPaths()[1], backup.Report{Node: "cp-1", Time: at.Add(time.Hour), Error: "no space left on device", LastGood: at})
	if got = s.scheduled(t.Context()); len(got.Problems) != 3 || !strings.Contains(got.Problems[0], "no space left") || !got.Nodes[0].LastGood.Equal(at) {
		t.Errorf("%+v", got)
	}
}
