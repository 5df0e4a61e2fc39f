package preflight

import (
	"slices"
	"strconv"
	"strings"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/probe"
)

func rootAccess(_ Input, n inventory.Node, f probe.Facts) []Finding {
	if f.Root {
		return nil
	}
	return []Finding{refuse("let "+n.SSH.User+" use sudo, or set spec.ssh.sudoPassword", "user %s does not become root", n.SSH.User)}
}

func systemd(_ Input, _ inventory.Node, f probe.Facts) []Finding {
	if f.Systemd {
		return nil
	}
	return []Finding{refuse("use a host that is booted with systemd", "process 1 is not systemd")}
}

// osFamily is a distribution that hosts were prepared on.
type osFamily struct {
	id  string
	min []int // oldest version
}

func osFamilies() []osFamily {
	return []osFamily{
		{"debian", []int{11}}, {"ubuntu", []int{20, 4}},
		{"rhel", []int{8}}, {"rocky", []int{8}}, {"almalinux", []int{8}}, {"centos", []int{8}}, {"ol", []int{8}},
		{"anolis", []int{8}}, {"fedora", []int{38}},
		{"openeuler", []int{20, 3}}, {"kylin", []int{10}},
	}
}

func osSupported(_ Input, _ inventory.Node, f probe.Facts) []Finding {
	if f.OS.ID == "" {
		return []Finding{warn("", "the operating system is unknown: /etc/os-release cannot be read")}
	}
	var ids []string
	for _, fam := range osFamilies() {
		ids = append(ids, fam.id)
		if fam.id != f.OS.ID {
			continue
		}
		if v := numbers(strings.TrimLeft(f.OS.Version, "Vv")); len(v) > 0 && slices.Compare(v, fam.min) < 0 {
			return []Finding{refuse("upgrade the operating system", "%s %s is too old", f.OS.ID, f.OS.Version)}
		}
		return nil
	}
	for _, like := range f.OS.Like {
		if slices.Contains(ids, like) {
			return []Finding{warn("", "%s is not tested; it is taken for a kind of %s", f.OS.ID, like)}
		}
	}
	return []Finding{refuse("use one of "+strings.Join(ids, ", "), "the operating system %q is not supported", f.OS.ID)}
}

// The oldest kernels: of Kubernetes (RHEL 8 has 4.18 with what is needed), and
// of kube-proxy in the mode nftables, which refuses to start on older ones.
func kernelVersion(in Input, _ inventory.Node, f probe.Facts) []Finding {
	v := numbers(f.Kernel)
	switch {
	case len(v) < 2:
		return nil
	case slices.Compare(v, []int{4, 18}) < 0:
		return []Finding{refuse("upgrade the kernel to 4.18 or later", "kernel %s is too old for Kubernetes", f.Kernel)}
	case in.Inventory.Spec.Network.ProxyMode == v1alpha1.ProxyNFTables && slices.Compare(v, []int{5, 13}) < 0:
		return []Finding{refuse("set spec.network.proxyMode to iptables, or upgrade the kernel to 5.13 or later",
			"kernel %s is too old for kube-proxy in the mode nftables", f.Kernel)}
	}
	return nil
}

func kernelModules(in Input, _ inventory.Node, f probe.Facts) []Finding {
	var all []Finding
	for _, m := range neededModules(in.Inventory.Spec.Network) {
		if f.Modules[m] == probe.ModuleMissing {
			all = append(all, refuse("install the kernel's modules package (linux-modules-extra, kernel-modules), or use a kernel that has it",
				"the kernel module %s is not there", m))
		}
	}
	return all
}

func neededModules(n v1alpha1.Network) []string {
	mods := []string{"overlay", "br_netfilter"}
	switch n.ProxyMode {
	case v1alpha1.ProxyNFTables:
		mods = append(mods, "nf_tables")
	case v1alpha1.ProxyIPVS:
		mods = append(mods, "ip_vs")
	}
	if fl := n.CNI.Flannel; fl != nil && fl.Backend == v1alpha1.FlannelVXLAN {
		mods = append(mods, "vxlan")
	}
	return mods
}

// cgroupVersion follows the kubelet: from 1.35 on failCgroupV1 is true by default.
func cgroupVersion(in Input, n inventory.Node, f probe.Facts) []Finding {
	if f.CgroupVersion != 1 {
		return nil
	}
	if fail, set := kubeletField(in, n, "failCgroupV1"); set && fail == false {
		return []Finding{warn("", "the host has cgroup v1, which Kubernetes is about to drop; the kubelet is told to go on")}
	}
	const fix = "boot with systemd.unified_cgroup_hierarchy=1, or set failCgroupV1: false in spec.kubernetes.overrides.kubelet"
	if v := numbers(strings.TrimPrefix(in.Inventory.Version(), "v")); slices.Compare(v, []int{1, 35}) < 0 {
		return []Finding{warn(fix, "the host has cgroup v1, which Kubernetes 1.35 and later refuse")}
	}
	return []Finding{refuse(fix, "the host has cgroup v1, which the kubelet of %s refuses", in.Inventory.Version())}
}

func selinux(_ Input, _ inventory.Node, f probe.Facts) []Finding {
	if f.SELinux != probe.SELinuxEnforcing || f.ContainerSELinux {
		return nil
	}
	return []Finding{refuse("install the package container-selinux, or set SELinux to permissive: setenforce 0",
		"SELinux is enforcing and the policy for containers is not installed")}
}

// kubeletField returns a field of the kubelet's overrides: the node's own, or
// the cluster's.
func kubeletField(in Input, n inventory.Node, name string) (any, bool) {
	if v, ok := n.KubeletOverride[name]; ok {
		return v, true
	}
	v, ok := in.Inventory.Spec.Kubernetes.Overrides.Kubelet[name]
	return v, ok
}

// numbers returns the leading numbers of a version: 5.10.0-35-generic is 5, 10, 0.
func numbers(version string) []int {
	var out []int
	for _, part := range strings.Split(version, ".") {
		digits := part
		if i := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
			digits = part[:i]
		}
		n, err := strconv.Atoi(digits)
		if err != nil {
			break
		}
		out = append(out, n)
		if digits != part {
			break
		}
	}
	return out
}
