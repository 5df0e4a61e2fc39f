package kubeadm_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
)

// catalogued returns the components that the catalogue has for a version.
func catalogued(t *testing.T, version string) map[string]string {
	t.Helper()
	c, err := catalogue.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Release(version, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r.Components
}

func refs(t *testing.T, inv *inventory.Inventory, components map[string]string) []string {
	t.Helper()
	all, err := kubeadm.Images(inv, components)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, im := range all {
		out = append(out, im.Ref)
	}
	return out
}

func TestImages_followVersionAndOverrides(t *testing.T) {
	for _, x := range []struct {
		name, version string
		over          v1alpha1.Object
		has, lacks    string
	}{
		{"kubeadm's own constants for its own minor", "v1.37.2", nil,
			"registry.k8s.io/kube-apiserver:v1.37.2 registry.k8s.io/etcd:3.7.0-0 registry.k8s.io/coredns/coredns:v1.14.6 registry.k8s.io/pause:3.10.2", ":v1.36"},
		{"the catalogue for another minor", "v1.36.3", nil,
			"registry.k8s.io/kube-proxy:v1.36.3 registry.k8s.io/etcd:3.6.8-0 registry.k8s.io/coredns/coredns:v1.14.2 registry.k8s.io/pause:3.10.2", ":v1.37"},
		{"a tag of etcd that is set", "v1.36.3", v1alpha1.Object{"etcd": map[string]any{"local": map[string]any{"imageTag": "3.6.9-0"}}},
			"registry.k8s.io/etcd:3.6.9-0", "3.6.8-0"},
		{"a repository and tag of DNS that are set", "v1.37.2", v1alpha1.Object{"dns": map[string]any{"imageRepository": "harbor.example.com/dns", "imageTag": "v9"}},
			"harbor.example.com/dns/coredns:v9", "coredns/coredns"},
		{"another repository for all", "v1.36.3", v1alpha1.Object{"imageRepository": "harbor.example.com/k8s"},
			"harbor.example.com/k8s/kube-scheduler:v1.36.3 harbor.example.com/k8s/coredns:v1.14.2 harbor.example.com/k8s/pause:3.10.2", "registry.k8s.io"},
		{"no kube-proxy and no DNS where they are disabled", "v1.36.3", v1alpha1.Object{"proxy": map[string]any{"disabled": true}, "dns": map[string]any{"disabled": true}},
			"registry.k8s.io/kube-scheduler:v1.36.3", "coredns kube-proxy"},
		{"no etcd where it is elsewhere", "v1.36.3", v1alpha1.Object{"etcd": map[string]any{"local": nil, "external": map[string]any{"endpoints": []any{"https://etcd:2379"}}}},
			"registry.k8s.io/kube-scheduler:v1.36.3", "/etcd:"},
	} {
		t.Run(x.name, func(t *testing.T) {
			inv := *load(t, "../../examples/cluster-single.yaml")
			inv.Spec.Kubernetes.Version, inv.Spec.Kubernetes.Overrides.ClusterConfiguration = x.version, x.over
			got := refs(t, &inv, catalogued(t, x.version))
			for _, w := range strings.Fields(x.has) {
				if !slices.Contains(got, w) {
					t.Errorf("%s is not there: %v", w, got)
				}
			}
			for _, w := range strings.Fields(x.lacks) {
				if strings.Contains(strings.Join(got, " "), w) {
					t.Errorf("%s is there: %v", w, got)
				}
			}
		})
	}
}

// What kubeadm of the linked minor would run is what the catalogue brings for it.
func TestImages_ofTheLinkedMinorAreThoseOfTheCatalogue(t *testing.T) {
	inv := *load(t, "../../examples/cluster-single.yaml")
	inv.Spec.Kubernetes.Version = "v1.37.2"
	own, brought := refs(t, &inv, nil), catalogued(t, "v1.37.2")
	for repo, tag := range map[string]string{"registry.k8s.io/etcd": brought["etcd"], "registry.k8s.io/coredns/coredns": brought["coredns"], "registry.k8s.io/pause": brought["pause"]} {
		if !slices.Contains(own, repo+":"+tag) {
			t.Errorf("the catalogue has %s:%s, kubeadm wants %v", repo, tag, own)
		}
	}
}
