package workflow

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/state"
)

// applied is the YAML of session, with other hosts.
func applied(hosts string) string {
	return `
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: v1.36.3}
  ssh: {user: ops, agent: true}
  controlPlane: {endpoint: {mode: external, address: 10.0.0.100}}
  hosts:
    - {name: cp-1, address: 10.0.0.1, roles: [control-plane]}
    - {name: cp-2, address: 10.0.0.2, roles: [control-plane]}
    - {name: cp-3, address: 10.0.0.3, roles: [control-plane]}
` + hosts
}

func remembered(t *testing.T, spec string) *Session {
	t.Helper()
	s := session(t, machines{})
	if err := s.dir.Save(&state.Record{Spec: spec}); err != nil {
		t.Fatal(err)
	}
	return s
}

// A host that left the YAML is known from the YAML before, with its login; one that
// an earlier run did not come to, from the state; and one that came back stays.
func TestLeavers_areRememberedUntilTheyAreOut(t *testing.T) {
	t.Parallel()
	s := remembered(t, applied("    - {name: worker-1, address: 10.0.0.4}\n    - {name: old, address: 10.0.0.9, ssh: {port: 2222}}\n"))
	got, err := s.leavers()
	if err != nil || len(got) != 1 || got[0].Host.Name != "old" {
		t.Fatalf("%+v, %v", got, err)
	}
	nodes, err := nodesOf(got)
	if err != nil || nodes[0].SSH.User != "ops" || nodes[0].SSH.Port != 2222 || nodes[0].IP != "10.0.0.9" {
		t.Errorf("%+v, %v", nodes, err)
	}
	// The run that takes it out is killed when the new YAML is in the state already.
	s.o.SpecYAML = []byte(applied("    - {name: worker-1, address: 10.0.0.4}\n"))
	if err := s.remember(got); err != nil {
		t.Fatal(err)
	}
	if again, err := s.leavers(); err != nil || len(again) != 1 || again[0].Host.Name != "old" || again[0].SSH.User != "ops" {
		t.Errorf("after a kill: %+v, %v", again, err)
	}
	if err := s.remember(nil); err != nil {
		t.Fatal(err)
	}
	if left, err := s.leavers(); err != nil || len(left) != 0 {
		t.Errorf("when it is out: %+v, %v", left, err)
	}
}

func TestLeavers_refuseAnotherMachineUnderTheSameName(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ hosts, want, hint string }{
		"another address": {"    - {name: worker-1, address: 10.0.0.44}\n", "worker-1 had the address 10.0.0.44 and now has 10.0.0.4", "kocli node replace worker-1 --with NAME --address 10.0.0.4"},
		"another role":    {"    - {name: worker-1, address: 10.0.0.4, roles: [control-plane]}\n", "worker-1 cannot change between control plane and worker", "kocli node remove worker-1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := remembered(t, applied(tt.hosts)).leavers()
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(fault.HintOf(err), tt.hint) || fault.CodeOf(err) != fault.Usage {
				t.Errorf("%v; %s", err, fault.HintOf(err))
			}
		})
	}
}

// watcher keeps the events of a run.
type watcher struct {
	Observer
	notes []string
}

func (w *watcher) Event(e plan.Event) { w.notes = append(w.notes, e.Message) }

func node(name string, ready, plane bool) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	if plane {
		n.Labels["node-role.kubernetes.io/control-plane"] = ""
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.77"}}
	return n
}

func TestScaling_takesNobodyOutWhileOthersAreOut(t *testing.T) {
	t.Parallel()
	nodes := []corev1.Node{node("cp-1", false, true), node("worker-1", false, false), node("worker-2", true, false), node("old", true, false)}
	old := inventory.Node{Name: "old", IP: "10.0.0.9"}
	for name, tt := range map[string]struct {
		yaml  string // maxUnavailable
		flag  int
		live  []inventory.Node
		dead  []inventory.Node
		wants string
	}{
		"one is out already, and one may be":     {"1", 0, []inventory.Node{old}, nil, "1 of the 2 workers that stay are out of service already (worker-1); one more would be 2, and maxUnavailable allows 1"},
		"1 % of three is one":                    {"1%", 0, []inventory.Node{old}, nil, "maxUnavailable allows 1"},
		"two may be":                             {"2", 0, []inventory.Node{old}, nil, ""},
		"two thirds of three":                    {"67%", 0, []inventory.Node{old}, nil, ""},
		"the operator allows two for once":       {"1", 2, []inventory.Node{old}, nil, ""},
		"a dead one takes nobody out of service": {"1", 0, nil, []inventory.Node{old}, ""},
		"a control plane is no worker":           {"1", 0, []inventory.Node{{Name: "cp-9", ControlPlane: true}}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := session(t, machines{})
			s.inv.Spec.Maintenance.MaxUnavailable = "1"
			if err := s.inv.Spec.Maintenance.MaxUnavailable.UnmarshalJSON([]byte(`"` + tt.yaml + `"`)); err != nil {
				t.Fatal(err)
			}
			sc := &scaling{Session: s, o: ScaleOptions{MaxUnavailable: tt.flag}, live: tt.live, dead: tt.dead}
			err := sc.disruption(nodes)
			if (err == nil) != (tt.wants == "") || err != nil && (!strings.Contains(err.Error(), tt.wants) || fault.CodeOf(err) != fault.Preflight) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Nodes that others put there stay, but those that are said to be dead; a name that
// nobody knows is a mistake.
func TestScaling_strangersStay(t *testing.T) {
	t.Parallel()
	nodes := []corev1.Node{node("cp-1", true, true), node("theirs", true, false), node("gone", false, true)}
	s := session(t, machines{})
	w := &watcher{}
	s.o.Observer = w
	sc := &scaling{Session: s, o: ScaleOptions{Dead: []string{"gone"}}}
	if err := sc.strangers(nodes); err != nil {
		t.Fatal(err)
	}
	if len(sc.dead) != 1 || sc.dead[0].Name != "gone" || !sc.dead[0].ControlPlane || sc.dead[0].IP != "10.0.0.77" || len(sc.live) != 0 {
		t.Errorf("dead: %+v, live: %+v", sc.dead, sc.live)
	}
	if !slices.ContainsFunc(w.notes, func(s string) bool { return strings.Contains(s, "not put there by kocli: theirs") }) {
		t.Errorf("notes: %q", w.notes)
	}
	for _, o := range []ScaleOptions{{Dead: []string{"nobody"}}, {Leave: []string{"theirs"}}} {
		sc := &scaling{Session: s, o: o}
		if err := sc.strangers(nodes); err == nil || fault.CodeOf(err) != fault.Usage {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestScaling_whatIsInTheYAMLIsNotDead(t *testing.T) {
	t.Parallel()
	s := remembered(t, applied("    - {name: worker-1, address: 10.0.0.4}\n"))
	if _, err := s.scaling(t.Context(), ScaleOptions{Dead: []string{"worker-1"}}); err == nil || !strings.Contains(err.Error(), "worker-1 is still in the YAML") {
		t.Errorf("%v", err)
	}
}

// A host that leaves and cannot be reached is named with the way to do without it.
func TestScaling_aHostThatLeavesAndCannotBeReached(t *testing.T) {
	t.Parallel()
	s := remembered(t, applied("    - {name: worker-1, address: 10.0.0.4}\n    - {name: old, address: 10.0.0.9}\n"))
	_, err := s.scaling(t.Context(), ScaleOptions{})
	if fault.CodeOf(err) != fault.Unreachable || fault.NodeOf(err) != "old" || !strings.Contains(fault.HintOf(err), "--dead old") {
		t.Errorf("%v; %s", err, fault.HintOf(err))
	}
}

// A host of the cluster that cannot be reached may be gone; one that was never part
// of it is only not there yet.
func TestFacts_aHostThatMayBeGone(t *testing.T) {
	t.Parallel()
	s := remembered(t, applied(""))
	_, err := s.Facts(t.Context())
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		hint := fault.HintOf(e)
		if was := fault.NodeOf(e) != "worker-1"; was != strings.Contains(hint, "kocli node remove "+fault.NodeOf(e)+" --dead") || fault.CodeOf(e) != fault.Unreachable {
			t.Errorf("%v; %q", e, hint)
		}
	}
}
