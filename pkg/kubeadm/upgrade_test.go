package kubeadm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
)

func TestUpgrade_neverPullsAndKeepsWhatIsIgnored(t *testing.T) {
	c, err := config.Read("test", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: c}
spec:
  kubernetes: {version: v1.36.3, ignorePreflightErrors: [SystemVerification]}
  hosts: [{name: a, address: 10.0.0.1, roles: [control-plane], kubelet: {maxPods: 50}}, {name: b, address: 10.0.0.2}]
`))
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	for i, patches := range []string{kubeadm.PatchesDir, ""} {
		raw, err := kubeadm.Upgrade(inv.At("v1.37.2"), inv.Nodes[i], kubeadm.NodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var u v1beta4.UpgradeConfiguration
		if err := yaml.UnmarshalStrict(raw, &u); err != nil {
			t.Fatal(err)
		}
		if u.Apply.KubernetesVersion != "v1.37.2" || u.Apply.ImagePullPolicy != "Never" || u.Node.ImagePullPolicy != "Never" ||
			len(u.Apply.IgnorePreflightErrors) != 1 || len(u.Node.IgnorePreflightErrors) != 1 {
			t.Errorf("%s", raw)
		}
		if (u.Node.Patches == nil) != (patches == "") || patches != "" && (u.Node.Patches.Directory != patches || u.Apply.Patches.Directory != patches) {
			t.Errorf("patches of %s: %s", inv.Nodes[i].Name, raw)
		}
		validate(t, raw)
	}
	if inv.Version() != "v1.36.3" {
		t.Errorf("the inventory itself changed: %s", inv.Version())
	}
}

// validate has the kubeadms that there are on this machine judge a configuration.
func validate(t *testing.T, config []byte) {
	t.Helper()
	cache := os.Getenv("KOCLI_CACHE")
	if home, err := os.UserHomeDir(); cache == "" && err == nil {
		cache = filepath.Join(home, ".cache", "kocli")
	}
	found, _ := filepath.Glob(filepath.Join(cache, "upstream", "kubernetes", "*", "kubeadm"))
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kubeadm := range found {
		if out, err := exec.Command(kubeadm, "config", "validate", "--config", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s\n%s", kubeadm, err, out, config)
		}
	}
	t.Logf("judged by %v", found)
}

func TestManifestVersion(t *testing.T) {
	for text, want := range map[string]string{
		"spec:\n  containers:\n    image: registry.k8s.io/kube-apiserver:v1.36.3\n":                       "v1.36.3",
		"  - image: \"h.example:5000/k8s/kube-scheduler:v1.37.2\"\n":                                      "v1.37.2",
		"    image: registry.k8s.io/kube-controller-manager:v1.37.2@sha256:0123\n":                        "v1.37.2",
		"    image: registry.k8s.io/etcd:3.6.8-0\n":                                                       "",
		"  - command: [kube-apiserver, --x=image: registry.k8s.io/kube-apiserver:v1.0.0]\n    image: a:b": "",
	} {
		if got := kubeadm.ManifestVersion([]byte(text)); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestWithVersion_changesNothingElse(t *testing.T) {
	const was = "apiServer:\n  certSANs:\n  - a\nkind: ClusterConfiguration\nkubernetesVersion: v1.37.2\n"
	got, err := kubeadm.WithVersion(was, "v1.36.3")
	if err != nil || got != strings.Replace(was, "v1.37.2", "v1.36.3", 1) {
		t.Errorf("%v\n%s", err, got)
	}
	if v, err := kubeadm.VersionOf(got); err != nil || v != "v1.36.3" {
		t.Errorf("%s, %v", v, err)
	}
}
