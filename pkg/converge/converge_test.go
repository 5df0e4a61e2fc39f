package converge_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
)

const unitFile = "/etc/systemd/system/x.service"

func unit(fingerprint string) string {
	return "[Service]\nEnvironment=" + converge.FingerprintVariable + "=" + fingerprint + "\n"
}

func machine() *hosttest.Machine {
	m := hosttest.OS(hosttest.New("n"))
	m.Write(unitFile, 0o644, unit("2"))
	return m
}

// systemctl runs one command in a test's set-up.
func systemctl(t *testing.T, m *hosttest.Machine, args ...string) {
	t.Helper()
	if _, err := m.Run(t.Context(), host.Command(append([]string{"systemctl"}, args...)...)); err != nil {
		t.Fatal(err)
	}
}

func TestService_converges(t *testing.T) {
	s := converge.Service{Name: "x", Unit: "x.service", Fingerprint: "2"}
	only := s
	only.OnlyEnable = true
	older := func(m *hosttest.Machine) {
		m.Write(unitFile, 0o644, unit("1"))
		systemctl(t, m, "enable", "x.service")
		systemctl(t, m, "start", "x.service")
		m.Write(unitFile, 0o644, unit("2"))
	}
	for name, c := range map[string]struct {
		step    converge.Service
		prepare func(*hosttest.Machine)
		runs    string // what has to be among the writes
		not     string // what must not
	}{
		"a new unit":                        {s, func(*hosttest.Machine) {}, "restart", ""},
		"a unit that another one starts":    {only, func(*hosttest.Machine) {}, "enable", "restart"},
		"running with an older unit":        {s, older, "restart", "enable"},
		"running, its unit reloaded since":  {s, func(m *hosttest.Machine) { older(m); systemctl(t, m, "daemon-reload") }, "restart", "enable"},
		"running as it should, not enabled": {s, func(m *hosttest.Machine) { systemctl(t, m, "start", "x.service") }, "enable", "restart"},
		"enabled and stopped":               {s, func(m *hosttest.Machine) { systemctl(t, m, "enable", "x.service") }, "restart", "enable"},
	} {
		t.Run(name, func(t *testing.T) {
			world := func() plantest.World {
				m := machine()
				c.prepare(m)
				return plantest.World{Step: c.step, Host: m}
			}
			plantest.Converges(t, world)
			w := world()
			before := len(w.Host.Log())
			if err := w.Step.Apply(t.Context(), w.Host); err != nil {
				t.Fatal(err)
			}
			log := strings.Join(w.Host.Log()[before:], "\n")
			if !strings.Contains(log, "systemctl "+c.runs) || c.not != "" && strings.Contains(log, "systemctl "+c.not) {
				t.Errorf("it did %s", log)
			}
		})
	}
}

func TestService_saysWhyItDoesNotStart(t *testing.T) {
	m := machine()
	m.Handle(func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		switch {
		case argv[0] == "systemctl" && argv[1] == "restart":
			return "Job for x.service failed.", 1, true
		case argv[0] == "journalctl":
			return "x: cannot bind 0.0.0.0:1234\n", 0, true
		}
		return "", 0, false
	})
	err := converge.Service{Name: "x", Unit: "x.service"}.Apply(t.Context(), m)
	var x *host.ExitError
	if !errors.As(err, &x) || !strings.Contains(err.Error(), "cannot bind 0.0.0.0:1234") {
		t.Errorf("got %v", err)
	}
}

func TestService_aRestartIsDisruptiveAndAStartIsNot(t *testing.T) {
	s := converge.Service{Name: "x", Unit: "x.service", Fingerprint: "2", Disruptive: true}
	disruptive := func(m *hosttest.Machine) bool {
		changes, err := s.Check(t.Context(), m)
		if err != nil || len(changes) == 0 {
			t.Fatalf("%v, %v", changes, err)
		}
		for _, c := range changes {
			if c.Disruptive {
				return true
			}
		}
		return false
	}
	m := machine()
	if disruptive(m) {
		t.Error("a first start is called disruptive")
	}
	m.Write(unitFile, 0o644, unit("1"))
	systemctl(t, m, "daemon-reload")
	systemctl(t, m, "start", "x.service")
	if !disruptive(m) {
		t.Error("a restart is not called disruptive")
	}
}

func files(width int, names ...string) converge.Files {
	return converge.Files{Name: "x", Width: width, List: func(context.Context, host.Reader) ([]host.File, error) {
		var out []host.File
		for i, n := range names {
			out = append(out, host.Bytes(n, 0o640, []byte(fmt.Sprint("content ", i))))
		}
		return out, nil
	}}
}

func TestFiles_converge(t *testing.T) {
	for _, width := range []int{0, 4} {
		plantest.Converges(t, func() plantest.World {
			m := hosttest.New("n")
			m.Write("/b", 0o640, "old")
			m.Write("/c", 0o600, "content 2")
			m.Write("/e", 0o640, "content 4")
			return plantest.World{Step: files(width, "/a", "/b", "/c", "/d/d", "/e"), Host: m}
		})
	}
}

func TestFiles_sayWhatDiffers(t *testing.T) {
	m := hosttest.New("n")
	m.Write("/b", 0o640, "old")
	m.Write("/c", 0o600, "content 2")
	changes, err := files(0, "/a", "/b", "/c").Check(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	want := []plan.Change{
		{Object: "file /a", To: "create", Bytes: 9},
		{Object: "file /b", To: "replace", Bytes: 9},
		{Object: "file /c", From: "mode 0600", To: "mode 0640, owner root:root"},
	}
	if fmt.Sprint(changes) != fmt.Sprint(want) || changes[0].Bytes != 9 || changes[2].Bytes != 0 {
		t.Errorf("got %v", changes)
	}
}

func TestAsked_leavesExitErrorsToTheCaller(t *testing.T) {
	m := hosttest.New("n")
	outs, errs, err := converge.Asked(t.Context(), m, host.Command("printf", "%s", "x"), host.Command("cat", "--", "/absent"))
	if err != nil || outs[0].Text() != "x" || errs[0] != nil || errs[1] == nil {
		t.Errorf("%v, %v, %v", outs, errs, err)
	}
	m.Cut()
	if _, _, err := converge.Asked(t.Context(), m, host.Command("printf", "%s", "x")); !errors.Is(err, hosttest.ErrCut) {
		t.Errorf("lost: %v", err)
	}
}

// bulk is a host that takes files in one stream.
type bulk struct {
	*hosttest.Machine
	took []string
	err  error
}

func (b *bulk) PutAll(_ context.Context, files []host.File, _ func(int64)) error {
	for _, f := range files {
		b.took = append(b.took, f.Path)
	}
	return b.err
}

// What the host makes itself cannot be sent, however small it is.
func TestPut_whatOnlyTheHostHasIsTakenFromThere(t *testing.T) {
	none := errors.New("there are no bytes here")
	small, made := host.Bytes("/etc/small", 0o644, []byte("x")), host.Bytes("/etc/made", 0o644, []byte("y"))
	made.HostOnly, made.Open = true, func() (io.ReadCloser, error) { return nil, none }
	h := &bulk{Machine: hosttest.New("n")}
	if err := converge.Put(t.Context(), h, []host.File{small}, 0); err != nil || len(h.took) > 0 {
		t.Errorf("%v: %v", h.took, err)
	}
	if err := converge.Put(t.Context(), h, []host.File{small, made}, 0); err != nil || len(h.took) != 2 {
		t.Errorf("%v: %v", h.took, err)
	}
	h.err = host.ErrNoBulk // no kocli runs there
	if err := converge.Put(t.Context(), h, []host.File{made}, 0); !errors.Is(err, none) {
		t.Errorf("got %v", err)
	}
}
