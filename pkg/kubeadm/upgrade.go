package kubeadm

import (
	"fmt"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/inventory"
)

// Upgrade returns the UpgradeConfiguration for a node, for "kubeadm upgrade apply"
// and "kubeadm upgrade node", to the version of the inventory. Images are never
// pulled: they are there already, or the bundle lacks them. It holds no secret. The
// file at KubeletPatchPath has to be there where the node has one.
func Upgrade(inv *inventory.Inventory, node inventory.Node, o NodeOptions) ([]byte, error) {
	patches, err := patchesOf(node, o)
	if err != nil {
		return nil, err
	}
	ignore := inv.Spec.Kubernetes.IgnorePreflightErrors
	t := timeouts()
	t.UpgradeManifests = &metav1.Duration{Duration: upgradeManifestsTimeout}
	return render(document{into: &v1beta4.UpgradeConfiguration{}, ours: &v1beta4.UpgradeConfiguration{
		TypeMeta: typeMeta("UpgradeConfiguration"),
		Apply:    v1beta4.UpgradeApplyConfiguration{KubernetesVersion: inv.Version(), IgnorePreflightErrors: ignore, Patches: patches, ImagePullPolicy: corev1.PullNever},
		Node:     v1beta4.UpgradeNodeConfiguration{IgnorePreflightErrors: ignore, Patches: patches, ImagePullPolicy: corev1.PullNever},
		Timeouts: t,
	}, over: inv.Spec.Kubernetes.Overrides.UpgradeConfiguration, path: overridesPath().Child("upgradeConfiguration")})
}

// imageVersion finds the version in the image of a static pod of Kubernetes.
var imageVersion = regexp.MustCompile(`(?m)^\s*(?:- )?image:\s*"?\S+/(?:kube-apiserver|kube-controller-manager|kube-scheduler):(v[0-9][^\s"@]*)`)

// ManifestVersion returns the version that the manifest of a static pod of the
// control plane has; empty where it is none of kubeadm's.
func ManifestVersion(manifest []byte) string {
	m := imageVersion.FindSubmatch(manifest)
	if m == nil {
		return ""
	}
	return string(m[1])
}

// ComponentManifests are the static pods of a control plane that have the version of
// Kubernetes, in the order in which kubeadm upgrades them.
func ComponentManifests() []string {
	return []string{APIServerManifestPath, ManifestsDir + "/kube-controller-manager.yaml", ManifestsDir + "/kube-scheduler.yaml"}
}

// VersionOf returns the version that kubeadm remembers of the cluster.
func VersionOf(clusterConfiguration string) (string, error) {
	var c v1beta4.ClusterConfiguration
	if err := yaml.Unmarshal([]byte(clusterConfiguration), &c); err != nil {
		return "", fmt.Errorf("read kubeadm's ClusterConfiguration: %w", err)
	}
	return c.KubernetesVersion, nil
}

// WithVersion returns kubeadm's ClusterConfiguration with another version, and all
// else as it is.
func WithVersion(clusterConfiguration, version string) (string, error) {
	var c map[string]any
	if err := yaml.Unmarshal([]byte(clusterConfiguration), &c); err != nil {
		return "", fmt.Errorf("read kubeadm's ClusterConfiguration: %w", err)
	}
	c["kubernetesVersion"] = version
	out, err := yaml.Marshal(c)
	return string(out), err
}
