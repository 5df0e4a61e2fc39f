// Package schedule has control planes make backups by themselves: a systemd timer
// that runs kocli, which is on the host, with what the backups are made with.
package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/render"
	"github.com/kocli/kocli/templates"
)

// Options are what the steps of one control plane need.
type Options struct {
	Schedule backup.Schedule
	When     string // systemd's OnCalendar
	Kocli    string // where kocli is on the host
	Key      []byte // private key for SFTP; nil where there is none
	Hosts    []byte // known hosts, for SFTP
}

// Steps have the timer run.
func Steps(o Options) ([]plan.Step, error) {
	list, err := files(o)
	if err != nil {
		return nil, err
	}
	return []plan.Step{
		converge.Files{Name: "schedule/files", List: func(context.Context, host.Reader) ([]host.File, error) { return list, nil }},
		timer(),
	}, nil
}

func files(o Options) ([]host.File, error) {
	conf, err := json.Marshal(o.Schedule)
	if err != nil {
		return nil, err
	}
	secret := func(p string, data []byte) host.File {
		f := host.Bytes(p, 0o600, data)
		f.Secret = true
		return f
	}
	out := []host.File{secret(backup.ScheduleConfigPath, conf)}
	if len(o.Key) > 0 {
		out = append(out, secret(backup.ScheduleKeyPath, o.Key))
	}
	if len(o.Hosts) > 0 {
		out = append(out, host.Bytes(backup.ScheduleHostsPath, 0o600, o.Hosts))
	}
	for p, t := range map[string]string{backup.ServicePath: "node/kocli-backup.service", backup.TimerPath: "node/kocli-backup.timer"} {
		text, err := render.File(templates.Node, t, map[string]string{"Kocli": o.Kocli, "Config": backup.ScheduleConfigPath, "Schedule": o.When})
		if err != nil {
			return nil, err
		}
		out = append(out, host.Bytes(p, 0o644, text))
	}
	return out, nil
}

// CheckTime refuses a time that the systemd of a host does not understand. It writes
// nothing.
func CheckTime(ctx context.Context, h host.Host, when string) error {
	if _, err := h.Run(ctx, host.Command("systemd-analyze", "calendar", when)); err != nil {
		return fault.New(fault.Usage, `give spec.backup.schedule in systemd's form, such as "daily" or "*-*-* 02:30:00"`, fmt.Errorf("%q is no time: %w", when, err))
	}
	return nil
}

// state is what systemd says of the timer.
func state(ctx context.Context, r host.Reader) (map[string]string, error) {
	out, err := r.Query(ctx, host.Command("systemctl", "show", "-p", "ActiveState,UnitFileState,NeedDaemonReload", backup.Timer))
	if err != nil {
		return nil, err
	}
	p := map[string]string{}
	for _, l := range strings.Split(out.Text(), "\n") {
		k, v, _ := strings.Cut(l, "=")
		p[k] = v
	}
	return p, nil
}

// timer has the timer enabled and waiting, as its unit says now.
func timer() plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, map[string]string, error) {
		p, err := state(ctx, r)
		if err != nil {
			return nil, nil, err
		}
		var out []plan.Change
		object := "timer " + backup.Timer
		if p["UnitFileState"] != "enabled" {
			out = append(out, plan.Change{Object: object, From: p["UnitFileState"], To: "enabled"})
		}
		switch {
		case p["NeedDaemonReload"] == "yes":
			out = append(out, plan.Change{Object: object, From: "changed on disk", To: "reloaded"})
		case p["ActiveState"] != "active":
			out = append(out, plan.Change{Object: object, From: p["ActiveState"], To: "active"})
		}
		return out, p, nil
	}
	return converge.Func{
		Name: "schedule/timer",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			out, _, err := check(ctx, r)
			return out, err
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			todo, p, err := check(ctx, h)
			if err != nil || len(todo) == 0 {
				return err
			}
			if err := ledger.Append(ctx, h, ledger.Entry{Kind: ledger.Service, Name: backup.Timer, Value: p["UnitFileState"]}); err != nil {
				return err
			}
			if _, err := h.Run(ctx, host.Command("systemctl", "enable", backup.Timer)); err != nil { // which reloads as well
				return err
			}
			if p["ActiveState"] == "active" {
				return nil
			}
			_, err = h.Run(ctx, host.Command("systemctl", "start", backup.Timer))
			return err
		},
	}
}

// Off has a control plane make no backups by itself any more.
func Off() plan.Step {
	paths := []string{backup.TimerPath, backup.ServicePath, backup.ScheduleDir}
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		var out []plan.Change
		for _, p := range paths {
			_, err := r.Stat(ctx, p)
			if err == nil {
				out = append(out, plan.Change{Object: "file " + p, To: "remove"})
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		return out, nil
	}
	return converge.Func{Name: "schedule/off", CheckFn: check, ApplyFn: func(ctx context.Context, h host.Host) error {
		todo, err := check(ctx, h)
		if err != nil || len(todo) == 0 {
			return err
		}
		if _, err := h.Stat(ctx, backup.TimerPath); err == nil {
			if _, err := h.Run(ctx, host.Command("systemctl", "disable", "--now", backup.Timer)); err != nil {
				return err
			}
		}
		for _, p := range paths {
			if err := h.Remove(ctx, p); err != nil {
				return err
			}
		}
		return nil
	}}
}
