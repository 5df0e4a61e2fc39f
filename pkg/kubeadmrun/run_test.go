package kubeadmrun_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/kubeadmrun"
)

func TestRun(t *testing.T) {
	m := hosttest.New("n")
	out, code := "", 0
	var argv []string
	m.Handle(func(_ *hosttest.Machine, a []string, _ []byte) (string, int, bool) {
		argv = a
		return out, code, a[0] == "flock"
	})
	if err := kubeadmrun.Run(t.Context(), m, "init", "--config", "x"); err != nil {
		t.Fatal(err)
	}
	// A second kubeadm waits for the first, and the lock dies with the process.
	if !slices.Contains(argv, "--no-fork") || !slices.Equal(argv[len(argv)-4:], []string{"/usr/bin/kubeadm", "init", "--config", "x"}) {
		t.Errorf("it ran %v", argv)
	}
	out, code = "I0101 noise\nerror execution phase kubelet-start: timed out\n\t[ERROR Port-10250]: in use\n", 1
	err := kubeadmrun.Run(t.Context(), m, "join")
	var x *host.ExitError
	if !errors.As(err, &x) || !strings.HasPrefix(err.Error(), "kubeadm join: error execution phase kubelet-start: timed out; [ERROR Port-10250]: in use") {
		t.Errorf("got %v", err)
	}
	if said := kubeadmrun.Said(err); said != "error execution phase kubelet-start: timed out; [ERROR Port-10250]: in use" {
		t.Errorf("it said %q", said)
	}
	if said := kubeadmrun.Said(errors.New("error: of another")); said != "" {
		t.Errorf("it said %q", said)
	}
	out = "killed"
	if err := kubeadmrun.Run(t.Context(), m, "join"); err == nil || !strings.HasPrefix(err.Error(), "kubeadm join: ") {
		t.Errorf("got %v", err)
	}
	m.Cut()
	if err := kubeadmrun.Run(t.Context(), m, "join"); !errors.Is(err, hosttest.ErrCut) {
		t.Errorf("got %v", err)
	}
}

func TestLeftover(t *testing.T) {
	m := hosttest.New("n")
	if there, err := kubeadmrun.Leftover(t.Context(), m, "/x")(); err != nil || there {
		t.Errorf("%t, %v", there, err)
	}
	m.Write("/x", 0o600, "")
	if there, err := kubeadmrun.Leftover(t.Context(), m, "/x")(); err != nil || !there {
		t.Errorf("%t, %v", there, err)
	}
	m.Cut()
	if _, err := kubeadmrun.Leftover(t.Context(), m, "/x")(); !errors.Is(err, hosttest.ErrCut) {
		t.Errorf("got %v", err)
	}
}
