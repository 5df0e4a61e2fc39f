package controlplane_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/controlplane"
)

const generation = "/test/api-server" // counts the API servers that were started

// etcdWorld is a control plane and its step. With made, its API server runs, and
// the kubelet starts another one when it ends.
func etcdWorld(made bool, ca string) plantest.World {
	m := hosttest.OS(hosttest.New("cp-1"))
	c := kubetest.NewCluster(m.Wire)
	m.OnDial(c.Dial)
	if made {
		m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
		m.Write(kubeadm.APIServerManifestPath, 0o600, "x")
		for _, f := range []string{kubeadm.EtcdCAPath, kubeadm.EtcdCertPath} {
			m.Write(f, 0o644, "old")
		}
		m.Write(kubeadm.EtcdKeyPath, 0o600, "old")
	}
	m.Write(generation, 0o644, "0")
	m.Install(func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		n, _ := m.Read(generation)
		switch strings.Join(argv, " ") {
		case `/usr/local/bin/ctr -n k8s.io containers ls -q labels."io.kubernetes.pod.namespace"==kube-system,labels."io.kubernetes.container.name"==kube-apiserver`:
			return hosttest.Reply{Stdout: "api-" + n + "\n"}, true
		case "/usr/local/bin/ctr -n k8s.io tasks ls":
			return hosttest.Reply{Stdout: "TASK PID STATUS\napi-" + n + " 7 RUNNING\n"}, true
		case "/usr/local/bin/ctr -n k8s.io tasks kill --signal SIGTERM api-" + n:
			m.Write(generation, 0o644, n+"1")
			return hosttest.Reply{}, true
		}
		return hosttest.Reply{}, false
	})
	access := kube.NewAccess()
	step := controlplane.EtcdClient(controlplane.Options{API: kube.API{
		Look: func(ctx context.Context) (*kube.Client, error) { return access.Look(ctx, m) },
		Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, m) },
	}}, func() (etcd.Credentials, error) {
		return etcd.Credentials{CA: []byte(ca), Cert: []byte("new"), Key: []byte("canary-key")}, nil
	})
	return plantest.World{Step: step, Host: m, Close: c.Close, Random: []string{generation, kube.AdminConf()}}
}

func TestEtcdClient_converges(t *testing.T) {
	for name, x := range map[string]struct {
		made bool
		ca   string
	}{"a new control plane": {false, "ca"}, "a renewed certificate": {true, "old"}, "another CA": {true, "ca"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plantest.Converges(t, func() plantest.World { return etcdWorld(x.made, x.ca) })
		})
	}
}

// A pair is read again by the API server itself; a CA is not.
func TestEtcdClient_restartsTheAPIServerForAnotherCAAlone(t *testing.T) {
	for ca, want := range map[string]string{"old": "0", "ca": "01"} {
		w := etcdWorld(true, ca)
		defer w.Close()
		changes, err := w.Step.Check(t.Context(), w.Host)
		if err != nil {
			t.Fatal(err)
		}
		last := changes[len(changes)-1]
		if last.Disruptive != (ca == "ca") || strings.Contains(fmt.Sprint(changes), "canary") {
			t.Errorf("CA %s: %v", ca, changes)
		}
		if err := w.Step.Apply(t.Context(), ledger.Wrap(w.Host)); err != nil {
			t.Fatal(err)
		}
		if got, _ := w.Host.Read(generation); got != want {
			t.Errorf("CA %s: API server %s, want %s", ca, got, want)
		}
		if strings.Contains(strings.Join(w.Host.Log(), "\n"), "canary") {
			t.Errorf("the key is in the log: %v", w.Host.Log())
		}
	}
}

// The file may be right, and the API server may have been started before it was.
func TestEtcdClient_aRestartThatWasCutOffIsMadeUpFor(t *testing.T) {
	for n := 1; ; n++ {
		w := etcdWorld(true, "ca")
		defer w.Close()
		w.Host.CutAfter(n)
		err := w.Step.Apply(t.Context(), ledger.Wrap(w.Host))
		w.Host.CutBefore(0)
		if ca, _ := w.Host.Read(kubeadm.EtcdCAPath); ca != "ca" {
			continue
		}
		changes, err2 := w.Step.Check(t.Context(), w.Host)
		if err == nil || err2 != nil || len(changes) != 1 || changes[0].To != "restart" {
			t.Errorf("cut after write %d: %v, %v, %v", n, err, changes, err2)
		}
		return
	}
}

func TestEtcdClient_refusesAClusterWithMembersOfItsOwn(t *testing.T) {
	w := etcdWorld(true, "ca")
	defer w.Close()
	w.Host.Write(kubeadm.EtcdManifestPath, 0o600, "etcd")
	if _, err := w.Step.Check(t.Context(), w.Host); fault.CodeOf(err) != fault.Preflight || !strings.Contains(err.Error(), "has a member of etcd") {
		t.Error(err)
	}
	if err := w.Step.Apply(t.Context(), w.Host); err == nil || w.Host.Writes() > 0 {
		t.Errorf("%v, %v", err, w.Host.Log())
	}
}
