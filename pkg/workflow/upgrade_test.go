package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/workflow"
)

const nextKubernetes = "v1.37.2"

// newUpgradeLab is a cluster that runs the version of an example, and is about to go
// to the next minor.
func newUpgradeLab(t *testing.T, example string) *lab {
	t.Helper()
	return newUpgradeLabAt(t, "../../examples/cluster-"+example+".yaml")
}

// newUpgradeLabAt is newUpgradeLab for a YAML.
func newUpgradeLabAt(t *testing.T, file string) *lab {
	t.Helper()
	l := newLab(t, file)
	l.create(t, plan.Options{})
	l.api.AddKubeProxy(archivetest.Kubernetes, "v1.14.2")
	b, err := archive.Open(archivetest.WriteRelease(t, nextKubernetes))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	inv := l.inv.At(nextKubernetes)
	l.cluster.Inventory = inv
	l.cluster.Payload = func(n inventory.Node) payload.Payload {
		return payload.For(b, payload.Target{
			Kubernetes: inv.Version(), Arch: archivetest.Arch, ControlPlane: n.ControlPlane, CNI: string(inv.Spec.Network.CNI.Name),
			Endpoint: string(inv.Spec.ControlPlane.Endpoint.Mode), ExternalEtcd: inv.ExternalEtcd() != nil, Distribution: "debian", Release: "12",
		})
	}
	return l
}

func (l *lab) upgradePlan(t *testing.T, pause string) *plan.Plan {
	t.Helper()
	phases, err := l.cluster.UpgradePhases(workflow.HopOptions{
		From: archivetest.Kubernetes, Components: map[string]string{"etcd": "3.7.0-0", "coredns": "v1.14.6", "pause": "3.10.2"},
		Drain:          kube.DrainOptions{Timeout: 10 * time.Second, Retry: 10 * time.Millisecond},
		MaxUnavailable: 2, PauseAfter: pause, Alone: len(l.inv.Nodes) == 1, Calm: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Compile(phases, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestUpgrade_planIsGoldenAndThenEmpty(t *testing.T) {
	t.Parallel()
	for _, example := range []string{"single", "three-hosts", "vip", "local", "external-etcd"} {
		t.Run(example, func(t *testing.T) {
			t.Parallel()
			l := newUpgradeLab(t, example)
			golden(t, example+"-upgrade", l.show(t, l.upgradePlan(t, "")))
			if _, err := l.upgradePlan(t, "").Execute(t.Context(), l, nil); err != nil {
				t.Fatal(err)
			}
			if got := l.show(t, l.upgradePlan(t, "")); got != "nothing to do\n" {
				t.Errorf("after the upgrade there is still: %s", got)
			}
			for _, n := range l.inv.Nodes {
				o := l.api.Get("nodes", "", n.Name)
				if v := o["status"].(kubetest.Object)["nodeInfo"].(kubetest.Object)["kubeletVersion"]; v != nextKubernetes {
					t.Errorf("the kubelet of %s is %v", n.Name, v)
				}
				if spec, _ := o["spec"].(kubetest.Object); spec["unschedulable"] == true {
					t.Errorf("%s takes no pods", n.Name)
				}
			}
			// What create has to say afterwards, with a YAML of the new version.
			if got := l.preview(t); got != "nothing to do\n" {
				t.Errorf("create would change: %s", got)
			}
		})
	}
}

// The order is the point of it: what is kept before what is replaced, control planes
// before kubelets, one worker before the others.
func TestUpgrade_order(t *testing.T) {
	t.Parallel()
	l := newUpgradeLab(t, "vip")
	var order []string
	_, err := l.upgradePlan(t, "").Execute(t.Context(), l, func(e plan.Event) {
		if e.Kind == plan.StepChanged && strings.HasPrefix(e.Step, "upgrade/") {
			order = append(order, strings.TrimPrefix(e.Step, "upgrade/")+" "+e.Node)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	index := func(what string) int { return slices.Index(order, what) }
	cp := inventory.Names(l.inv.ControlPlanes())
	w := inventory.Names(l.inv.Workers())
	for _, pair := range [][2]string{
		{"save " + cp[2], "control-plane " + cp[0]}, {"save " + w[1], "control-plane " + cp[0]},
		{"control-plane " + cp[0], "control-plane " + cp[1]}, {"control-plane " + cp[0], "control-plane " + cp[2]},
		{"control-plane " + cp[1], "kubelet " + cp[0]}, {"control-plane " + cp[2], "kubelet " + cp[0]},
		{"control-plane " + cp[2], "kubelet " + cp[1]},
		{"kubelet " + cp[2], "drain " + w[0]}, {"uncordon " + w[0], "drain " + w[1]},
	} {
		if a, b := index(pair[0]), index(pair[1]); a < 0 || b < 0 || a > b {
			t.Errorf("%q (%d) is not before %q (%d) in %v", pair[0], a, pair[1], b, order)
		}
	}
}

// The control plane that an interrupted run left goes before all others.
func TestUpgrade_theUnfinishedOneGoesFirst(t *testing.T) {
	t.Parallel()
	l := newUpgradeLab(t, "vip")
	cp := inventory.Names(l.inv.ControlPlanes())
	phases, err := l.cluster.UpgradePhases(workflow.HopOptions{From: archivetest.Kubernetes, First: cp[1], Calm: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	of := func(name string) plan.Phase {
		return phases[slices.IndexFunc(phases, func(p plan.Phase) bool { return p.Name == name })]
	}
	if got := of("control-plane").Nodes; !slices.Equal(got, cp[1:2]) {
		t.Errorf("first: %v", got)
	}
	if got := of("control-planes"); !slices.Equal(got.Nodes, []string{cp[0], cp[2]}) || got.Width != 1 {
		t.Errorf("then: %+v", got.Nodes)
	}
}

func TestUpgrade_pauses(t *testing.T) {
	t.Parallel()
	l := newUpgradeLab(t, "vip")
	workers := inventory.Names(l.inv.Workers())
	version := func(node string) any {
		return l.api.Get("nodes", "", node)["status"].(kubetest.Object)["nodeInfo"].(kubetest.Object)["kubeletVersion"]
	}
	for _, c := range []struct {
		pause, canary, other string
	}{
		{workflow.PauseAfterControlPlane, archivetest.Kubernetes, archivetest.Kubernetes},
		{workflow.PauseAfterCanary, nextKubernetes, archivetest.Kubernetes},
		{"", nextKubernetes, nextKubernetes},
	} {
		if _, err := l.upgradePlan(t, c.pause).Execute(t.Context(), l, nil); err != nil {
			t.Fatal(err)
		}
		if version(workers[0]) != c.canary || version(workers[1]) != c.other {
			t.Errorf("pause %q: %v, %v", c.pause, version(workers[0]), version(workers[1]))
		}
	}
}

// A run that ends after any step is gone on with by the next, and no node is drained
// twice for what is done.
func TestUpgrade_goesOnAfterAnyStep(t *testing.T) {
	t.Parallel()
	steps := 0
	for n := 1; n == 1 || n <= steps; n += 3 {
		l := newUpgradeLab(t, "three-hosts")
		var mu sync.Mutex
		drained := map[string]int{}
		count, ended := 0, 0
		ctx, cancel := context.WithCancel(t.Context())
		watch := func(e plan.Event) {
			mu.Lock()
			defer mu.Unlock()
			if e.Kind != plan.StepChanged {
				return
			}
			if count++; count == n {
				ended = count
				cancel()
			}
			if e.Step == "upgrade/drain" {
				drained[e.Node]++
			}
		}
		if _, err := l.upgradePlan(t, "").Execute(ctx, l, watch); err == nil && ended == 0 {
			t.Fatalf("%d steps: it was not interrupted", n)
		}
		if _, err := l.upgradePlan(t, "").Execute(t.Context(), l, watch); err != nil {
			t.Fatalf("after %d steps: %v", n, err)
		}
		if got := l.show(t, l.upgradePlan(t, "")); got != "nothing to do\n" {
			t.Errorf("after %d steps, in the end: %s", n, got)
		}
		for node, times := range drained {
			if times > 1 {
				t.Errorf("after %d steps: %s was drained %d times", n, node, times)
			}
		}
		steps = max(steps, count)
	}
	if steps < 10 {
		t.Error(fmt.Sprint("only ", steps, " steps"))
	}
}

// kubeadm of the version is asked when it is on the first host, and before anything of
// the cluster is changed.
func TestUpgrade_kubeadmIsAskedFirst(t *testing.T) {
	t.Parallel()
	for _, refuses := range []bool{true, false} {
		l := newUpgradeLab(t, "vip")
		if refuses {
			l.api.Plan = "\t[ERROR ControlPlaneNodesReadyForever]: no\n"
		}
		o := workflow.HopOptions{
			From: archivetest.Kubernetes, Components: map[string]string{"etcd": "3.7.0-0", "coredns": "v1.14.6", "pause": "3.10.2"}, Anew: true,
			Drain: kube.DrainOptions{Timeout: 10 * time.Second, Retry: 10 * time.Millisecond}, MaxUnavailable: 2, Calm: time.Millisecond,
			PlanSaid: func(said string) error { return fault.New(fault.Preflight, "", errors.New(said)) },
		}
		phases, err := l.cluster.UpgradePhases(o)
		if err != nil {
			t.Fatal(err)
		}
		p, err := plan.Compile(phases, plan.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var done []string
		_, err = p.Execute(t.Context(), l, func(e plan.Event) {
			if e.Kind == plan.StepChanged {
				done = append(done, e.Step)
			}
		})
		asked, changed := slices.Index(done, "upgrade/plan"), slices.Index(done, "upgrade/control-plane")
		if refuses && (fault.CodeOf(err) != fault.Preflight || asked >= 0 || changed >= 0) {
			t.Errorf("%v, %v", err, done)
		}
		if !refuses && (err != nil || asked < 0 || asked > changed || slices.Index(done, "images/import") > asked) {
			t.Errorf("%v, %v", err, done)
		}
	}
}

// Workers behind the canary are drained as many at once as may be away, and no more: of
// four, three are left, and two of them have to be on their way for either to come on.
func TestUpgrade_drainsAsManyWorkersAtOnceAsMayBeAway(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../examples/cluster-vip.yaml")
	if err != nil {
		t.Fatal(err)
	}
	more := "    - {name: worker-3, address: 10.10.0.23}\n    - {name: worker-4, address: 10.10.0.24}\n"
	example := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(example, []byte(strings.Replace(string(text), "    - {name: worker-2,", more+"    - {name: worker-2,", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	l := newUpgradeLabAt(t, example)
	workers := inventory.Names(l.inv.Workers())
	if len(workers) != 4 {
		t.Fatalf("%v", workers)
	}
	for _, n := range workers[1:] {
		l.api.Put("pods", "default", "web-"+n, kubetest.Object{
			"metadata": kubetest.Object{"ownerReferences": []any{kubetest.Object{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": true}}},
			"spec":     kubetest.Object{"nodeName": n}, "status": kubetest.Object{"phase": "Running"},
		})
	}
	var mu sync.Mutex
	asked, away, most := map[string]bool{}, 0, 0
	l.api.Budget = func(pod kubetest.Object) bool {
		mu.Lock()
		defer mu.Unlock()
		asked[pod["spec"].(kubetest.Object)["nodeName"].(string)] = true
		return len(asked) > 1
	}
	_, err = l.upgradePlan(t, "").Execute(t.Context(), l, func(e plan.Event) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case e.Phase == "workers" && e.Kind == plan.PhaseStarted:
			away++
			most = max(most, away)
		case e.Phase == "workers" && e.Kind == plan.PhaseEnded:
			away--
		}
	})
	if err != nil || most != 2 {
		t.Errorf("%v, %d at once", err, most)
	}
}
