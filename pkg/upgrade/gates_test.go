package upgrade_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/upgrade"
)

var now = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func state(t *testing.T, kubernetes string) upgrade.State {
	t.Helper()
	c, err := config.Read("test", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: v1.37.2`+kubernetes+`}
  hosts: [{name: cp-1, address: 10.0.0.1, roles: [control-plane]}, {name: w-1, address: 10.0.0.2, kubelet: {featureGates: {KubeletInUserNamespace: true}}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	table, err := upgrade.Table()
	if err != nil {
		t.Fatal(err)
	}
	return upgrade.State{Hop: upgrade.Hop{From: "v1.36.3", To: "v1.37.2"}, Inventory: inv, Removals: table, Now: now}
}

func TestGates(t *testing.T) {
	begun := func(s *upgrade.State) { s.Hop.Begun = true }
	member := func(m ...upgrade.Member) func(*upgrade.State) { return func(s *upgrade.State) { s.Etcd = m } }
	all := func(fs ...func(*upgrade.State)) func(*upgrade.State) {
		return func(s *upgrade.State) {
			for _, f := range fs {
				f(s)
			}
		}
	}
	node := func(n upgrade.Node) func(*upgrade.State) {
		return func(s *upgrade.State) { s.Nodes = append(s.Nodes, n) }
	}
	cert := func(ca bool, in time.Duration) func(*upgrade.State) {
		return func(s *upgrade.State) {
			s.Certificates = []upgrade.Certificate{{Node: "cp-1", Path: "/etc/kubernetes/pki/x.crt", CA: ca, Expires: now.Add(in)}}
		}
	}
	kubelet := func(flags ...string) func(*upgrade.State) {
		return func(s *upgrade.State) { s.KubeletFlags = map[string][]string{"w-1": flags} }
	}
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		yaml  string
		with  func(*upgrade.State)
		check string // empty: nothing is found
		level preflight.Level
		text  string
	}{
		"all is well":                              {"", all(node(upgrade.Node{Name: "cp-1", Listed: true, Ready: true, Kubelet: "v1.36.3"}), member(upgrade.Member{Name: "cp-1", Size: 1, Quota: 10}), cert(true, 400*day)), "", "", ""},
		"a node that is not ready":                 {"", node(upgrade.Node{Name: "w-1", Reason: "kubelet stopped"}), "nodes-ready", preflight.Error, "kubelet stopped"},
		"a node that an interrupted upgrade left":  {"", all(begun, node(upgrade.Node{Name: "w-1", Reason: "kubelet stopped"})), "nodes-ready", preflight.Warning, "interrupted"},
		"a member of etcd that is ill":             {"", member(upgrade.Member{Name: "cp-1", Err: "it knows no leader"}), "etcd-healthy", preflight.Error, "no leader"},
		"a member that was worked on, with quorum": {"", all(begun, member(upgrade.Member{Name: "a", Err: "refused"}, upgrade.Member{Name: "b"}, upgrade.Member{Name: "c"})), "etcd-healthy", preflight.Warning, "refused"},
		"two members that are ill, while begun":    {"", all(begun, member(upgrade.Member{Name: "a", Err: "refused"}, upgrade.Member{Name: "b", Err: "refused"}, upgrade.Member{Name: "c"})), "etcd-healthy", preflight.Error, "refused"},
		"etcd nearly full":                         {"", member(upgrade.Member{Name: "cp-1", Size: 900 << 20, Quota: 1024 << 20}), "etcd-healthy", preflight.Error, "900 MiB of the 1024 MiB"},
		"etcd with an unknown quota":               {"", member(upgrade.Member{Name: "cp-1", Size: 900 << 20}), "", "", ""},
		"an expired certificate":                   {"", cert(false, -day), "certificates-valid", preflight.Error, "expired on 2026-10-31"},
		"a certificate that kubeadm renews":        {"", cert(false, day), "", "", ""},
		"a CA that expires":                        {"", cert(true, 10*day), "certificates-valid", preflight.Error, "does not renew it"},
		"a stranger that gets too old":             {"", node(upgrade.Node{Name: "x", Ready: true, Kubelet: "v1.33.1"}), "version-skew", preflight.Error, "4 minors older"},
		"a stranger that stays behind":             {"", node(upgrade.Node{Name: "x", Ready: true, Kubelet: "v1.35.1"}), "version-skew", preflight.Warning, "stays at v1.35.1"},
		"an API that goes is asked for": {"", func(s *upgrade.State) {
			s.Deprecated = []upgrade.Request{{"networking.k8s.io/v1beta1 ipaddresses", "1.37"}}
		}, "removed-apis", preflight.Error, "Kubernetes 1.37 does not serve"},
		"an API that goes later is asked for": {"", func(s *upgrade.State) { s.Deprecated = []upgrade.Request{{"resource.k8s.io/v1beta1 x", "1.38"}} }, "", "", ""},
		"objects written through one that goes": {"", func(s *upgrade.State) {
			s.Written = []upgrade.Written{{API: "x/v1beta1 y", Removed: "1.37", Objects: []string{"a"}, Count: 3}}
		}, "removed-apis", preflight.Warning, "3 objects"},
		"a Helm release of an API that goes": {"", func(s *upgrade.State) {
			s.Written = []upgrade.Written{{API: "x/v1beta1 y", Removed: "1.37", Objects: []string{"a"}, Count: 1, Release: "d/shop"}}
		}, "removed-apis", preflight.Warning, "the Helm release d/shop holds a of x/v1beta1 y"},
		"a budget that allows nothing": {"", func(s *upgrade.State) {
			s.Held = []upgrade.Held{{"w-1", "pod d/web is held by PodDisruptionBudget web"}}
		}, "disruption-budgets", preflight.Error, "pod d/web is held"},
		"a budget, after another hop":                {"", func(s *upgrade.State) { s.Held, s.Moved = []upgrade.Held{{"w-1", "pod x"}}, true }, "disruption-budgets", preflight.Warning, "pod x"},
		"a budget, and force":                        {"", func(s *upgrade.State) { s.Held, s.Forced = []upgrade.Held{{"w-1", "pod x"}}, true }, "disruption-budgets", preflight.Warning, "pod x"},
		"a gate of the kubelet that went":            {", overrides: {kubelet: {featureGates: {SidecarContainers: true}}}", nil, "feature-gates", preflight.Error, "SidecarContainers, which Kubernetes 1.37"},
		"a gate of the API server that went before":  {`, apiServer: {extraArgs: {feature-gates: "A=true,TopologyAwareHints=false"}}`, nil, "feature-gates", preflight.Error, "spec.kubernetes.apiServer.extraArgs names the feature gate TopologyAwareHints"},
		"a flag of the controller manager that went": {`, controllerManager: {extraArgs: {concurrent-service-syncs: "2"}}`, nil, "removed-flags", preflight.Error, "spec.kubernetes.controllerManager.extraArgs has --concurrent-service-syncs, which kube-controller-manager of Kubernetes 1.37"},
		"a flag of the API server of that name":      {`, apiServer: {extraArgs: {concurrent-service-syncs: "2"}}`, nil, "", "", ""},
		"a flag of a kubelet that went":              {"", kubelet("node-ip", "log-cadvisor-usage"), "removed-flags", preflight.Error, "its kubelet is started with --log-cadvisor-usage, which Kubernetes 1.37"},
		"flags of a kubelet that are known":          {"", kubelet("node-ip"), "", "", ""},
		"a gate that is still known":                 {", overrides: {kubelet: {featureGates: {KubeletInUserNamespace: true}}}", nil, "", "", ""},
		"what kubeadm says":                          {"", func(s *upgrade.State) { s.Plan = "[ERROR CoreDNSMigration]: no" }, "kubeadm-plan", preflight.Error, "CoreDNSMigration"},
		"a node that an operator cordoned":           {"", node(upgrade.Node{Name: "w-1", Listed: true, Ready: true, Cordoned: true, Kubelet: "v1.36.3"}), "nodes-ready", preflight.Warning, "stays so"},
		"a node that an upgrade cordoned":            {"", node(upgrade.Node{Name: "w-1", Listed: true, Ready: true, Cordoned: true, Ours: true, Kubelet: "v1.36.3"}), "", "", ""},
		"a pod that stands alone":                    {"", func(s *upgrade.State) { s.Bare = []string{"default/debug on w-1"} }, "bare-pods", preflight.Warning, "default/debug on w-1"},
		"what cannot be looked at":                   {"", func(s *upgrade.State) { s.Unknown = map[string]error{"certificates-valid": errors.New("damaged")} }, "certificates-valid", preflight.Error, "cannot be judged: damaged"},
		"versions that do not fit":                   {"", func(s *upgrade.State) { s.Conflict = errors.New("etcd 3.4 and kubernetes v1.37.2") }, "components-fit", preflight.Error, "etcd 3.4"},
	} {
		t.Run(name, func(t *testing.T) {
			s := state(t, c.yaml)
			if c.with != nil {
				c.with(&s)
			}
			got := upgrade.Judge(s, nil)
			if c.check == "" {
				if len(got) > 0 {
					t.Errorf("%+v", got)
				}
				return
			}
			i := slices.IndexFunc(got, func(f preflight.Finding) bool { return f.Check == c.check })
			if i < 0 || got[i].Level != c.level || !strings.Contains(got[i].Message, c.text) || got[i].Level == preflight.Error && got[i].Fix == "" {
				t.Errorf("%+v", got)
			}
			for _, f := range upgrade.Judge(s, []string{c.check}) {
				if f.Level == preflight.Error {
					t.Errorf("ignored, and still: %+v", f)
				}
			}
		})
	}
}

func TestGates_namesAreUniqueAndOthersThanThoseOfPreflight(t *testing.T) {
	seen := preflight.Names()
	for _, g := range upgrade.Gates() {
		if slices.Contains(seen, g.Name) || !strings.HasSuffix(g.Doc, ".") {
			t.Errorf("%s: %s", g.Name, g.Doc)
		}
		seen = append(seen, g.Name)
	}
}

func TestTable_between(t *testing.T) {
	table, err := upgrade.Table()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range table.Between("v1.36.3", "v1.37.2") {
		got = append(got, a.GroupVersion())
	}
	if want := "certificates.k8s.io/v1alpha1 networking.k8s.io/v1beta1 scheduling.k8s.io/v1alpha2 storage.k8s.io/v1beta1"; strings.Join(got, " ") != want {
		t.Errorf("%v", got)
	}
	if n := len(table.Between("v1.37.1", "v1.37.2")); n > 0 {
		t.Errorf("a patch release takes %d APIs away", n)
	}
}
