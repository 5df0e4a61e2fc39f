package leave_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/etcd/etcdtest"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/leave"
)

// world is a cluster of three control planes and a worker, reached through cp-1.
type world struct {
	host *hosttest.Machine
	api  *kubetest.Cluster
	etcd *etcdtest.Cluster
	opts leave.Options
}

func newWorld(t *testing.T) *world {
	t.Helper()
	m := hosttest.OS(hosttest.New("cp-1"))
	w := &world{host: m, api: kubetest.NewCluster(m.Wire), etcd: etcdtest.New(t)}
	w.etcd.Wire = m.Wire
	w.etcd.Install(m)
	m.OnDial(func(ctx context.Context, network, address string) (net.Conn, error) {
		if etcdtest.Serves(address) {
			return w.etcd.Dial(ctx, network, address)
		}
		return w.api.Dial(ctx, network, address)
	})
	m.Write(kube.AdminConf(), 0o600, w.api.Kubeconfig())
	for i, n := range []string{"cp-1", "cp-2", "cp-3"} {
		w.api.AddControlPlane(n)
		w.etcd.Add(n, fmt.Sprintf("10.0.0.%d", i+1))
	}
	w.api.AddNode("worker-1")
	for name, node := range map[string]string{"web-1": "worker-1", "web-2": "cp-1"} {
		w.api.Put("pods", "default", name, kubetest.Object{
			"metadata": kubetest.Object{"labels": kubetest.Object{"app": "web"}},
			"spec":     kubetest.Object{"nodeName": node}, "status": kubetest.Object{"phase": "Running"},
		})
	}
	access := kube.NewAccess()
	w.opts = leave.Options{
		API: kube.API{
			Look: func(ctx context.Context) (*kube.Client, error) { return access.Look(ctx, m) },
			Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, m) },
		},
		Drain: kube.DrainOptions{Timeout: 10 * time.Second, Retry: 50 * time.Millisecond},
	}
	return w
}

func (w *world) State() string { return w.api.State() + "\n" + w.etcd.State() }

// down has a node not report any more, and the cluster free what is on it once it
// is told to.
func (w *world) down(node string) {
	n := w.api.Get("nodes", "", node)
	n["status"] = kubetest.Object{"conditions": []any{kubetest.Object{"type": "Ready", "status": "Unknown"}}}
	w.api.Put("nodes", "", node, n)
	before := w.api.React
	w.api.React = func(resource, namespace, name string, o kubetest.Object) {
		if resource == "nodes" && name == node && o != nil && strings.Contains(fmt.Sprint(o["spec"]), "out-of-service") {
			w.api.Drop("pods", "default", "web-1")
			w.api.Drop("volumeattachments", "", "disk-1")
		}
		before(resource, namespace, name, o)
	}
}

func plane(i int) inventory.Node {
	return inventory.Node{Name: fmt.Sprintf("cp-%d", i), IP: fmt.Sprintf("10.0.0.%d", i), ControlPlane: true}
}

func TestSteps_converge(t *testing.T) {
	for name, step := range map[string]func(*world) plan.Step{
		"drain":  func(w *world) plan.Step { return leave.Drain("worker-1", w.opts) },
		"etcd":   func(*world) plan.Step { return leave.Etcd(plane(3)) },
		"forget": func(w *world) plan.Step { return leave.Forget("worker-1", w.opts) },
		"dead":   func(w *world) plan.Step { w.down("worker-1"); return leave.Dead("worker-1", w.opts) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plantest.Converges(t, func() plantest.World {
				w := newWorld(t)
				return plantest.World{Step: step(w), Host: w.host, State: w.State, Close: w.api.Close, Random: w.etcd.Files()}
			})
		})
	}
}

// A node that could not be emptied takes pods again, and the message says what
// held them, with its numbers.
func TestDrain_heldByABudget(t *testing.T) {
	w := newWorld(t)
	defer w.api.Close()
	w.api.Budget = func(kubetest.Object) bool { return false }
	w.api.Put("poddisruptionbudgets", "default", "web", kubetest.Object{
		"spec":   kubetest.Object{"selector": kubetest.Object{"matchLabels": kubetest.Object{"app": "web"}}},
		"status": kubetest.Object{"currentHealthy": 2, "expectedPods": 2, "desiredHealthy": 2, "disruptionsAllowed": 0},
	})
	w.opts.Drain.Timeout = 200 * time.Millisecond
	err := leave.Drain("worker-1", w.opts).Apply(t.Context(), ledger.Wrap(w.host))
	if err == nil || !strings.Contains(err.Error(), "pod default/web-1 is held by PodDisruptionBudget web (2 of 2 healthy, 2 wanted, no disruption allowed)") || !strings.Contains(fault.HintOf(err), "--force-after") {
		t.Errorf("%v; hint %q", err, fault.HintOf(err))
	}
	spec, _ := w.api.Get("nodes", "", "worker-1")["spec"].(kubetest.Object)
	if w.api.Get("pods", "default", "web-1") == nil || spec["unschedulable"] == true {
		t.Errorf("the pod was taken over its budget, or the node is still cordoned: %v", spec)
	}
}

func TestDrain_whatTheOperatorCordonedStaysSo(t *testing.T) {
	w := newWorld(t)
	defer w.api.Close()
	w.api.Budget = func(kubetest.Object) bool { return false }
	n := w.api.Get("nodes", "", "worker-1")
	n["spec"] = kubetest.Object{"unschedulable": true}
	w.api.Put("nodes", "", "worker-1", n)
	w.opts.Drain.Timeout = 200 * time.Millisecond
	if err := leave.Drain("worker-1", w.opts).Apply(t.Context(), ledger.Wrap(w.host)); err == nil {
		t.Error("no error")
	}
	if spec, _ := w.api.Get("nodes", "", "worker-1")["spec"].(kubetest.Object); spec["unschedulable"] != true {
		t.Error("uncordoned")
	}
}

func TestDrain_forcedOnlyWhenAskedAndLoudly(t *testing.T) {
	w := newWorld(t)
	defer w.api.Close()
	w.api.Budget = func(kubetest.Object) bool { return false }
	w.opts.Drain.ForceAfter = 200 * time.Millisecond
	var said []string
	c, err := w.opts.API.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o := w.opts.Drain
	o.Say = func(s string) { said = append(said, s) }
	if err := c.Drain(t.Context(), "worker-1", o); err != nil {
		t.Fatal(err)
	}
	if w.api.Get("pods", "default", "web-1") != nil || !strings.Contains(strings.Join(said, "\n"), "FORCED after 200ms") {
		t.Errorf("said %q", said)
	}
}

func TestEtcd_keepsItsQuorum(t *testing.T) {
	w := newWorld(t)
	defer w.api.Close()
	w.etcd.Down("10.0.0.2", true)
	err := leave.Etcd(plane(3)).Apply(t.Context(), ledger.Wrap(w.host))
	if err == nil || !strings.Contains(err.Error(), "of the 2 members that stay 1 are healthy, and 2 are needed") || fault.CodeOf(err) != fault.Preflight {
		t.Errorf("a healthy one beside a dead one: %v", err)
	}
	if err := leave.Etcd(plane(2)).Apply(t.Context(), ledger.Wrap(w.host)); err != nil {
		t.Errorf("the dead one: %v", err)
	}
	if got := w.etcd.State(); got != "etcd cp-1 cp-3" {
		t.Error(got)
	}
}

// A member that was announced and never started goes by its address.
func TestEtcd_aMemberThatNeverStarted(t *testing.T) {
	w := newWorld(t)
	defer w.api.Close()
	w.etcd.AddLearner("", "10.0.0.4")
	if err := leave.Etcd(plane(4)).Apply(t.Context(), ledger.Wrap(w.host)); err != nil {
		t.Fatal(err)
	}
	if got := w.etcd.State(); got != "etcd cp-1 cp-2 cp-3" {
		t.Error(got)
	}
}

func TestDead_refusesANodeThatReports(t *testing.T) {
	w := newWorld(t)
	defer w.api.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := leave.Dead("worker-1", w.opts).Apply(ctx, ledger.Wrap(w.host))
	if err == nil || !strings.Contains(err.Error(), "worker-1 is not dead") || w.api.Get("nodes", "", "worker-1") == nil {
		t.Errorf("%v", err)
	}
}

func TestDead_waitsForVolumes(t *testing.T) {
	w := newWorld(t)
	defer w.api.Close()
	w.down("worker-1")
	w.api.Put("volumeattachments", "", "disk-1", kubetest.Object{"spec": kubetest.Object{"nodeName": "worker-1", "source": kubetest.Object{"persistentVolumeName": "pv-1"}}})
	if err := leave.Dead("worker-1", w.opts).Apply(t.Context(), ledger.Wrap(w.host)); err != nil {
		t.Fatal(err)
	}
	if w.api.Get("nodes", "", "worker-1") != nil || w.api.Get("pods", "default", "web-1") != nil {
		t.Error("the node or its pod is still there")
	}
}
