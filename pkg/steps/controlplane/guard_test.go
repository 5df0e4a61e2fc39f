package controlplane_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/steps/controlplane"
)

var errRefused = errors.New("connection refused")

func refuse(context.Context, string, string) (net.Conn, error) { return nil, errRefused }

// anew is the access of a later run, which has no connection yet.
func anew(m *hosttest.Machine) kube.API {
	access := kube.NewAccess()
	return kube.API{
		Look: func(ctx context.Context) (*kube.Client, error) { return access.Look(ctx, m) },
		Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, m) },
	}
}

// A control plane that was complete and does not answer wants to be looked at:
// kubeadm init would go over it.
func TestInit_aCompleteControlPlaneThatDoesNotAnswerIsLeftAlone(t *testing.T) {
	for name, damage := range map[string]func(*hosttest.Machine){
		"its API server is down": func(m *hosttest.Machine) { m.OnDial(refuse) },
		"admin.conf is gone":     func(m *hosttest.Machine) { m.Delete(kube.AdminConf()) },
		"all but the CA is gone": func(m *hosttest.Machine) {
			for _, f := range m.Files() {
				if strings.HasPrefix(f, "/etc/kubernetes/") && !strings.HasPrefix(f, "/etc/kubernetes/pki/") {
					m.Delete(f)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, c, api := fresh()
			defer c.Close()
			if err := step(t, "controlplane/init", api).Apply(t.Context(), ledger.Wrap(m)); err != nil {
				t.Fatal(err)
			}
			damage(m)
			m.CutBefore(0)
			before := strings.Join(m.Files(), " ")
			synctest.Test(t, func(t *testing.T) { // it is given a while to answer
				s := step(t, "controlplane/init", anew(m))
				if changes, err := s.Check(t.Context(), m); err != nil || len(changes) != 1 {
					t.Errorf("check: %v, %v", changes, err)
				}
				err := s.Apply(t.Context(), ledger.Wrap(m))
				if err == nil || !strings.Contains(err.Error(), "it is left alone") || !strings.Contains(fault.HintOf(err), "journalctl -u kubelet") {
					t.Errorf("apply: %v, hint %q", err, fault.HintOf(err))
				}
			})
			if after := strings.Join(m.Files(), " "); m.Writes() > 0 || after != before {
				t.Errorf("it was written to: %v", m.Log())
			}
		})
	}
}

// After a reboot the API server is not there at once.
func TestInit_waitsForAControlPlaneThatComesBack(t *testing.T) {
	m, c, api := fresh()
	defer c.Close()
	if err := step(t, "controlplane/init", api).Apply(t.Context(), ledger.Wrap(m)); err != nil {
		t.Fatal(err)
	}
	var dials atomic.Int32
	m.OnDial(func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials.Add(1) <= 2 {
			return nil, errRefused
		}
		return c.Dial(ctx, network, address)
	})
	m.CutBefore(0)
	if err := step(t, "controlplane/init", anew(m)).Apply(t.Context(), ledger.Wrap(m)); err != nil || m.Writes() > 0 || dials.Load() < 3 {
		t.Errorf("%v, %d dials, writes %v", err, dials.Load(), m.Log())
	}
}

func TestShared_refusesAHostOfAnotherCluster(t *testing.T) {
	const ca = kubeadm.CACertPath
	seed, m := hosttest.New("cp-1"), hosttest.New("cp-2")
	seed.Write(ca, 0o644, "CA")
	seed.Write("/etc/kubernetes/pki/ca.key", 0o600, "KEY")
	m.Write(ca, 0o644, "another CA")
	s := controlplane.Shared(func(context.Context) (host.Reader, error) { return seed, nil })
	changes, err := s.Check(t.Context(), m)
	if fault.CodeOf(err) != fault.Preflight || !strings.Contains(err.Error(), "cp-2 belongs to another cluster than cp-1") || !strings.Contains(fault.HintOf(err), "reset it first") {
		t.Errorf("%v, %v, hint %q", changes, err, fault.HintOf(err))
	}
	if err := s.Apply(t.Context(), m); fault.CodeOf(err) != fault.Preflight || m.Writes() > 0 {
		t.Errorf("apply: %v, %v", err, m.Log())
	}
	m.Write(ca, 0o644, "CA")
	if changes, err := s.Check(t.Context(), m); err != nil || len(changes) != 1 {
		t.Errorf("of the same cluster: %v, %v", changes, err)
	}
}
