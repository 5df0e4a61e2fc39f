package converge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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

// Fingerprint is a digest over the paths and contents of files.
func Fingerprint(files []host.File) string {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%s %s\n", f.Path, f.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

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
	n, err := s.look(ctx, r)
	if err != nil {
		return nil, err
	}
	object := "service " + s.Unit
	var out []plan.Change
	if n.enable {
		out = append(out, plan.Change{Object: object, From: n.properties["UnitFileState"], To: "enabled"})
	}
	if n.reload {
		out = append(out, plan.Change{Object: object, From: "unit changed on disk", To: "reloaded"})
	}
	switch {
	case n.start:
		out = append(out, plan.Change{Object: object, From: n.properties["ActiveState"], To: "active"})
	case n.restart:
		out = append(out, plan.Change{Object: object, From: "running with an older configuration", To: "restart", Disruptive: s.Disruptive})
	}
	return out, nil
}

// needs is what a unit lacks.
type needs struct {
	properties                     map[string]string
	enable, reload, start, restart bool
}

func (n needs) any() bool { return n.enable || n.reload || n.start || n.restart }

func (s Service) look(ctx context.Context, r host.Reader) (needs, error) {
	p, err := s.properties(ctx, r)
	if err != nil {
		return needs{}, err
	}
	n := needs{properties: p, enable: p["UnitFileState"] != "enabled", reload: p["NeedDaemonReload"] == "yes"}
	if s.OnlyEnable {
		return n, nil
	}
	if p["ActiveState"] != "active" {
		n.start = true
		return n, nil
	}
	same, err := s.carries(ctx, r, p["MainPID"])
	n.restart = !same
	return n, err
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

// Apply does what Check reports and no more: a service that is only not enabled
// is not restarted.
func (s Service) Apply(ctx context.Context, h host.Host) error {
	n, err := s.look(ctx, h)
	if err != nil || !n.any() {
		return err
	}
	if err := ledger.Append(ctx, h, ledger.Entry{Kind: ledger.Service, Name: s.Unit, Value: n.properties["UnitFileState"]}); err != nil {
		return err
	}
	reload := []string{"systemctl", "daemon-reload"}
	if n.enable {
		reload = []string{"systemctl", "enable", s.Unit} // which reloads as well
	}
	if _, err := h.Run(ctx, host.Command(reload...)); err != nil {
		return err
	}
	if !n.start && !n.restart {
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
