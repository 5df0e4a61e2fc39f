package config

import (
	"fmt"
	"net/netip"
	"regexp"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
)

// The range that Kubernetes gives node ports out of.
const (
	firstNodePort = 30000
	lastNodePort  = 32767
)

// interfaceName is what the kernel allows, and no more than a configuration file
// takes as one word.
var interfaceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,14}$`)

func validateEndpoint(s *v1alpha1.ClusterSpec, p *field.Path) field.ErrorList {
	e := s.ControlPlane.Endpoint
	all := oneOf(e.Mode, p.Child("mode"), v1alpha1.EndpointNone, v1alpha1.EndpointExternal, v1alpha1.EndpointVIP, v1alpha1.EndpointLocal)
	if e.VRRP != nil && e.Mode != v1alpha1.EndpointVIP {
		all = append(all, field.Forbidden(p.Child("vrrp"), `needs mode "vip"`))
	}
	switch e.Mode {
	case v1alpha1.EndpointExternal:
		switch {
		case e.Address == "":
			all = append(all, field.Required(p.Child("address"), "the address of the load balancer or virtual IP"))
		case !isHost(e.Address):
			all = append(all, field.Invalid(p.Child("address"), e.Address, "must be an IP address or a DNS name"))
		}
		all = append(all, validatePort(e.Port, p.Child("port"))...)
	case v1alpha1.EndpointVIP:
		all = append(all, validateVIP(s, e.Address, p.Child("address"))...)
		all = append(all, validateLoadBalancerPort(s, p.Child("port"))...)
		all = append(all, validateVRRP(e.VRRP, p.Child("vrrp"))...)
	case v1alpha1.EndpointLocal:
		if e.Address != "" {
			all = append(all, field.Forbidden(p.Child("address"), `mode "local" is reached at 127.0.0.1 on every node`))
		}
		all = append(all, validateLoadBalancerPort(s, p.Child("port"))...)
	case v1alpha1.EndpointNone:
		if e.Address != "" {
			all = append(all, field.Forbidden(p.Child("address"), `needs mode "external" or "vip"`))
		}
		if e.Port != 0 {
			all = append(all, field.Forbidden(p.Child("port"), `needs mode "external", "vip" or "local"`))
		}
		if n := controlPlanes(s); n > 1 {
			all = append(all, field.Invalid(p.Child("mode"), e.Mode,
				fmt.Sprintf("%d control planes need an address that outlives each of them: set mode to \"vip\" and address to an unused address of their network, "+
					"to \"local\" for a load balancer on every node, or to \"external\" and address to a load balancer of yours", n)))
		}
	}
	return all
}

// validateVIP checks the address that moves between the control planes.
func validateVIP(s *v1alpha1.ClusterSpec, address string, p *field.Path) field.ErrorList {
	if address == "" {
		return field.ErrorList{field.Required(p, "an unused IPv4 address in the network of the control planes")}
	}
	vip, err := netip.ParseAddr(address)
	switch {
	case err != nil || !vip.Is4():
		return field.ErrorList{field.Invalid(p, address, "must be an IPv4 address")}
	case !vip.IsGlobalUnicast():
		return field.ErrorList{field.Invalid(p, address, "is no address that a host can have for others")}
	}
	for i, h := range s.Hosts {
		for _, a := range []string{h.Address, h.PrivateAddress} {
			if host, err := netip.ParseAddr(a); err == nil && host == vip {
				return field.ErrorList{field.Invalid(p, address, fmt.Sprintf("is the address of spec.hosts[%d] %s: the virtual IP has to be one that nobody has", i, h.Name))}
			}
		}
	}
	return nil
}

// validateLoadBalancerPort checks the port of the load balancer and the one that
// follows it, at which the load balancer tells about itself.
func validateLoadBalancerPort(s *v1alpha1.ClusterSpec, p *field.Path) field.ErrorList {
	port := s.ControlPlane.Endpoint.Port
	if port < 1 || port > 65534 {
		return field.ErrorList{field.Invalid(p, port, "must be between 1 and 65534")}
	}
	for i, one := range []int{port, port + 1} {
		who := portOwner(s, one)
		switch {
		case who == "":
		case i == 0:
			return field.ErrorList{field.Invalid(p, port, "belongs to "+who)}
		default:
			return field.ErrorList{field.Invalid(p, port, fmt.Sprintf("needs port %d as well, which belongs to %s", one, who))}
		}
	}
	return nil
}

func validateVRRP(v *v1alpha1.VRRP, p *field.Path) field.ErrorList {
	if v == nil {
		return nil
	}
	var all field.ErrorList
	if v.ID < 0 || v.ID > 255 {
		all = append(all, field.Invalid(p.Child("id"), v.ID, "must be between 1 and 255"))
	}
	if v.Interface != "" && !interfaceName.MatchString(v.Interface) {
		all = append(all, field.Invalid(p.Child("interface"), v.Interface, "must be the name of a network interface, such as eth0"))
	}
	return append(all, validateSecrets(p, map[string]v1alpha1.SecretRef{"password": v.Password})...)
}

// portOwner says whose port it is on hosts of a cluster; empty where it is nobody's.
func portOwner(s *v1alpha1.ClusterSpec, port int) string {
	who := ""
	if port >= firstNodePort && port <= lastNodePort {
		who = fmt.Sprintf("the node ports of services, %d to %d", firstNodePort, lastNodePort)
	}
	for _, t := range inventory.Ports() {
		if t.Number == port {
			who = t.Owner
		}
	}
	for _, h := range s.Hosts {
		if h.SSH != nil && h.SSH.Port == port || (h.SSH == nil || h.SSH.Port == 0) && s.SSH.Port == port {
			who = "SSH on " + h.Name
		}
	}
	return who
}
