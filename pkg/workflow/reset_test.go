package workflow

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/plan/plantest"
)

// drained is a cluster of two nodes with pods on both, reached through its
// control plane.
func drained(t *testing.T) (*hosttest.Machine, *kubetest.Cluster, kube.API) {
	t.Helper()
	m := hosttest.OS(hosttest.New("cp-1"))
	c := kubetest.NewCluster(m.Wire)
	m.OnDial(c.Dial)
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	if err := ledger.Append(t.Context(), m, ledger.Entry{Kind: ledger.FileAbsent, Name: "/usr/bin/kubelet"}); err != nil {
		t.Fatal(err)
	}
	m.CutBefore(0)
	c.AddControlPlane("cp-1")
	c.AddNode("worker-1")
	c.Put("daemonsets", "kube-system", "kube-proxy", kubetest.Object{"spec": kubetest.Object{"template": kubetest.Object{"metadata": kubetest.Object{}}}})
	c.AddNode("worker-1") // its DaemonSets run
	for name, node := range map[string]string{"web-1": "worker-1", "web-2": "worker-1", "web-3": "cp-1"} {
		c.Put("pods", "default", name, kubetest.Object{
			"metadata": kubetest.Object{"labels": kubetest.Object{"app": "web"}},
			"spec":     kubetest.Object{"nodeName": node, "volumes": []any{kubetest.Object{"name": "scratch", "emptyDir": kubetest.Object{}}}},
			"status":   kubetest.Object{"phase": "Running"},
		})
	}
	access := kube.NewAccess()
	return m, c, kube.API{
		Look: func(ctx context.Context) (*kube.Client, error) { return access.Look(ctx, m) },
		Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, m) },
	}
}

// pods lists the pods that are left, in order.
func pods(c *kubetest.Cluster) string {
	var out []string
	for _, p := range c.List("pods", "") {
		out = append(out, fmt.Sprint(p["metadata"].(kubetest.Object)["name"]))
	}
	return strings.Join(out, " ")
}

func TestDrain_converges(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{true, false} {
		t.Run(fmt.Sprintf("the whole cluster: %t", whole), func(t *testing.T) {
			t.Parallel()
			plantest.Converges(t, func() plantest.World {
				m, c, api := drained(t)
				return plantest.World{Step: drainStep("worker-1", whole, api), Host: m, State: c.State, Close: c.Close}
			})
		})
	}
}

func TestDrain_emptiesTheNodeAndTakesItOut(t *testing.T) {
	t.Parallel()
	m, c, api := drained(t)
	defer c.Close()
	if err := drainStep("worker-1", false, api).Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if got := pods(c); got != "web-3 kube-proxy-cp-1 kube-proxy-worker-1" { // a DaemonSet's goes with its node
		t.Errorf("left are %s", got)
	}
	if c.Get("nodes", "", "worker-1") != nil || c.Get("nodes", "", "cp-1") == nil {
		t.Errorf("nodes: %v", c.List("nodes", ""))
	}
}

// A node that is taken out of a cluster that lives on waits for its budgets; a
// cluster that ends does not.
func TestDrain_budgets(t *testing.T) {
	t.Parallel()
	m, c, api := drained(t)
	defer c.Close()
	c.Budget = func(kubetest.Object) bool { return false }
	ctx, cancel := context.WithCancelCause(t.Context())
	tries := 0
	c.BeforeWrite = func() {
		if tries++; tries == 3 { // cordon, and both pods
			cancel(errors.New("the test has seen enough"))
		}
	}
	err := drainStep("worker-1", false, api).Apply(ctx, m)
	if err == nil || !strings.Contains(fault.HintOf(err), "kubectl get pdb -A") {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
	if c.Get("nodes", "", "worker-1") == nil || !strings.HasPrefix(pods(c), "web-1 web-2 ") {
		t.Errorf("the node was taken out over a budget: pods %s", pods(c))
	}
}

func TestDrain_ofAClusterThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	m, c, api := drained(t)
	defer c.Close()
	m.OnDial(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") })
	if changes, err := drainStep("worker-1", true, api).Check(t.Context(), m); err != nil || len(changes) > 0 {
		t.Errorf("a cluster that ends: %v, %v", changes, err)
	}
	if changes, err := drainStep("worker-1", false, api).Check(t.Context(), m); err == nil {
		t.Errorf("a cluster that lives on: %v, no error", changes)
	}
}

func TestDrain_leavesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	m, c, api := drained(t)
	defer c.Close()
	m.Delete(ledger.Root())
	if changes, err := drainStep("worker-1", true, api).Check(t.Context(), m); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
}
