package certs_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/steps/certs"
)

// The condition of a node stays ready for as long as the API was away: only a lease
// that is renewed says that its kubelet is back.
func TestReady_takesNoOldConditionForAnAnswer(t *testing.T) {
	m := hosttest.New("cp-1")
	c := kubetest.NewCluster(m.Wire)
	defer c.Close()
	m.OnDial(c.Dial)
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	c.AddControlPlane("cp-1")
	c.AddNode("worker-1")
	c.Put("namespaces", "", "kube-node-lease", kubetest.Object{})
	now := time.Now()
	lease := func(node string, age time.Duration) {
		c.Put("leases", "kube-node-lease", node, kubetest.Object{"spec": kubetest.Object{"renewTime": now.Add(-age).UTC().Format("2006-01-02T15:04:05.000000Z")}})
	}
	var sick error
	access := kube.NewAccess()
	step := certs.Ready(certs.ReadyOptions{
		API:     kube.API{Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, m) }},
		Healthy: func(context.Context) error { return sick },
		Nodes:   []string{"cp-1", "worker-1"},
		Now:     func() time.Time { return now },
	})
	from := func() string {
		t.Helper()
		changes, err := step.Check(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if len(changes) == 0 {
			return ""
		}
		return changes[0].From
	}
	lease("cp-1", time.Second)
	lease("worker-1", time.Hour)
	if got := from(); !strings.HasPrefix(got, "node worker-1: its kubelet reported last at ") {
		t.Errorf("got %q", got)
	}
	lease("worker-1", 10*time.Second)
	if got := from(); got != "" {
		t.Errorf("got %q", got)
	}
	c.Put("nodes", "", "worker-1", kubetest.Object{"status": kubetest.Object{"conditions": []any{kubetest.Object{"type": "Ready", "status": "False", "message": "no CNI"}}}})
	if got := from(); got != "node worker-1: no CNI" {
		t.Errorf("got %q", got)
	}
	sick = errors.New("API server of cp-1: connection refused")
	if got := from(); got != sick.Error() {
		t.Errorf("got %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := step.Apply(ctx, ledger.Wrap(m)); fault.CodeOf(err) != fault.Unhealthy || !strings.Contains(fault.HintOf(err), "kocli certs list") {
		t.Errorf("%v", err)
	}
}
