package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/backup/target"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/probe"
	"github.com/kocli/kocli/pkg/steps/schedule"
)

// ScheduleBackups has the control planes make backups by themselves, as the YAML says;
// with off, no more. They need this machine no longer.
func ScheduleBackups(ctx context.Context, o Options, off bool) (*Result, error) {
	spec := o.Inventory.Spec.Backup
	if !off && spec.Schedule == "" {
		return nil, fault.New(fault.Usage, `set spec.backup.schedule in `+o.SpecFile+`, as in "*-*-* 02:30:00"; --off ends it`, errors.New("it is not said when backups are made"))
	}
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	planes := inventory.Names(s.inv.ControlPlanes())
	res := s.result(len(planes))
	phases := []plan.Phase{{Name: "schedule", Nodes: planes, Steps: func(string) ([]plan.Step, error) { return []plan.Step{schedule.Off()}, nil }}}
	if !off {
		if phases, err = s.schedulePhases(ctx, planes); err != nil {
			return res, err
		}
	}
	p, err := s.compile(phases, res)
	if err != nil {
		return res, err
	}
	if err := s.run(ctx, p, res); err != nil || off {
		return res, err
	}
	return res, s.remember(nil)
}

// schedulePhases bring kocli, and what its backups are made with, to control planes.
func (s *Session) schedulePhases(ctx context.Context, planes []string) ([]plan.Phase, error) {
	base, err := s.schedule(ctx)
	if err != nil {
		return nil, err
	}
	h, err := s.hosts.Dial(ctx, planes[0])
	if err != nil {
		return nil, err
	}
	if err := schedule.CheckTime(ctx, h, base.When); err != nil {
		return nil, err
	}
	k, err := s.kocli()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Inventory: s.inv, Dialer: s.hosts, Kocli: k, Facts: map[string]probe.Facts{}}
	for _, n := range planes {
		r, err := s.hosts.Look(ctx, n)
		if err != nil {
			return nil, err
		}
		out, err := r.Query(ctx, host.Command("uname", "-m"))
		if err != nil {
			return nil, err
		}
		c.Facts[n] = probe.Facts{Arch: probe.Arch(out.Text())}
	}
	return []plan.Phase{
		{Name: "agent", Nodes: planes, Steps: func(name string) ([]plan.Step, error) {
			n, _ := s.inv.Node(name)
			f, err := c.kocli(n)
			return []plan.Step{kocliStep(f)}, err
		}},
		{Name: "schedule", Follows: []string{"agent"}, Nodes: planes, Steps: func(name string) ([]plan.Step, error) {
			o := base
			o.Schedule.Request.Node = name
			return schedule.Steps(o)
		}},
	}, nil
}

// schedule puts together what scheduled backups are made with.
func (s *Session) schedule(ctx context.Context) (schedule.Options, error) {
	spec := s.inv.Spec.Backup
	o := schedule.Options{When: spec.Schedule, Kocli: kocliPath()}
	to, plain, err := recipients(s.o, nil, false)
	if err != nil {
		return o, err
	}
	key, err := signingKey(s.dir)
	if err != nil {
		return o, err
	}
	rq, err := s.request(inventory.Node{}, key, to, plain)
	if err != nil {
		return o, err
	}
	access, err := targetOptions(ctx, s.o, spec.Target)
	if err != nil {
		return o, err
	}
	// What differs from run to run would have the file be written each time.
	rq.Created, rq.State = time.Time{}, nil
	o.Schedule = backup.Schedule{Request: rq, Target: spec.Target, Retention: backup.Retention{Keep: spec.Retention.Keep, MaxAge: spec.Retention.MaxAge.Value()}, S3: access.S3}
	if !strings.HasPrefix(spec.Target, "sftp://") {
		return o, nil
	}
	o.Schedule.Login = access.Login
	if o.Schedule.Login.Agent {
		return o, fault.New(fault.Usage, "set spec.backup.sftp.keyFile or password: a control plane has no SSH agent", errors.New("it is not said how control planes log in for backups"))
	}
	if f := access.Login.KeyFile; f != "" {
		if o.Key, err = os.ReadFile(f); err != nil {
			return o, fault.New(fault.Usage, "see spec.backup.sftp.keyFile", err)
		}
		o.Schedule.Login.KeyFile = backup.ScheduleKeyPath
	}
	// The connection proves the login, and that the host key is known here.
	t, err := target.Open(ctx, spec.Target, access)
	if err != nil {
		return o, err
	}
	if err := t.Close(); err != nil {
		return o, err
	}
	o.Hosts, err = s.o.SSH.Keys.Lines(spec.Target)
	return o, err
}

// ScheduledBackups is how the backups go that control planes make by themselves. Its
// JSON is stable.
type ScheduledBackups struct {
	Schedule string          `json:"schedule"`
	Target   string          `json:"target"`
	Nodes    []backup.Report `json:"nodes"`    // of those that have made one
	Problems []string        `json:"problems"` // in a line each
}

// scheduled asks the control planes how their last backup went; nil where none is
// scheduled.
func (s *Session) scheduled(ctx context.Context) *ScheduledBackups {
	spec := s.inv.Spec.Backup
	if spec.Schedule == "" {
		return nil
	}
	out := &ScheduledBackups{Schedule: spec.Schedule, Target: spec.Target, Nodes: []backup.Report{}, Problems: []string{}}
	installed := 0
	for _, n := range s.inv.ControlPlanes() {
		r, err := s.hosts.Look(ctx, n.Name)
		if err != nil {
			out.Problems = append(out.Problems, fmt.Sprintf("%s: %v", n.Name, err))
			continue
		}
		if _, err := r.Stat(ctx, backup.TimerPath); errors.Is(err, fs.ErrNotExist) {
			out.Problems = append(out.Problems, n.Name+" makes no backups: kocli backup schedule -f "+s.o.SpecFile)
			continue
		}
		installed++
		rep, err := lastReport(ctx, r)
		switch {
		case err != nil:
			out.Problems = append(out.Problems, fmt.Sprintf("%s: %v", n.Name, err))
		case rep == nil:
		default:
			out.Nodes = append(out.Nodes, *rep)
			if !rep.OK {
				out.Problems = append(out.Problems, fmt.Sprintf("the backup of %s at %s failed: %s", n.Name, rep.Time.Local().Format(time.DateTime), rep.Error))
			}
		}
	}
	if installed > 0 && len(out.Nodes) == 0 {
		out.Problems = append(out.Problems, "no backup was due yet")
	}
	return out
}

// lastReport is how the last backup of a control plane went; nil before the first.
func lastReport(ctx context.Context, r host.Reader) (*backup.Report, error) {
	var last *backup.Report
	for _, p := range backup.ReportPaths() {
		data, err := r.ReadFile(ctx, p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return last, err
		}
		var rep backup.Report
		if json.Unmarshal(data, &rep) == nil && (last == nil || rep.Time.After(last.Time)) {
			last = &rep
		}
	}
	return last, nil
}
