package config

import (
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// validateOverrides refuses fields that contradict what kocli manages. Whether
// the others exist is for pkg/kubeadm, which knows the types.
func validateOverrides(o *v1alpha1.Overrides, p *field.Path) field.ErrorList {
	registration := map[string]string{
		"nodeRegistration.name":      "set spec.hosts[].name",
		"nodeRegistration.criSocket": "kocli manages containerd",
		"nodeRegistration.taints":    "set spec.hosts[].taints or roles",
	}
	all := forbidFields(o.ClusterConfiguration, p.Child("clusterConfiguration"), map[string]string{
		"kubernetesVersion":           "set spec.kubernetes.version",
		"clusterName":                 "set metadata.name",
		"controlPlaneEndpoint":        "set spec.controlPlane.endpoint",
		"networking":                  "set spec.network",
		"imageRepository":             "images come from the bundle under their own names",
		"certificatesDir":             "kocli relies on kubeadm's directory",
		"etcd.external":               "set spec.etcd.external",
		"apiServer.extraArgs":         "set spec.kubernetes.apiServer.extraArgs",
		"controllerManager.extraArgs": "set spec.kubernetes.controllerManager.extraArgs",
		"scheduler.extraArgs":         "set spec.kubernetes.scheduler.extraArgs",
		"etcd.local.extraArgs":        "set spec.kubernetes.etcd.extraArgs",
		"apiServer.certSANs":          "set spec.kubernetes.apiServer.certSANs",
	})
	all = append(all, forbidFields(o.InitConfiguration, p.Child("initConfiguration"), with(registration, map[string]string{
		"bootstrapTokens":  "kocli makes random, short-lived tokens",
		"certificateKey":   "kocli makes random, short-lived keys",
		"patches":          "set spec.hosts[].kubelet",
		"localAPIEndpoint": "set spec.hosts[].privateAddress",
	}))...)
	all = append(all, forbidFields(o.JoinConfiguration, p.Child("joinConfiguration"), with(registration, map[string]string{
		"discovery":    "kocli makes random, short-lived tokens",
		"controlPlane": "set spec.hosts[].roles",
		"patches":      "set spec.hosts[].kubelet",
	}))...)
	all = append(all, forbidFields(o.UpgradeConfiguration, p.Child("upgradeConfiguration"), map[string]string{
		"apply": "kocli upgrade fills it in",
		"node":  "kocli upgrade fills it in",
		"plan":  "kocli upgrade fills it in",
		"diff":  "kocli does not use it",
	})...)
	all = append(all, forbidFields(o.Kubelet, p.Child("kubelet"), kubeletManaged())...)
	return append(all, forbidFields(o.KubeProxy, p.Child("kubeProxy"), map[string]string{
		"mode":        "set spec.network.proxyMode",
		"clusterCIDR": "set spec.network.podCIDR",
	})...)
}

// kubeletManaged returns the fields of KubeletConfiguration that are said
// elsewhere.
func kubeletManaged() map[string]string {
	return map[string]string{
		"cgroupDriver":             "set spec.runtime.containerd.cgroupDriver",
		"clusterDNS":               "it follows spec.network.serviceCIDR",
		"clusterDomain":            "set spec.network.dnsDomain",
		"containerRuntimeEndpoint": "kocli manages containerd",
		"staticPodPath":            "kocli relies on kubeadm's directory",
	}
}

// forbidFields refuses the fields of o that forbidden names, with dots between
// levels, and says what to set instead.
func forbidFields(o v1alpha1.Object, p *field.Path, forbidden map[string]string) field.ErrorList {
	forbidden = with(forbidden, map[string]string{"apiVersion": "kocli sets it", "kind": "kocli sets it"})
	var all field.ErrorList
	for _, name := range sortedKeys(forbidden) {
		var v any = map[string]any(o)
		at, ok := p, true
		for _, part := range strings.Split(name, ".") {
			m, isMap := v.(map[string]any)
			if v, ok = m[part]; !isMap || !ok {
				ok = false
				break
			}
			at = at.Child(part)
		}
		if ok {
			all = append(all, field.Forbidden(at, forbidden[name]))
		}
	}
	return all
}

func with(a, b map[string]string) map[string]string {
	m := make(map[string]string, len(a)+len(b))
	for k, v := range a {
		m[k] = v
	}
	for k, v := range b {
		m[k] = v
	}
	return m
}

// validateArgs checks flags of the control plane.
func validateArgs(k *v1alpha1.Kubernetes, p *field.Path) field.ErrorList {
	flag := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	apiServer := map[string]string{
		"advertise-address":        "set spec.hosts[].privateAddress",
		"service-cluster-ip-range": "set spec.network.serviceCIDR",
		"secure-port":              "kocli relies on port 6443",
		"etcd-servers":             "kubeadm manages it",
	}
	if k.Encryption.Secrets {
		apiServer["encryption-provider-config"] = "spec.kubernetes.encryption.secrets sets it"
	}
	if k.Audit.Enabled {
		for _, f := range []string{"audit-policy-file", "audit-log-path", "audit-log-maxage", "audit-log-maxbackup", "audit-log-maxsize"} {
			apiServer[f] = "spec.kubernetes.audit sets it"
		}
	}
	var all field.ErrorList
	for _, c := range []struct {
		name    string
		args    map[string]string
		managed map[string]string
	}{
		{"apiServer", k.APIServer.ExtraArgs, apiServer},
		{"controllerManager", k.ControllerManager.ExtraArgs, map[string]string{
			"cluster-cidr":             "set spec.network.podCIDR",
			"service-cluster-ip-range": "set spec.network.serviceCIDR",
			"node-cidr-mask-size":      "set spec.network.nodeCIDRMaskSize",
			"node-cidr-mask-size-ipv4": "set spec.network.nodeCIDRMaskSize",
			"allocate-node-cidrs":      "kubeadm manages it",
			"cluster-name":             "set metadata.name",
		}},
		{"scheduler", k.Scheduler.ExtraArgs, nil},
		{"etcd", k.Etcd.ExtraArgs, map[string]string{
			"data-dir": "kocli relies on /var/lib/etcd", "name": "kubeadm manages it", "initial-cluster": "kubeadm manages it",
		}},
	} {
		for _, name := range sortedKeys(c.args) {
			at := p.Child(c.name, "extraArgs").Key(name)
			switch reason, managed := c.managed[name]; {
			case managed:
				all = append(all, field.Forbidden(at, reason))
			case !flag.MatchString(name):
				all = append(all, field.Invalid(at, name, "must be the name of a flag without leading dashes"))
			}
		}
	}
	return all
}
