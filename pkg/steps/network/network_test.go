package network_test

import (
	"context"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/manifests"
	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/render"
	"github.com/kocli/kocli/pkg/steps/network"
)

func bundle(t *testing.T) payload.Payload {
	t.Helper()
	b, err := archive.Open(archivetest.Write(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return payload.For(b, payload.Target{Kubernetes: archivetest.Kubernetes, Arch: archivetest.Arch, ControlPlane: true, CNI: "flannel"})
}

func cluster() *inventory.Inventory {
	return &inventory.Inventory{
		Name: "c",
		Spec: v1alpha1.ClusterSpec{Network: v1alpha1.Network{PodCIDR: "10.244.0.0/16", ServiceCIDR: "10.96.0.0/12", DNSDomain: "cluster.local"}},
		Nodes: []inventory.Node{
			{Name: "cp-1", IP: "10.0.0.1", ControlPlane: true}, {Name: "worker-1", IP: "10.0.0.2", Worker: true},
		},
	}
}

// running is a machine behind which a cluster of two nodes runs.
func running() (*hosttest.Machine, *kubetest.Cluster, kube.API) {
	m := hosttest.OS(hosttest.New("cp-1"))
	c := kubetest.NewCluster(m.Wire)
	m.OnDial(c.Dial)
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	c.AddNode("cp-1")
	c.AddNode("worker-1")
	c.AddCoreDNS()
	access := kube.NewAccess()
	return m, c, kube.API{
		Look: func(ctx context.Context) (*kube.Client, error) { return access.Look(ctx, m) },
		Dial: func(ctx context.Context) (*kube.Client, error) { return access.Dial(ctx, m) },
	}
}

func converges(t *testing.T, step func(api kube.API) plan.Step) {
	t.Helper()
	plantest.Converges(t, func() plantest.World {
		m, c, api := running()
		return plantest.World{Step: step(api), Host: m, State: c.State, Close: c.Close}
	})
}

func TestFlannel_converges(t *testing.T) {
	p := bundle(t)
	converges(t, func(api kube.API) plan.Step {
		s, err := network.Flannel(cluster(), p, api)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestCorefile_converges(t *testing.T) {
	for name, upstream := range map[string][]string{"no upstream": nil, "two servers": {"10.0.0.53", "10.0.1.53:5353"}} {
		t.Run(name, func(t *testing.T) {
			converges(t, func(api kube.API) plan.Step { return network.Corefile(upstream, true, api) })
		})
	}
}

func TestVerify_converges(t *testing.T) {
	p := bundle(t)
	converges(t, func(api kube.API) plan.Step {
		s, err := network.Verify(cluster(), p, api)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestVerify_aLostHostIsNotAFirewall(t *testing.T) {
	m, c, api := running()
	defer c.Close()
	s, err := network.Verify(cluster(), bundle(t), api)
	if err != nil {
		t.Fatal(err)
	}
	m.CutBefore(1)
	if err := s.Apply(t.Context(), m); fault.CodeOf(err) != fault.Unreachable {
		t.Errorf("got %v, code %d", err, fault.CodeOf(err))
	}
}

// A kubelet that evicts pods goes on until somebody frees its disk: kocli says so at
// once, and does not wait until its time is over.
func TestVerify_namesTheNodeThatEvictsItsPods(t *testing.T) {
	m, c, api := running()
	defer c.Close()
	c.Put("nodes", "", "worker-1", kubetest.Object{"status": kubetest.Object{"conditions": []any{
		kubetest.Object{"type": "Ready", "status": "True"},
		kubetest.Object{"type": "DiskPressure", "status": "True", "message": "kubelet has disk pressure"},
	}}})
	s, err := network.Verify(cluster(), bundle(t), api)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Apply(t.Context(), m)
	if err == nil || !strings.Contains(err.Error(), "worker-1: DiskPressure (kubelet has disk pressure)") || !strings.Contains(fault.HintOf(err), "evictionHard") {
		t.Errorf("%v", err)
	}
}

// A node that is down and not in the YAML, as a restored cluster may have, is in nobody's
// way: nothing is to be proved of it.
func TestVerify_doesNotWaitForNodesThatTheYAMLDoesNotName(t *testing.T) {
	m, c, api := running()
	defer c.Close()
	c.Put("nodes", "", "gone-1", kubetest.Object{"status": kubetest.Object{"conditions": []any{
		kubetest.Object{"type": "Ready", "status": "Unknown"},
	}}})
	s, err := network.Verify(cluster(), bundle(t), api)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.Apply(ctx, m); err != nil {
		t.Error(err)
	}
}

func TestVerify_isDoneAgainForANewNode(t *testing.T) {
	m, c, api := running()
	defer c.Close()
	inv := cluster()
	p := bundle(t)
	verify := func() plan.Step {
		s, err := network.Verify(inv, p, api)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if err := verify().Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if changes, err := verify().Check(t.Context(), m); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
	inv.Nodes = append(inv.Nodes, inventory.Node{Name: "worker-2", IP: "10.0.0.3"})
	if changes, err := verify().Check(t.Context(), m); err != nil || len(changes) != 1 || changes[0].After != "worker/join" {
		t.Errorf("a node of the YAML that is not there: %v, %v", changes, err)
	}
	c.AddNode("worker-2")
	if changes, err := verify().Check(t.Context(), m); err != nil || len(changes) != 1 || !strings.Contains(changes[0].String(), "not proved") {
		t.Errorf("a node that has joined since: %v, %v", changes, err)
	}
	if len(c.List("daemonsets", network.Namespace)) > 0 {
		t.Error("the check's own pods were left")
	}
}

// A node that left takes nothing away from what was proved of the others.
func TestVerify_aNodeThatLeftProvesNothingAnew(t *testing.T) {
	m, c, api := running()
	defer c.Close()
	c.AddNode("worker-9")
	step, err := network.Verify(cluster(), bundle(t), api)
	if err != nil {
		t.Fatal(err)
	}
	if err := step.Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	c.Drop("nodes", "", "worker-9")
	if changes, err := step.Check(t.Context(), m); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
}

func TestSteps_beforeThereIsACluster(t *testing.T) {
	none := kube.API{
		Look: func(context.Context) (*kube.Client, error) { return nil, kube.ErrNoCluster },
		Dial: func(context.Context) (*kube.Client, error) { return nil, kube.ErrNoCluster },
	}
	p := bundle(t)
	f, err1 := network.Flannel(cluster(), p, none)
	v, err2 := network.Verify(cluster(), p, none)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	for _, s := range []plan.Step{f, v, network.Corefile(nil, true, none)} {
		changes, err := s.Check(t.Context(), hosttest.New("cp-1"))
		if err != nil || len(changes) == 0 || changes[0].After == "" {
			t.Errorf("%s: %v, %v", s.ID(), changes, err)
		}
	}
	if changes, err := network.Corefile(nil, false, none).Check(t.Context(), hosttest.New("cp-1")); err != nil || len(changes) > 0 {
		t.Errorf("a Corefile that needs no edit: %v, %v", changes, err)
	}
}

// strictly decodes every document into the Kubernetes type it says it is, and
// returns the images it names.
func strictly(t *testing.T, manifest []byte) []string {
	t.Helper()
	objs, err := kube.Decode(manifest)
	if err != nil {
		t.Fatal(err)
	}
	var images []string
	for _, o := range objs {
		types := map[string]runtime.Object{
			"Namespace": &corev1.Namespace{}, "ServiceAccount": &corev1.ServiceAccount{}, "ConfigMap": &corev1.ConfigMap{}, "Service": &corev1.Service{},
			"ClusterRole": &rbacv1.ClusterRole{}, "ClusterRoleBinding": &rbacv1.ClusterRoleBinding{}, "DaemonSet": &appsv1.DaemonSet{},
		}
		into, ok := types[o.GetKind()]
		if !ok {
			t.Errorf("unexpected %s", kube.Title(o))
			continue
		}
		raw, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(raw, into); err != nil {
			t.Errorf("%s: %v", kube.Title(o), err)
		}
		if ds, ok := into.(*appsv1.DaemonSet); ok {
			if ds.APIVersion != "apps/v1" || ds.Spec.Selector.MatchLabels["app.kubernetes.io/name"] != ds.Spec.Template.Labels["app.kubernetes.io/name"] {
				t.Errorf("%s does not select its own pods", kube.Title(o))
			}
			for _, c := range append(ds.Spec.Template.Spec.InitContainers, ds.Spec.Template.Spec.Containers...) {
				images = append(images, c.Image)
				if c.ImagePullPolicy != corev1.PullIfNotPresent && c.ImagePullPolicy != corev1.PullNever {
					t.Errorf("%s pulls its image: %s", c.Name, c.ImagePullPolicy)
				}
			}
		}
	}
	return images
}

func TestManifests_parseStrictlyAndNameOnlyTheBundlesImages(t *testing.T) {
	p := bundle(t)
	inBundle := map[string]bool{}
	for _, im := range p.Images() {
		inBundle[im.Ref] = true
	}
	var all [][]byte
	for _, f := range []*v1alpha1.Flannel{nil, {MTU: 1400}, {MTU: 1400, Backend: v1alpha1.FlannelHostGW}} {
		inv := cluster()
		inv.Spec.Network.CNI.Flannel = f
		if f != nil {
			inv.Spec.Network.ProxyMode = v1alpha1.ProxyNFTables
		}
		m, err := network.FlannelManifest(inv, p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	pause, err := p.Image("pause")
	if err != nil {
		t.Fatal(err)
	}
	m, err := render.File(manifests.FS, "netcheck.yaml", map[string]string{"PauseImage": pause, "BinDir": network.BinDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range append(all, m) {
		images := strictly(t, m)
		if len(images) == 0 {
			t.Error("no image")
		}
		for _, im := range images {
			if !inBundle[im] {
				t.Errorf("image %s is not in the bundle", im)
			}
		}
	}
}

// flannel's own configuration is JSON inside of YAML.
func TestFlannelManifest_configuration(t *testing.T) {
	p := bundle(t)
	digests := map[string]bool{}
	for _, c := range []struct {
		flannel *v1alpha1.Flannel
		want    map[string]any
	}{
		{nil, map[string]any{"Type": "vxlan"}},
		{&v1alpha1.Flannel{MTU: 1400}, map[string]any{"Type": "vxlan", "MTU": 1400.0}},
		{&v1alpha1.Flannel{MTU: 1400, Backend: v1alpha1.FlannelHostGW}, map[string]any{"Type": "host-gw"}},
	} {
		inv := cluster()
		inv.Spec.Network.CNI.Flannel = c.flannel
		manifest, err := network.FlannelManifest(inv, p)
		if err != nil {
			t.Fatal(err)
		}
		objs, err := kube.Decode(manifest)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objs {
			switch o.GetKind() {
			case "ConfigMap":
				data := o.Object["data"].(map[string]any)
				var netConf, cniConf map[string]any
				if err := yaml.UnmarshalStrict([]byte(data["net-conf.json"].(string)), &netConf); err != nil {
					t.Fatal(err)
				}
				if err := yaml.UnmarshalStrict([]byte(data["cni-conf.json"].(string)), &cniConf); err != nil {
					t.Fatal(err)
				}
				backend := netConf["Backend"].(map[string]any)
				for k, v := range c.want {
					if backend[k] != v {
						t.Errorf("%s is %v, want %v", k, backend[k], v)
					}
				}
				if netConf["Network"] != "10.244.0.0/16" {
					t.Errorf("network is %v", netConf["Network"])
				}
			case "DaemonSet":
				notes := o.Object["spec"].(map[string]any)["template"].(map[string]any)["metadata"].(map[string]any)["annotations"].(map[string]any)
				digests[notes["kocli.io/config"].(string)] = true
			}
		}
	}
	if len(digests) != 3 {
		t.Errorf("pods would not restart for every change of the configuration: %v", digests)
	}
}
