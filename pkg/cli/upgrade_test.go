package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/upgrade"
	"github.com/kocli/kocli/pkg/workflow"
)

// The way comes first, then what each hop would do. Its JSON is stable.
func TestUpgradeDoc(t *testing.T) {
	inv := &inventory.Inventory{Name: "c", Nodes: []inventory.Node{{Name: "cp-1", ControlPlane: true}}}
	change := plan.Change{Phase: "control-plane", Node: "cp-1", Step: "upgrade/control-plane", Object: "control plane of cp-1", From: "v1.35.4", To: "v1.36.3", Disruptive: true}
	hops := []workflow.HopPreview{
		{Hop: upgrade.Hop{From: "v1.35.4", To: "v1.36.3", Bundle: "a.tar", Begun: true}, Preview: &workflow.Preview{Changes: []plan.Change{change}}},
		{Hop: upgrade.Hop{From: "v1.36.3", To: "v1.37.2", Bundle: "b.tar"}, Preview: &workflow.Preview{}},
	}
	doc := newUpgradeDoc(inv, hops)
	var text bytes.Buffer
	doc.write(&text)
	want := `hop 1 of 2: v1.35.4 -> v1.36.3, begun, from a.tar
hop 2 of 2: v1.36.3 -> v1.37.2, from b.tar

Hop 1, v1.35.4 -> v1.36.3:

cp-1 (control-plane): 1 change, 0 B to send
  control-plane
    ! control plane of cp-1: v1.35.4 -> v1.36.3  (disruptive)

Plan for cluster c: 1 change on 1 host, 1 disruptive, 0 B to send.

Hop 2, v1.36.3 -> v1.37.2 (as seen from now):

Cluster c is as described: nothing to change.
`
	if text.String() != want {
		t.Errorf("got:\n%s", text.String())
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{`"cluster":"c"`, `"from":"v1.35.4","to":"v1.36.3","bundle":"a.tar","begun":true,"plan":{"cluster":"c","changes":1`, `"step":"upgrade/control-plane"`} {
		if !strings.Contains(string(raw), s) {
			t.Errorf("%s lacks %s", raw, s)
		}
	}
	text.Reset()
	newUpgradeDoc(inv, nil).write(&text)
	if text.String() != "Cluster c: nothing to upgrade.\n" {
		t.Errorf("got %q", text.String())
	}
}

func TestWriteUpgraded(t *testing.T) {
	for name, c := range map[string]struct {
		r      workflow.UpgradeResult
		listed string
		want   []string
	}{
		"nothing to do": {workflow.UpgradeResult{Result: workflow.Result{Cluster: "c", Kubernetes: "v1.37.2"}}, "v1.37.2", []string{"runs Kubernetes v1.37.2 on all nodes: nothing to upgrade"}},
		"paused, to another version than listed": {
			workflow.UpgradeResult{Result: workflow.Result{Cluster: "c", Kubernetes: "v1.37.2", Changed: 3}, Path: []upgrade.Hop{{}}, Paused: "canary"}, "v1.36.3",
			[]string{"on its way to Kubernetes v1.37.2, paused after canary: 3 changes", "The same command without --pause-after goes on.", "Now set spec.kubernetes.version to v1.37.2 in c.yaml"},
		},
	} {
		var text bytes.Buffer
		writeUpgraded(&text, &c.r, c.listed, "c.yaml")
		for _, w := range c.want {
			if !strings.Contains(text.String(), w) {
				t.Errorf("%s: %q lacks %q", name, text.String(), w)
			}
		}
	}
}
