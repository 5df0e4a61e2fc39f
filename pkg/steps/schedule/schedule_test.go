package schedule_test

import (
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/schedule"
)

const canary = "s3cr3t"

func options(when string) schedule.Options {
	return schedule.Options{
		When: when, Kocli: "/usr/local/bin/kocli", Key: []byte("PRIVATE " + canary), Hosts: []byte("h ssh-ed25519 AAAA\n"),
		Schedule: backup.Schedule{Target: "sftp://ops@h/srv", Request: backup.Request{Cluster: "c", Node: "cp-1", Key: canary}},
	}
}

func machine() *hosttest.Machine { return hosttest.OS(hosttest.New("cp-1")) }

func steps(t *testing.T, o schedule.Options) []plan.Step {
	t.Helper()
	s, err := schedule.Steps(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// install has a machine make backups at a time.
func install(t *testing.T, m *hosttest.Machine, when string) {
	t.Helper()
	for _, s := range steps(t, options(when)) {
		if err := s.Apply(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSteps_converge(t *testing.T) {
	for name, prepare := range map[string]func(*hosttest.Machine){
		"on a new host":   func(*hosttest.Machine) {},
		"at another time": func(m *hosttest.Machine) { install(t, m, "weekly") },
	} {
		t.Run(name, func(t *testing.T) {
			plantest.Converges(t, func() plantest.World {
				m := machine()
				prepare(m)
				return plantest.World{Step: steps(t, options("daily"))[0], Host: m}
			})
			plantest.Converges(t, func() plantest.World {
				m := machine()
				prepare(m)
				s := steps(t, options("daily"))
				if err := s[0].Apply(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				return plantest.World{Step: s[1], Host: m}
			})
		})
	}
	plantest.Converges(t, func() plantest.World {
		m := machine()
		install(t, m, "daily")
		return plantest.World{Step: schedule.Off(), Host: m}
	})
}

func TestSteps_keepSecretsToRoot(t *testing.T) {
	m := machine()
	install(t, m, "*-*-* 02:30:00")
	for _, p := range m.Files() {
		data, _ := m.Read(p)
		i, err := m.Stat(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(data, canary) && i.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", p, i.Mode())
		}
	}
	for _, l := range m.Log() {
		if strings.Contains(l, canary) {
			t.Errorf("a secret is in %s", l)
		}
	}
	if timer, _ := m.Read(backup.TimerPath); !strings.Contains(timer, "\nOnCalendar=*-*-* 02:30:00\n") {
		t.Error(timer)
	}
	if service, _ := m.Read(backup.ServicePath); !strings.Contains(service, "/usr/local/bin/kocli node backup --schedule /etc/kubernetes/kocli/backup/config.json\n") {
		t.Error(service)
	}
}

func TestCheckTime_asksSystemd(t *testing.T) {
	m := machine()
	m.Handle(func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		if argv[0] != "systemd-analyze" {
			return "", 0, false
		}
		if argv[2] == "daily" {
			return "", 0, true
		}
		return "Failed to parse calendar specification", 1, true
	})
	if err := schedule.CheckTime(t.Context(), m, "daily"); err != nil {
		t.Error(err)
	}
	if err := schedule.CheckTime(t.Context(), m, "soon"); fault.CodeOf(err) != fault.Usage || !strings.Contains(err.Error(), "soon") {
		t.Error(err)
	}
}
