package v1alpha1

// Network is the addresses, CNI, kube-proxy and DNS of the cluster.
type Network struct {
	// Addresses of pods, an IPv4 network. Default: 10.244.0.0/16.
	PodCIDR string `json:"podCIDR,omitempty"`
	// Addresses of services, an IPv4 network. Default: 10.96.0.0/16.
	ServiceCIDR string `json:"serviceCIDR,omitempty"`
	// Length of the prefix that each node gets out of podCIDR. 24 gives a node
	// 254 addresses. Default: 24.
	NodeCIDRMaskSize int `json:"nodeCIDRMaskSize,omitempty" jsonschema:"minimum=16,maximum=28"`
	// Domain of services. Default: cluster.local.
	DNSDomain string `json:"dnsDomain,omitempty"`
	// How kube-proxy programs services. ipvs needs kernel modules that not
	// every host has. Default: nftables.
	ProxyMode ProxyMode `json:"proxyMode,omitempty" jsonschema:"enum=nftables,enum=iptables,enum=ipvs"`
	// The pod network.
	CNI CNI `json:"cni,omitempty,omitzero"`
	// DNS of the cluster.
	DNS DNS `json:"dns,omitempty,omitzero"`
}

// ProxyMode is how kube-proxy programs services.
type ProxyMode string

// The modes of kube-proxy.
const (
	ProxyNFTables ProxyMode = "nftables"
	ProxyIPTables ProxyMode = "iptables"
	ProxyIPVS     ProxyMode = "ipvs"
)

// CNI is the pod network.
type CNI struct {
	// flannel, or none: then the nodes stay NotReady until you install one.
	// Default: flannel.
	Name CNIName `json:"name,omitempty" jsonschema:"enum=flannel,enum=none"`
	// Settings of flannel.
	Flannel *Flannel `json:"flannel,omitempty"`
}

// CNIName is a pod network that kocli can install.
type CNIName string

// The pod networks that kocli can install.
const (
	CNIFlannel CNIName = "flannel"
	CNINone    CNIName = "none"
)

// Flannel configures flannel.
type Flannel struct {
	// vxlan works everywhere; host-gw is faster and needs all nodes in one
	// layer 2 network. Default: vxlan.
	Backend FlannelBackend `json:"backend,omitempty" jsonschema:"enum=vxlan,enum=host-gw"`
	// MTU of pod interfaces. Default: that of the node's interface, less the
	// backend's overhead.
	MTU int `json:"mtu,omitempty" jsonschema:"minimum=576,maximum=65535"`
}

// FlannelBackend is how flannel carries packets between nodes.
type FlannelBackend string

// The backends of flannel.
const (
	FlannelVXLAN  FlannelBackend = "vxlan"
	FlannelHostGW FlannelBackend = "host-gw"
)

// DNS of the cluster.
type DNS struct {
	// DNS servers, as IP address or IP:port, that CoreDNS asks for names
	// outside the cluster. Default: those of the host that it runs on; where
	// they cannot be used from a pod, names outside the cluster are not resolved.
	Upstream []string `json:"upstream,omitempty"`
}

// Runtime is the container runtime.
type Runtime struct {
	// containerd.
	Containerd Containerd `json:"containerd,omitempty,omitzero"`
}

// Containerd configures containerd.
type Containerd struct {
	// Mirrors by registry, such as "docker.io". The host never falls back to
	// the registry itself.
	Mirrors map[string]Mirror `json:"mirrors,omitempty"`
	// Who manages cgroups, for containerd and the kubelet alike. Default: systemd.
	CgroupDriver CgroupDriver `json:"cgroupDriver,omitempty" jsonschema:"enum=systemd,enum=cgroupfs"`
	// Settings of containerd's config.toml (version 3), merged over kocli's:
	// tables key by key, lists as a whole.
	Overrides Object `json:"overrides,omitempty"`
}

// CgroupDriver is who manages cgroups.
type CgroupDriver string

// The cgroup drivers.
const (
	CgroupSystemd  CgroupDriver = "systemd"
	CgroupCgroupfs CgroupDriver = "cgroupfs"
)

// Mirror is where the images of a registry are pulled from.
type Mirror struct {
	// URLs to try in this order, such as https://harbor.example.com/v2/docker.io.
	Endpoints []string `json:"endpoints" jsonschema:"minItems=1"`
	// File on the operator's machine with the CA certificates (PEM) that the
	// endpoints are trusted by. Default: those of the host.
	CAFile string `json:"caFile,omitempty"`
}
