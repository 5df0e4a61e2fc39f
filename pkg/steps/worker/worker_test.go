package worker_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/config"
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

func cluster(t *testing.T, labels string) *inventory.Inventory {
	t.Helper()
	c, err := config.Read("test", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: v1.36.3}
  controlPlane: {endpoint: {mode: external, address: 10.0.0.100}}
  hosts:
    - {name: cp-1, address: 10.0.0.1, roles: [control-plane]}
    - {name: worker-1, address: 10.0.0.2, kubelet: {maxPods: 50}, `+labels+`}
`))
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// world is a worker, and a control plane on the same wire.
func world() (*hosttest.Machine, *kubetest.Cluster, kube.API) {
	m, cp := hosttest.OS(hosttest.New("worker-1")), hosttest.New("cp-1")
	cp.Wire = m.Wire
	c := kubetest.NewCluster(m.Wire)
	c.AddNode("cp-1")
	c.AddCoreDNS()
	m.Install(c.Kubeadm())
	cp.OnDial(c.Dial)
	cp.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	access := kube.NewAccess()
	return m, c, kube.API{
		Look: func(ctx context.Context) (*kube.Client, error) { return access.Look(ctx, cp) },
		Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, cp) },
	}
}

func options(t *testing.T, api kube.API, labels string) worker.Options {
	t.Helper()
	inv := cluster(t, labels)
	n, _ := inv.Node("worker-1")
	return worker.Options{
		Inventory: inv, Node: n, API: api, Now: func() time.Time { return time.Unix(1_700_000_000, 0) },
		CA: func(context.Context) ([]byte, error) { return []byte("CA"), nil },
	}
}

const marks = `labels: {example.com/rack: r1}, taints: [{key: dedicated, value: batch, effect: NoSchedule}]`

func TestSteps_converge(t *testing.T) {
	for name, make := range map[string]func(worker.Options) plan.Step{"join": worker.Join, "marks": worker.Marks} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plantest.Converges(t, func() plantest.World {
				m, c, api := world()
				if name == "marks" {
					c.AddNode("worker-1")
				}
				return plantest.World{
					Step: make(options(t, api, marks)), Host: m, State: c.State, Close: c.Close,
					Random: []string{kubeadm.JoinConfigPath},
				}
			})
		})
	}
}

func TestJoin_goesOnAfterAnyEffect(t *testing.T) {
	for n := 1; n <= 3; n++ {
		m, c, api := world()
		s := worker.Join(options(t, api, ""))
		c.HaltAfter(n)
		if err := s.Apply(t.Context(), ledger.Wrap(m)); err == nil {
			t.Errorf("after %d effects: no error surfaces", n)
		}
		m.CutBefore(0)
		if changes, err := s.Check(t.Context(), m); err != nil || len(changes) != 1 {
			t.Errorf("after %d effects: %v, %v", n, changes, err)
		}
		if err := s.Apply(t.Context(), ledger.Wrap(m)); err != nil {
			t.Errorf("after %d effects, again: %v", n, err)
		}
		if changes, err := s.Check(t.Context(), m); err != nil || len(changes) > 0 {
			t.Errorf("after %d effects, in the end: %v, %v", n, changes, err)
		}
		c.Close()
	}
}

func TestJoin_leavesNoToken(t *testing.T) {
	m, c, api := world()
	defer c.Close()
	s := worker.Join(options(t, api, ""))
	if err := s.Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if _, ok := m.Read(kubeadm.JoinConfigPath); ok {
		t.Error("the configuration with the token is still there")
	}
	if left := c.List("secrets", "kube-system"); len(left) > 0 {
		t.Errorf("the token is still valid: %v", left)
	}
}

func TestMarks_takeAwayWhatLeftTheYAML(t *testing.T) {
	m, c, api := world()
	defer c.Close()
	c.AddNode("worker-1")
	o := c.Get("nodes", "", "worker-1")
	o["metadata"].(kubetest.Object)["labels"] = kubetest.Object{"kubernetes.io/hostname": "worker-1"}
	o["spec"] = kubetest.Object{"taints": []any{kubetest.Object{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}}}
	c.Put("nodes", "", "worker-1", o)
	for _, labels := range []string{marks, ""} {
		s := worker.Marks(options(t, api, labels))
		if err := s.Apply(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if changes, err := s.Check(t.Context(), m); err != nil || len(changes) > 0 {
			t.Errorf("%v, %v", changes, err)
		}
	}
	n := c.Get("nodes", "", "worker-1")
	labels, _ := n["metadata"].(kubetest.Object)["labels"].(kubetest.Object)
	taints, _ := n["spec"].(kubetest.Object)["taints"].([]any)
	if len(labels) != 1 || labels["kubernetes.io/hostname"] != "worker-1" || len(taints) != 1 {
		t.Errorf("labels %v, taints %v", labels, taints)
	}
}

func TestSteps_beforeThereIsACluster(t *testing.T) {
	none := kube.API{
		Look: func(context.Context) (*kube.Client, error) { return nil, kube.ErrNoCluster },
		Dial: func(context.Context) (*kube.Client, error) { return nil, kube.ErrNoCluster },
	}
	for _, s := range []plan.Step{worker.Join(options(t, none, marks)), worker.Marks(options(t, none, marks))} {
		changes, err := s.Check(t.Context(), hosttest.New("worker-1"))
		if err != nil || len(changes) != 1 || changes[0].After == "" {
			t.Errorf("%s: %v, %v", s.ID(), changes, err)
		}
	}
	if changes, err := worker.Marks(options(t, none, "")).Check(t.Context(), hosttest.New("worker-1")); err != nil || len(changes) > 0 {
		t.Errorf("no marks: %v, %v", changes, err)
	}
}
