package closure_test

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/workflow/closure"
)

const (
	single = "../../../examples/cluster-single.yaml"
	three  = "../../../examples/cluster-three-hosts.yaml"
)

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// input is an example with the sample bundle.
func input(t *testing.T, example string, change func(*archive.Manifest, archivetest.Content)) closure.Input {
	t.Helper()
	m, c := archivetest.Sample()
	if change != nil {
		change(m, c)
	}
	var b bytes.Buffer
	if _, _, err := archive.Write(&b, m, c.Open); err != nil {
		t.Fatal(err)
	}
	return closure.Input{
		Inventory: must(inventory.New(must(config.Load(example))(t)))(t),
		Bundle:    must(archive.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len())))(t),
		Catalogue: must(catalogue.Embedded())(t),
		Addons:    must(catalogue.EmbeddedAddons())(t),
	}
}

// without removes items from a bundle by name and architecture.
func without(arch string, names ...string) func(*archive.Manifest, archivetest.Content) {
	return func(m *archive.Manifest, _ archivetest.Content) {
		m.Items = slices.DeleteFunc(m.Items, func(it archive.Item) bool {
			return it.Arch == arch && slices.ContainsFunc(names, func(n string) bool { return it.Name == n || strings.HasPrefix(it.Name, n+":") })
		})
	}
}

// both gives the sample arm64, and removes some of that again.
func both(names ...string) func(*archive.Manifest, archivetest.Content) {
	return func(m *archive.Manifest, c archivetest.Content) {
		archivetest.AddArch(m, c, "arm64")
		without("arm64", names...)(m, c)
	}
}

func lines(all []closure.Missing) string {
	var out []string
	for _, m := range all {
		out = append(out, m.String())
	}
	return strings.Join(out, "\n")
}

func TestCheck_everyExampleIsClosedOverTheSample(t *testing.T) {
	files := must(filepath.Glob("../../../examples/cluster-*.yaml"))(t)
	if len(files) < 3 {
		t.Fatal("the examples were not found")
	}
	for _, f := range files {
		if filepath.Base(f) == "cluster-addons.yaml" {
			continue // the sample has no charts: see charts_test.go
		}
		for name, change := range map[string]func(*archive.Manifest, archivetest.Content){"amd64": nil, "both": both()} {
			t.Run(filepath.Base(f)+" "+name, func(t *testing.T) {
				r := must(closure.Check(input(t, f, change)))(t)
				if len(r.Missing) > 0 || len(r.Mirrored) > 0 {
					t.Errorf("missing:\n%s\nmirrored:\n%s", lines(r.Missing), lines(r.Mirrored))
				}
				want := 27
				switch filepath.Base(f) {
				case "cluster-local.yaml":
					want++ // haproxy
				case "cluster-external-etcd.yaml": // haproxy, and no etcd
				case "cluster-vip.yaml":
					want += 2 // and keepalived
				}
				if name == "both" {
					want *= 2
				}
				if r.Asked != want {
					t.Errorf("%d references were asked for, want %d", r.Asked, want)
				}
				if err := r.Refusal("b", "c"); err != nil {
					t.Errorf("refused: %v", err)
				}
			})
		}
	}
}

// Who brings an etcd needs no image of it.
func TestCheck_anExternalEtcdNeedsNoImage(t *testing.T) {
	const etcd = "registry.k8s.io/etcd"
	if r := must(closure.Check(input(t, "../../../examples/cluster-external-etcd.yaml", without("amd64", etcd))))(t); len(r.Missing) > 0 {
		t.Errorf("missing:\n%s", lines(r.Missing))
	}
	if r := must(closure.Check(input(t, "../../../examples/cluster-local.yaml", without("amd64", etcd))))(t); len(r.Missing) != 1 {
		t.Errorf("missing where etcd is on the control planes:\n%s", lines(r.Missing))
	}
}

func TestCheck_namesWhatIsMissingAndWhoAsks(t *testing.T) {
	set := func(f func(*v1alpha1.ClusterSpec)) func(*closure.Input) {
		return func(in *closure.Input) { f(&in.Inventory.Spec) }
	}
	overridden := func(o v1alpha1.Object) func(*closure.Input) {
		return set(func(s *v1alpha1.ClusterSpec) { s.Kubernetes.Overrides.ClusterConfiguration = o })
	}
	for _, x := range []struct {
		name, example string
		bundle        func(*archive.Manifest, archivetest.Content)
		change        func(*closure.Input)
		want          string
	}{
		{"one image", three, without("amd64", "registry.k8s.io/etcd"), nil,
			"image registry.k8s.io/etcd:3.6.8-0 (amd64): static pod etcd on control planes"},
		{"an image that several ask for", single, without("amd64", "registry.k8s.io/pause"), nil,
			"image registry.k8s.io/pause:3.10.2 (amd64): sandbox of pods; DaemonSet kocli-system/netcheck; containerd's configuration"},
		{"an image of a manifest", single, without("amd64", "ghcr.io/flannel-io/flannel-cni-plugin"), nil,
			"image ghcr.io/flannel-io/flannel-cni-plugin:v1.6.2-flannel1 (amd64): DaemonSet kube-flannel/flannel"},
		{"the images of a virtual IP", "../../../examples/cluster-vip.yaml", without("amd64", "docker.io/library/haproxy", "docker.io/osixia/keepalived"), nil,
			"image docker.io/library/haproxy:2.8.10 (amd64): Pod kube-system/kocli-haproxy\nimage docker.io/osixia/keepalived:2.0.20 (amd64): Pod kube-system/kocli-keepalived"},
		{"the image of a load balancer on every node, workers too", "../../../examples/cluster-local.yaml", without("amd64", "docker.io/library/haproxy"), func(in *closure.Input) {
			in.Hosts = []closure.Host{{Arch: "amd64"}}
		}, "image docker.io/library/haproxy:2.8.10 (amd64): Pod kube-system/kocli-haproxy"},
		{"no image of a load balancer that is not asked for", three, without("amd64", "docker.io/library/haproxy", "docker.io/osixia/keepalived"), nil, ""},
		{"an image of one architecture", three, both("registry.k8s.io/kube-proxy"), nil,
			"image registry.k8s.io/kube-proxy:v1.36.3 (arm64): DaemonSet kube-system/kube-proxy"},
		{"an image that workers do not get", three, func(m *archive.Manifest, _ archivetest.Content) {
			for i := range m.Items {
				if strings.HasPrefix(m.Items[i].Name, "registry.k8s.io/kube-proxy") {
					m.Items[i].Role = archive.RoleControlPlane
				}
			}
		}, nil, "image registry.k8s.io/kube-proxy:v1.36.3 (amd64): DaemonSet kube-system/kube-proxy"},
		{"kocli for arm64", three, both("kocli"), nil,
			"kocli kocli (arm64): every host, for what kocli does there"},
		{"no kocli is asked for where the running one fits", three, both("kocli"), func(in *closure.Input) { in.Kocli = "arm64" }, ""},
		{"programs of both roles", three, without("amd64", "kubectl", "portmap"), nil,
			"binary kubectl v1.36.3 (amd64): control planes\nbinary portmap (amd64): flannel's CNI configuration"},
		{"an OS package", single, without("amd64", "nftables"), nil,
			"package nftables (amd64): hosts with debian 12"},
		{"no OS package where none is installed", single, without("amd64", "nftables"),
			set(func(s *v1alpha1.ClusterSpec) { no := false; s.OS.InstallPackages = &no }), ""},
		{"no OS package of a distribution that the bundle does not know", single, without("amd64", "nftables"), func(in *closure.Input) {
			in.Hosts = []closure.Host{{Arch: "amd64", ControlPlane: true, Distribution: "ubuntu", Release: "24.04"}}
		}, ""},
		{"only what the hosts are", three, both("registry.k8s.io/etcd", "registry.k8s.io/pause"), func(in *closure.Input) {
			in.Hosts = []closure.Host{{Arch: "amd64", ControlPlane: true}, {Arch: "arm64"}, {Arch: "arm64"}}
		}, "image registry.k8s.io/pause:3.10.2 (arm64): sandbox of pods; DaemonSet kocli-system/netcheck; containerd's configuration"},
		{"a registry that is not in the bundle", single, nil, overridden(v1alpha1.Object{"dns": map[string]any{"imageRepository": "harbor.example.com/dns"}}),
			"image harbor.example.com/dns/coredns:v1.14.2 (amd64): Deployment kube-system/coredns"},
		{"a tag that is not in the bundle", single, nil, overridden(v1alpha1.Object{"etcd": map[string]any{"local": map[string]any{"imageTag": "3.5.1-0"}}}),
			"image registry.k8s.io/etcd:3.5.1-0 (amd64): static pod etcd on control planes"},
		{"a short name is of Docker's registry", single, nil, overridden(v1alpha1.Object{"dns": map[string]any{"imageRepository": "mine"}}),
			"image docker.io/mine/coredns:v1.14.2 (amd64): Deployment kube-system/coredns"},
		{"a sandbox that is not in the bundle", single, nil, set(func(s *v1alpha1.ClusterSpec) {
			s.Runtime.Containerd.Overrides = v1alpha1.Object{"plugins": map[string]any{"io.containerd.cri.v1.images": map[string]any{"pinned_images": map[string]any{"sandbox": "harbor.example.com/pause:1"}}}}
		}), "image harbor.example.com/pause:1 (amd64): containerd's configuration"},
		{"a CNI that the bundle was not built for", single, func(m *archive.Manifest, c archivetest.Content) {
			without("amd64", "ghcr.io/flannel-io/flannel", "ghcr.io/flannel-io/flannel-cni-plugin")(m, c)
			m.CNI = nil
		}, nil, "image ghcr.io/flannel-io/flannel-cni-plugin:v1.6.2-flannel1 (amd64): DaemonSet kube-flannel/flannel\n" +
			"image ghcr.io/flannel-io/flannel:v0.26.7 (amd64): DaemonSet kube-flannel/flannel"},
		{"no CNI asks for nothing", single, without("amd64", "ghcr.io/flannel-io/flannel", "ghcr.io/flannel-io/flannel-cni-plugin", "portmap"),
			set(func(s *v1alpha1.ClusterSpec) { s.Network.CNI = v1alpha1.CNI{Name: v1alpha1.CNINone} }), ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			in := input(t, x.example, x.bundle)
			if x.change != nil {
				x.change(&in)
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

func TestCheck_aVersionThatIsNotInTheBundle(t *testing.T) {
	in := input(t, single, nil)
	in.Inventory.Spec.Kubernetes.Version = "v1.37.2"
	r := must(closure.Check(in))(t)
	if got := r.Missing[0].String(); got != "release Kubernetes v1.37.2: spec.kubernetes.version" {
		t.Errorf("first: %s", got)
	}
	all := lines(r.Missing)
	for _, want := range []string{
		"image registry.k8s.io/kube-apiserver:v1.37.2 (amd64)", "image registry.k8s.io/etcd:3.7.0-0 (amd64)", "binary kubelet v1.37.2 (amd64)",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%s is not listed:\n%s", want, all)
		}
	}
	err := r.Refusal("b.tar", "c.yaml")
	if fault.CodeOf(err) != fault.Bundle || !strings.Contains(fault.HintOf(err), "kocli bundle verify b.tar --closure c.yaml") ||
		!strings.Contains(fault.HintOf(err), "kocli bundle build") || !strings.Contains(err.Error(), "the first is release Kubernetes v1.37.2") {
		t.Errorf("%v (hint: %s)", err, fault.HintOf(err))
	}
}

// What a mirror of the cluster YAML serves is told apart, and not refused.
func TestCheck_mirrorsServeWhatTheBundleLacks(t *testing.T) {
	in := input(t, single, nil)
	in.Inventory.Spec.Kubernetes.Overrides.ClusterConfiguration = v1alpha1.Object{"dns": map[string]any{"imageRepository": "harbor.example.com/dns"}}
	in.Inventory.Spec.Runtime.Containerd.Mirrors = map[string]v1alpha1.Mirror{"harbor.example.com": {Endpoints: []string{"https://harbor.example.com"}}}
	r := must(closure.Check(in))(t)
	if len(r.Missing) > 0 || lines(r.Mirrored) != "image harbor.example.com/dns/coredns:v1.14.2 (amd64): Deployment kube-system/coredns" {
		t.Errorf("missing %q, mirrored %q", lines(r.Missing), lines(r.Mirrored))
	}
}

// A bundle of a kocli that knows more versions brings its own list.
func TestCheck_aReleaseThatTheCatalogueDoesNotKnow(t *testing.T) {
	in := input(t, single, func(m *archive.Manifest, c archivetest.Content) {
		newer, content := archivetest.Release("v1.36.99")
		*m = *newer
		for d, data := range content {
			c[d] = data
		}
	})
	in.Inventory.Spec.Kubernetes.Version = "v1.36.99"
	if r := must(closure.Check(in))(t); len(r.Missing) > 0 {
		t.Errorf("missing:\n%s", lines(r.Missing))
	}
}
