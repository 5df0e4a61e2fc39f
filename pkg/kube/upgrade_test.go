package kube_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
)

// upgrading is a cluster with a node, and its client.
func upgrading(t *testing.T) (*kubetest.Cluster, *kube.Client) {
	t.Helper()
	m := hosttest.New("cp-1")
	c := kubetest.NewCluster(m.Wire)
	t.Cleanup(c.Close)
	m.OnDial(c.Dial)
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	c.AddControlPlane("cp-1")
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		m.Write("/etc/kubernetes/manifests/"+name+".yaml", 0o600, "image: registry.k8s.io/"+name+":v1.36.3\n")
	}
	c.Watch(m)
	client, err := kube.NewAccess().Dial(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return c, client
}

func TestCordonFor_marksInTheSameWriteAndLeavesOthersAlone(t *testing.T) {
	_, client := upgrading(t)
	for range 2 {
		if err := client.CordonFor(t.Context(), "cp-1", "upgrade"); err != nil {
			t.Fatal(err)
		}
	}
	n, err := client.Node(t.Context(), "cp-1")
	if err != nil || !n.Spec.Unschedulable || !kube.CordonedByUs(n) {
		t.Fatalf("%+v, %v", n, err)
	}
	if err := client.UncordonOurs(t.Context(), "cp-1"); err != nil {
		t.Fatal(err)
	}
	if n, _ = client.Node(t.Context(), "cp-1"); n.Spec.Unschedulable || kube.CordonedByUs(n) {
		t.Errorf("%+v", n.Spec)
	}
	// By the operator.
	if _, err := client.Cordon(t.Context(), "cp-1", true); err != nil {
		t.Fatal(err)
	}
	for _, f := range []func() error{
		func() error { return client.CordonFor(t.Context(), "cp-1", "upgrade") },
		func() error { return client.UncordonOurs(t.Context(), "cp-1") },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	if n, _ = client.Node(t.Context(), "cp-1"); !n.Spec.Unschedulable || kube.CordonedByUs(n) {
		t.Errorf("what the operator cordoned: %+v", n)
	}
	if err := client.CordonFor(t.Context(), "nobody", "upgrade"); err == nil {
		t.Error("a node that is not there")
	}
}

// The kubelet, and the controllers that see a node go, write while kocli does.
func TestWrites_meetOthersWhoWrite(t *testing.T) {
	c, client := upgrading(t)
	if err := client.SetConfigMap(t.Context(), "kube-system", "m", "a", "1", true); err != nil {
		t.Fatal(err)
	}
	for name, write := range map[string]func() error{
		"cordon": func() error { return client.CordonFor(t.Context(), "cp-1", "upgrade") },
		"marks": func() error {
			return client.SetMarks(t.Context(), "cp-1", kube.Marks{Labels: map[string]string{"a": "b"}})
		},
		"dead":      func() error { return client.Abandon(t.Context(), "cp-1", time.Second) },
		"configmap": func() error { return client.SetConfigMap(t.Context(), "kube-system", "m", "a", "2", false) },
	} {
		t.Run(name, func(t *testing.T) {
			reports := 3
			c.BeforeWrite = func() {
				if reports--; reports >= 0 {
					n := c.Get("nodes", "", "cp-1")
					if err := unstructured.SetNestedField(n, strconv.Itoa(reports), "metadata", "annotations", name); err != nil {
						t.Error(err)
					}
					c.Put("nodes", "", "cp-1", n)
					c.Put("configmaps", "kube-system", "m", c.Get("configmaps", "kube-system", "m"))
				}
			}
			if err := write(); err != nil {
				t.Fatal(err)
			}
			c.BeforeWrite = nil
			n, err := client.Node(t.Context(), "cp-1")
			if err != nil || n.Annotations[name] != "0" {
				t.Errorf("what the others wrote is gone: %v, %v", n.Annotations, err)
			}
		})
	}
	n, err := client.Node(t.Context(), "cp-1")
	if err != nil || !n.Spec.Unschedulable || n.Labels["a"] != "b" || !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t == kube.OutOfService() }) {
		t.Errorf("%+v, %v", n, err)
	}
	if m, err := client.ConfigMap(t.Context(), "kube-system", "m"); err != nil || m["a"] != "2" {
		t.Errorf("%v, %v", m, err)
	}
}

func TestControlPlaneAt(t *testing.T) {
	c, client := upgrading(t)
	at := func(want string) func(string) bool { return func(v string) bool { return v == want } }
	if err := client.ControlPlaneAt(t.Context(), "cp-1", at("v1.36.3")); err != nil {
		t.Error(err)
	}
	if err := client.ControlPlaneAt(t.Context(), "cp-1", at("v1.37.2")); err == nil || !strings.Contains(err.Error(), "is still at v1.36.3") {
		t.Error(err)
	}
	if err := client.ControlPlaneAt(t.Context(), "cp-2", at("v1.36.3")); err == nil || !strings.Contains(err.Error(), "kube-apiserver of cp-2 is not there") {
		t.Error(err)
	}
	c.Broken = func(_, component, _ string) bool { return component == "kube-scheduler" }
	if err := client.ControlPlaneAt(t.Context(), "cp-1", at("v1.36.3")); err == nil || !strings.Contains(err.Error(), "kube-scheduler-cp-1") {
		t.Error(err)
	}
	if got, err := client.APIServers(t.Context()); err != nil || got["cp-1"] != "v1.36.3" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestDeprecatedRequests_readsTheMetric(t *testing.T) {
	c, client := upgrading(t)
	c.Metrics = `# HELP apiserver_requested_deprecated_apis [STABLE] Gauge of deprecated APIs that have been requested
apiserver_requested_deprecated_apis{group="networking.k8s.io",removed_release="1.37",resource="ipaddresses",subresource="",version="v1beta1"} 1
apiserver_requested_deprecated_apis{group="networking.k8s.io",removed_release="1.37",resource="ipaddresses",subresource="",version="v1beta1"} 1
apiserver_requested_deprecated_apis{group="",removed_release="",resource="endpoints",subresource="",version="v1"} 1
apiserver_requested_deprecated_apis{group="x.k8s.io",removed_release="1.40",resource="ys",subresource="status",version="v1"} 1
apiserver_request_total{code="200"} 7
`
	got, err := client.DeprecatedRequests(context.WithoutCancel(t.Context()))
	if err != nil || len(got) != 2 || got[0].API != "networking.k8s.io/v1beta1 ipaddresses" || got[0].Removed != "1.37" || got[1].API != "x.k8s.io/v1 ys/status" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWrittenThrough(t *testing.T) {
	c, client := upgrading(t)
	for _, name := range []string{"a", "b"} {
		c.Put("configmaps", "default", name, kubetest.Object{"metadata": kubetest.Object{"managedFields": []any{kubetest.Object{"manager": "x", "apiVersion": map[string]string{"a": "policy/v1", "b": "policy/v1beta1"}[name]}}}})
		c.Put("poddisruptionbudgets", "default", name, c.Get("configmaps", "default", name))
	}
	some, count, err := client.WrittenThrough(t.Context(), "policy", "v1", "poddisruptionbudgets")
	if err != nil || count != 1 || some[0] != "default/a" {
		t.Errorf("%v, %d, %v", some, count, err)
	}
	if some, count, err := client.WrittenThrough(t.Context(), "gone.k8s.io", "v1", "things"); err != nil || count != 0 || some != nil {
		t.Errorf("an API that is not served: %v, %d, %v", some, count, err)
	}
}

// API servers count who asks for a version that goes, and the next run would be refused for
// what this one asked.
func TestWrittenThrough_doesNotAskForWhatGoes(t *testing.T) {
	c, client := upgrading(t)
	c.Put("volumeattributesclasses", "", "fast", kubetest.Object{"metadata": kubetest.Object{"managedFields": []any{kubetest.Object{"manager": "x", "apiVersion": "storage.k8s.io/v1beta1"}}}})
	c.Put("volumeattributesclasses", "", "slow", kubetest.Object{"metadata": kubetest.Object{"managedFields": []any{kubetest.Object{"manager": "x", "apiVersion": "storage.k8s.io/v1"}}}})
	var asked []string
	c.BeforeRead = func(path string) {
		if strings.HasSuffix(path, "/volumeattributesclasses") {
			asked = append(asked, path)
		}
	}
	some, count, err := client.WrittenThrough(t.Context(), "storage.k8s.io", "v1beta1", "volumeattributesclasses")
	if err != nil || count != 1 || some[0] != "fast" {
		t.Errorf("%v, %d, %v", some, count, err)
	}
	if len(asked) != 1 || asked[0] != "/apis/storage.k8s.io/v1/volumeattributesclasses" {
		t.Errorf("asked for %v", asked)
	}
}

// What was kept can be put back, with what kubeadm says of it, and is left alone where
// it is as it was.
func TestConfigMap_isKeptAndPutBack(t *testing.T) {
	c, client := upgrading(t)
	if kept, err := client.KeepConfigMap(t.Context(), "kube-system", "none"); kept != nil || err != nil {
		t.Errorf("%q, %v", kept, err)
	}
	put := func(text, hash string) {
		c.Put("configmaps", "kube-system", "m", kubetest.Object{"metadata": kubetest.Object{"annotations": kubetest.Object{"hash": hash}}, "data": kubetest.Object{"a": text}})
	}
	put("old\n", "1")
	kept, err := client.KeepConfigMap(t.Context(), "kube-system", "m")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(){"changed": func() { put("new\n", "2") }, "gone": func() { c.Drop("configmaps", "kube-system", "m") }, "the same": func() {}} {
		change()
		writes := 0
		c.BeforeWrite = func() { writes++ }
		err := client.PutBackConfigMap(t.Context(), kept)
		m := c.Get("configmaps", "kube-system", "m")
		if err != nil || m["data"].(kubetest.Object)["a"] != "old\n" || m["metadata"].(kubetest.Object)["annotations"].(kubetest.Object)["hash"] != "1" {
			t.Errorf("%s: %v, %v", name, m, err)
		}
		if (writes == 0) != (name == "the same") {
			t.Errorf("%s: %d writes", name, writes)
		}
	}
}

// release is what Helm keeps, in the Secret's own encoding besides.
func release(t *testing.T, manifest string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	raw, err := json.Marshal(map[string]string{"name": "shop", "manifest": manifest})
	if err == nil {
		_, err = z.Write(raw)
	}
	if err = errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(b.Bytes())))
}

func TestHelmObjects_readsReleasesThatAreDeployed(t *testing.T) {
	c, client := upgrading(t)
	put := func(name, status, data string) {
		c.Put("secrets", "default", name, kubetest.Object{
			"metadata": kubetest.Object{"labels": kubetest.Object{"owner": "helm", "status": status, "name": "shop"}}, "type": "helm.sh/release.v1",
			"data": kubetest.Object{"release": data},
		})
	}
	const manifest = "---\n# Source: a.yaml\napiVersion: networking.k8s.io/v1beta1\nkind: ServiceCIDR\nmetadata: {name: more}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: shop}\n---\n"
	put("sh.helm.release.v1.shop.v2", "deployed", release(t, manifest))
	put("sh.helm.release.v1.shop.v1", "superseded", release(t, strings.ReplaceAll(manifest, "more", "old")))
	put("damaged", "deployed", "AAAA")
	got, err := client.HelmObjects(t.Context())
	want := []kube.HelmObject{{Release: "default/shop", GroupVersion: "networking.k8s.io/v1beta1", Resource: "servicecidrs", Name: "more"}, {Release: "default/shop", GroupVersion: "v1", Resource: "services", Name: "shop"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

// By the mark alone a node would be given back that an operator has taken since.
func TestCordonedByUs_looksAtWhoWroteLast(t *testing.T) {
	fields := func(manager, text string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, FieldsV1: metav1.NewFieldsV1(text)}
	}
	const spec, other = `{"f:spec":{"f:unschedulable":{}}}`, `{"f:spec":{"f:taints":{}}}`
	for name, c := range map[string]struct {
		mark, out bool
		fields    []metav1.ManagedFieldsEntry
		want      bool
	}{
		"marked, and nothing is remembered":     {true, true, nil, true},
		"written by kocli":                      {true, true, []metav1.ManagedFieldsEntry{fields("kubelet", other), fields(kube.FieldManager, spec)}, true},
		"given back and taken by kubectl since": {true, true, []metav1.ManagedFieldsEntry{fields(kube.FieldManager, other), fields("kubectl-cordon", spec)}, false},
		"given back by kubectl":                 {true, false, nil, false},
		"taken by an operator":                  {false, true, []metav1.ManagedFieldsEntry{fields("kubectl-cordon", spec)}, false},
		"what is remembered cannot be read":     {true, true, []metav1.ManagedFieldsEntry{fields("kubectl", "{"), {Manager: "x"}}, true},
	} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{ManagedFields: c.fields}, Spec: corev1.NodeSpec{Unschedulable: c.out}}
		if c.mark {
			n.Annotations = map[string]string{kube.Cordoned: "upgrade"}
		}
		if got := kube.CordonedByUs(n); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// What an operator says of a node takes kocli's mark away: it is the operator's from then
// on.
func TestCordon_ofAnOperatorTakesTheMarkAway(t *testing.T) {
	_, client := upgrading(t)
	for _, out := range []bool{true, false} {
		if _, err := client.Cordon(t.Context(), "cp-1", false); err != nil {
			t.Fatal(err)
		}
		if err := client.CordonFor(t.Context(), "cp-1", "upgrade"); err != nil {
			t.Fatal(err)
		}
		changed, err := client.Cordon(t.Context(), "cp-1", out)
		n, _ := client.Node(t.Context(), "cp-1")
		if err != nil || !changed || n.Spec.Unschedulable != out || n.Annotations[kube.Cordoned] != "" {
			t.Errorf("%t: %t, %v, %+v", out, changed, err, n)
		}
		if changed, err = client.Cordon(t.Context(), "cp-1", out); changed || err != nil {
			t.Errorf("%t again: %t, %v", out, changed, err)
		}
	}
}
