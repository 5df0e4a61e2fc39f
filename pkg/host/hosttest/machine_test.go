package hosttest_test

import (
	"errors"
	"testing"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
)

func TestMachine_conforms(t *testing.T) {
	hosttest.Run(t, func(*testing.T) hosttest.Subject {
		m := hosttest.New("n")
		m.Write("/dir/.keep", 0o600, "")
		m.Delete("/dir/.keep")
		return hosttest.Subject{Host: m, Dir: "/dir", Owner: "root:root", Other: "daemon:daemon"}
	})
}

func TestMachine_failsOnACommandItWasNotTold(t *testing.T) {
	m := hosttest.New("n")
	var x *host.ExitError
	if _, err := m.Run(t.Context(), host.Command("mkfs", "/dev/sda")); err == nil || errors.As(err, &x) {
		t.Errorf("got %v", err)
	}
}

func TestMachine_losesTheConnectionBeforeOrAfterAWrite(t *testing.T) {
	f := host.Bytes("/a", 0o600, []byte("x"))
	for _, late := range []bool{false, true} {
		m := hosttest.New("n")
		if late {
			m.CutAfter(2)
		} else {
			m.CutBefore(2)
		}
		if err := m.Remove(t.Context(), "/b"); err != nil {
			t.Errorf("the first write: %v", err)
		}
		if _, err := m.Put(t.Context(), f); !errors.Is(err, hosttest.ErrCut) {
			t.Errorf("the second write: %v", err)
		}
		if _, err := m.Stat(t.Context(), "/a"); !errors.Is(err, hosttest.ErrCut) || !m.Lost() {
			t.Errorf("a look afterwards: %v", err)
		}
		m.CutBefore(0)
		if _, there := m.Read("/a"); there != late {
			t.Errorf("late is %t, and the file is there: %t", late, there)
		}
		if _, err := m.Put(t.Context(), f); err != nil {
			t.Errorf("mended: %v", err)
		}
	}
}
