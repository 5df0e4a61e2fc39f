package kubeadm

import (
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	bootstraptokenv1 "k8s.io/kubernetes/cmd/kubeadm/app/apis/bootstraptoken/v1"
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
)

// TokenTTL is how long a bootstrap token of kubeadm init is valid.
const TokenTTL = 2 * time.Hour

// The time that kubeadm waits. Its defaults are for quick machines; a wait
// that ends too early leaves half a control plane.
const (
	controlPlaneTimeout = 8 * time.Minute
	etcdTimeout         = 4 * time.Minute
)

// upgradeManifestsTimeout is how long kubeadm gives each static pod to be replaced in
// an upgrade, before it puts the old ones back.
const upgradeManifestsTimeout = 5 * time.Minute

// The time that kubeadm waits in a join for what is there at once where nothing
// is wrong: a join that hangs ends in minutes, and is looked into. A worker waits
// for nothing but the API; the kubelet of a control plane waits for the API
// server beside it, which kubeadm's own five minutes are for.
const (
	discoveryTimeout    = 2 * time.Minute
	kubeletTimeout      = 3 * time.Minute
	tlsBootstrapTimeout = 2 * time.Minute
)

// controlPlaneTaint keeps ordinary pods off control planes.
const controlPlaneTaint = "node-role.kubernetes.io/control-plane"

// NodeOptions is what is known about a node only when its host was looked at.
type NodeOptions struct {
	// ResolvConf is the file that the kubelet gives to pods with the host's DNS
	// policy, CoreDNS among them. Empty: the kubelet's default, which must then
	// not lead to a loopback stub.
	ResolvConf string
	// CRISocket of containerd. Empty: CRISocket.
	CRISocket string
}

// InitOptions is what kubeadm init needs beside the inventory.
type InitOptions struct {
	NodeOptions
	// Token is the bootstrap token (kube.NewToken), valid for TokenTTL.
	Token string
	// CertificateKey encrypts the uploaded certificates (NewCertificateKey).
	// Empty where no control plane will join.
	CertificateKey string
}

// JoinOptions is what kubeadm join needs beside the inventory.
type JoinOptions struct {
	NodeOptions
	// Token is a valid bootstrap token.
	Token string
	// CertificateKey decrypts the uploaded certificates; for control planes.
	CertificateKey string
}

// Init returns the configuration of kubeadm init on node, in four documents:
// InitConfiguration, ClusterConfiguration, KubeletConfiguration and
// KubeProxyConfiguration. It contains the token. The files at AuditPolicyPath,
// EncryptionConfigPath and KubeletPatchPath have to be there as far as they
// are used.
func Init(inv *inventory.Inventory, node inventory.Node, o InitOptions) ([]byte, error) {
	ic, err := initConfiguration(inv, node, o)
	if err != nil {
		return nil, err
	}
	over := inv.Spec.Kubernetes.Overrides
	at := overridesPath()
	docs := []document{{&v1beta4.InitConfiguration{}, ic, over.InitConfiguration, at.Child("initConfiguration")}, clusterDocument(inv)}
	return render(append(docs, componentConfigs(inv)...)...)
}

// ClusterConfig returns the documents of Init that do not depend on a node and
// hold no secret: what is compared and uploaded when settings change.
func ClusterConfig(inv *inventory.Inventory) ([]byte, error) {
	return render(append([]document{clusterDocument(inv)}, componentConfigs(inv)...)...)
}

func clusterDocument(inv *inventory.Inventory) document {
	return document{&v1beta4.ClusterConfiguration{}, clusterConfiguration(inv),
		inv.Spec.Kubernetes.Overrides.ClusterConfiguration, overridesPath().Child("clusterConfiguration")}
}

// Discovery returns the content of DiscoveryPath: the API's address and CA. A
// node that gets them over SSH trusts nothing that it was told over the network,
// and need not wait for the cluster to sign a token, which takes ten seconds
// after kubeadm init.
func Discovery(inv *inventory.Inventory, ca []byte) ([]byte, error) {
	if len(ca) == 0 {
		return nil, errors.New("discovery needs the cluster's CA")
	}
	return yaml.Marshal(clientcmdv1.Config{
		APIVersion: "v1", Kind: "Config", CurrentContext: inv.Name,
		Clusters: []clientcmdv1.NamedCluster{{Name: inv.Name, Cluster: clientcmdv1.Cluster{Server: "https://" + inv.Endpoint(), CertificateAuthorityData: ca}}},
		// The user is empty: the token of JoinConfiguration fills it in.
		AuthInfos: []clientcmdv1.NamedAuthInfo{{Name: "joining"}},
		Contexts:  []clientcmdv1.NamedContext{{Name: inv.Name, Context: clientcmdv1.Context{Cluster: inv.Name, AuthInfo: "joining"}}},
	})
}

// Join returns the JoinConfiguration of node, as a control plane where it has
// that role. It contains the token. Discovery has to be at DiscoveryPath.
func Join(inv *inventory.Inventory, node inventory.Node, o JoinOptions) ([]byte, error) {
	if o.Token == "" {
		return nil, errors.New("join needs a bootstrap token")
	}
	patches, err := patchesOf(node, o.NodeOptions)
	if err != nil {
		return nil, err
	}
	jc := &v1beta4.JoinConfiguration{
		TypeMeta: typeMeta("JoinConfiguration"),
		Discovery: v1beta4.Discovery{
			File: &v1beta4.FileDiscovery{KubeConfigPath: DiscoveryPath}, TLSBootstrapToken: o.Token,
		},
		NodeRegistration: registration(inv, node, o.NodeOptions),
		Patches:          patches,
		Timeouts:         joinTimeouts(node),
	}
	if node.ControlPlane {
		jc.ControlPlane = &v1beta4.JoinControlPlane{
			LocalAPIEndpoint: localEndpoint(node), CertificateKey: o.CertificateKey,
		}
	}
	return render(document{&v1beta4.JoinConfiguration{}, jc,
		inv.Spec.Kubernetes.Overrides.JoinConfiguration, overridesPath().Child("joinConfiguration")})
}

func initConfiguration(inv *inventory.Inventory, node inventory.Node, o InitOptions) (*v1beta4.InitConfiguration, error) {
	token, err := bootstraptokenv1.NewBootstrapTokenString(o.Token)
	if err != nil {
		return nil, errors.New("the bootstrap token has the wrong form") // never shown
	}
	patches, err := patchesOf(node, o.NodeOptions)
	if err != nil {
		return nil, err
	}
	return &v1beta4.InitConfiguration{
		TypeMeta: typeMeta("InitConfiguration"),
		BootstrapTokens: []bootstraptokenv1.BootstrapToken{{
			Token: token, TTL: &metav1.Duration{Duration: TokenTTL}, Description: "kocli create",
			Usages: []string{"signing", "authentication"},
			Groups: []string{"system:bootstrappers:kubeadm:default-node-token"},
		}},
		NodeRegistration: registration(inv, node, o.NodeOptions),
		LocalAPIEndpoint: localEndpoint(node),
		CertificateKey:   o.CertificateKey,
		Patches:          patches,
		Timeouts:         timeouts(),
	}, nil
}

// registration is how the node registers itself. Its taints are there from the
// first moment on, so that no pod is placed before them.
func registration(inv *inventory.Inventory, node inventory.Node, o NodeOptions) v1beta4.NodeRegistrationOptions {
	socket := o.CRISocket
	if socket == "" {
		socket = CRISocket
	}
	return v1beta4.NodeRegistrationOptions{
		Name:                  node.Name,
		CRISocket:             socket,
		Taints:                Taints(node),
		KubeletExtraArgs:      []v1beta4.Arg{{Name: "node-ip", Value: node.IP}},
		IgnorePreflightErrors: inv.Spec.Kubernetes.IgnorePreflightErrors,
		ImagePullPolicy:       corev1.PullNever, // images are there already, or the bundle lacks them
	}
}

// Taints returns all taints of a node: those of its roles and the user's own.
// It is never nil, which to kubeadm would mean the default.
func Taints(node inventory.Node) []corev1.Taint {
	taints := []corev1.Taint{}
	if node.ControlPlane && !node.Worker {
		taints = append(taints, corev1.Taint{Key: controlPlaneTaint, Effect: corev1.TaintEffectNoSchedule})
	}
	for _, t := range node.Taints {
		if t.Key == controlPlaneTaint && node.ControlPlane && !node.Worker && t.Effect == string(corev1.TaintEffectNoSchedule) {
			continue
		}
		taints = append(taints, corev1.Taint{Key: t.Key, Value: t.Value, Effect: corev1.TaintEffect(t.Effect)})
	}
	return taints
}

func localEndpoint(node inventory.Node) v1beta4.APIEndpoint {
	return v1beta4.APIEndpoint{AdvertiseAddress: node.IP, BindPort: inventory.APIServerPort}
}

func timeouts() *v1beta4.Timeouts {
	return &v1beta4.Timeouts{
		ControlPlaneComponentHealthCheck: &metav1.Duration{Duration: controlPlaneTimeout},
		EtcdAPICall:                      &metav1.Duration{Duration: etcdTimeout},
	}
}

func joinTimeouts(node inventory.Node) *v1beta4.Timeouts {
	t := timeouts()
	t.Discovery = &metav1.Duration{Duration: discoveryTimeout}
	t.KubeletHealthCheck = &metav1.Duration{Duration: kubeletTimeout}
	if !node.ControlPlane {
		t.TLSBootstrap = &metav1.Duration{Duration: tlsBootstrapTimeout}
	}
	return t
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1beta4.SchemeGroupVersion.String(), Kind: kind}
}

func overridesPath() *field.Path { return field.NewPath("spec", "kubernetes", "overrides") }

// ValidateOverrides reports the fields of overrides that do not exist in their
// types, or have the wrong form. It is a config.Validator.
func ValidateOverrides(c *v1alpha1.Cluster) field.ErrorList {
	o, at := c.Spec.Kubernetes.Overrides, overridesPath()
	var all field.ErrorList
	for _, d := range []struct {
		into any
		over v1alpha1.Object
		path *field.Path
	}{
		{&v1beta4.ClusterConfiguration{}, o.ClusterConfiguration, at.Child("clusterConfiguration")},
		{&v1beta4.InitConfiguration{}, o.InitConfiguration, at.Child("initConfiguration")},
		{&v1beta4.JoinConfiguration{}, o.JoinConfiguration, at.Child("joinConfiguration")},
		{newKubelet(), o.Kubelet, at.Child("kubelet")},
		{newKubeProxy(), o.KubeProxy, at.Child("kubeProxy")},
		{newAuditPolicy(), c.Spec.Kubernetes.Audit.Policy, field.NewPath("spec", "kubernetes", "audit", "policy")},
	} {
		all = append(all, strict(d.over, d.into, d.path)...)
	}
	for i, h := range c.Spec.Hosts {
		all = append(all, strict(h.Kubelet, newKubelet(), field.NewPath("spec", "hosts").Index(i).Child("kubelet"))...)
	}
	return all
}
