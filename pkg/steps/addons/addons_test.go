package addons_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/addon"
	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/addons"
)

// declared are the add-ons of a cluster with both.
func declared(t *testing.T, values v1alpha1.Object) []addon.Addon {
	t.Helper()
	known, err := catalogue.EmbeddedAddons()
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	return addon.Declared(&v1alpha1.ClusterSpec{
		Storage: []v1alpha1.Storage{{Name: "local", Type: v1alpha1.StorageLocal, Default: &yes, ReclaimPolicy: "Retain", Local: &v1alpha1.LocalStorage{Path: "/data"}}},
		Addons:  []v1alpha1.Addon{{Name: "metrics-server", Values: values}},
	}, known)
}

// running is a cluster in memory in which metrics come as soon as their server runs.
func running() (*hosttest.Machine, *kubetest.Cluster, kube.API) {
	m := hosttest.OS(hosttest.New("cp-1"))
	c := kubetest.NewCluster(m.Wire)
	c.RunWorkloads(nil)
	m.OnDial(c.Dial)
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	c.AddNode("cp-1")
	c.AddNode("worker-1")
	c.Answer = func(path string) (string, bool) {
		if path != "/apis/metrics.k8s.io/v1beta1/nodes" || c.Get("deployments", "kube-system", "metrics-server") == nil {
			return "", false
		}
		return `{"kind":"NodeMetricsList","items":[{"metadata":{"name":"cp-1"}},{"metadata":{"name":"worker-1"}}]}`, true
	}
	access := kube.NewAccess()
	return m, c, kube.API{
		Look: func(ctx context.Context) (*kube.Client, error) { return access.Look(ctx, m) },
		Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, m) },
	}
}

// steps are those of the n-th add-on.
func steps(t *testing.T, b *archive.Bundle, a addon.Addon, api kube.API) []plan.Step {
	t.Helper()
	o := addons.Options{Addon: a, API: api, SpecFile: "c.yaml", Timeout: 30 * time.Second}
	if a.Enabled {
		var err error
		if o.Chart, err = a.Chart(b, "v1.36.3"); err != nil {
			t.Fatal(err)
		}
	}
	return addons.Steps(o)
}

func apply(t *testing.T, m *hosttest.Machine, list []plan.Step) {
	t.Helper()
	for _, s := range list {
		if err := s.Apply(t.Context(), m); err != nil {
			t.Fatalf("%s: %v", s.ID(), err)
		}
		if changes, err := s.Check(t.Context(), m); err != nil || len(changes) > 0 {
			t.Fatalf("%s did not converge: %v, %v", s.ID(), changes, err)
		}
	}
}

func TestSteps_installProveUpgradeAndRemove(t *testing.T) {
	b := archivetest.WithAddons(t)
	m, c, api := running()
	defer c.Close()
	for _, a := range declared(t, nil) {
		apply(t, m, steps(t, b, a, api))
	}
	if c.Get("deployments", "local-path-storage", "local-path-provisioner") == nil || c.Get("deployments", "kube-system", "metrics-server") == nil {
		t.Fatal("not there")
	}
	if c.Get("persistentvolumeclaims", "kocli-system", "kocli-volume-check") != nil || c.Get("pods", "kocli-system", "kocli-volume-read") != nil {
		t.Error("the volume's test is still there")
	}

	metrics := declared(t, v1alpha1.Object{"replicas": 2})[1]
	list := steps(t, b, metrics, api)
	changes, err := list[0].Check(t.Context(), m)
	if err != nil || len(changes) != 1 || changes[0].From != "other values" {
		t.Fatalf("after a change of values: %v, %v", changes, err)
	}
	apply(t, m, list)

	metrics.Enabled = false
	apply(t, m, steps(t, b, metrics, api))
	if c.Get("deployments", "kube-system", "metrics-server") != nil {
		t.Error("still there")
	}
}

// What a run that failed has left does not stand in the way of the next one: a pod that
// has failed, and objects that were made for another proof.
func TestSteps_aProofThatFailedIsMadeAnew(t *testing.T) {
	b := archivetest.WithAddons(t)
	for name, left := range map[string]kubetest.Object{
		"a pod that failed": {"spec": kubetest.Object{"containers": []any{}}, "status": kubetest.Object{"phase": "Failed"}},
		"a pod of another":  {"spec": kubetest.Object{"containers": []any{}}, "status": kubetest.Object{"phase": "Pending"}},
	} {
		t.Run(name, func(t *testing.T) {
			m, c, api := running()
			defer c.Close()
			c.Put("namespaces", "", "kocli-system", kubetest.Object{})
			c.Put("pods", "kocli-system", "kocli-volume-write", left)
			c.Put("persistentvolumeclaims", "kocli-system", "kocli-volume-check", kubetest.Object{"spec": kubetest.Object{"storageClassName": "another"}})
			apply(t, m, steps(t, b, declared(t, nil)[0], api))
		})
	}
}

// Storage whose volumes somebody uses stays.
func TestSteps_storageWithVolumesIsNotRemoved(t *testing.T) {
	b := archivetest.WithAddons(t)
	m, c, api := running()
	defer c.Close()
	storage := declared(t, nil)[0]
	apply(t, m, steps(t, b, storage, api)[:1])
	c.Put("persistentvolumes", "", "pvc-1", kubetest.Object{
		"metadata": kubetest.Object{"annotations": kubetest.Object{"pv.kubernetes.io/provisioned-by": "rancher.io/local-path"}},
		"spec":     kubetest.Object{"claimRef": kubetest.Object{"namespace": "shop", "name": "data-0"}},
	})
	storage.Enabled = false
	err := steps(t, b, storage, api)[0].Apply(t.Context(), m)
	if fault.CodeOf(err) != fault.Preflight || !strings.Contains(err.Error(), "shop/data-0") {
		t.Errorf("%v", err)
	}
	if c.Get("deployments", "local-path-storage", "local-path-provisioner") == nil {
		t.Error("it is gone")
	}
}

func TestSteps_whatOthersInstalledStays(t *testing.T) {
	b := archivetest.WithAddons(t)
	m, c, api := running()
	defer c.Close()
	metrics := declared(t, nil)[1]
	apply(t, m, steps(t, b, metrics, api)[:1])
	metrics.Namespace = "elsewhere"
	_, err := steps(t, b, metrics, api)[0].Check(t.Context(), m)
	if err == nil || !strings.Contains(err.Error(), "is in namespace kube-system, and cannot move to elsewhere") || !strings.Contains(fault.HintOf(err), "kocli addon remove metrics-server -f c.yaml") {
		t.Errorf("%v (hint: %s)", err, fault.HintOf(err))
	}
	metrics.Namespace = "kube-system"
	s := c.Get("secrets", "kube-system", "sh.helm.release.v1.metrics-server.v1")
	delete(s["metadata"].(kubetest.Object)["labels"].(kubetest.Object), kube.LabelAddon)
	c.Put("secrets", "kube-system", "sh.helm.release.v1.metrics-server.v1", s)
	_, err = steps(t, b, metrics, api)[0].Check(t.Context(), m)
	if err == nil || !strings.Contains(err.Error(), "release kube-system/metrics-server is there, and not by kocli") {
		t.Errorf("%v", err)
	}
}

// Metrics that lack a node are not healthy.
func TestSteps_healthNamesTheNodeThatIsMissing(t *testing.T) {
	b := archivetest.WithAddons(t)
	m, c, api := running()
	defer c.Close()
	list := steps(t, b, declared(t, nil)[1], api)
	if changes, err := list[1].Check(t.Context(), m); err != nil || len(changes) != 1 || changes[0].After != "addon/metrics-server" {
		t.Errorf("before it is installed: %v, %v", changes, err)
	}
	apply(t, m, list)
	c.AddNode("worker-2")
	if changes, err := list[1].Check(t.Context(), m); err != nil || len(changes) != 1 || !strings.Contains(changes[0].From, "says nothing of worker-2") {
		t.Errorf("%v, %v", changes, err)
	}
}

func TestSteps_beforeThereIsACluster(t *testing.T) {
	none := kube.API{Look: func(context.Context) (*kube.Client, error) { return nil, kube.ErrNoCluster }}
	list := steps(t, archivetest.WithAddons(t), declared(t, nil)[0], none)
	for i, after := range []string{"network/verify", "addon/local-path-provisioner"} {
		if changes, err := list[i].Check(t.Context(), nil); err != nil || len(changes) != 1 || changes[0].After != after {
			t.Errorf("%s: %v, %v", list[i].ID(), changes, err)
		}
	}
}

// The connection is cut before and after every write: run again, it converges.
func TestSteps_converge(t *testing.T) {
	b := archivetest.WithAddons(t)
	for _, x := range []struct {
		name        string
		addon, step int
	}{{"storage", 0, 0}, {"the proof of storage", 0, 1}, {"a service", 1, 0}} {
		t.Run(x.name, func(t *testing.T) {
			plantest.Converges(t, func() plantest.World {
				m, c, api := running()
				list := steps(t, b, declared(t, nil)[x.addon], api)
				apply(t, m, list[:x.step])
				return plantest.World{Step: list[x.step], Host: m, State: func() string { return withoutTimes(c) }, Close: c.Close}
			})
		})
	}
}

// withoutTimes is the state but for the Secrets in which Helm keeps when it did what.
func withoutTimes(c *kubetest.Cluster) string {
	var out []string
	for _, l := range strings.Split(c.State(), "\n") {
		if !strings.HasPrefix(l, "secrets ") {
			out = append(out, l)
		}
	}
	for _, s := range c.List("secrets", "") {
		l, _ := s["metadata"].(kubetest.Object)["labels"].(kubetest.Object)
		if l["status"] == kube.StatusDeployed {
			out = append(out, fmt.Sprint(l["name"], l["status"], l[kube.LabelChart], l[kube.LabelValues]))
		}
	}
	return strings.Join(out, "\n")
}
