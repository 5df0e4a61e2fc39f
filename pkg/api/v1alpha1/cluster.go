package v1alpha1

// Cluster is one Kubernetes cluster as it should be.
type Cluster struct {
	// Version of this format: kocli.io/v1alpha1.
	APIVersion string `json:"apiVersion" jsonschema:"enum=kocli.io/v1alpha1"`
	// Kind of this document: Cluster.
	Kind string `json:"kind" jsonschema:"enum=Cluster"`
	// What the cluster is called.
	Metadata Metadata `json:"metadata"`
	// What the cluster should be.
	Spec ClusterSpec `json:"spec"`
}

// Metadata names the cluster.
type Metadata struct {
	// Name of the cluster, a DNS label such as "prod-1". It names the local
	// state directory, the kubeconfig context and kubeadm's clusterName, and
	// cannot be changed later.
	Name string `json:"name"`
}

// ClusterSpec is what the cluster should be.
type ClusterSpec struct {
	// The version of Kubernetes and the configuration of its components.
	Kubernetes Kubernetes `json:"kubernetes"`
	// Address ranges, CNI, kube-proxy and cluster DNS.
	Network Network `json:"network,omitempty,omitzero"`
	// How the API servers are reached.
	ControlPlane ControlPlane `json:"controlPlane,omitempty,omitzero"`
	// Where the cluster keeps its data. Default: a member of etcd on every control
	// plane.
	Etcd Etcd `json:"etcd,omitempty,omitzero"`
	// How kocli logs in to the hosts. Each host may override parts of it.
	SSH SSH `json:"ssh,omitempty,omitzero"`
	// The container runtime.
	Runtime Runtime `json:"runtime,omitempty,omitzero"`
	// The machines of the cluster. The first control plane in this list is
	// where a new cluster starts.
	Hosts []Host `json:"hosts" jsonschema:"minItems=1"`
	// How much of the cluster may be away at once while nodes are worked on.
	Maintenance Maintenance `json:"maintenance,omitempty,omitzero"`
	// Commands of yours around the work on a node.
	Hooks Hooks `json:"hooks,omitempty,omitzero"`
	// Checks that are made before anything is changed.
	Preflight Preflight `json:"preflight,omitempty,omitzero"`
	// What kocli may change in the operating system of the hosts.
	OS OS `json:"os,omitempty,omitzero"`
	// Where and how the cluster is backed up.
	Backup Backup `json:"backup,omitempty,omitzero"`
	// Registries that pods pull from.
	Registry Registry `json:"registry,omitempty,omitzero"`
	// Persistent storage, each with a storage class. What is not named here and is in
	// the cluster is left alone.
	Storage []Storage `json:"storage,omitempty"`
	// Services in the cluster, such as metrics-server.
	Addons []Addon `json:"addons,omitempty"`

	// Reserved for creating the machines first (vSphere, OpenStack, FusionCompute). Not supported by this version yet.
	Provider Object `json:"provider,omitempty"`
}

// Host is one machine of the cluster, bare metal or virtual. Its architecture
// and operating system are found out, not declared.
type Host struct {
	// Name of the node in Kubernetes, a lower case DNS name. Unique in the cluster.
	Name string `json:"name"`
	// Address that kocli connects to with SSH: an IP address or a DNS name.
	Address string `json:"address"`
	// IP address that the nodes use among themselves. Default: address, which
	// then has to be an IP address.
	PrivateAddress string `json:"privateAddress,omitempty"`
	// What the host does: control-plane, worker, or both. A host with both
	// runs ordinary pods beside the control plane. Default: worker.
	Roles []Role `json:"roles,omitempty"`
	// Labels of the node. Removing one here removes it from the node.
	Labels map[string]string `json:"labels,omitempty"`
	// Taints of the node, beside those that its roles bring.
	Taints []Taint `json:"taints,omitempty"`
	// Differences from spec.ssh for this host. What is absent is inherited.
	SSH *SSH `json:"ssh,omitempty"`
	// Fields of KubeletConfiguration (kubelet.config.k8s.io/v1beta1) for this
	// host, merged over spec.kubernetes.overrides.kubelet.
	Kubelet Object `json:"kubelet,omitempty"`
}

// Role is what a host does in the cluster.
type Role string

// The roles of a host.
const (
	RoleControlPlane Role = "control-plane"
	RoleWorker       Role = "worker"
)

// Taint keeps pods that do not tolerate it off a node.
type Taint struct {
	// Key, as in "dedicated".
	Key string `json:"key"`
	// Value, may be empty.
	Value string `json:"value,omitempty"`
	// Effect on pods that do not tolerate the taint.
	Effect string `json:"effect" jsonschema:"enum=NoSchedule,enum=PreferNoSchedule,enum=NoExecute"`
}

// Maintenance is how nodes are taken out of service: one by one, or more at once.
type Maintenance struct {
	// How many workers may be out of service at once: a number, or a percentage of
	// all workers such as "10%", which is rounded down but is at least one.
	// Control planes go one at a time. Default: 1.
	MaxUnavailable CountOrPercent `json:"maxUnavailable,omitempty" jsonschema:"oneof_type=integer;string"`
	// How long the pods of a node have to leave it, as in "10m" or "1h30m". A
	// disruption budget that does not allow it within that time ends the work on
	// the node. Default: 10m.
	DrainTimeout Duration `json:"drainTimeout,omitempty" jsonschema:"pattern=^([0-9]+(h|m|s|ms))+$"`
}

// Hooks are commands around the work on a node. They know it by the variables
// KOCLI_CLUSTER, KOCLI_NODE, KOCLI_FROM and KOCLI_TO (versions). One that fails, or
// takes too long, ends the work on the node. Where a run was interrupted they may run
// again.
type Hooks struct {
	// Before the node is drained in an upgrade.
	BeforeUpgrade []Hook `json:"beforeUpgrade,omitempty"`
	// After its kubelet is back at the new version, before it takes pods again.
	AfterUpgrade []Hook `json:"afterUpgrade,omitempty"`
}

// Hook is one command.
type Hook struct {
	// Program and arguments; no shell is asked.
	Command []string `json:"command" jsonschema:"minItems=1"`
	// operator: the machine that kocli runs on. host: the node's host, as root.
	// Default: operator.
	On HookPlace `json:"on,omitempty" jsonschema:"enum=operator,enum=host"`
	// How long it may take, as in "5m". Default: 5m.
	Timeout Duration `json:"timeout,omitempty" jsonschema:"pattern=^([0-9]+(h|m|s|ms))+$"`
}

// HookPlace is where a hook runs.
type HookPlace string

// The places of hooks.
const (
	HookOnOperator HookPlace = "operator"
	HookOnHost     HookPlace = "host"
)

// Preflight tunes the checks that are made before anything is changed.
type Preflight struct {
	// Names of checks whose errors are reported as warnings, as
	// `kocli preflight` prints them, for example "memory".
	Ignore []string `json:"ignore,omitempty"`
}

// OS says what kocli may change in the operating system of the hosts.
type OS struct {
	// Keep a marked block in /etc/hosts that names the node itself and the
	// control planes, so that they resolve without a DNS server. Default: true.
	ManageHosts *bool `json:"manageHosts,omitempty"`
	// Turn swap off, now and in /etc/fstab, and restore it on reset. Set it to
	// false together with failSwapOn: false in the kubelet overrides to run with
	// swap. Default: true.
	ManageSwap *bool `json:"manageSwap,omitempty"`
	// Set the hostname of each host to its node name. Kubernetes does not need
	// it: the node is registered under its name either way. Default: false.
	SetHostname bool `json:"setHostname,omitempty"`
	// Install operating system packages that Kubernetes needs and the host
	// lacks (conntrack, socat ...) from the bundle. Default: true.
	InstallPackages *bool `json:"installPackages,omitempty"`
}
