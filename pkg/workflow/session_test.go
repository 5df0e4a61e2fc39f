package workflow

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/probe"
	"github.com/kocli/kocli/pkg/state"
)

// machines are the hosts of a run in memory; those that are not there cannot be
// reached.
type machines map[string]*hosttest.Machine

func (m machines) Look(ctx context.Context, node string) (host.Reader, error) {
	h, err := m.Dial(ctx, node)
	return h, err
}

func (m machines) Dial(_ context.Context, node string) (host.Host, error) {
	if h := m[node]; h != nil {
		return h, nil
	}
	return nil, &fault.Error{Op: "connect", Node: node, Code: fault.Unreachable, Err: errors.New("no route to host")}
}

func (machines) Stats() map[string]Stats { return nil }

func (machines) Close() error { return nil }

func (machines) Include([]inventory.Node) {}

func (m machines) Line(node string) fanout.Line { return near{m[node]} }

// near makes no second connection, and needs none.
type near struct{ *hosttest.Machine }

func (near) RoundTrip(context.Context) (time.Duration, error) { return time.Millisecond, nil }

func (near) Another(context.Context) (fanout.Connection, error) { return nil, errors.ErrUnsupported }

func TestFar_countsHostsWhoseAnswersTakeLong(t *testing.T) {
	t.Parallel()
	trips := map[string]time.Duration{"a": time.Millisecond, "b": 2 * farTrip}
	to := func(node string) fanout.Line { return distant{trips[node]} }
	if far(t.Context(), []string{"a"}, to) || !far(t.Context(), []string{"a", "b"}, to) {
		t.Error("only b is far away")
	}
	c := &Cluster{Bundle: &archive.Bundle{}, Inventory: &inventory.Inventory{}}
	if c.pushes() {
		t.Error("few hosts nearby get their content in one go")
	}
	if c.Far = true; !c.pushes() {
		t.Error("hosts far away do not get their content in one go")
	}
}

// distant is the way to a host.
type distant struct{ trip time.Duration }

func (d distant) RoundTrip(context.Context) (time.Duration, error) { return d.trip, nil }

func (distant) Another(context.Context) (fanout.Connection, error) { return nil, errors.ErrUnsupported }

// session is a run on hosts in memory: three control planes and a worker.
func session(t *testing.T, hosts machines) *Session {
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
    - {name: cp-2, address: 10.0.0.2, roles: [control-plane]}
    - {name: cp-3, address: 10.0.0.3, roles: [control-plane]}
    - {name: worker-1, address: 10.0.0.4}
`))
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return &Session{
		o: Options{Inventory: inv, Clock: Clock{Now: time.Now}}, inv: inv, hosts: hosts,
		dir: state.Open(t.TempDir(), inv.Name), access: kube.NewAccess(),
	}
}

// answering is a control plane of a cluster that runs.
func answering(t *testing.T, name string) *hosttest.Machine {
	t.Helper()
	m := hosttest.New(name)
	c := kubetest.NewCluster(m.Wire)
	t.Cleanup(c.Close)
	for _, n := range []string{"cp-1", "cp-2", "cp-3"} {
		c.AddControlPlane(n)
	}
	c.AddNode("worker-1")
	m.OnDial(c.Dial)
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	return m
}

// named is a control plane of the cluster of that name.
func named(t *testing.T, host, cluster string) *hosttest.Machine {
	t.Helper()
	m := hosttest.New(host)
	c := kubetest.NewCluster(m.Wire)
	t.Cleanup(c.Close)
	c.Put("configmaps", "kube-system", "kubeadm-config", kubetest.Object{"data": kubetest.Object{"ClusterConfiguration": "apiVersion: x\nclusterName: " + cluster + "\nother: y\n"}})
	m.OnDial(c.Dial)
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	return m
}

func TestSeed_isAnyControlPlaneThatAnswers(t *testing.T) {
	t.Parallel()
	begun, made := []string{caKey}, []string{caKey, kube.AdminConf()}
	facts := func(one, two, three []string) map[string]probe.Facts {
		return map[string]probe.Facts{"cp-1": {Kubernetes: one}, "cp-2": {Kubernetes: two}, "cp-3": {Kubernetes: three}}
	}
	silent := answering(t, "cp-2")
	silent.OnDial(nil)
	for name, c := range map[string]struct {
		hosts machines
		facts map[string]probe.Facts
		want  string
	}{
		"fresh hosts: the first of the list":          {machines{}, facts(nil, nil, nil), "cp-1"},
		"init has begun on the second":                {machines{}, facts(nil, begun, nil), "cp-2"},
		"the first is fresh, the third answers":       {machines{"cp-3": answering(t, "cp-3")}, facts(nil, nil, made), "cp-3"},
		"the first was made and cannot be reached":    {machines{"cp-3": answering(t, "cp-3")}, facts(made, nil, made), "cp-3"},
		"the second does not answer, the third does":  {machines{"cp-2": silent, "cp-3": answering(t, "cp-3")}, facts(nil, made, made), "cp-3"},
		"none answers: the first that was made":       {machines{"cp-2": silent}, facts(begun, made, nil), "cp-2"},
		"one that has begun to join is not asked yet": {machines{"cp-3": answering(t, "cp-3")}, facts(begun, begun, made), "cp-3"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := session(t, c.hosts).seed(t.Context(), c.facts)
			if err != nil || n.Name != c.want {
				t.Errorf("got %s, %v; want %s", n.Name, err, c.want)
			}
		})
	}
}

func TestStatus_throughTheControlPlanes(t *testing.T) {
	t.Parallel()
	empty := func(name string) *hosttest.Machine { return hosttest.New(name) }
	t.Run("every control plane says that there is none yet", func(t *testing.T) {
		_, err := session(t, machines{"cp-1": empty("cp-1"), "cp-2": empty("cp-2"), "cp-3": empty("cp-3")}).status(t.Context())
		if !errors.Is(err, kube.ErrNoCluster) || fault.CodeOf(err) != fault.Unhealthy || strings.Count(err.Error(), kube.ErrNoCluster.Error()) != 1 {
			t.Errorf("got %v, code %d", err, fault.CodeOf(err))
		}
	})
	t.Run("one cannot be reached, and the others say that there is none", func(t *testing.T) {
		for _, lost := range []string{"cp-1", "cp-3"} {
			hosts := machines{"cp-1": empty("cp-1"), "cp-2": empty("cp-2"), "cp-3": empty("cp-3")}
			delete(hosts, lost)
			st, err := session(t, hosts).status(t.Context())
			if err == nil || errors.Is(err, kube.ErrNoCluster) || fault.CodeOf(err) != fault.Unreachable || fault.NodeOf(err) != lost {
				t.Errorf("%s: %+v, %v, code %d, node %q", lost, st, err, fault.CodeOf(err), fault.NodeOf(err))
			}
		}
	})
	t.Run("one cannot be reached, one has not joined, one answers", func(t *testing.T) {
		st, err := session(t, machines{"cp-2": empty("cp-2"), "cp-3": answering(t, "cp-3")}).status(t.Context())
		if err != nil || !st.API.Ready || st.API.Through != "cp-3" || !st.Healthy {
			t.Errorf("%+v, %v", st, err)
		}
	})
	t.Run("one cannot be reached, and the API of another does not answer", func(t *testing.T) {
		down := answering(t, "cp-2")
		down.OnDial(nil)
		st, err := session(t, machines{"cp-2": down, "cp-3": empty("cp-3")}).status(t.Context())
		if err != nil || st.Healthy || st.API.Ready {
			t.Fatalf("%+v, %v", st, err)
		}
		problems := strings.Join(st.Problems, "\n")
		if !strings.Contains(problems, "not ready through cp-2") || !strings.Contains(problems, "cp-1: no route to host") || strings.Contains(problems, kube.ErrNoCluster.Error()) {
			t.Errorf("problems:\n%s", problems)
		}
	})
}

// At home on a node, a kubeconfig of mode local leads to the node itself: elsewhere
// it has to lead to the control plane that it came from.
func TestKubeconfig_leadsOutOfModeLocal(t *testing.T) {
	t.Parallel()
	m := answering(t, "cp-2")
	s := session(t, machines{"cp-2": m})
	conf, _ := m.Read(kube.AdminConf())
	same, err := s.outside([]byte(conf), "cp-2")
	if err != nil || string(same) != conf {
		t.Errorf("with an external endpoint it changed: %v", err)
	}
	s.inv.Spec.ControlPlane.Endpoint = v1alpha1.Endpoint{Mode: v1alpha1.EndpointLocal, Port: 8443}
	out, err := s.outside([]byte(conf), "cp-2")
	if err != nil || !strings.Contains(string(out), "server: https://10.0.0.2:6443") || strings.Contains(string(out), "127.0.0.1") {
		t.Errorf("%s, %v", out, err)
	}
}

func TestSameCluster(t *testing.T) {
	t.Parallel()
	const manifest = "spec:\n  containers:\n  - command: [kube-apiserver]\n    image: registry.k8s.io/kube-apiserver:%s\n"
	runs := func(version string) machines {
		m := hosttest.New("cp-1")
		m.Write(apiServerManifest, 0o600, strings.ReplaceAll(manifest, "%s", version))
		return machines{"cp-1": m}
	}
	seed := func(files ...string) map[string]probe.Facts {
		return map[string]probe.Facts{"cp-1": {Kubernetes: files}}
	}
	for name, c := range map[string]struct {
		hosts machines
		facts map[string]probe.Facts
		code  fault.Code
		says  string // in the error and its hint
	}{
		"fresh hosts": {machines{}, seed(), fault.OK, ""},
		"the cluster that runs is the one asked for": {runs("v1.36.3"), seed(caKey), fault.OK, ""},
		"init has not come as far as a version":      {machines{"cp-1": hosttest.New("cp-1")}, seed(caKey), fault.OK, ""},
		"another version runs":                       {runs("v1.36.2"), seed(caKey), fault.Usage, "runs Kubernetes v1.36.2, and the YAML asks for v1.36.3|set spec.kubernetes.version to v1.36.2"},
		"a newer minor runs":                         {runs("v1.37.0"), seed(caKey), fault.Usage, "runs Kubernetes v1.37.0|set spec.kubernetes.version to v1.37.0"},
		"a worker of another cluster": {machines{}, map[string]probe.Facts{"worker-1": {Kubernetes: []string{"/etc/kubernetes/kubelet.conf"}}}, fault.Preflight,
			"cp-1 would start a new cluster, and worker-1 belongs to one already (/etc/kubernetes/kubelet.conf)|list its control plane first"},
		"a control plane of another cluster": {machines{"cp-2": named(t, "cp-2", "other")}, map[string]probe.Facts{"cp-2": {Kubernetes: []string{caKey, "/etc/kubernetes/admin.conf"}}}, fault.Preflight,
			"cp-2 is a control plane of the cluster other, not of c|kocli reset"},
		"a control plane of this cluster that is not the first of the list": {machines{"cp-2": named(t, "cp-2", "c")},
			map[string]probe.Facts{"cp-2": {Kubernetes: []string{caKey, "/etc/kubernetes/admin.conf"}}}, fault.OK, ""},
		"certificates that an earlier run brought to a host": {machines{}, map[string]probe.Facts{"cp-2": {Kubernetes: []string{"/etc/kubernetes/pki/ca.crt"}}}, fault.OK, ""},
		"a seed that cannot be reached any more":             {machines{}, seed(caKey), fault.Unreachable, "no route to host"},
	} {
		t.Run(name, func(t *testing.T) {
			s := session(t, c.hosts)
			first, err := s.seed(t.Context(), c.facts)
			if err != nil {
				t.Fatal(err)
			}
			err = s.sameCluster(t.Context(), &Cluster{Seed: first, Facts: c.facts})
			if fault.CodeOf(err) != c.code {
				t.Fatalf("got %v, code %d", err, fault.CodeOf(err))
			}
			for _, want := range strings.Split(c.says, "|") {
				if err != nil && !strings.Contains(err.Error()+"\n"+fault.HintOf(err), want) {
					t.Errorf("%v (%s) does not say %q", err, fault.HintOf(err), want)
				}
			}
		})
	}
}
