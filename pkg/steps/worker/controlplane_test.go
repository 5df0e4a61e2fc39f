package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/worker"
)

// fakeEtcd is the cluster's etcd as the join sees it.
type fakeEtcd struct{ *kubetest.Etcd }

func (e fakeEtcd) Members(ctx context.Context) ([]etcd.Member, error) {
	all, err := e.Etcd.Members(ctx)
	var out []etcd.Member
	for _, m := range all {
		out = append(out, etcd.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.Learner, Started: m.Started})
	}
	return out, err
}

const peerURL = "https://10.0.0.2:2380" // of worker-1

func seedMember() kubetest.EtcdMember {
	return kubetest.EtcdMember{Name: "cp-1", Started: true, PeerURLs: []string{"https://10.0.0.1:2380"}, ClientURLs: []string{"https://10.0.0.1:2379"}}
}

// planeWorld is a host that is to become the second control plane.
func planeWorld(t *testing.T) (*hosttest.Machine, *kubetest.Cluster, worker.Options) {
	t.Helper()
	m, c, api := world()
	m.Write("/etc/kubernetes/pki/ca.crt", 0o600, "CA")
	m.Write("/etc/kubernetes/pki/ca.key", 0o600, "KEY")
	c.Etcd.Put(seedMember())
	o := options(t, api, "roles: [control-plane]")
	if !o.Node.ControlPlane {
		t.Fatal("the node is no control plane")
	}
	o.Etcd, o.Turn = fakeEtcd{c.Etcd}, worker.NewTurn()
	return m, c, o
}

func planeState(c *kubetest.Cluster) func() string {
	return func() string { return c.State() + "\n" + c.Etcd.State() }
}

func TestJoin_ofAControlPlaneConverges(t *testing.T) {
	for name, prepare := range map[string]func(*kubetest.Cluster){
		"on a fresh host": func(*kubetest.Cluster) {},
		"where etcd has a learner that never began": func(c *kubetest.Cluster) { c.Etcd.Put(kubetest.EtcdMember{PeerURLs: []string{peerURL}, Learner: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			plantest.Converges(t, func() plantest.World {
				m, c, o := planeWorld(t)
				prepare(c)
				return plantest.World{Step: worker.Join(o), Host: m, State: planeState(c), Close: c.Close, Random: []string{kubeadm.JoinConfigPath, kube.AdminConf()}}
			})
		})
	}
}

// kubeadm is cut off after any of its effects, the token of that run is gone, and
// the next run goes on: the same members, and none twice.
func TestJoin_ofAControlPlaneGoesOnAfterAnyEffect(t *testing.T) {
	const effects = 14
	for n := 1; n < effects; n++ {
		m, c, o := planeWorld(t)
		s := worker.Join(o)
		c.HaltAfter(n)
		if err := s.Apply(t.Context(), ledger.Wrap(m)); err == nil {
			t.Errorf("after %d effects: no error surfaces", n)
		}
		m.CutBefore(0)
		for _, token := range c.List("secrets", "kube-system") {
			c.Drop("secrets", "kube-system", token["metadata"].(kubetest.Object)["name"].(string))
		}
		if changes, err := s.Check(t.Context(), m); err != nil || len(changes) != 1 {
			t.Errorf("after %d effects: %v, %v", n, changes, err)
		}
		if err := s.Apply(t.Context(), ledger.Wrap(m)); err != nil {
			t.Errorf("after %d effects, again: %v", n, err)
		}
		if changes, err := s.Check(t.Context(), m); err != nil || len(changes) > 0 {
			t.Errorf("after %d effects, in the end: %v, %v", n, changes, err)
		}
		want := []string{"cp-1 false true", "worker-1 false true"}
		if got := members(t, c); !slices.Equal(got, want) {
			t.Errorf("after %d effects, etcd has %v", n, got)
		}
		if _, ok := m.Read("/etc/kubernetes/bootstrap-kubelet.conf"); ok {
			t.Errorf("after %d effects: a token is left", n)
		}
		c.Close()
	}
	// Were it fewer, the last of them would not be tried.
	m, c, o := planeWorld(t)
	defer c.Close()
	c.HaltAfter(effects)
	if err := worker.Join(o).Apply(t.Context(), ledger.Wrap(m)); err != nil {
		t.Errorf("a join has more than %d effects: %v", effects, err)
	}
}

func members(t *testing.T, c *kubetest.Cluster) []string {
	t.Helper()
	all, err := c.Etcd.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range all {
		out = append(out, fmt.Sprintf("%s %t %t", m.Name, m.Learner, m.Started))
	}
	return out
}

// planes are n hosts that join at the same time, each with its own options of
// one run.
func planes(t *testing.T, n int) ([]*hosttest.Machine, *kubetest.Cluster, []plan.Step) {
	t.Helper()
	var hosts strings.Builder
	for i := range n {
		fmt.Fprintf(&hosts, "    - {name: cp-%d, address: 10.0.0.%d, roles: [control-plane]}\n", i+2, i+2)
	}
	spec, err := config.Read("test", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: v1.36.3}
  controlPlane: {endpoint: {mode: external, address: 10.0.0.100}}
  hosts:
    - {name: cp-1, address: 10.0.0.1, roles: [control-plane]}
`+hosts.String()))
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.New(spec)
	if err != nil {
		t.Fatal(err)
	}
	first, c, api := world()
	c.Etcd.Put(seedMember())
	turn := worker.NewTurn()
	var machines []*hosttest.Machine
	var steps []plan.Step
	for i := range n {
		m := hosttest.OS(hosttest.New(fmt.Sprintf("cp-%d", i+2)))
		m.Wire = first.Wire
		m.Install(c.Kubeadm())
		m.Write("/etc/kubernetes/pki/ca.crt", 0o600, "CA")
		m.Write("/etc/kubernetes/pki/ca.key", 0o600, "KEY")
		node, _ := inv.Node(m.Name())
		machines = append(machines, m)
		steps = append(steps, worker.Join(worker.Options{
			Inventory: inv, Node: node, API: api, Now: func() time.Time { return time.Unix(1_700_000_000, 0) },
			CA: func(context.Context) ([]byte, error) { return []byte("CA"), nil }, Etcd: fakeEtcd{c.Etcd}, Turn: turn,
		}))
	}
	return machines, c, steps
}

// All is done at the same time on all of them, but becoming a member of etcd. The
// first phases meet: were the joins one after another, they would wait for ever.
func TestJoin_controlPlanesMeetEverywhereButInEtcd(t *testing.T) {
	const n = 4
	machines, c, steps := planes(t, n)
	defer c.Close()
	var meet sync.WaitGroup
	meet.Add(n)
	var inside, most atomic.Int32
	c.Phase = func(_, phase string) {
		switch phase {
		case "preflight":
			meet.Done()
			meet.Wait()
		case "control-plane-prepare/control-plane":
			if in := inside.Add(1); in > most.Load() {
				most.Store(in)
			}
		case "kubelet-wait-bootstrap":
		case "etcd-join":
			time.Sleep(5 * time.Millisecond) // long enough for another to come in
			inside.Add(-1)
		}
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := steps[i].Apply(t.Context(), ledger.Wrap(machines[i])); err != nil {
				t.Errorf("%s: %v", machines[i].Name(), err)
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d were in their etcd phase at once", most.Load())
	}
	if got := members(t, c); len(got) != n+1 || strings.Contains(strings.Join(got, " "), "true true") {
		t.Errorf("etcd has %v", got)
	}
}

// The learner of an earlier run is let through before those that wait for it.
func TestJoin_aLearnerOfThisRunGoesFirst(t *testing.T) {
	machines, c, steps := planes(t, 2)
	defer c.Close()
	c.Etcd.Put(kubetest.EtcdMember{Name: "cp-3", PeerURLs: []string{"https://10.0.0.3:2380"}, Learner: true, Started: true})
	machines[1].Write("/etc/kubernetes/manifests/etcd.yaml", 0o600, "etcd")
	machines[1].Write("/var/lib/etcd/member/db", 0o600, "db")
	var order []string
	late := make(chan struct{})
	c.Phase = func(node, phase string) {
		switch {
		case phase == "preflight" && node == "cp-3":
			<-late
		case phase == "etcd-join":
			order = append(order, node) // under the lock
		}
	}
	var wg sync.WaitGroup
	for i := range machines {
		wg.Go(func() {
			if err := steps[i].Apply(t.Context(), ledger.Wrap(machines[i])); err != nil {
				t.Errorf("%s: %v", machines[i].Name(), err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond) // cp-2 has the turn, and gives it back
	close(late)
	wg.Wait()
	if !slices.Equal(order, []string{"cp-3", "cp-2"}) {
		t.Errorf("the order was %v", order)
	}
}

func TestJoin_asksEtcdBeforeAMemberIsAdded(t *testing.T) {
	data := func(m *hosttest.Machine) { m.Write("/var/lib/etcd/member/db", 0o600, "db") }
	manifest := func(m *hosttest.Machine) { m.Write("/etc/kubernetes/manifests/etcd.yaml", 0o600, "etcd") }
	both := func(m *hosttest.Machine) { data(m); manifest(m) }
	own := func(learner, started bool) *kubetest.EtcdMember {
		return &kubetest.EtcdMember{Name: map[bool]string{true: "worker-1"}[started], PeerURLs: []string{peerURL}, Learner: learner, Started: started}
	}
	for _, x := range []struct {
		name     string
		member   *kubetest.EtcdMember
		host     func(*hosttest.Machine)
		sick     error
		says     string // part of the error; "" where the join succeeds
		hint     string
		removes  bool
		noMember bool // kubeadm's etcd phase is not needed
	}{
		{name: "a fresh host"},
		{name: "a member that was announced and never came is taken out", member: own(true, false), removes: true},
		{name: "a learner without its data is taken out", member: own(true, true), removes: true},
		{name: "a learner that is about to start is left to kubeadm", member: own(true, false), host: manifest},
		{name: "a learner with its data is left to kubeadm", member: own(true, true), host: both},
		{name: "a voting member that is complete needs nothing", member: own(false, true), host: both, noMember: true},
		{name: "a voting member whose manifest is lost gets it again", member: own(false, true), host: data},
		{name: "a voting member whose data is lost is not started anew", member: own(false, true), says: "voting member 2 of worker-1", hint: "kocli node remove worker-1 --dead"},
		{name: "data of an etcd that does not know the host", host: data, says: "it is no member of", hint: "mv /var/lib/etcd/member /var/lib/etcd/member.old"},
		{name: "an etcd that is not healthy", sick: errors.New("cp-1 does not answer"), says: "5m0s: cp-1 does not answer", hint: "kocli status"},
		{name: "the learner of another host", member: &kubetest.EtcdMember{Name: "cp-9", PeerURLs: []string{"https://10.0.0.9:2380"}, Learner: true, Started: true}, says: "member cp-9 (2) is a learner"},
		{name: "a member of another host that has not come", member: &kubetest.EtcdMember{PeerURLs: []string{"https://10.0.0.9:2380"}}, says: "member 2 at [https://10.0.0.9:2380] has not started"},
	} {
		t.Run(x.name, func(t *testing.T) {
			m, c, o := planeWorld(t)
			defer c.Close()
			if x.member != nil {
				c.Etcd.Put(*x.member)
			}
			if x.host != nil {
				x.host(m)
			}
			c.Etcd.Sick = func() error { return x.sick }
			began := false
			var err error
			synctest.Test(t, func(t *testing.T) {
				_, err = worker.BecomeMember(t.Context(), o, m, func() error {
					began = true
					c.Etcd.Join("worker-1", peerURL)
					return nil
				})
			})
			switch {
			case x.says == "" && err != nil:
				t.Fatal(err)
			case x.says != "" && (err == nil || !strings.Contains(err.Error(), x.says) || !strings.Contains(fault.HintOf(err), x.hint)):
				t.Errorf("got %v; hint %q", err, fault.HintOf(err))
			}
			if removed := strings.Contains(strings.Join(m.Log(), "\n"), "remove etcd member"); removed != x.removes {
				t.Errorf("removed a member: %t", removed)
			}
			if want := x.says == "" && !x.noMember; began != want {
				t.Errorf("the etcd phase began: %t", began)
			}
			if x.says == "" && !slices.Equal(members(t, c), []string{"cp-1 false true", "worker-1 false true"}) {
				t.Errorf("etcd has %v", members(t, c))
			}
		})
	}
}

// Nobody comes after a member that has no vote yet.
func TestJoin_waitsUntilTheMemberVotes(t *testing.T) {
	m, c, o := planeWorld(t)
	defer c.Close()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		added, err := worker.BecomeMember(t.Context(), o, m, func() error {
			c.Etcd.Put(kubetest.EtcdMember{Name: "worker-1", PeerURLs: []string{peerURL}, Started: true, Learner: true})
			return nil
		})
		if err == nil || !added || !strings.Contains(err.Error(), "of worker-1 has not been promoted") || time.Since(start) != 2*time.Minute {
			t.Errorf("%t, %v after %s", added, err, time.Since(start))
		}
	})
	synctest.Test(t, func(t *testing.T) { // and the turn is free again
		m.Write("/var/lib/etcd/member/db", 0o600, "db")
		if _, err := worker.BecomeMember(t.Context(), o, m, func() error { c.Etcd.Join("worker-1", peerURL); return nil }); err != nil {
			t.Error(err)
		}
	})
}
