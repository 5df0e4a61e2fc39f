package controlplane_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/controlplane"
)

func cluster(t *testing.T) *inventory.Inventory {
	t.Helper()
	c, err := config.Read("test", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes:
    version: v1.36.3
    encryption: {secrets: true}
    audit: {enabled: true}
  hosts:
    - {name: cp-1, address: 10.0.0.1, roles: [control-plane], kubelet: {maxPods: 50}}
    - {name: worker-1, address: 10.0.0.2}
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

// fresh is a machine without a control plane, and the kubeadm that would make
// one.
func fresh() (*hosttest.Machine, *kubetest.Cluster, kube.API) {
	m := hosttest.OS(hosttest.New("cp-1"))
	c := kubetest.NewCluster(m.Wire)
	m.Install(c.Kubeadm())
	m.OnDial(c.Dial)
	access := kube.NewAccess()
	return m, c, kube.API{
		Look: func(ctx context.Context) (*kube.Client, error) { return access.Look(ctx, m) },
		Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, m) },
	}
}

func step(t *testing.T, id string, api kube.API) plan.Step {
	t.Helper()
	inv := cluster(t)
	for _, s := range controlplane.Steps(controlplane.Options{Inventory: inv, Node: inv.Nodes[0], API: api}) {
		if s.ID() == id {
			return s
		}
	}
	t.Fatalf("no step %s", id)
	return nil
}

func TestSteps_converge(t *testing.T) {
	for _, id := range []string{"controlplane/audit", "controlplane/encryption", "controlplane/init"} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			plantest.Converges(t, func() plantest.World {
				m, c, api := fresh()
				return plantest.World{
					Step: step(t, id, api), Host: m, State: c.State, Close: c.Close,
					Random: []string{kubeadm.EncryptionConfigPath, kubeadm.InitConfigPath, kube.AdminConf(), "/etc/kubernetes/kubelet.conf"},
				}
			})
		})
	}
}

func TestShared_converges(t *testing.T) {
	seed := hosttest.New("cp-1")
	for _, f := range []string{"ca.crt", "ca.key", "sa.key", "sa.pub", "front-proxy-ca.crt", "front-proxy-ca.key", "etcd/ca.crt", "etcd/ca.key"} {
		seed.Write("/etc/kubernetes/pki/"+f, 0o600, "content of "+f)
	}
	step := controlplane.Shared(func(context.Context) (host.Reader, error) { return seed, nil })
	plantest.Converges(t, func() plantest.World {
		m := hosttest.New("cp-2")
		m.Write("/etc/kubernetes/pki/sa.pub", 0o600, "of another cluster")
		return plantest.World{Step: step, Host: m}
	})
	none := controlplane.Shared(func(context.Context) (host.Reader, error) { return hosttest.New("cp-1"), nil })
	if changes, err := none.Check(t.Context(), hosttest.New("cp-2")); err != nil || len(changes) != 1 || changes[0].After != "controlplane/init" {
		t.Errorf("before init: %v, %v", changes, err)
	}
}

// kubeadm init is made of many effects; a host may lose its power between any
// two of them.
func TestInit_goesOnAfterAnyEffect(t *testing.T) {
	for n := 1; n <= 11; n++ {
		m, c, api := fresh()
		s := step(t, "controlplane/init", api)
		c.HaltAfter(n)
		if err := s.Apply(t.Context(), ledger.Wrap(m)); err == nil {
			t.Errorf("after %d effects: no error surfaces", n)
		}
		m.CutBefore(0)
		changes, err := s.Check(t.Context(), m)
		if err != nil || len(changes) != 1 {
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

func TestInit_anInterruptedRunLeavesNoToken(t *testing.T) {
	m, c, api := fresh()
	defer c.Close()
	s := step(t, "controlplane/init", api)
	if err := s.Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	m.Write(kubeadm.InitConfigPath, 0o600, "token")
	if changes, err := s.Check(t.Context(), m); err != nil || len(changes) != 1 || !strings.Contains(changes[0].String(), "holds a token") {
		t.Errorf("%v, %v", changes, err)
	}
	if err := s.Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if _, ok := m.Read(kubeadm.InitConfigPath); ok {
		t.Error("the token is still there")
	}
}

func TestEncryption_neverReplacesAKey(t *testing.T) {
	m, c, api := fresh()
	defer c.Close()
	m.Write(kubeadm.EncryptionConfigPath, 0o600, "precious")
	s := step(t, "controlplane/encryption", api)
	if changes, err := s.Check(t.Context(), m); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
	if err := s.Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if text, _ := m.Read(kubeadm.EncryptionConfigPath); text != "precious" {
		t.Error("the key was replaced")
	}
}

func TestInit_saysWhatKubeadmSays(t *testing.T) {
	m, c, api := fresh()
	defer c.Close()
	m.Handle(func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		if argv[0] != "flock" {
			return "", 0, false
		}
		return "[init] Using Kubernetes version\nerror execution phase preflight: [preflight] Some fatal errors occurred:\n\t[ERROR NumCPU]: the number of available CPUs 1 is less than the required 2\nTo see the stack trace\n", 1, true
	})
	err := step(t, "controlplane/init", api).Apply(t.Context(), m)
	var x *host.ExitError
	if !errors.As(err, &x) || !strings.Contains(err.Error(), "[ERROR NumCPU]: the number of available CPUs 1") || fault.HintOf(err) == "" {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
}
