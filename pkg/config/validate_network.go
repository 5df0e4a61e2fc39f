package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// The prefixes that Kubernetes can work with.
const (
	minServiceBits = 12 // the API server keeps a bitmap of the range
	maxServiceBits = 28 // room for kubernetes (1st), cluster DNS (10th) and some more
	maxNodeBits    = 28
	maxSubnetBits  = 16 // nodeCIDRMaskSize less the pod network's prefix
)

func validateNetwork(s *v1alpha1.ClusterSpec, spec *field.Path) field.ErrorList {
	n, p := &s.Network, spec.Child("network")
	pods, all := validateCIDR(n.PodCIDR, p.Child("podCIDR"))
	services, more := validateCIDR(n.ServiceCIDR, p.Child("serviceCIDR"))
	all = append(all, more...)
	if services.IsValid() && (services.Bits() < minServiceBits || services.Bits() > maxServiceBits) {
		all = append(all, field.Invalid(p.Child("serviceCIDR"), n.ServiceCIDR,
			fmt.Sprintf("the prefix must be between /%d and /%d", minServiceBits, maxServiceBits)))
	}
	if pods.IsValid() && services.IsValid() && pods.Overlaps(services) {
		all = append(all, field.Invalid(p.Child("serviceCIDR"), n.ServiceCIDR, "overlaps with podCIDR "+n.PodCIDR))
	}
	if pods.IsValid() {
		all = append(all, validateNodeMask(n.NodeCIDRMaskSize, pods, len(s.Hosts), p.Child("nodeCIDRMaskSize"))...)
	}
	all = append(all, validateHostRanges(s, spec, map[string]netip.Prefix{"podCIDR": pods, "serviceCIDR": services})...)
	all = append(all, invalid(p.Child("dnsDomain"), n.DNSDomain, validation.IsDNS1123Subdomain(n.DNSDomain))...)
	all = append(all, oneOf(n.ProxyMode, p.Child("proxyMode"),
		v1alpha1.ProxyNFTables, v1alpha1.ProxyIPTables, v1alpha1.ProxyIPVS)...)
	all = append(all, validateCNI(&n.CNI, p.Child("cni"))...)
	for i, u := range n.DNS.Upstream {
		all = append(all, validateUpstream(u, p.Child("dns", "upstream").Index(i))...)
	}
	return all
}

// validateCIDR checks one IPv4 network. Two networks with a comma between them
// are kubeadm's dual-stack, which is left for later.
func validateCIDR(s string, p *field.Path) (netip.Prefix, field.ErrorList) {
	if strings.Contains(s, ",") {
		return netip.Prefix{}, field.ErrorList{field.Invalid(p, s, "dual-stack is not supported by this version of kocli yet: give one IPv4 network")}
	}
	n, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, field.ErrorList{field.Invalid(p, s, "must be a network such as 10.244.0.0/16")}
	case !n.Addr().Is4():
		return netip.Prefix{}, field.ErrorList{field.Invalid(p, s, "must be an IPv4 network; IPv6 is not supported by this version of kocli yet")}
	case n.Masked() != n:
		return n.Masked(), field.ErrorList{field.Invalid(p, s, "has bits set beyond its prefix: write "+n.Masked().String())}
	}
	return n, nil
}

func validateNodeMask(mask int, pods netip.Prefix, hosts int, p *field.Path) field.ErrorList {
	switch {
	case mask <= 0 || mask > maxNodeBits:
		return field.ErrorList{field.Invalid(p, mask, fmt.Sprintf("must be at most %d", maxNodeBits))}
	case mask < pods.Bits():
		return field.ErrorList{field.Invalid(p, mask, fmt.Sprintf("must be at least the prefix of podCIDR %s", pods))}
	case mask-pods.Bits() > maxSubnetBits:
		return field.ErrorList{field.Invalid(p, mask, fmt.Sprintf("must be at most %d more than the prefix of podCIDR %s", maxSubnetBits, pods))}
	}
	if room := 1 << (mask - pods.Bits()); hosts > room {
		return field.ErrorList{field.Invalid(p, mask,
			fmt.Sprintf("podCIDR %s then has room for %d nodes, and there are %d hosts", pods, room, hosts))}
	}
	return nil
}

// validateHostRanges refuses hosts and endpoints whose address lies in a range
// that the cluster routes itself.
func validateHostRanges(s *v1alpha1.ClusterSpec, spec *field.Path, ranges map[string]netip.Prefix) field.ErrorList {
	var all field.ErrorList
	check := func(addr string, p *field.Path) {
		ip, err := netip.ParseAddr(addr)
		if err != nil {
			return
		}
		for _, name := range sortedKeys(ranges) {
			if r := ranges[name]; r.IsValid() && r.Contains(ip) {
				all = append(all, field.Invalid(p, addr, fmt.Sprintf("lies in spec.network.%s %s", name, r)))
			}
		}
	}
	for i, h := range s.Hosts {
		check(h.Address, spec.Child("hosts").Index(i).Child("address"))
		check(h.PrivateAddress, spec.Child("hosts").Index(i).Child("privateAddress"))
	}
	check(s.ControlPlane.Endpoint.Address, spec.Child("controlPlane", "endpoint", "address"))
	return all
}

func validateCNI(c *v1alpha1.CNI, p *field.Path) field.ErrorList {
	all := oneOf(c.Name, p.Child("name"), v1alpha1.CNIFlannel, v1alpha1.CNINone)
	if c.Flannel == nil {
		return all
	}
	f := p.Child("flannel")
	if c.Name != v1alpha1.CNIFlannel {
		all = append(all, field.Forbidden(f, fmt.Sprintf("has no effect with cni.name %q", c.Name)))
		return all
	}
	all = append(all, oneOf(c.Flannel.Backend, f.Child("backend"), v1alpha1.FlannelVXLAN, v1alpha1.FlannelHostGW)...)
	if m := c.Flannel.MTU; m != 0 && (m < 576 || m > 65535) {
		all = append(all, field.Invalid(f.Child("mtu"), m, "must be between 576 and 65535"))
	}
	return all
}

func validateUpstream(s string, p *field.Path) field.ErrorList {
	ip, err := netip.ParseAddr(s)
	if err != nil {
		ap, perr := netip.ParseAddrPort(s)
		if perr != nil || ap.Port() == 0 {
			return field.ErrorList{field.Invalid(p, s, "must be an IP address, or IP:port")}
		}
		ip = ap.Addr()
	}
	if ip.IsLoopback() || ip.IsUnspecified() {
		return field.ErrorList{field.Invalid(p, s, "a pod cannot reach the host's loopback: give the address of a DNS server")}
	}
	return nil
}

func controlPlanes(s *v1alpha1.ClusterSpec) int {
	n := 0
	for _, h := range s.Hosts {
		if slices.Contains(h.Roles, v1alpha1.RoleControlPlane) {
			n++
		}
	}
	return n
}

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// isHost reports whether s is an IP address or a DNS name. What is made of
// digits and dots alone is meant to be an address.
func isHost(s string) bool {
	if isIP(s) {
		return true
	}
	return strings.Trim(s, "0123456789.") != "" && len(validation.IsDNS1123Subdomain(s)) == 0
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
