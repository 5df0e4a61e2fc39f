package settings_test

import (
	"context"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/settings"
)

func cluster(t *testing.T, overrides, host string) *inventory.Inventory {
	t.Helper()
	c, err := config.Read("test", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: v1.36.3, overrides: {`+overrides+`}}
  hosts:
    - {name: cp-1, address: 10.0.0.1, roles: [control-plane]}
    - {name: worker-1, address: 10.0.0.2, `+host+`}
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

const (
	before = `kubelet: {maxPods: 60, shutdownGracePeriod: 5m}, kubeProxy: {metricsBindAddress: "0.0.0.0:10249"}`
	after  = `kubelet: {maxPods: 80, shutdownGracePeriod: 5m}, kubeProxy: {metricsBindAddress: "127.0.0.1:10249"}`
)

// world is a node of a cluster that was made with other settings.
func world(t *testing.T, inv *inventory.Inventory, node string) (*hosttest.Machine, *kubetest.Cluster, settings.Options) {
	t.Helper()
	n, _ := inv.Node(node)
	m := hosttest.OS(hosttest.New(node))
	c := kubetest.NewCluster(m.Wire)
	m.OnDial(c.Dial)
	m.Install(c.Kubeadm())
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	was := cluster(t, before, "")
	kubelet, err := kubeadm.KubeletConfig(was)
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := kubeadm.WithProxyConfig([]byte("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclientConnection: {kubeconfig: /var/lib/kube-proxy/kubeconfig.conf}\n"), was)
	if err != nil {
		t.Fatal(err)
	}
	c.Put("configmaps", "kube-system", "kubelet-config", kubetest.Object{"data": kubetest.Object{"kubelet": string(kubelet)}})
	c.Put("configmaps", "kube-system", "kube-proxy", kubetest.Object{"data": kubetest.Object{"config.conf": string(proxy)}})
	c.Put("daemonsets", "kube-system", "kube-proxy", kubetest.Object{"spec": kubetest.Object{"template": kubetest.Object{"metadata": kubetest.Object{}}}})
	m.Write("/var/lib/kubelet/config.yaml", 0o644, string(kubelet))
	m.Write("/etc/systemd/system/kubelet.service", 0o644, "[Service]\nExecStart=/usr/bin/kubelet\n")
	access := kube.NewAccess()
	return m, c, settings.Options{Inventory: inv, Node: n, API: kube.API{
		Look: func(ctx context.Context) (*kube.Client, error) { return access.Look(ctx, m) },
		Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, m) },
	}}
}

func TestSteps_converge(t *testing.T) {
	for name, x := range map[string]struct {
		overrides, host string
		step            func(settings.Options) plan.Step
	}{
		"what all share":     {after, "", settings.Cluster},
		"fields of one node": {before, "kubelet: {maxPods: 50}", settings.Kubelet},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plantest.Converges(t, func() plantest.World {
				m, c, o := world(t, cluster(t, x.overrides, x.host), "worker-1")
				return plantest.World{Step: x.step(o), Host: m, State: c.State, Close: c.Close, Random: []string{kube.AdminConf()}}
			})
		})
	}
}

func TestSettings_reachTheKubeletAndKubeProxy(t *testing.T) {
	m, c, o := world(t, cluster(t, after, "kubelet: {podPidsLimit: 99}"), "worker-1")
	defer c.Close()
	changes, err := settings.Cluster(o).Check(t.Context(), m)
	if err != nil || len(changes) != 3 || changes[0].To != "maxPods as in the YAML" || changes[1].To != "metricsBindAddress as in the YAML" {
		t.Fatalf("%v, %v", changes, err)
	}
	for _, s := range []plan.Step{settings.Cluster(o), settings.Kubelet(o)} {
		if err := s.Apply(t.Context(), ledger.Wrap(m)); err != nil {
			t.Fatal(err)
		}
		if left, err := s.Check(t.Context(), m); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", s.ID(), left, err)
		}
	}
	text, _ := m.Read("/var/lib/kubelet/config.yaml")
	if !strings.Contains(text, "maxPods: 80") || !strings.Contains(text, "podPidsLimit: 99") {
		t.Errorf("the kubelet runs with:\n%s", text)
	}
	proxy := c.Get("configmaps", "kube-system", "kube-proxy")["data"].(kubetest.Object)["config.conf"].(string)
	if !strings.Contains(proxy, "127.0.0.1:10249") || !strings.Contains(proxy, "/var/lib/kube-proxy/kubeconfig.conf") {
		t.Errorf("kube-proxy runs with:\n%s", proxy)
	}
}

// The same time in other words is no change, and neither is what others filled in.
func TestSettings_sameInOtherWords(t *testing.T) {
	m, c, o := world(t, cluster(t, strings.Replace(before, "5m", "300s", 1), ""), "worker-1")
	defer c.Close()
	text, _ := m.Read("/var/lib/kubelet/config.yaml")
	m.Write("/var/lib/kubelet/config.yaml", 0o644, text+"staticPodPath: /etc/kubernetes/manifests\n")
	for _, s := range []plan.Step{settings.Cluster(o), settings.Kubelet(o)} {
		if left, err := s.Check(t.Context(), m); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", s.ID(), left, err)
		}
	}
}
