package closure_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/workflow/closure"
)

const withAddons = "../../../examples/cluster-addons.yaml"

// lacking has add-ons in a bundle, but for these items.
func lacking(names ...string) func(*archive.Manifest, archivetest.Content) {
	return func(m *archive.Manifest, c archivetest.Content) {
		archivetest.AddAddons(m, c)
		m.Items = slices.DeleteFunc(m.Items, func(it archive.Item) bool {
			return slices.ContainsFunc(names, func(n string) bool { return strings.Contains(it.Name, n) })
		})
	}
}

func TestCheck_addonsWithTheirValues(t *testing.T) {
	for _, x := range []struct {
		name   string
		bundle func(*archive.Manifest, archivetest.Content)
		change func(*v1alpha1.ClusterSpec)
		want   string
	}{
		{"all is there", lacking(), nil, ""},
		{"no charts", nil, nil, "chart local-path-provisioner: spec.storage\nchart metrics-server: spec.addons"},
		{"a version that is not there", lacking(), func(s *v1alpha1.ClusterSpec) { s.Addons[0].Version = "9.9.9" }, "chart metrics-server 9.9.9: spec.addons"},
		{"the image of a chart", lacking("metrics-server:v0.9.0"), nil,
			"image registry.k8s.io/metrics-server/metrics-server:v0.9.0 (amd64): Deployment kube-system/metrics-server"},
		{"an image that a value asks for", lacking(), func(s *v1alpha1.ClusterSpec) { s.Addons[0].Values["picture"] = "harbor.example.com/mine:1" },
			"image harbor.example.com/mine:1 (amd64): Deployment kube-system/metrics-server"},
		{"the image that proves a volume", lacking("busybox"), nil,
			"image docker.io/library/busybox:1.37 (amd64): Pod kocli-system/kocli-volume-write; Pod kocli-system/kocli-volume-read"},
		{"one that goes asks for nothing", lacking("metrics-server"), func(s *v1alpha1.ClusterSpec) { off := false; s.Addons[0].Enabled = &off }, ""},
		{"an image of one add-on does not do for a cluster without it", lacking(), func(s *v1alpha1.ClusterSpec) {
			s.Storage = nil
			s.Addons[0].Values["picture"] = "docker.io/library/busybox:1.37"
		}, "image docker.io/library/busybox:1.37 (amd64): Deployment kube-system/metrics-server"},
	} {
		t.Run(x.name, func(t *testing.T) {
			in := input(t, withAddons, x.bundle)
			if x.change != nil {
				x.change(&in.Inventory.Spec)
			}
			r := must(closure.Check(in))(t)
			if got := lines(r.Missing); got != x.want {
				t.Errorf("got\n%s\nwant\n%s", got, x.want)
			}
			if code := fault.CodeOf(r.Refusal("b.tar", "c.yaml")); (code == fault.Bundle) != (x.want != "") {
				t.Errorf("code %d", code)
			}
		})
	}
}

// Pods that a controller makes of a text are pods too.
func TestCheck_podsInTheTextOfAConfigMap(t *testing.T) {
	chart := archivetest.Pack(map[string]string{
		"metrics-server/Chart.yaml":       "apiVersion: v2\nname: metrics-server\nversion: 3.13.1\n",
		"metrics-server/templates/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata:\n  other: \"a: [\"\n  pod.yaml: |\n    kind: Pod\n    spec: {containers: [{image: harbor.example.com/helper:1}]}\n",
	})
	in := input(t, withAddons, func(m *archive.Manifest, c archivetest.Content) {
		lacking("charts.example.test/metrics-server")(m, c)
		m.Items = append(m.Items, c.Chart("metrics-server", "3.13.1", chart))
	})
	if got := lines(must(closure.Check(in))(t).Missing); got != "image harbor.example.com/helper:1 (amd64): ConfigMap m" {
		t.Errorf("got %s", got)
	}
}
