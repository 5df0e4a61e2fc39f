package loadbalancer_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/steps/loadbalancer"
)

// planes are three control planes that have joined, and the step that looks who
// of them holds the virtual IP.
func planes(t *testing.T, endpoint string, e *loadbalancer.Election) (map[string]*hosttest.Machine, plan.Step) {
	t.Helper()
	all := map[string]*hosttest.Machine{}
	readers := map[string]host.Reader{}
	inv := cluster(t, endpoint, 3)
	for _, n := range inv.ControlPlanes() {
		m := hosttest.OS(hosttest.New(n.Name))
		m.Install(ip)
		m.Write("/etc/kubernetes/kubelet.conf", 0o600, "x")
		all[n.Name], readers[n.Name] = m, host.NewBatch(n.Name, m, 0)
	}
	return all, loadbalancer.Holder(loadbalancer.HolderOptions{
		Inventory: inv, Planes: inv.ControlPlanes(), Election: e,
		Look: func(_ context.Context, node string) (host.Reader, error) { return readers[node], nil },
	})
}

func hold(m *hosttest.Machine)   { m.Write(held, 0o644, "10.0.0.100") }
func giveUp(m *hosttest.Machine) { m.Delete(held) }

func TestHolder_oneLookWhereNothingWasChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all, s := planes(t, vip, nil)
		hold(all["cp-2"])
		if changes, err := s.Check(t.Context(), nil); err != nil || len(changes) > 0 {
			t.Errorf("%v, %v", changes, err)
		}
		for _, m := range all {
			if m.Writes() > 0 {
				t.Error(m.Log())
			}
		}
		all, s = planes(t, vip, nil)
		hold(all["cp-2"])
		hold(all["cp-3"])
		if changes, err := s.Check(t.Context(), nil); err != nil || len(changes) != 1 || changes[0].From != "held by cp-2 and cp-3" {
			t.Errorf("%v, %v", changes, err)
		}
	})
}

// A keepalived that has just been started takes an address that others hold only
// after a while: one look proves nothing.
func TestHolder_watchesUntilNobodyElseCanWantTheAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all, s := planes(t, vip, nil)
		all["cp-3"].Delete("/etc/kubernetes/kubelet.conf") // joins in this run
		hold(all["cp-1"])
		changes, err := s.Check(t.Context(), nil)
		if err != nil || len(changes) != 1 {
			t.Fatalf("%v, %v", changes, err)
		}
		all["cp-3"].Write("/etc/kubernetes/kubelet.conf", 0o600, "x")
		go func() {
			time.Sleep(4 * time.Second)
			hold(all["cp-3"]) // both, for a moment
			time.Sleep(time.Second)
			giveUp(all["cp-1"])
		}()
		start := time.Now()
		if err := s.Apply(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 10*time.Second || took > 12*time.Second {
			t.Errorf("it took %s", took)
		}
		if changes, err := s.Check(t.Context(), nil); err != nil || len(changes) > 0 {
			t.Errorf("%v, %v", changes, err)
		}
	})
}

func TestHolder_whatWasChangedInTheRunIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &loadbalancer.Election{}
		all, s := planes(t, unicast, e)
		hold(all["cp-1"])
		if changes, err := s.Check(t.Context(), nil); err != nil || len(changes) > 0 {
			t.Fatalf("%v, %v", changes, err)
		}
		o := options(t, unicast, 3, "cp-1")
		o.Election = e
		m := machine()
		apply(t, m, keepalivedOf(t, o))
		if changes, err := s.Check(t.Context(), nil); err != nil || len(changes) != 1 {
			t.Fatalf("%v, %v", changes, err)
		}
	})
}

func TestHolder_namesWhatIsWrong(t *testing.T) {
	for name, x := range map[string]struct {
		endpoint   string
		holders    []string
		log        bool
		says, hint []string
	}{
		"more than one, by multicast": {vip, []string{"cp-1", "cp-2", "cp-3"}, false,
			[]string{"cp-1, cp-2 and cp-3 hold the virtual IP 10.0.0.100", "protocol 112", "224.0.0.18", "filtered"}, []string{"224.0.0.18", "protocol 112", "vrrp.unicast: true"}},
		"more than one, by unicast": {unicast, []string{"cp-1", "cp-3"}, false,
			[]string{"cp-1 and cp-3 hold", "protocol 112"}, []string{"protocol 112"}},
		"none, and keepalived says why": {vip, nil, true,
			[]string{"no control plane holds the virtual IP 10.0.0.100", "cp-2: a | Script haproxy now returning 1", "cp-1: nothing: it was not started"}, []string{"kocli exec cp-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all, s := planes(t, x.endpoint, nil)
				for _, h := range x.holders {
					hold(all[h])
				}
				for node, m := range all {
					m.Install(func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
						switch {
						case argv[0] == "find" && argv[1] == "/var/log/pods":
							if x.log && node == "cp-2" {
								return hosttest.Reply{Stdout: "/var/log/pods/kube-system_kocli-keepalived-cp-2_1/kocli-keepalived/0.log\n"}, true
							}
							return hosttest.Reply{}, true
						case argv[0] == "tail":
							return hosttest.Reply{Stdout: "a\nScript haproxy now returning 1\n"}, true
						}
						return hosttest.Reply{}, false
					})
				}
				err := s.Apply(t.Context(), nil)
				if fault.CodeOf(err) != fault.Failure {
					t.Fatal(err)
				}
				for _, w := range x.says {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("no %q in: %v", w, err)
					}
				}
				for _, w := range x.hint {
					if !strings.Contains(fault.HintOf(err), w) {
						t.Errorf("no %q in: %s", w, fault.HintOf(err))
					}
				}
				if x.endpoint == unicast && strings.Contains(fault.HintOf(err)+err.Error(), "224.0.0.18") {
					t.Error(err, fault.HintOf(err))
				}
			})
		})
	}
}
