package kubeadm

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubeproxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
)

// maxPods is the kubelet's own limit, which a small node network lowers.
const maxPods = 110

// The kubelet's shutdown: pods get the first part, critical ones the rest.
const (
	shutdownGrace         = 60 * time.Second
	shutdownGraceCritical = 15 * time.Second
)

func newKubelet() *kubeletv1beta1.KubeletConfiguration {
	return &kubeletv1beta1.KubeletConfiguration{}
}

func newKubeProxy() *kubeproxyv1alpha1.KubeProxyConfiguration {
	return &kubeproxyv1alpha1.KubeProxyConfiguration{}
}

// componentConfigs are the kubelet's and kube-proxy's documents of a cluster.
func componentConfigs(inv *inventory.Inventory) []document {
	over, at := inv.Spec.Kubernetes.Overrides, overridesPath()
	return []document{
		{newKubelet(), kubelet(inv), over.Kubelet, at.Child("kubelet")},
		{newKubeProxy(), kubeProxy(inv), over.KubeProxy, at.Child("kubeProxy")},
	}
}

// kubelet is the configuration that all nodes share. What it leaves out is
// kubeadm's or the kubelet's default: client authentication through the API,
// no anonymous access, rotated client certificates, image garbage collection
// between 80 and 85 percent.
func kubelet(inv *inventory.Inventory) *kubeletv1beta1.KubeletConfiguration {
	serialize, parallel, logFiles, pids := false, int32(5), int32(5), int64(4096)
	return &kubeletv1beta1.KubeletConfiguration{
		TypeMeta: metav1.TypeMeta{
			APIVersion: kubeletv1beta1.SchemeGroupVersion.String(), Kind: "KubeletConfiguration",
		},
		CgroupDriver:       string(inv.Spec.Runtime.Containerd.CgroupDriver),
		ClusterDNS:         []string{inv.ServiceDNSIP()},
		ClusterDomain:      inv.Spec.Network.DNSDomain,
		RotateCertificates: true,
		TLSMinVersion:      "VersionTLS12",
		MaxPods:            podsPerNode(inv.Spec.Network.NodeCIDRMaskSize),
		PodPidsLimit:       &pids, // one pod's fork bomb is not the node's
		// Without reservations, pods take what sshd, containerd and the kubelet
		// live on, and the node is lost.
		SystemReserved: map[string]string{"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "1Gi"},
		KubeReserved:   map[string]string{"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "1Gi"},
		EvictionHard: map[string]string{
			"memory.available": "200Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%",
			"imagefs.available": "15%", "imagefs.inodesFree": "5%",
		},
		ShutdownGracePeriod:             metav1.Duration{Duration: shutdownGrace},
		ShutdownGracePeriodCriticalPods: metav1.Duration{Duration: shutdownGraceCritical},
		SerializeImagePulls:             &serialize,
		MaxParallelImagePulls:           &parallel,
		ContainerLogMaxSize:             "50Mi",
		ContainerLogMaxFiles:            &logFiles,
	}
}

// podsPerNode is the kubelet's limit, or what the node's network has room for
// beside its own address, its bridge and the broadcast address.
func podsPerNode(mask int) int32 {
	if room := int32(1)<<(32-mask) - 3; room < maxPods {
		return room
	}
	return maxPods
}

func kubeProxy(inv *inventory.Inventory) *kubeproxyv1alpha1.KubeProxyConfiguration {
	return &kubeproxyv1alpha1.KubeProxyConfiguration{
		TypeMeta: metav1.TypeMeta{
			APIVersion: kubeproxyv1alpha1.SchemeGroupVersion.String(), Kind: "KubeProxyConfiguration",
		},
		Mode:        kubeproxyv1alpha1.ProxyMode(inv.Spec.Network.ProxyMode),
		ClusterCIDR: inv.Spec.Network.PodCIDR,
	}
}

// KubeletPatch returns the content of KubeletPatchPath: what this node's
// kubelet has different from the cluster's KubeletConfiguration. Nil where it
// has nothing; Init and Join then name no patches directory. The null of an
// override stays null: the merge patch removes the field.
func KubeletPatch(node inventory.Node, o NodeOptions) ([]byte, error) {
	if faults := strict(node.KubeletOverride, newKubelet(), field.NewPath("kubelet")); len(faults) > 0 {
		return nil, faults.ToAggregate()
	}
	patch := node.KubeletOverride.DeepCopy()
	if patch == nil {
		patch = v1alpha1.Object{}
	}
	if _, set := patch["resolvConf"]; !set && o.ResolvConf != "" {
		patch["resolvConf"] = o.ResolvConf
	}
	if len(patch) == 0 {
		return nil, nil
	}
	return yaml.Marshal(patch)
}

func patchesOf(node inventory.Node, o NodeOptions) (*v1beta4.Patches, error) {
	patch, err := KubeletPatch(node, o)
	if patch == nil || err != nil {
		return nil, err
	}
	return &v1beta4.Patches{Directory: PatchesDir}, nil
}
