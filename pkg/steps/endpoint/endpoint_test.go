package endpoint_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"regexp"
	"slices"
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
	"github.com/kocli/kocli/pkg/steps/endpoint"
)

// moved is a cluster that is to be at example.com:8443.
func moved(t *testing.T) *inventory.Inventory {
	t.Helper()
	c, err := config.Read("test", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: v1.36.3}
  controlPlane: {endpoint: {mode: external, address: example.com, port: 8443}}
  hosts:
    - {name: cp-1, address: 10.0.0.1, roles: [control-plane]}
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

// world is a node of a cluster that is still at 10.0.0.1:6443.
func world(t *testing.T, node string) (*hosttest.Machine, *kubetest.Cluster, endpoint.Options) {
	t.Helper()
	inv := moved(t)
	n, _ := inv.Node(node)
	m := hosttest.OS(hosttest.New(node))
	c := kubetest.NewCluster(m.Wire)
	m.OnDial(c.Dial)
	old := strings.ReplaceAll(c.Kubeconfig(), "127.0.0.1", "10.0.0.1")
	c.AddControlPlane("cp-1")
	c.AddNode("worker-1")
	c.Put("configmaps", "kube-system", "kubeadm-config", kubetest.Object{"data": kubetest.Object{"ClusterConfiguration": "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nclusterName: c\ncontrolPlaneEndpoint: 10.0.0.1:6443\napiServer: {extraArgs: [{name: profiling, value: \"false\"}]}\n"}})
	c.Put("configmaps", "kube-public", "cluster-info", kubetest.Object{"data": kubetest.Object{"kubeconfig": old, "jws-kubeconfig-abcdef": "x"}})
	c.Put("configmaps", "kube-system", "kube-proxy", kubetest.Object{"data": kubetest.Object{"kubeconfig.conf": old, "config.conf": "x"}})
	c.Put("daemonsets", "kube-system", "kube-proxy", kubetest.Object{"spec": kubetest.Object{"template": kubetest.Object{"metadata": kubetest.Object{}}}})
	m.Write(kube.AdminConf(), 0o600, old)
	m.Write("/etc/kubernetes/kubelet.conf", 0o600, old)
	ca := regexp.MustCompile(`certificate-authority-data: ([^}]*)}`).FindStringSubmatch(old)[1]
	text, err := base64.StdEncoding.DecodeString(ca)
	if err != nil {
		t.Fatal(err)
	}
	m.Write(kubeadm.CACertPath, 0o644, string(text))
	m.Write("/etc/systemd/system/kubelet.service", 0o644, "[Service]\nExecStart=/usr/bin/kubelet\n")
	m.Write("/etc/kubernetes/manifests/kube-apiserver.yaml", 0o600, "x")
	m.Write("/etc/kubernetes/pki/apiserver.crt", 0o644, kubetest.Certificate("127.0.0.1", "10.0.0.1", "cp-1"))
	m.Install(func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		if !slices.Contains(argv, "certs") {
			return hosttest.Reply{}, false
		}
		if _, there := m.Read("/etc/kubernetes/pki/apiserver.crt"); !there { // kubeadm uses what is there
			m.Write("/etc/kubernetes/pki/apiserver.crt", 0o644, kubetest.Certificate("127.0.0.1", "10.0.0.1", "cp-1", "example.com"))
			m.Write("/etc/kubernetes/pki/apiserver.key", 0o600, "key")
		}
		return hosttest.Reply{}, true
	})
	access := kube.NewAccess()
	return m, c, endpoint.Options{Inventory: inv, Node: n, API: kube.API{
		Look: func(ctx context.Context) (*kube.Client, error) { return access.Look(ctx, m) },
		Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, m) },
	}}
}

func TestSteps_converge(t *testing.T) {
	for name, x := range map[string]struct {
		node string
		step func(endpoint.Options) plan.Step
	}{
		"what the cluster remembers":       {"cp-1", endpoint.Cluster},
		"the kubelet of a worker":          {"worker-1", endpoint.Kubelet},
		"the administrator of a plane":     {"cp-1", endpoint.Kubelet},
		"the certificate of an API server": {"cp-1", endpoint.Certificate},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plantest.Converges(t, func() plantest.World {
				m, c, o := world(t, x.node)
				return plantest.World{Step: x.step(o), Host: m, State: c.State, Close: c.Close, Random: []string{
					kube.AdminConf(), "/etc/kubernetes/kubelet.conf", kubeadm.CACertPath,
				}}
			})
		})
	}
}

func TestCluster_changesTheAddressAndNothingElse(t *testing.T) {
	m, c, o := world(t, "cp-1")
	defer c.Close()
	if err := endpoint.Cluster(o).Apply(t.Context(), ledger.Wrap(m)); err != nil {
		t.Fatal(err)
	}
	data := func(ns, name, key string) string {
		d, _ := c.Get("configmaps", ns, name)["data"].(kubetest.Object)
		s, _ := d[key].(string)
		return s
	}
	conf := data("kube-system", "kubeadm-config", "ClusterConfiguration")
	for _, want := range []string{"controlPlaneEndpoint: example.com:8443", "- example.com", "name: profiling", "clusterName: c"} {
		if !strings.Contains(conf, want) {
			t.Errorf("kubeadm's configuration lacks %q:\n%s", want, conf)
		}
	}
	for _, text := range []string{data("kube-public", "cluster-info", "kubeconfig"), data("kube-system", "kube-proxy", "kubeconfig.conf")} {
		if server, err := kubeadm.ServerOf([]byte(text)); err != nil || server != "https://example.com:8443" || !strings.Contains(text, "certificate-authority-data") {
			t.Errorf("%q, %v", server, err)
		}
	}
	if data("kube-public", "cluster-info", "jws-kubeconfig-abcdef") != "x" || data("kube-system", "kube-proxy", "config.conf") != "x" {
		t.Error("other keys are gone")
	}
}

// A kubelet that is sent to an address where nobody answers is lost: it stays where
// it is, and so does its file.
func TestKubelet_staysWhereItIsUntilTheNewAddressAnswers(t *testing.T) {
	m, c, o := world(t, "worker-1")
	defer c.Close()
	m.OnDial(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") })
	before, _ := m.Read("/etc/kubernetes/kubelet.conf")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := endpoint.Kubelet(o).Apply(ctx, ledger.Wrap(m))
	after, _ := m.Read("/etc/kubernetes/kubelet.conf")
	if err == nil || !strings.Contains(err.Error(), "the API does not answer at example.com:8443 on worker-1: ") || before != after {
		t.Errorf("%v", err)
	}
}

func TestCertificate_namesWhatIsMissing(t *testing.T) {
	m, c, o := world(t, "cp-1")
	defer c.Close()
	changes, err := endpoint.Certificate(o).Check(t.Context(), m)
	if err != nil || len(changes) != 1 || changes[0].From != "not for example.com" {
		t.Errorf("%v, %v", changes, err)
	}
}
