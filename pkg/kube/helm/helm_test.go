package helm_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/helm"
	"github.com/kocli/kocli/pkg/kube/kubetest"
)

const image = "registry.example.test/app:1"

// running is a cluster in memory, and a client of it.
func running(t *testing.T, stuck func(namespace, name string) bool) (*kubetest.Cluster, *kube.Client, *kube.Client) {
	t.Helper()
	m := hosttest.OS(hosttest.New("cp-1"))
	c := kubetest.NewCluster(m.Wire)
	t.Cleanup(c.Close)
	c.RunWorkloads(stuck)
	m.OnDial(c.Dial)
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	c.AddNode("cp-1")
	access := kube.NewAccess()
	w, err := access.Dial(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	r, err := access.Look(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return c, w, r
}

func app(version string, values map[string]any) helm.Release {
	return helm.Release{
		Name: "app", Namespace: "apps", Chart: archivetest.Deployment("app", version, image), Values: values,
		Labels: map[string]string{kube.LabelAddon: "app", kube.LabelVersion: version},
	}
}

func deploy(t *testing.T, w *kube.Client, r helm.Release) {
	t.Helper()
	if err := helm.Deploy(t.Context(), w, r, 20*time.Second); err != nil {
		t.Fatal(err)
	}
}

// state is the release as its Secret says.
func state(t *testing.T, c *kube.Client) kube.Release {
	t.Helper()
	r, err := c.Release(t.Context(), "apps", "app")
	if err != nil || r == nil {
		t.Fatalf("%v, %v", r, err)
	}
	return *r
}

func replicas(c *kubetest.Cluster) any {
	d := c.Get("deployments", "apps", "app")
	if d == nil {
		return nil
	}
	return d["spec"].(kubetest.Object)["replicas"]
}

func TestDeploy_installsThenUpgradesThenIsRemoved(t *testing.T) {
	c, w, r := running(t, nil)
	deploy(t, w, app("1.0.0", nil))
	if s := state(t, r); s.Revision != 1 || s.Status != kube.StatusDeployed || s.Labels[kube.LabelVersion] != "1.0.0" || replicas(c) != 1.0 {
		t.Fatalf("%+v, %v replicas", s, replicas(c))
	}
	deploy(t, w, app("1.1.0", map[string]any{"replicas": 2}))
	if s := state(t, r); s.Revision != 2 || s.Status != kube.StatusDeployed || s.Labels[kube.LabelVersion] != "1.1.0" || replicas(c) != 2.0 {
		t.Fatalf("%+v, %v replicas", s, replicas(c))
	}
	deploy(t, w, app("1.1.0", nil)) // a value that is not set any more
	if replicas(c) != 1.0 {
		t.Errorf("%v replicas", replicas(c))
	}
	if err := helm.Remove(t.Context(), w, "apps", "app", 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if rel, err := r.Release(t.Context(), "apps", "app"); err != nil || rel != nil || replicas(c) != nil {
		t.Errorf("%v, %v, %v", rel, err, replicas(c))
	}
	if err := helm.Remove(t.Context(), w, "apps", "app", 20*time.Second); err != nil {
		t.Errorf("removed twice: %v", err)
	}
}

func TestDeploy_aFailedInstallLeavesNothing(t *testing.T) {
	c, w, r := running(t, func(string, string) bool { return true })
	err := helm.Deploy(t.Context(), w, app("1.0.0", nil), 3*time.Second)
	if err == nil {
		t.Fatal("no error")
	}
	if rel, lerr := r.Release(t.Context(), "apps", "app"); lerr != nil || rel != nil || replicas(c) != nil {
		t.Errorf("%v left %v, %v, %v", err, rel, lerr, replicas(c))
	}
}

func TestDeploy_aFailedUpgradeIsRolledBack(t *testing.T) {
	var broken atomic.Bool // asked by the API meanwhile
	c, w, r := running(t, func(string, string) bool { return broken.Load() })
	c.BeforeWrite = func() { // the rollback works again
		if d := c.Get("secrets", "apps", "sh.helm.release.v1.app.v3"); d != nil {
			broken.Store(false)
		}
	}
	deploy(t, w, app("1.0.0", nil))
	broken.Store(true)
	if err := helm.Deploy(t.Context(), w, app("2.0.0", map[string]any{"replicas": 3}), 3*time.Second); err == nil || !strings.Contains(err.Error(), "rolled back") {
		t.Fatalf("%v", err)
	}
	if s := state(t, r); s.Status != kube.StatusDeployed || replicas(c) != 1.0 {
		t.Errorf("%+v, %v replicas", s, replicas(c))
	}
}

// A kocli that is killed in the middle leaves a release that Helm itself refuses to
// touch.
func TestDeploy_goesOnWithWhatAKilledRunLeft(t *testing.T) {
	for _, installed := range []bool{false, true} {
		var stuck, armed atomic.Bool // asked by the API meanwhile
		stuck.Store(!installed)
		c, w, r := running(t, func(string, string) bool { return stuck.Load() })
		ctx, kill := context.WithCancel(t.Context())
		c.BeforeWrite = func() {
			if armed.Load() && c.Get("deployments", "apps", "app") != nil && c.Get("secrets", "apps", "sh.helm.release.v1.app.v1") != nil {
				kill()
			}
		}
		if installed {
			deploy(t, w, app("1.0.0", nil))
			stuck.Store(true)
		}
		armed.Store(true)
		go func() { time.Sleep(time.Second); kill() }()
		if err := helm.Deploy(ctx, w, app("1.1.0", map[string]any{"replicas": 2}), time.Minute); err == nil {
			t.Fatal("was not ended")
		}
		if s := state(t, r); !strings.HasPrefix(s.Status, "pending-") {
			t.Fatalf("installed %t: %+v", installed, s)
		}
		stuck.Store(false)
		armed.Store(false)
		deploy(t, w, app("1.1.0", map[string]any{"replicas": 2}))
		if s := state(t, r); s.Status != kube.StatusDeployed || replicas(c) != 2.0 {
			t.Errorf("installed %t: %+v, %v replicas", installed, s, replicas(c))
		}
	}
}

func TestDeploy_leavesAloneWhatOthersWorkOn(t *testing.T) {
	_, w, r := running(t, func(string, string) bool { return true })
	rel := app("1.0.0", nil)
	rel.Labels = nil // as helm install makes it
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := helm.Deploy(ctx, w, rel, time.Minute); err == nil {
		t.Fatal("was not ended")
	}
	err := helm.Deploy(t.Context(), w, app("1.0.0", nil), time.Minute)
	if err == nil || !strings.Contains(err.Error(), "apps/app is pending-install, and not by kocli") || !strings.Contains(fault.HintOf(err), "helm rollback app -n apps") {
		t.Errorf("%v (hint: %s)", err, fault.HintOf(err))
	}
	if s := state(t, r); s.Status != "pending-install" {
		t.Errorf("%+v", s)
	}
}

func TestDiff_showsWhatChangesAndNoSecrets(t *testing.T) {
	_, w, r := running(t, nil)
	chart := archivetest.Pack(map[string]string{
		"app/Chart.yaml":            "apiVersion: v2\nname: app\nversion: 1.0.0\n",
		"app/values.yaml":           "password: first\ncount: 1\n",
		"app/templates/secret.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: {{ .Values.password }}, user: root}\n",
		"app/templates/map.yaml":    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {count: {{ .Values.count | quote }}}\n",
	})
	with := func(v map[string]any) helm.Release {
		return helm.Release{Name: "app", Namespace: "apps", Chart: chart, Values: v}
	}
	if d, err := helm.Diff(t.Context(), r, with(nil)); err != nil || d != "" {
		t.Fatalf("of nothing: %q, %v", d, err)
	}
	deploy(t, w, with(nil))
	if d, err := helm.Diff(t.Context(), r, with(nil)); err != nil || d != "" {
		t.Fatalf("of the same: %q, %v", d, err)
	}
	d, err := helm.Diff(t.Context(), r, with(map[string]any{"password": "canary-7", "count": 2}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"-data: {count: \"1\"}", "+data: {count: \"2\"}", "-  password: (hidden ", "+  password: (hidden ", "   user: (hidden "} {
		if !strings.Contains(d, want) {
			t.Errorf("%q is not in\n%s", want, d)
		}
	}
	if strings.Contains(d, "canary-7") || strings.Contains(d, "first") {
		t.Errorf("shows a secret:\n%s", d)
	}
}

func TestRender_needsNoClusterAndHoldsValuesAgainstTheSchema(t *testing.T) {
	chart := archivetest.Pack(map[string]string{
		"app/Chart.yaml":         "apiVersion: v2\nname: app\nversion: 1.0.0\nkubeVersion: '>=1.30.0-0'\n",
		"app/values.schema.json": `{"type":"object","required":["host"],"properties":{"host":{"type":"string"}}}`,
		"app/crds/x.yaml":        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: x}\n",
		"app/templates/job.yaml": "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j, annotations: {helm.sh/hook: pre-install}}\nspec: {host: {{ .Values.host }}}\n",
	})
	r := helm.Release{Name: "app", Namespace: "apps", Chart: chart, Values: map[string]any{"host": "a.example"}}
	out, err := helm.Render(r, "v1.36.3")
	if err != nil || !strings.Contains(string(out), "host: a.example") || !strings.Contains(string(out), "CustomResourceDefinition") {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := helm.Render(r, "v1.20.0"); err == nil || !strings.Contains(err.Error(), "incompatible") {
		t.Errorf("an old Kubernetes: %v", err)
	}
	r.Values = map[string]any{"host": 7}
	if _, err := helm.Render(r, "v1.36.3"); err == nil || !strings.Contains(err.Error(), "host") {
		t.Errorf("a value of the wrong type: %v", err)
	}
	r.Values = nil
	if _, err := helm.Render(r, "v1.36.3"); err == nil || !strings.Contains(err.Error(), "host") {
		t.Errorf("a value that is missing: %v", err)
	}
	r.Chart = []byte("no chart")
	if _, err := helm.Render(r, "v1.36.3"); err == nil {
		t.Error("no chart was accepted")
	}
}
