package upgrade_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/upgrade"
)

const (
	from = "v1.36.3"
	to   = "v1.37.2"
)

// world is a cluster of one version, a control plane and a worker, and what the steps
// of an upgrade need for one of them.
type world struct {
	api   *kubetest.Cluster
	cp, w *hosttest.Machine
	inv   *inventory.Inventory
}

// kubelets is what all of them share.
const kubelets = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 110\n"

func program(name, version string) string { return "the program " + name + " " + version }

func newWorld(t *testing.T) *world {
	t.Helper()
	c, err := config.Read("test", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: `+to+`}
  hosts:
    - {name: cp-1, address: 10.0.0.1, roles: [control-plane], kubelet: {maxPods: 50}}
    - {name: w-1, address: 10.0.0.2}
`))
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	x := &world{inv: inv}
	wire := &hosttest.Wire{}
	x.api = kubetest.NewCluster(wire)
	machine := func(name string) *hosttest.Machine {
		m := hosttest.OS(hosttest.New(name))
		m.Wire = wire
		m.Install(x.api.Kubelet(), x.api.Kubeadm(), kubetest.Snapshot())
		m.OnDial(x.api.Dial)
		m.Write("/usr/bin/kubelet", 0o755, program("kubelet", from))
		m.Write("/usr/bin/kubeadm", 0o755, program("kubeadm", from))
		m.Write("/etc/systemd/system/kubelet.service", 0o644, "[Service]\n")
		m.Write(kubeadm.KubeletConfigPath, 0o644, "{}\n")
		m.Write(kube.AdminConf(), 0o600, x.api.Kubeconfig())
		return m
	}
	x.cp, x.w = machine("cp-1"), machine("w-1")
	x.w.Delete(kube.AdminConf())
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		x.cp.Write("/etc/kubernetes/manifests/"+name+".yaml", 0o600, "spec:\n  containers:\n  - name: "+name+"\n    image: registry.k8s.io/"+name+":"+from+"\n")
	}
	x.cp.Write(kubeadm.EtcdManifestPath, 0o600, "etcd")
	x.cp.Write("/etc/kubernetes/pki/ca.crt", 0o644, "CA")
	x.api.AddControlPlane("cp-1")
	x.api.AddNode("w-1")
	x.api.Watch(x.cp)
	x.api.AddCoreDNS()
	x.api.AddKubeProxy(from, "v1.14.2")
	x.api.Put("configmaps", "kube-system", "kubeadm-config", kubetest.Object{"data": kubetest.Object{"ClusterConfiguration": "kind: ClusterConfiguration\nkubernetesVersion: " + from + "\n"}})
	x.api.Put("configmaps", "kube-system", "kubelet-config", kubetest.Object{"data": kubetest.Object{"kubelet": kubelets}})
	for _, m := range []*hosttest.Machine{x.cp, x.w} {
		restart(t, m)
	}
	wire.CutBefore(0)
	return x
}

// restart has the node of a host say which kubelet it has.
func restart(t *testing.T, m *hosttest.Machine) {
	t.Helper()
	m.Write("/etc/systemd/system/kubelet.service", 0o644, "[Service]\n")
	if _, err := m.Run(t.Context(), host.Command("systemctl", "restart", "kubelet.service")); err != nil {
		t.Fatal(err)
	}
}

// options are those of a node.
func (x *world) options(m *hosttest.Machine) upgrade.Options {
	access := kube.NewAccess()
	api := kube.API{
		Look: func(ctx context.Context) (*kube.Client, error) { return access.Look(ctx, x.cp) },
		Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, x.cp) },
	}
	n, _ := x.inv.Node(m.Name())
	return upgrade.Options{
		Inventory: x.inv, Node: n, From: from, API: api, Local: api, Kocli: "/var/lib/kocli/bin/kocli", First: true,
		Components: map[string]string{"etcd": "3.7.0-0", "coredns": "v1.14.6", "pause": "3.10.2"},
		Drain:      kube.DrainOptions{Timeout: 10 * time.Second, Retry: 10 * time.Millisecond},
		Limit:      15 * time.Second, Settle: 15 * time.Second, Poll: 25 * time.Millisecond, Calm: time.Millisecond,
	}
}

// atWork has a host be where the step starts: programs of the version are there.
func (x *world) atWork(m *hosttest.Machine, names ...string) {
	for _, n := range names {
		m.Write("/usr/bin/"+n, 0o755, program(n, to))
	}
}

// upgraded brings the control plane to the version.
func (x *world) upgraded(t *testing.T) {
	t.Helper()
	x.atWork(x.cp, "kubeadm")
	if err := upgrade.ControlPlane(x.options(x.cp)).Apply(t.Context(), x.cp); err != nil {
		t.Fatal(err)
	}
	x.cp.CutBefore(0)
}

// addPod puts a pod of a Deployment on the worker, which eviction moves away.
func (x *world) addPod() {
	x.api.Put("pods", "default", "web", kubetest.Object{
		"metadata": kubetest.Object{"labels": kubetest.Object{"app": "web"}, "ownerReferences": []any{kubetest.Object{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": true}}},
		"spec":     kubetest.Object{"nodeName": "w-1"}, "status": kubetest.Object{"phase": "Running"},
	})
}

// newProgram puts the kubelet of the version on a node.
func newProgram() plan.Step {
	return converge.Files{Name: "kubernetes/binaries", List: func(context.Context, host.Reader) ([]host.File, error) {
		return []host.File{host.Bytes("/usr/bin/kubelet", 0o755, []byte(program("kubelet", to)))}, nil
	}}
}

func TestSteps_converge(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*testing.T, *world)
		step    func(*world) (plan.Step, *hosttest.Machine)
	}{
		"save on a control plane": {nil, func(x *world) (plan.Step, *hosttest.Machine) { return upgrade.Save(x.options(x.cp)), x.cp }},
		"save on a worker":        {nil, func(x *world) (plan.Step, *hosttest.Machine) { return upgrade.Save(x.options(x.w)), x.w }},
		"save after an earlier hop": {func(_ *testing.T, x *world) { x.w.Write(upgrade.SavedDir(from)+"/usr/bin/kubelet", 0o755, "old") }, func(x *world) (plan.Step, *hosttest.Machine) {
			return upgrade.Save(x.options(x.w)), x.w
		}},
		"the first control plane": {func(_ *testing.T, x *world) { x.atWork(x.cp, "kubeadm") }, func(x *world) (plan.Step, *hosttest.Machine) {
			return upgrade.ControlPlane(x.options(x.cp)), x.cp
		}},
		"a control plane that kubeadm left half-way": {func(_ *testing.T, x *world) {
			x.atWork(x.cp, "kubeadm")
			x.cp.Write(kubeadm.UpgradeConfigPath, 0o600, "")
			x.cp.Write(upgrade.SavedDir(to)+kubeadm.APIServerManifestPath, 0o600, "image: registry.k8s.io/kube-apiserver:"+from+"\n")
			x.cp.Delete(kubeadm.APIServerManifestPath)
		}, func(x *world) (plan.Step, *hosttest.Machine) { return upgrade.ControlPlane(x.options(x.cp)), x.cp }},
		"kubeadm's own plan": {func(_ *testing.T, x *world) { x.atWork(x.cp, "kubeadm") }, func(x *world) (plan.Step, *hosttest.Machine) {
			return upgrade.KubeadmPlan(x.options(x.cp)), x.cp
		}},
		"a program of a node": {func(t *testing.T, x *world) { x.upgraded(t) }, func(x *world) (plan.Step, *hosttest.Machine) {
			return upgrade.Begin(x.options(x.w), newProgram()), x.w
		}},
		"add-ons that kubeadm did not come to": {func(t *testing.T, x *world) { x.upgraded(t); x.api.AddKubeProxy(from, "v1.14.2") }, func(x *world) (plan.Step, *hosttest.Machine) {
			return upgrade.Addons(x.options(x.cp)), x.cp
		}},
		"drain": {func(t *testing.T, x *world) { x.upgraded(t); x.addPod() }, func(x *world) (plan.Step, *hosttest.Machine) {
			o := x.options(x.w)
			return upgrade.Drain(o, []plan.Step{upgrade.Kubelet(o)}), x.w
		}},
		"the kubelet of a worker": {func(t *testing.T, x *world) { x.upgraded(t); x.atWork(x.w, "kubelet", "kubeadm") }, func(x *world) (plan.Step, *hosttest.Machine) {
			return upgrade.Kubelet(x.options(x.w)), x.w
		}},
		"the kubelet of a control plane": {func(t *testing.T, x *world) { x.upgraded(t); x.atWork(x.cp, "kubelet") }, func(x *world) (plan.Step, *hosttest.Machine) {
			return upgrade.Kubelet(x.options(x.cp)), x.cp
		}},
		"uncordon": {func(t *testing.T, x *world) {
			c, err := x.options(x.w).API.Dial(t.Context())
			if err == nil {
				err = c.CordonFor(t.Context(), "w-1", "test")
			}
			if err != nil {
				t.Fatal(err)
			}
		}, func(x *world) (plan.Step, *hosttest.Machine) { return upgrade.Uncordon(x.options(x.w)), x.w }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plantest.Converges(t, func() plantest.World {
				x := newWorld(t)
				if c.prepare != nil {
					c.prepare(t, x)
				}
				s, m := c.step(x)
				return plantest.World{Step: s, Host: m, State: x.api.State, Close: x.api.Close}
			})
		})
	}
}

// kubeadm upgrade is made of many effects; a host may lose its power between any two.
func TestControlPlane_goesOnAfterAnyEffect(t *testing.T) {
	for n := 1; n <= 6; n++ {
		x := newWorld(t)
		x.atWork(x.cp, "kubeadm")
		s := upgrade.ControlPlane(x.options(x.cp))
		x.api.HaltAfter(n)
		if err := s.Apply(t.Context(), ledger.Wrap(x.cp)); err == nil {
			t.Errorf("after %d effects: no error surfaces", n)
		}
		x.cp.CutBefore(0)
		if changes, err := s.Check(t.Context(), x.cp); err != nil || len(changes) != 1 {
			t.Errorf("after %d effects: %v, %v", n, changes, err)
		}
		if err := s.Apply(t.Context(), ledger.Wrap(x.cp)); err != nil {
			t.Errorf("after %d effects, again: %v", n, err)
		}
		if changes, err := s.Check(t.Context(), x.cp); err != nil || len(changes) > 0 {
			t.Errorf("after %d effects, in the end: %v, %v", n, changes, err)
		}
		x.api.Close()
	}
}

func TestSave_keepsWhatIsReplacedReadableByRootAlone(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	if err := upgrade.Save(x.options(x.cp)).Apply(t.Context(), ledger.Wrap(x.cp)); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"/usr/bin/kubelet", "/usr/bin/kubeadm", kubeadm.APIServerManifestPath, kubeadm.EtcdManifestPath, "/etc/kubernetes/pki/ca.crt", kubeadm.KubeletConfigPath, "/etc/kubernetes/admin.conf"} {
		was, _ := x.cp.Read(f)
		if got, ok := x.cp.Read(upgrade.SavedDir(to) + f); !ok || got != was {
			t.Errorf("%s was not kept", f)
		}
	}
	info, err := x.cp.Stat(t.Context(), upgrade.SnapshotPath(to))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("snapshot: %v, %v", info, err)
	}
	if !strings.Contains(strings.Join(x.cp.Log(), "\n"), "mkdir -p -m 0700") {
		t.Errorf("the folder is open to others: %v", x.cp.Log())
	}
}

// What an earlier try left is kept where the hop was begun, and old where it was not.
func TestSave_anewWhereNothingWasBegun(t *testing.T) {
	for _, anew := range []bool{false, true} {
		x := newWorld(t)
		defer x.api.Close()
		x.w.Write(upgrade.SavedDir(to)+"/usr/bin/kubelet", 0o755, "of last week")
		o := x.options(x.w)
		o.Anew = anew
		s := upgrade.Save(o)
		for range 2 {
			if err := s.Apply(t.Context(), ledger.Wrap(x.w)); err != nil {
				t.Fatal(err)
			}
			if changes, err := s.Check(t.Context(), x.w); err != nil || len(changes) > 0 {
				t.Errorf("anew %t: %v, %v", anew, changes, err)
			}
		}
		want := map[bool]string{false: "of last week", true: program("kubelet", from)}[anew]
		if got, _ := x.w.Read(upgrade.SavedDir(to) + "/usr/bin/kubelet"); got != want {
			t.Errorf("anew %t: %q", anew, got)
		}
	}
}

func TestControlPlane_thatDoesNotBecomeHealthyIsAsBefore(t *testing.T) {
	for name, broken := range map[string]string{"kubeadm gives up": "kube-apiserver", "the scheduler": "kube-scheduler"} {
		t.Run(name, func(t *testing.T) {
			x := newWorld(t)
			defer x.api.Close()
			o := x.options(x.cp)
			o.Limit = time.Second
			if err := upgrade.Save(o).Apply(t.Context(), x.cp); err != nil {
				t.Fatal(err)
			}
			x.atWork(x.cp, "kubeadm")
			bad := true
			// The kubelet has nobody to report to, and does so a little after it is back.
			var reported atomic.Bool
			var once sync.Once
			ready := func(status string) {
				n := x.api.Get("nodes", "", "cp-1")
				n["status"].(kubetest.Object)["conditions"] = []any{kubetest.Object{"type": "Ready", "status": status}}
				x.api.Put("nodes", "", "cp-1", n)
			}
			silent := func() {
				ready("Unknown")
				time.Sleep(1500 * time.Millisecond)
				reported.Store(true)
				ready("True")
			}
			x.api.Broken = func(_, component, version string) bool {
				hit := bad && component == broken && version == to
				if hit {
					once.Do(func() { go silent() })
				}
				return hit
			}
			s := upgrade.ControlPlane(o)
			err := s.Apply(t.Context(), ledger.Wrap(x.cp))
			if !reported.Load() {
				t.Error("it is called back, and its node is not ready")
			}
			if err == nil || fault.CodeOf(err) != fault.Failure || !strings.Contains(err.Error(), "control plane cp-1 does not get to "+to+" and is back at "+from) || !strings.Contains(err.Error(), broken) || fault.HintOf(err) == "" {
				t.Fatalf("%v, hint %q", err, fault.HintOf(err))
			}
			for _, f := range kubeadm.ComponentManifests() {
				if text, _ := x.cp.Read(f); !strings.Contains(text, from) {
					t.Errorf("%s: %s", f, text)
				}
			}
			if text, _ := x.cp.Read("/usr/bin/kubeadm"); text != program("kubeadm", from) {
				t.Errorf("kubeadm is %q", text)
			}
			if _, left := x.cp.Read(kubeadm.UpgradeConfigPath); left {
				t.Error("the mark of the upgrade is still there")
			}
			if _, kept := x.cp.Read(upgrade.SavedDir(to) + "-rolled-back/usr/bin/kubeadm"); !kept {
				t.Error("what was kept is gone")
			}
			// With a good bundle the same goes through.
			bad = false
			for _, step := range []plan.Step{upgrade.Save(o), s} {
				x.atWork(x.cp, "kubeadm")
				if err := step.Apply(t.Context(), ledger.Wrap(x.cp)); err != nil {
					t.Fatal(err)
				}
			}
			if changes, err := s.Check(t.Context(), x.cp); err != nil || len(changes) > 0 {
				t.Errorf("%v, %v", changes, err)
			}
		})
	}
}

// kubeadm has uploaded what is of the new version, and then the control plane turns out to
// be ill: a kubelet that joins, or one whose settings change, is not to get that.
func TestControlPlane_thatIsRolledBackLeavesNoConfigurationOfTheNewVersion(t *testing.T) {
	for name, another := range map[string]string{"nobody has it": "", "another control plane has it": to} {
		t.Run(name, func(t *testing.T) {
			x := newWorld(t)
			defer x.api.Close()
			o := x.options(x.cp)
			o.Limit = time.Second
			if err := upgrade.Save(o).Apply(t.Context(), ledger.Wrap(x.cp)); err != nil {
				t.Fatal(err)
			}
			conf := func(name, key string) string {
				return fmt.Sprint(x.api.Get("configmaps", "kube-system", name)["data"].(kubetest.Object)[key])
			}
			if got, ok := x.cp.Read(upgrade.KubeletConfigMapPath(to)); !ok || !strings.Contains(got, "maxPods: 110") {
				t.Errorf("kept: %q", got)
			}
			x.atWork(x.cp, "kubeadm")
			if another != "" {
				x.api.AddControlPlane("cp-2")
				x.api.Put("pods", "kube-system", "kube-apiserver-cp-2", kubetest.Object{
					"metadata": kubetest.Object{"labels": kubetest.Object{"tier": "control-plane", "component": "kube-apiserver"}},
					"spec":     kubetest.Object{"nodeName": "cp-2", "containers": []any{kubetest.Object{"name": "kube-apiserver", "image": "registry.k8s.io/kube-apiserver:" + another}}},
				})
			}
			var uploaded atomic.Bool
			x.api.Broken = func(_, component, version string) bool {
				if strings.Contains(conf("kubelet-config", "kubelet"), to) {
					uploaded.Store(true)
				}
				return uploaded.Load() && component == "kube-scheduler" && version == to
			}
			err := upgrade.ControlPlane(o).Apply(t.Context(), ledger.Wrap(x.cp))
			if err == nil || !uploaded.Load() || !strings.Contains(err.Error(), "is back at "+from) {
				t.Fatalf("uploaded %t: %v", uploaded.Load(), err)
			}
			kept := another == ""
			if got := conf("kubelet-config", "kubelet"); (got == kubelets) != kept {
				t.Errorf("kubelet-config: %s", got)
			}
			if got := conf("kubeadm-config", "ClusterConfiguration"); strings.Contains(got, from) != kept {
				t.Errorf("kubeadm-config: %s", got)
			}
		})
	}
}

func TestKubelet_thatDoesNotBecomeReadyIsAsBefore(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.upgraded(t)
	o := x.options(x.w)
	o.Limit = time.Second
	k := upgrade.Kubelet(o)
	for _, s := range []plan.Step{upgrade.Save(o), upgrade.Drain(o, []plan.Step{k})} {
		x.addPod()
		if err := s.Apply(t.Context(), x.w); err != nil {
			t.Fatal(err)
		}
	}
	x.atWork(x.w, "kubelet", "kubeadm")
	x.api.Broken = func(node, component, version string) bool { return component == "kubelet" && version == to }
	err := k.Apply(t.Context(), ledger.Wrap(x.w))
	if err == nil || !strings.Contains(err.Error(), "kubelet of w-1 does not get to "+to+": its old one is back, and the node takes pods") || fault.HintOf(err) == "" {
		t.Fatalf("%v", err)
	}
	n := x.api.Get("nodes", "", "w-1")
	if text, _ := x.w.Read("/usr/bin/kubelet"); text != program("kubelet", from) || n["spec"].(kubetest.Object)["unschedulable"] == true {
		t.Errorf("kubelet %q, node %v", text, n["spec"])
	}
}

// A node that the operator cordoned is drained and upgraded, and stays cordoned.
func TestUncordon_leavesWhatTheOperatorCordoned(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.upgraded(t)
	o := x.options(x.w)
	c, err := o.API.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Cordon(t.Context(), "w-1", true); err != nil {
		t.Fatal(err)
	}
	x.addPod()
	k := upgrade.Kubelet(o)
	x.atWork(x.w, "kubelet", "kubeadm")
	for _, s := range []plan.Step{upgrade.Drain(o, []plan.Step{k}), k, upgrade.Uncordon(o)} {
		if err := s.Apply(t.Context(), x.w); err != nil {
			t.Fatal(err)
		}
	}
	if n := x.api.Get("nodes", "", "w-1"); n["spec"].(kubetest.Object)["unschedulable"] != true || x.api.Get("pods", "default", "web") != nil {
		t.Errorf("%v", n["spec"])
	}
}

// Hooks run around the work, and one that fails keeps the node from being drained, or
// from taking pods.
func TestHooks_runAroundTheWork(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.upgraded(t)
	x.addPod()
	o := x.options(x.w)
	var ran []string
	fail := true
	hook := func(name string) func(context.Context, host.Host) error {
		return func(context.Context, host.Host) error {
			n := x.api.Get("nodes", "", "w-1")
			spec, _ := n["spec"].(kubetest.Object)
			ran = append(ran, fmt.Sprint(name, " cordoned:", spec["unschedulable"] == true, " ", n["status"].(kubetest.Object)["nodeInfo"].(kubetest.Object)["kubeletVersion"]))
			if fail {
				return errors.New("not now")
			}
			return nil
		}
	}
	o.Before, o.After = hook("before"), hook("after")
	k := upgrade.Kubelet(o)
	d := upgrade.Drain(o, []plan.Step{k})
	if err := d.Apply(t.Context(), x.w); err == nil || x.api.Get("pods", "default", "web") == nil {
		t.Errorf("drained all the same: %v", err)
	}
	fail = false
	x.atWork(x.w, "kubelet", "kubeadm")
	for _, s := range []plan.Step{d, k, upgrade.Uncordon(o)} {
		if err := s.Apply(t.Context(), x.w); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(ran, "; "); got != "before cordoned:false v1.36.3; before cordoned:false v1.36.3; after cordoned:true v1.37.2" {
		t.Error(got)
	}
}

// What is done is not drained again.
func TestDrain_onlyWhereThereIsWork(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.upgraded(t)
	o := x.options(x.w)
	k := upgrade.Kubelet(o)
	x.atWork(x.w, "kubelet", "kubeadm")
	if err := k.Apply(t.Context(), x.w); err != nil {
		t.Fatal(err)
	}
	x.addPod()
	if changes, err := upgrade.Drain(o, []plan.Step{k}).Check(t.Context(), x.w); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
}

// A budget that allows nothing ends the work on the node, which takes pods again.
func TestDrain_givesTheNodeBackWhereABudgetHolds(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.upgraded(t)
	x.addPod()
	x.api.Budget = func(kubetest.Object) bool { return false }
	o := x.options(x.w)
	o.Drain.Timeout = 100 * time.Millisecond
	err := upgrade.Drain(o, []plan.Step{upgrade.Kubelet(o)}).Apply(t.Context(), x.w)
	if err == nil || !strings.Contains(err.Error(), "drain w-1") || !strings.Contains(fault.HintOf(err), "--force-after") {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
	if n := x.api.Get("nodes", "", "w-1"); n["spec"].(kubetest.Object)["unschedulable"] == true || x.api.Get("pods", "default", "web") == nil {
		t.Errorf("%v", n["spec"])
	}
}

// kubeadm does not wait for a control plane that comes back: kocli does, and asks it
// again where a node was called ready too long.
func TestControlPlane_waitsForOthersToComeBack(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.atWork(x.cp, "kubeadm")
	x.api.AddControlPlane("cp-2")
	ready := func(status string) {
		o := x.api.Get("nodes", "", "cp-2")
		o["status"] = kubetest.Object{"conditions": []any{kubetest.Object{"type": "Ready", "status": status, "message": "its API server is away"}}}
		x.api.Put("nodes", "", "cp-2", o)
	}
	runs := 0
	x.cp.Install(func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		if argv[0] != "flock" {
			return hosttest.Reply{}, false
		}
		if o := x.api.Get("nodes", "", "cp-2"); !strings.Contains(fmt.Sprint(o["status"]), "True") {
			t.Error("kubeadm was run while cp-2 was away")
		}
		if runs++; runs > 1 {
			return hosttest.Reply{}, false
		}
		ready("False")
		time.AfterFunc(200*time.Millisecond, func() { ready("True") })
		return hosttest.Reply{Stderr: "\t[ERROR ControlPlaneNodesReady]: there are NotReady control-planes in the cluster: [cp-2]\n", Code: 1}, true
	})
	ready("False")
	time.AfterFunc(200*time.Millisecond, func() { ready("True") })
	if err := upgrade.ControlPlane(x.options(x.cp)).Apply(t.Context(), x.cp); err != nil || runs != 2 {
		t.Errorf("%v, %d runs", err, runs)
	}
}

func TestControlPlane_doesNotRollBackWhatWasInterrupted(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.atWork(x.cp, "kubeadm")
	ctx, cancel := context.WithCancel(t.Context())
	x.cp.Install(func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		if argv[0] == "flock" {
			cancel()
		}
		return hosttest.Reply{}, false
	})
	err := upgrade.ControlPlane(x.options(x.cp)).Apply(ctx, x.cp)
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "is back at") {
		t.Errorf("%v", err)
	}
	if _, left := x.cp.Read(kubeadm.UpgradeConfigPath); !left {
		t.Error("nothing says that it was not finished")
	}
}

// A node that was restarted between its programs and kubeadm comes back at the version,
// and its work is not finished.
func TestKubelet_whoseHostIsRestartedInTheMiddleIsNotFinished(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.upgraded(t)
	o := x.options(x.w)
	x.atWork(x.w, "kubeadm")
	if err := upgrade.Begin(o, newProgram()).Apply(t.Context(), ledger.Wrap(x.w)); err != nil {
		t.Fatal(err)
	}
	restart(t, x.w)
	k := upgrade.Kubelet(o)
	if changes, err := k.Check(t.Context(), x.w); err != nil || len(changes) != 1 || !strings.Contains(changes[0].From, "not finished") {
		t.Errorf("%v, %v", changes, err)
	}
	if err := k.Apply(t.Context(), ledger.Wrap(x.w)); err != nil {
		t.Fatal(err)
	}
	if changes, err := k.Check(t.Context(), x.w); err != nil || len(changes) > 0 || !strings.Contains(strings.Join(x.w.Log(), "\n"), "/usr/bin/kubeadm upgrade node") {
		t.Errorf("%v, %v, %v", changes, err, x.w.Log())
	}
}

// What a node said before its kubelet was restarted says nothing of the one that was put
// back.
func TestKubelet_putBackThatDoesNotReportIsNotCalledBack(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.upgraded(t)
	o := x.options(x.w)
	o.Limit, o.Settle, o.Poll = 300*time.Millisecond, 300*time.Millisecond, 50*time.Millisecond
	k := upgrade.Kubelet(o)
	for _, s := range []plan.Step{upgrade.Save(o), upgrade.Drain(o, []plan.Step{k})} {
		if err := s.Apply(t.Context(), x.w); err != nil {
			t.Fatal(err)
		}
	}
	x.atWork(x.w, "kubelet", "kubeadm")
	x.api.Silent = func(string, string) bool { return true }
	err := k.Apply(t.Context(), ledger.Wrap(x.w))
	if err == nil || !strings.Contains(err.Error(), "its old one does not come back") || !strings.Contains(err.Error(), "has not reported since") {
		t.Fatalf("%v", err)
	}
	if n := x.api.Get("nodes", "", "w-1"); n["spec"].(kubetest.Object)["unschedulable"] != true {
		t.Error("pods are sent to a node whose kubelet does not run")
	}
}

// Another control plane that is down is no reason to take back what is well here.
func TestControlPlane_isNotRolledBackForAnother(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.atWork(x.cp, "kubeadm")
	o := x.options(x.cp)
	if err := upgrade.Save(o).Apply(t.Context(), x.cp); err != nil {
		t.Fatal(err)
	}
	x.api.AddControlPlane("cp-2")
	cp2 := x.api.Get("nodes", "", "cp-2")
	cp2["status"] = kubetest.Object{"conditions": []any{kubetest.Object{"type": "Ready", "status": "Unknown", "message": "its host is down"}}}
	x.api.Put("nodes", "", "cp-2", cp2)
	x.cp.Write(kubeadm.UpgradeConfigPath, 0o600, "")
	o.Limit, o.Poll = 200*time.Millisecond, 50*time.Millisecond
	err := upgrade.ControlPlane(o).Apply(t.Context(), ledger.Wrap(x.cp))
	if err == nil || !strings.Contains(err.Error(), "its host is down") || strings.Contains(err.Error(), "is back at") {
		t.Errorf("%v", err)
	}
	if _, there := x.cp.Read(kubeadm.UpgradeConfigPath); !there {
		t.Error("nothing says that it was not finished")
	}
}

// A kubeadm that outlived its kocli is waited for, before anything is put back, and its
// result is taken.
func TestControlPlane_joinsTheKubeadmOfAnEarlierRun(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.atWork(x.cp, "kubeadm")
	o := x.options(x.cp)
	if err := upgrade.Save(o).Apply(t.Context(), x.cp); err != nil {
		t.Fatal(err)
	}
	var starts, looks int
	again := false
	x.cp.Install(func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		switch {
		case argv[0] == "systemd-run":
			starts++
		case argv[0] == "systemctl" && argv[len(argv)-1] == kubeadmrun.Unit && starts == 1:
			looks++
			if looks == 1 && !again { // it is between two renames
				m.Delete(kubeadm.APIServerManifestPath)
			}
			if _, there := m.Read(kubeadm.APIServerManifestPath); looks < 4 && there {
				t.Error("a manifest was put back while kubeadm is at work")
			}
			if looks == 4 {
				m.Write(kubeadm.APIServerManifestPath, 0o600, "image: registry.k8s.io/kube-apiserver:"+to+"\n")
			}
			if looks < 4 {
				return hosttest.Reply{Stdout: "ActiveState=active\n"}, true
			}
		}
		return hosttest.Reply{}, false
	})
	// The first run loses its connection when kubeadm has been started.
	cut := false
	x.cp.Install(func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		if argv[0] == "systemctl" && argv[len(argv)-1] == kubeadmrun.Unit && starts == 1 && !cut {
			cut = true
			m.Cut()
		}
		return hosttest.Reply{}, false
	})
	s := upgrade.ControlPlane(o)
	if err := s.Apply(t.Context(), ledger.Wrap(x.cp)); !errors.Is(err, kubeadmrun.ErrGoesOn) {
		t.Fatalf("%v", err)
	}
	x.cp.CutBefore(0)
	looks, again = 0, true
	if err := s.Apply(t.Context(), ledger.Wrap(x.cp)); err != nil || starts != 1 {
		t.Errorf("%v, %d starts", err, starts)
	}
	if changes, err := s.Check(t.Context(), x.cp); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
}

// What kubeadm itself says against it ends the hop while all is as it was.
func TestKubeadmPlan_refusesWithNothingChanged(t *testing.T) {
	for _, ignored := range []bool{false, true} {
		x := newWorld(t)
		defer x.api.Close()
		o := x.options(x.cp)
		if err := upgrade.Save(o).Apply(t.Context(), x.cp); err != nil {
			t.Fatal(err)
		}
		x.atWork(x.cp, "kubeadm")
		x.api.Plan = "[preflight] Some fatal errors occurred:\n\t[ERROR CoreDNSUnsupportedPlugins]: there are unsupported plugins in the CoreDNS Corefile\n"
		said := ""
		o.PlanSaid = func(text string) error {
			said = text
			if ignored {
				return nil
			}
			return fault.New(fault.Preflight, "mend it", errors.New(text))
		}
		s := upgrade.KubeadmPlan(o)
		if _, err := upgrade.Uncordon(o).Check(t.Context(), x.cp); err != nil { // it asks the API, whose kubelets report then
			t.Fatal(err)
		}
		before := x.api.State()
		err := s.Apply(t.Context(), ledger.Wrap(x.cp))
		if (err == nil) != ignored || !ignored && fault.CodeOf(err) != fault.Preflight || !strings.Contains(said, "CoreDNSUnsupportedPlugins") {
			t.Errorf("ignored %t: %v, %q", ignored, err, said)
		}
		want := map[bool]string{false: program("kubeadm", from), true: program("kubeadm", to)}[ignored]
		if text, _ := x.cp.Read("/usr/bin/kubeadm"); text != want || x.api.State() != before {
			t.Errorf("ignored %t: kubeadm is %q", ignored, text)
		}
		if changes, err := s.Check(t.Context(), x.cp); err != nil || (len(changes) == 0) != ignored {
			t.Errorf("ignored %t: %v, %v", ignored, changes, err)
		}
	}
}

// A pod that tolerates everything comes back to a node that takes no pods.
func TestDrain_ofAPodThatComesBack(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.upgraded(t)
	o := x.options(x.w)
	s := upgrade.Drain(o, []plan.Step{upgrade.Kubelet(o)})
	if err := s.Apply(t.Context(), x.w); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		toleration kubetest.Object
		todo       int
	}{
		"everything":     {kubetest.Object{"operator": "Exists"}, 0},
		"cordons":        {kubetest.Object{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}, 0},
		"something else": {kubetest.Object{"key": "gpu", "operator": "Exists"}, 1},
	} {
		x.api.Put("pods", "default", "agent", kubetest.Object{
			"metadata": kubetest.Object{"ownerReferences": []any{kubetest.Object{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "agent", "uid": "u", "controller": true}}},
			"spec":     kubetest.Object{"nodeName": "w-1", "tolerations": []any{c.toleration}}, "status": kubetest.Object{"phase": "Running"},
		})
		if changes, err := s.Check(t.Context(), x.w); err != nil || len(changes) != c.todo {
			t.Errorf("%s: %v, %v", name, changes, err)
		}
	}
}

// Volumes that stay do not end an upgrade of a node whose pods have left.
func TestDrain_goesOnWithVolumesThatStay(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.upgraded(t)
	x.addPod()
	x.api.Put("volumeattachments", "", "csi-1", kubetest.Object{"spec": kubetest.Object{"nodeName": "w-1", "attacher": "x", "source": kubetest.Object{}}})
	o := x.options(x.w)
	o.Limit = 100 * time.Millisecond
	if err := upgrade.Drain(o, []plan.Step{upgrade.Kubelet(o)}).Apply(t.Context(), x.w); err != nil {
		t.Errorf("%v", err)
	}
	if n := x.api.Get("nodes", "", "w-1"); n["spec"].(kubetest.Object)["unschedulable"] != true {
		t.Error("the node takes pods")
	}
}

// A pod that was ill before is not held against the kubelet; one that falls ill is.
func TestKubelet_isNotToBlameForWhatWasIllBefore(t *testing.T) {
	for _, before := range []bool{true, false} {
		x := newWorld(t)
		defer x.api.Close()
		x.upgraded(t)
		ill := func() {
			x.api.Put("pods", "kube-system", "agent-w-1", kubetest.Object{
				"metadata": kubetest.Object{"ownerReferences": []any{kubetest.Object{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "u", "controller": true}}},
				"spec":     kubetest.Object{"nodeName": "w-1"}, "status": kubetest.Object{"phase": "Running", "conditions": []any{kubetest.Object{"type": "Ready", "status": "False"}}},
			})
		}
		if before {
			ill()
		} else {
			x.w.Install(func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
				if strings.Join(argv, " ") == "systemctl restart kubelet.service" {
					ill()
				}
				return hosttest.Reply{}, false
			})
		}
		o := x.options(x.w)
		o.Limit, o.Poll = time.Second, 50*time.Millisecond
		x.atWork(x.w, "kubelet", "kubeadm")
		err := upgrade.Kubelet(o).Apply(t.Context(), ledger.Wrap(x.w))
		if (err == nil) != before || !before && !strings.Contains(err.Error(), "pod kube-system/agent-w-1") {
			t.Errorf("ill before %t: %v", before, err)
		}
	}
}

// Where kubeadm was not even started there is nothing to put back.
func TestControlPlane_thatSystemdDoesNotStartIsLeftAsItIs(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.atWork(x.cp, "kubeadm")
	o := x.options(x.cp)
	if err := upgrade.Save(o).Apply(t.Context(), x.cp); err != nil {
		t.Fatal(err)
	}
	fails := true
	x.cp.Install(func(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		return hosttest.Reply{Stderr: "no room\n", Code: 1}, fails && argv[0] == "systemd-run"
	})
	s := upgrade.ControlPlane(o)
	if err := s.Apply(t.Context(), ledger.Wrap(x.cp)); err == nil || !strings.Contains(err.Error(), "no room") || strings.Contains(err.Error(), "is back at") {
		t.Errorf("%v", err)
	}
	if _, kept := x.cp.Read(upgrade.SavedDir(to) + "/usr/bin/kubeadm"); !kept {
		t.Error("what was kept was set aside")
	}
	fails = false
	if err := s.Apply(t.Context(), ledger.Wrap(x.cp)); err != nil {
		t.Error(err)
	}
}

// A kubelet of another minor reports first, and starts all static pods anew then.
func TestKubelet_waitsForStaticPodsThatAreStartedAnew(t *testing.T) {
	x := newWorld(t)
	defer x.api.Close()
	x.upgraded(t)
	x.atWork(x.cp, "kubelet", "kubeadm")
	o := x.options(x.cp)
	o.Calm = 500 * time.Millisecond
	var down, again atomic.Bool
	x.api.Broken = func(_, component, _ string) bool { return down.Load() && component == "kube-scheduler" }
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c, _ := o.API.Look(t.Context()); ; time.Sleep(time.Millisecond) {
			if n, err := c.Node(t.Context(), "cp-1"); err != nil || n.Status.NodeInfo.KubeletVersion == to {
				break
			}
		}
		time.Sleep(100 * time.Millisecond)
		down.Store(true)
		time.Sleep(600 * time.Millisecond)
		again.Store(true)
		down.Store(false)
	}()
	err := upgrade.Kubelet(o).Apply(t.Context(), ledger.Wrap(x.cp))
	if err != nil || !again.Load() {
		t.Errorf("%v; static pods are back: %t", err, again.Load())
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the kubelet was not seen at its version")
	}
}

// A node that hears nothing of pods that move sends requests to where they were.
func TestDrain_waitsUntilNodesHaveNoticedThatTheVirtualIPMoved(t *testing.T) {
	for mode, waits := range map[v1alpha1.EndpointMode]bool{v1alpha1.EndpointVIP: true, v1alpha1.EndpointExternal: false} {
		x := newWorld(t)
		defer x.api.Close()
		x.inv.Spec.ControlPlane.Endpoint.Mode = mode
		o := x.options(x.w)
		o.Deaf = 3 * time.Second
		x.api.Put("pods", "kube-system", "kocli-keepalived-cp-1", kubetest.Object{
			"metadata": kubetest.Object{"annotations": kubetest.Object{corev1.MirrorPodAnnotationKey: "x"}},
			"status": kubetest.Object{"containerStatuses": []any{kubetest.Object{
				"name": "keepalived", "state": kubetest.Object{"running": kubetest.Object{"startedAt": time.Now().UTC().Format(time.RFC3339)}},
			}}},
		})
		start := time.Now()
		if err := upgrade.Drain(o, []plan.Step{upgrade.Kubelet(o)}).Apply(t.Context(), ledger.Wrap(x.w)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > time.Second != waits {
			t.Errorf("%s: it began after %s", mode, took)
		}
	}
}
