package kubeadm

import (
	"maps"
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
)

// etcdQuota is the size in bytes that etcd may grow to: 8 GiB, the largest
// that etcd recommends. Its default of 2 GiB is full too soon, and a full etcd
// refuses writes.
const etcdQuota = 8 << 30

// clusterConfiguration is what all control planes share.
func clusterConfiguration(inv *inventory.Inventory) *v1beta4.ClusterConfiguration {
	k, n := inv.Spec.Kubernetes, inv.Spec.Network
	cc := &v1beta4.ClusterConfiguration{
		TypeMeta:             typeMeta("ClusterConfiguration"),
		ClusterName:          inv.Name,
		KubernetesVersion:    k.Version,
		ControlPlaneEndpoint: inv.Endpoint(),
		Networking: v1beta4.Networking{
			PodSubnet: n.PodCIDR, ServiceSubnet: n.ServiceCIDR, DNSDomain: n.DNSDomain,
		},
		APIServer: v1beta4.APIServer{
			ControlPlaneComponent: v1beta4.ControlPlaneComponent{
				ExtraArgs: args(apiServerArgs(k), k.APIServer.ExtraArgs), ExtraVolumes: apiServerVolumes(k),
			},
			CertSANs: CertSANs(inv),
		},
		ControllerManager: v1beta4.ControlPlaneComponent{ExtraArgs: args(map[string]string{
			"node-cidr-mask-size": strconv.Itoa(n.NodeCIDRMaskSize),
			"profiling":           "false",
		}, k.ControllerManager.ExtraArgs)},
		Scheduler: v1beta4.ControlPlaneComponent{ExtraArgs: args(map[string]string{
			"profiling": "false",
		}, k.Scheduler.ExtraArgs)},
		Etcd: v1beta4.Etcd{Local: &v1beta4.LocalEtcd{
			DataDir:   "/var/lib/etcd",
			ExtraArgs: args(map[string]string{"quota-backend-bytes": strconv.Itoa(etcdQuota)}, k.Etcd.ExtraArgs),
		}},
	}
	if x := inv.ExternalEtcd(); x != nil {
		cc.Etcd = v1beta4.Etcd{External: &v1beta4.ExternalEtcd{
			Endpoints: x.Endpoints, CAFile: EtcdCAPath, CertFile: EtcdCertPath, KeyFile: EtcdKeyPath,
		}}
	}
	return cc
}

func apiServerArgs(k v1alpha1.Kubernetes) map[string]string {
	a := map[string]string{
		"profiling":       "false",
		"tls-min-version": "VersionTLS12",
	}
	if k.Audit.Enabled {
		a["audit-policy-file"] = AuditPolicyPath
		a["audit-log-path"] = AuditLogDir + "/audit.log"
		a["audit-log-maxage"] = strconv.Itoa(k.Audit.MaxAge)
		a["audit-log-maxbackup"] = strconv.Itoa(k.Audit.MaxBackups)
		a["audit-log-maxsize"] = strconv.Itoa(k.Audit.MaxSize)
	}
	if k.Encryption.Secrets {
		a["encryption-provider-config"] = EncryptionConfigPath
		a["encryption-provider-config-automatic-reload"] = "true"
	}
	return a
}

// apiServerVolumes mounts directories, not files: a file that is replaced by
// a rename would stay the old one in a mount.
func apiServerVolumes(k v1alpha1.Kubernetes) []v1beta4.HostPathMount {
	var v []v1beta4.HostPathMount
	if k.Audit.Enabled || k.Encryption.Secrets {
		v = append(v, v1beta4.HostPathMount{
			Name: "kocli-config", HostPath: ConfigDir, MountPath: ConfigDir, ReadOnly: true, PathType: corev1.HostPathDirectory,
		})
	}
	if k.Audit.Enabled {
		v = append(v, v1beta4.HostPathMount{
			Name: "audit-log", HostPath: AuditLogDir, MountPath: AuditLogDir, PathType: corev1.HostPathDirectoryOrCreate,
		})
	}
	return v
}

// CertSANs returns the names and addresses that the API is reached by: of the
// loopback (kocli's tunnel ends there), the endpoint, every control plane, and
// what the user added. Each once, in a stable order.
func CertSANs(inv *inventory.Inventory) []string {
	host, _, err := net.SplitHostPort(inv.Endpoint())
	sans := []string{"localhost", "127.0.0.1"}
	if err == nil {
		sans = append(sans, host)
	}
	for _, n := range inv.ControlPlanes() {
		sans = append(sans, n.Name, n.IP, n.Address)
	}
	sans = append(sans, inv.Spec.Kubernetes.APIServer.CertSANs...)
	var out []string
	for _, s := range sans {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// args lays the user's flags over ours, sorted by name.
func args(ours, users map[string]string) []v1beta4.Arg {
	all := maps.Clone(ours)
	maps.Copy(all, users)
	var out []v1beta4.Arg
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, v1beta4.Arg{Name: name, Value: all[name]})
	}
	return out
}
