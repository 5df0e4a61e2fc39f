package v1alpha1

// Kubernetes is the version of Kubernetes and how its components run.
type Kubernetes struct {
	// Version to install, such as v1.36.3. The bundle has to contain it.
	Version string `json:"version"`
	// The API server.
	APIServer APIServer `json:"apiServer,omitempty,omitzero"`
	// The controller manager.
	ControllerManager Component `json:"controllerManager,omitempty,omitzero"`
	// The scheduler.
	Scheduler Component `json:"scheduler,omitempty,omitzero"`
	// The etcd member on every control plane.
	Etcd Component `json:"etcd,omitempty,omitzero"`
	// Encryption of what is stored in etcd.
	Encryption Encryption `json:"encryption,omitempty,omitzero"`
	// The audit log of the API server.
	Audit Audit `json:"audit,omitempty,omitzero"`
	// Names of kubeadm's own preflight checks to take as warnings, for example
	// "NumCPU" or "SystemVerification". kocli's checks are under spec.preflight.
	IgnorePreflightErrors []string `json:"ignorePreflightErrors,omitempty"`
	// Fields of Kubernetes' own configuration types, merged last.
	Overrides Overrides `json:"overrides,omitempty,omitzero"`
}

// APIServer configures the API server.
type APIServer struct {
	// Further host names and IP addresses for the serving certificate. Those of
	// the control planes and of the endpoint are always there.
	CertSANs []string `json:"certSANs,omitempty"`
	// Flags of kube-apiserver without the leading dashes, and their values as strings.
	ExtraArgs map[string]string `json:"extraArgs,omitempty"`
}

// Component configures a component of the control plane.
type Component struct {
	// Flags of the component without the leading dashes, and their values as strings.
	ExtraArgs map[string]string `json:"extraArgs,omitempty"`
}

// Encryption of what is stored in etcd.
type Encryption struct {
	// Encrypt Secrets at rest with a random key that stays on the control
	// planes and in kocli's local state. Default: false.
	Secrets bool `json:"secrets,omitempty"`
}

// Audit configures the audit log, written to /var/log/kubernetes/audit on the
// control planes.
type Audit struct {
	// Write an audit log. Default: false.
	Enabled bool `json:"enabled,omitempty"`
	// Days to keep a rotated file. Default: 30.
	MaxAge int `json:"maxAge,omitempty" jsonschema:"minimum=1"`
	// Number of rotated files to keep. Default: 10.
	MaxBackups int `json:"maxBackups,omitempty" jsonschema:"minimum=1"`
	// Size in MiB at which the file is rotated. Default: 100.
	MaxSize int `json:"maxSize,omitempty" jsonschema:"minimum=1"`
	// Fields of Policy (audit.k8s.io/v1) to use instead of kocli's: at least
	// rules. Default: metadata of every change, and never the content of Secrets.
	Policy Object `json:"policy,omitempty"`
}

// Overrides are fields of Kubernetes' own configuration types. They are merged
// over what kocli sets: objects field by field, lists of named things by name,
// other lists as a whole; null removes.
// A field that the type does not have is refused.
type Overrides struct {
	// Fields of ClusterConfiguration (kubeadm.k8s.io/v1beta4).
	ClusterConfiguration Object `json:"clusterConfiguration,omitempty"`
	// Fields of InitConfiguration (kubeadm.k8s.io/v1beta4).
	InitConfiguration Object `json:"initConfiguration,omitempty"`
	// Fields of JoinConfiguration (kubeadm.k8s.io/v1beta4).
	JoinConfiguration Object `json:"joinConfiguration,omitempty"`
	// Fields of UpgradeConfiguration (kubeadm.k8s.io/v1beta4), such as
	// timeouts.upgradeManifests: how long a static pod has to be replaced in an
	// upgrade before the old one is put back (default 5m).
	UpgradeConfiguration Object `json:"upgradeConfiguration,omitempty"`
	// Fields of KubeletConfiguration (kubelet.config.k8s.io/v1beta1), for all hosts.
	Kubelet Object `json:"kubelet,omitempty"`
	// Fields of KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1).
	KubeProxy Object `json:"kubeProxy,omitempty"`
}

// Etcd is where the cluster keeps its data.
type Etcd struct {
	// An etcd that exists already and that kocli does not manage. It cannot be
	// changed for the members on control planes later, nor the other way round.
	External *ExternalEtcd `json:"external,omitempty"`
}

// ExternalEtcd is an etcd outside the cluster. Its files are on the machine that
// kocli runs on, and are put on every control plane; when they change, running
// kocli again brings the new ones there. A reset of the cluster leaves its data
// alone.
type ExternalEtcd struct {
	// URLs of its members: https, with a port, for example https://10.0.0.5:2379.
	Endpoints []string `json:"endpoints" jsonschema:"minItems=1"`
	// CA that its certificates are verified with, in PEM; may hold several. API
	// servers read it when they start: where it changes they are restarted, one
	// after another.
	CAFile string `json:"caFile"`
	// Client certificate in PEM. API servers read it again by themselves.
	CertFile string `json:"certFile"`
	// Its private key in PEM. It is a secret: kocli does not keep it.
	KeyFile string `json:"keyFile"`
}

// ControlPlane is how the API servers are reached.
type ControlPlane struct {
	// The address that nodes and clients use for the API.
	Endpoint Endpoint `json:"endpoint,omitempty,omitzero"`
}

// Endpoint is the address of the API that does not change when a control plane
// is replaced.
type Endpoint struct {
	// none: the address of the only control plane. external: a load balancer or
	// virtual IP that exists already and leads to port 6443 of every control
	// plane. vip: a virtual IP that moves between the control planes (keepalived),
	// with a load balancer behind it (haproxy). local: a load balancer (haproxy) on
	// every node, reached at 127.0.0.1. Default: none.
	Mode EndpointMode `json:"mode,omitempty" jsonschema:"enum=none,enum=external,enum=vip,enum=local"`
	// external: IP address or DNS name of the endpoint. vip: an unused IPv4
	// address in the network of the control planes.
	Address string `json:"address,omitempty"`
	// Port of the endpoint. vip and local use the next port as well, on the
	// loopback. Default: 6443 with external, 8443 with vip and local.
	Port int `json:"port,omitempty" jsonschema:"minimum=1,maximum=65535"`
	// How the control planes agree on who holds the address, with vip.
	VRRP *VRRP `json:"vrrp,omitempty"`
}

// VRRP is how the control planes agree on who holds the virtual IP.
type VRRP struct {
	// Virtual router id, unique in the layer 2 network. Default: derived from the
	// name of the cluster and the address.
	ID int `json:"id,omitempty" jsonschema:"minimum=1,maximum=255"`
	// Password, of which VRRP takes 8 characters. It is sent in the clear, and
	// guards against mistakes only. Default: derived from the name of the cluster
	// and the address.
	Password SecretRef `json:"password,omitempty"`
	// Network interface of the control planes. Default: the one that has the
	// address of the node.
	Interface string `json:"interface,omitempty"`
	// Tell the control planes of each other, for networks that drop the multicast
	// of VRRP (224.0.0.18). IP protocol 112 has to pass between them all the same.
	// Default: false.
	Unicast bool `json:"unicast,omitempty"`
}

// EndpointMode is how the control plane endpoint comes about.
type EndpointMode string

// The modes of the control plane endpoint.
const (
	EndpointNone     EndpointMode = "none"
	EndpointExternal EndpointMode = "external"
	EndpointVIP      EndpointMode = "vip"
	EndpointLocal    EndpointMode = "local"
)
