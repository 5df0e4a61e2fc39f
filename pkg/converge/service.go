package converge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/plan"
)

// FingerprintVariable is set in a unit's environment to the digest of all that
// the service was configured with. A running process that carries another value
// was started before a change: no clock has to be trusted.
const FingerprintVariable = "KOCLI_FINGERPRINT"

// Service is a step that has a systemd service enabled and, unless OnlyEnable,
// running with the wanted fingerprint.
type Service struct {
	Name        string
	Unit        string // "containerd.service"
	Fingerprint string
	OnlyEnable  bool   // somebody else starts it
	After       string // step that brings the unit's files
	Disruptive  bool   // a restart disturbs what runs
}

// ID is the step's name.
func (s Service) ID() string { return s.Name }

// Check looks at the unit and at the environment of its process.
func (s Service) Check(ctx context.Context, r host.Reader) ([]plan.Change, error) {
	p, err := s.properties(ctx, r)
	if err != nil {
		return nil, err
	}
	var out []plan.Change
	if p["UnitFileState"] != "enabled" {
		out = append(out, plan.Change{Object: "service " + s.Unit, From: p["UnitFileState"], To: "enabled"})
	}
	if p["NeedDaemonReload"] == "yes" {
		out = append(out, plan.Change{Object: "service " + s.Unit, From: "unit changed on disk", To: "reloaded"})
	}
	if s.OnlyEnable {
		return out, nil
	}
	if p["ActiveState"] != "active" {
		return append(out, plan.Change{Object: "service " + s.Unit, From: p["ActiveState"], To: "active"}), nil
	}
	same, err := s.carries(ctx, r, p["MainPID"])
	if err != nil {
		return nil, err
	}
	if !same {
		out = append(out, plan.Change{Object: "service " + s.Unit, From: "running with an older configuration", To: "restart", Disruptive: s.Disruptive})
	}
	return out, nil
}

func (s Service) properties(ctx context.Context, r host.Reader) (map[string]string, error) {
	out, err := r.Query(ctx, host.Command("systemctl", "show", "-p", "ActiveState,UnitFileState,MainPID,NeedDaemonReload,SubState,Result", s.Unit))
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

// carries reports whether the process was started with the wanted fingerprint.
func (s Service) carries(ctx context.Context, r host.Reader, pid string) (bool, error) {
	env, err := r.ReadFile(ctx, "/proc/"+pid+"/environ")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it ended in between
	}
	if err != nil {
		return false, err
	}
	for _, v := range strings.Split(string(env), "\x00") {
		if v == FingerprintVariable+"="+s.Fingerprint {
			return true, nil
		}
	}
	return false, nil
}

// Apply reloads systemd, enables the unit, and restarts it where needed.
func (s Service) Apply(ctx context.Context, h host.Host) error {
	if err := ledger.Append(ctx, h, ledger.Entry{Kind: ledger.Service, Name: s.Unit}); err != nil {
		return err
	}
	if _, err := h.Run(ctx, host.Command("systemctl", "daemon-reload")); err != nil {
		return err
	}
	if _, err := h.Run(ctx, host.Command("systemctl", "enable", s.Unit)); err != nil {
		return err
	}
	if s.OnlyEnable {
		return nil
	}
	c := host.Command("systemctl", "restart", s.Unit)
	c.Timeout = 2 * time.Minute
	if _, err := h.Run(ctx, c); err != nil {
		return s.why(ctx, h, err)
	}
	return nil
}

// why adds the last lines of the unit's log to an error.
func (s Service) why(ctx context.Context, r host.Reader, err error) error {
	out, jerr := r.Query(ctx, host.Command("journalctl", "-u", s.Unit, "-n", "8", "-o", "cat", "--no-pager"))
	if jerr != nil || out.Text() == "" {
		return err
	}
	return fmt.Errorf("%w; its log ends with:\n%s", err, out.Text())
}
