package cli

import (
	"bytes"
	"testing"

	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/workflow"
)

func TestPlan_asText(t *testing.T) {
	inv := &inventory.Inventory{Name: "c", Nodes: []inventory.Node{{Name: "a", ControlPlane: true, Worker: true}, {Name: "b", Worker: true}}}
	pre := &workflow.Preview{Nodes: []string{"a", "b"}, Changes: []plan.Change{
		{Node: "a", Phase: "os", Step: "os/x", Object: "file /x", To: "create", Bytes: 2048},
		{Node: "a", Phase: "os", Step: "os/y", Object: "sysctl y", From: "0", To: "1"},
		{Node: "a", Phase: "os", Step: "os/z", Object: "file /z", From: "there", To: "absent"},
		{Node: "a", Phase: "runtime", Step: "runtime/service", Object: "service containerd", From: "running", To: "restarted", Disruptive: true},
		{Node: "a", Phase: "nodes", Step: "nodes/a", Object: "labels", To: "2 labels", After: "worker/join"},
	}}
	want := `a (control-plane, worker): 5 changes, 2.0 KiB to send
  os
    + file /x: create  [2.0 KiB]
    ~ sysctl y: 0 -> 1
    - file /z: there -> absent
  runtime
    ! service containerd: running -> restarted  (disruptive)
  nodes
    + labels: 2 labels (known after worker/join)

b (worker): nothing to change

Plan for cluster c: 5 changes on 1 host, 1 disruptive, 2.0 KiB to send.
`
	var b bytes.Buffer
	newPlanDoc(inv, pre).write(&b)
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	newPlanDoc(inv, &workflow.Preview{}).write(&b)
	if want := "Cluster c is as described: nothing to change.\n"; b.String() != want {
		t.Errorf("got %q", b.String())
	}
}
