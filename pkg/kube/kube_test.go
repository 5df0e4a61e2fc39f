package kube_test

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
)

// cluster is an API behind a machine, and clients of both kinds.
func cluster(t *testing.T) (m *hosttest.Machine, c *kubetest.Cluster, look, dial *kube.Client) {
	t.Helper()
	m = hosttest.New("cp-1")
	c = kubetest.NewCluster(m.Wire)
	t.Cleanup(c.Close)
	m.OnDial(c.Dial)
	access := kube.NewAccess()
	if _, err := access.Look(t.Context(), m); !errors.Is(err, kube.ErrNoCluster) {
		t.Errorf("before there is a cluster: %v", err)
	}
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	var err1, err2 error
	look, err1 = access.Look(t.Context(), m)
	dial, err2 = access.Dial(t.Context(), m)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if again, err := access.Look(t.Context(), m); err != nil || again != look {
		t.Errorf("a client is not shared: %v", err)
	}
	return m, c, look, dial
}

func TestReadyAt_isOfTheClusterWithThatCA(t *testing.T) {
	_, c, _, _ := cluster(t)
	conf, err := clientcmd.RESTConfigFromKubeConfig([]byte(c.Kubeconfig()))
	if err != nil {
		t.Fatal(err)
	}
	const at = "127.0.0.1:6443"
	if err := kube.ReadyAt(t.Context(), at, conf.CAData, c.Dial); err != nil {
		t.Error(err)
	}
	other, _ := kubetest.Issue("another", time.Now().Add(time.Hour))
	if err := kube.ReadyAt(t.Context(), at, []byte(other), c.Dial); err == nil {
		t.Error("a server of another cluster")
	}
	c.Silence(true)
	if err := kube.ReadyAt(t.Context(), at, conf.CAData, c.Dial); err == nil {
		t.Error("a server that is not ready")
	}
}

const manifest = `
apiVersion: v1
kind: Namespace
metadata: {name: x}
---
# nothing
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c, namespace: x}
data: {key: value}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: r}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
`

func TestClient_aReadersClientOnlyReads(t *testing.T) {
	m, c, look, _ := cluster(t)
	c.AddNode("cp-1")
	objs, err := kube.Decode([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	_, tokenErr := look.CreateToken(t.Context(), time.Now(), time.Minute)
	for what, err := range map[string]error{
		"apply":     look.Apply(t.Context(), objs),
		"delete":    look.Delete(t.Context(), objs),
		"token":     tokenErr,
		"configmap": look.SetConfigMap(t.Context(), "kube-system", "x", "k", "v", true),
		"marks":     look.SetMarks(t.Context(), "cp-1", kube.Marks{Labels: map[string]string{"a": "b"}}),
	} {
		if !errors.Is(err, kube.ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if m.Writes() > 0 {
		t.Errorf("the server saw %v", m.Log())
	}
	if err := look.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestApply_isWhatOutdatedComparesWith(t *testing.T) {
	_, c, look, dial := cluster(t)
	objs, err := kube.Decode([]byte(manifest))
	if err != nil || len(objs) != 3 {
		t.Fatalf("%d objects, %v", len(objs), err)
	}
	outdated := func(text string) int {
		t.Helper()
		objs, err := kube.Decode([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		old, err := look.Outdated(t.Context(), objs)
		if err != nil {
			t.Fatal(err)
		}
		return len(old)
	}
	if n := outdated(manifest); n != 3 {
		t.Errorf("%d of 3 are not there", n)
	}
	if err := dial.Apply(t.Context(), objs); err != nil {
		t.Fatal(err)
	}
	if n := outdated(manifest); n != 0 {
		t.Errorf("%d are outdated right after they were applied", n)
	}
	if n := outdated(strings.Replace(manifest, "key: value", "key: other", 1)); n != 1 {
		t.Errorf("%d are outdated after one was changed", n)
	}
	if m := c.Get("configmaps", "x", "c"); m["metadata"].(kubetest.Object)["labels"].(kubetest.Object)["app.kubernetes.io/managed-by"] != "kocli" {
		t.Errorf("not marked as ours: %v", m)
	}
	for range 2 { // what is gone is passed over
		if err := dial.Delete(t.Context(), objs); err != nil {
			t.Error(err)
		}
	}
	if n := outdated(manifest); n != 3 {
		t.Errorf("%d of 3 are gone", n)
	}
}

func TestDecode_refuses(t *testing.T) {
	for name, text := range map[string]string{
		"what is not YAML": "a: [b", "an object without a name": "kind: X\napiVersion: v1\n", "one without a kind": "metadata: {name: x}\n",
	} {
		if objs, err := kube.Decode([]byte(text)); err == nil {
			t.Errorf("%s: %v", name, objs)
		}
	}
}

func TestOutdated_ofAKindThatTheServerDoesNotKnow(t *testing.T) {
	_, _, look, _ := cluster(t)
	objs, err := kube.Decode([]byte("apiVersion: example.com/v1\nkind: Windmill\nmetadata: {name: x}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := look.Outdated(t.Context(), objs); err == nil || !strings.Contains(err.Error(), "Windmill x") {
		t.Errorf("got %v", err)
	}
}

func TestToken(t *testing.T) {
	_, c, _, dial := cluster(t)
	now := time.Unix(1_700_000_000, 0)
	token, err := dial.CreateToken(t.Context(), now, time.Hour)
	if err != nil || !regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`).MatchString(token) {
		t.Fatalf("%q, %v", token, err)
	}
	s := c.Get("secrets", "kube-system", "bootstrap-token-"+token[:6])
	if s == nil || s["type"] != "bootstrap.kubernetes.io/token" {
		t.Fatalf("the secret is %v", s)
	}
	if err := dial.DeleteToken(t.Context(), token); err != nil || c.Get("secrets", "kube-system", "bootstrap-token-"+token[:6]) != nil {
		t.Errorf("it is still there: %v", err)
	}
	seen := map[string]bool{}
	for range 100 {
		if n := kube.NewToken(); seen[n] || !regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`).MatchString(n) {
			t.Errorf("token %q", n)
		} else {
			seen[n] = true
		}
	}
}

func TestSetMarks_doesNotOverwriteAChangeThatCameInBetween(t *testing.T) {
	_, c, _, dial := cluster(t)
	c.AddNode("n")
	var once sync.Once
	// Somebody else changes the node after it was read and before it is patched:
	// the patch must not win over it.
	c.BeforeWrite = func() {
		once.Do(func() {
			o := c.Get("nodes", "", "n")
			o["spec"] = kubetest.Object{"taints": []any{kubetest.Object{"key": "theirs", "effect": "NoSchedule"}}}
			c.Put("nodes", "", "n", o)
		})
	}
	want := kube.Marks{Taints: []corev1.Taint{{Key: "ours", Effect: "NoSchedule"}}}
	if err := dial.SetMarks(t.Context(), "n", want); err != nil {
		t.Fatal(err)
	}
	n, err := dial.Node(t.Context(), "n")
	if err != nil || len(n.Spec.Taints) != 2 || len(kube.MarkChanges(n, want)) != 0 {
		t.Errorf("%v, %v", n.Spec.Taints, err)
	}
	if err := dial.SetMarks(t.Context(), "absent", want); err == nil {
		t.Error("a node that is not there")
	}
}

func TestPoll(t *testing.T) {
	n := 0
	if err := kube.Poll(t.Context(), time.Millisecond, func(context.Context) error {
		if n++; n < 3 {
			return errors.New("not yet")
		}
		return nil
	}); err != nil || n != 3 {
		t.Errorf("%v after %d", err, n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := kube.Poll(ctx, time.Millisecond, func(context.Context) error { return errors.New("coredns waits") }); err == nil || !strings.Contains(err.Error(), "coredns waits") {
		t.Errorf("the reason is lost: %v", err)
	}
	lost := fault.New(fault.Unreachable, "", errors.New("gone"))
	if err := kube.Poll(t.Context(), time.Hour, func(context.Context) error { return lost }); !errors.Is(err, lost) {
		t.Errorf("a lost host: %v", err)
	}
	ctx, cancel2 := context.WithCancel(t.Context())
	cancel2()
	if err := kube.Poll(ctx, time.Hour, func(context.Context) error { return errors.New("x") }); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestClient_aLostHostIsUnreachable(t *testing.T) {
	m, _, look, _ := cluster(t)
	m.Cut()
	_, err := look.Nodes(t.Context())
	if fault.CodeOf(err) != fault.Unreachable {
		t.Errorf("%v, code %d", err, fault.CodeOf(err))
	}
	if _, err := kube.NewAccess().Look(t.Context(), m); !errors.Is(err, hosttest.ErrCut) || errors.Is(err, kube.ErrNoCluster) {
		t.Errorf("a host that is lost has no cluster: %v", err)
	}
}

func TestClient_checksTheServersCertificate(t *testing.T) {
	_, c, _, _ := cluster(t)
	other := kubetest.New(&hosttest.Wire{})
	defer other.Close()
	m := hosttest.New("cp-1")
	m.OnDial(other.Dial)
	conf := strings.Replace(c.Kubeconfig(), "token: t", "token: canary", 1)
	m.Write(kube.AdminConf(), 0o600, strings.Replace(conf, "certificate-authority-data", "tls-server-name: elsewhere.test, certificate-authority-data", 1))
	client, err := kube.NewAccess().Look(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
}

// The time may be up in the middle of a question, and that is not why.
func TestPoll_saysWhyItWaited(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	asked := 0
	err := kube.Poll(ctx, time.Millisecond, func(ctx context.Context) error {
		if asked++; asked == 1 {
			return errors.New("the node is not ready")
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if err == nil || !strings.Contains(err.Error(), "the node is not ready") {
		t.Errorf("%v", err)
	}
}
