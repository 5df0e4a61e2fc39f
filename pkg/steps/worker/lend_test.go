package worker_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/worker"
)

// lending is a worker of a cluster in mode local. Its kocli, asked to, stands in for
// the load balancer.
func lending(t *testing.T) (worker.Options, *hosttest.Machine, *kubetest.Cluster) {
	t.Helper()
	m, c, api := world()
	m.Install(func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		return hosttest.Reply{}, strings.Join(argv, " ") == "/k node forward --listen 127.0.0.1:8443 --to 10.0.0.1:6443"
	})
	m.OnDial(func(context.Context, string, string) (net.Conn, error) {
		if m.Lost() {
			return nil, hosttest.ErrCut
		}
		if !strings.Contains(strings.Join(m.Log(), " "), "node forward") {
			return nil, errors.New("refused")
		}
		here, _ := net.Pipe()
		return here, nil
	})
	return lent(t, api), m, c
}

func lent(t *testing.T, api kube.API) worker.Options {
	t.Helper()
	o := options(t, api, "")
	o.Kocli = "/k"
	o.Inventory.Spec.ControlPlane.Endpoint = v1alpha1.Endpoint{Mode: v1alpha1.EndpointLocal, Port: 8443}
	return o
}

// A join in mode local needs the API before the kubelet runs, and so before the
// kubelet has started the load balancer that leads there.
func TestJoin_withALoadBalancerThatTheKubeletStarts(t *testing.T) {
	plantest.Converges(t, func() plantest.World {
		o, m, c := lending(t)
		return plantest.World{Step: worker.Join(o), Host: m, State: c.State, Close: c.Close, Random: []string{kubeadm.JoinConfigPath}}
	})
	o, m, c := lending(t)
	defer c.Close()
	if err := worker.Join(o).Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	log := strings.Join(m.Log(), "\n")
	if lend, join := strings.Index(log, "node forward"), strings.Index(log, "kubeadm join"); lend < 0 || lend > join {
		t.Errorf("the endpoint is not lent before the join:\n%s", log)
	}
	if conf, _ := m.Read(kubeadm.DiscoveryPath); !strings.Contains(conf, "https://127.0.0.1:8443") {
		t.Errorf("the node is told of another endpoint: %s", conf)
	}
}

func TestJoin_whereNothingCanBeLent(t *testing.T) {
	m, c, api := world()
	defer c.Close()
	m.OnDial(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") })
	o := lent(t, api)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	m.Install(func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		return hosttest.Reply{Stderr: "not found\n", Code: 127}, argv[0] == "/k"
	})
	if err := worker.Join(o).Apply(ctx, m); err == nil || strings.Contains(strings.Join(m.Log(), " "), "kubeadm join") {
		t.Errorf("it joins all the same: %v", err)
	}
}

// Joins of many workers spread over the API servers; each knows all of them.
func TestLend_spreadsOverTheAPIServers(t *testing.T) {
	inv := &inventory.Inventory{}
	for i := range 3 {
		inv.Nodes = append(inv.Nodes, inventory.Node{Name: fmt.Sprintf("cp-%d", i), IP: fmt.Sprintf("10.0.0.%d", i), ControlPlane: true})
	}
	first := map[string]int{}
	for i := range 9 {
		n := inventory.Node{Name: fmt.Sprintf("worker-%d", i), IP: fmt.Sprintf("10.0.1.%d", i)}
		inv.Nodes = append(inv.Nodes, n)
		all := worker.APIServers(inv, n)
		first[all[0]]++
		if slices.Sort(all); len(slices.Compact(all)) != 3 {
			t.Errorf("%s knows %v", n.Name, all)
		}
	}
	if len(first) != 3 || first["10.0.0.0:6443"] != 3 {
		t.Errorf("joins begin with %v", first)
	}
	if got := worker.APIServers(inv, inv.Nodes[1]); len(got) != 2 || slices.Contains(got, "10.0.0.1:6443") {
		t.Errorf("a control plane joins through %v", got)
	}
}
