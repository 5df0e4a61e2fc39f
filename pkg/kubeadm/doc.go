// Package kubeadm makes the configuration files that kubeadm reads from the
// inventory: typed v1beta4, KubeletConfiguration and KubeProxyConfiguration
// objects, the user's overrides merged over them, and the result decoded
// strictly into the types again. It also makes the other secrets and files of
// a control plane that are Kubernetes' own types.
//
// It is the only importer of k8s.io/kubernetes, and only of its v1beta4 API.
// It must not import kubeadm's validation (which doubles the dependencies:
// kubeadm validates on the host), nor anything that reaches a host.
package kubeadm

// Where things are on a host. Every step takes them from here.
const (
	// CRISocket is containerd's socket.
	CRISocket = "unix:///run/containerd/containerd.sock"
	// ConfigDir holds what kocli gives to the control plane. It is mounted into
	// the API server, so it must exist before kubeadm init, mode 0700.
	ConfigDir = "/etc/kubernetes/kocli"
	// InitConfigPath and JoinConfigPath are kubeadm's --config. They hold a
	// bootstrap token: mode 0600, and removed after use.
	InitConfigPath = ConfigDir + "/kubeadm-init.yaml"
	JoinConfigPath = ConfigDir + "/kubeadm-join.yaml"
	// UpgradeConfigPath is kubeadm's --config of an upgrade. It is there before kubeadm
	// runs and goes when the node is healthy: where it was left, the upgrade did not
	// come to its end.
	UpgradeConfigPath = ConfigDir + "/kubeadm-upgrade.yaml"
	// UpgradeKubeletConfigPath is the same for the kubelet of a node.
	UpgradeKubeletConfigPath = ConfigDir + "/kubeadm-upgrade-kubelet.yaml"
	// DiscoveryPath holds Discovery: how a joining node finds and trusts the API.
	DiscoveryPath = ConfigDir + "/discovery.conf"
	// AuditPolicyPath holds AuditPolicy, where auditing is enabled.
	AuditPolicyPath = ConfigDir + "/audit-policy.yaml"
	// AuditLogDir is where the API server writes the audit log; kubeadm makes it.
	AuditLogDir = "/var/log/kubernetes/audit"
	// EncryptionConfigPath holds EncryptionConfig, mode 0600, where Secrets are
	// encrypted.
	EncryptionConfigPath = ConfigDir + "/encryption.yaml"
	// PatchesDir is kubeadm's patches directory. KubeletPatchPath in it holds
	// KubeletPatch, where a node has one.
	PatchesDir       = "/etc/kubernetes/kocli/patches"
	KubeletPatchPath = PatchesDir + "/kubeletconfiguration+merge.yaml"
	// CertConfigPath is kubeadm's --config when a certificate is made again.
	CertConfigPath = ConfigDir + "/kubeadm-certs.yaml"
	// RestoreConfigPath is kubeadm's --config while a control plane is restored. It
	// holds a token that is never used: mode 0600, and removed after use.
	RestoreConfigPath = ConfigDir + "/kubeadm-restore.yaml"
	// RecoverPath names the recovery of a survivor that has begun and not ended.
	RecoverPath = ConfigDir + "/recover"
	// ManifestsDir is where the kubelet finds static pods.
	ManifestsDir = "/etc/kubernetes/manifests"
	// HAProxyDir and KeepalivedDir hold the configuration of the load balancer and
	// of the virtual IP. Each is mounted into its static pod as a folder: a file that
	// is replaced by a rename would stay the old one in a mount.
	HAProxyDir           = ConfigDir + "/haproxy"
	HAProxyConfigPath    = HAProxyDir + "/haproxy.cfg"
	KeepalivedDir        = ConfigDir + "/keepalived"
	KeepalivedConfigPath = KeepalivedDir + "/keepalived.conf"
	// HAProxyManifestPath and KeepalivedManifestPath are their static pods. The
	// names are kocli's own, so that a haproxy of somebody else stays.
	HAProxyManifestPath    = ManifestsDir + "/" + HAProxyPod + ".yaml"
	KeepalivedManifestPath = ManifestsDir + "/" + KeepalivedPod + ".yaml"
	// HAProxyPod and KeepalivedPod are the names of the static pods, and of their
	// only containers.
	HAProxyPod    = "kocli-haproxy"
	KeepalivedPod = "kocli-keepalived"
	// EtcdCAPath, EtcdCertPath and EtcdKeyPath are for an etcd outside the cluster. They
	// are below the folder of kubeadm's certificates, which is mounted into the API
	// server as a whole: a file that is replaced is seen there.
	EtcdDir      = "/etc/kubernetes/pki/etcd-external"
	EtcdCAPath   = EtcdDir + "/ca.crt"
	EtcdCertPath = EtcdDir + "/client.crt"
	EtcdKeyPath  = EtcdDir + "/client.key"
	// EtcdDataPath is the data of the node's member of etcd.
	EtcdDataPath = "/var/lib/etcd/member/snap/db"
	// EtcdManifestPath and APIServerManifestPath are static pods of kubeadm's.
	EtcdManifestPath      = ManifestsDir + "/etcd.yaml"
	APIServerManifestPath = ManifestsDir + "/kube-apiserver.yaml"
	// KubeletDir is the kubelet's own folder. KubeletConfigPath and KubeletFlagsPath in
	// it are what kubeadm writes for it.
	KubeletDir        = "/var/lib/kubelet"
	KubeletConfigPath = KubeletDir + "/config.yaml"
	KubeletFlagsPath  = KubeletDir + "/kubeadm-flags.env"
	// KubeletExtraPath is where operators give kubelets flags of their own.
	KubeletExtraPath = "/etc/default/kubelet"
	// TmpDir is where kubeadm leaves copies in an upgrade: of manifests, of the kubelet's
	// configuration, and of all the data of etcd.
	TmpDir = "/etc/kubernetes/tmp"
	// PKIDir holds the certificates and keys of a control plane.
	PKIDir = "/etc/kubernetes/pki"
	// RestartAPIServerPath says that the API server has not been restarted since what
	// it reads at its start changed.
	RestartAPIServerPath = ConfigDir + "/restart-apiserver"
	// CACertPath is the cluster's CA.
	CACertPath = "/etc/kubernetes/pki/ca.crt"
)
