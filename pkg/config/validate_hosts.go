package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
)

func validateHosts(s *v1alpha1.ClusterSpec, p *field.Path) field.ErrorList {
	switch {
	case len(s.Hosts) == 0:
		return field.ErrorList{field.Required(p, "a cluster needs at least one host")}
	case len(s.Hosts) > maxHosts:
		return field.ErrorList{field.TooMany(p, len(s.Hosts), maxHosts)}
	}
	var all field.ErrorList
	for i := range s.Hosts {
		all = append(all, validateHost(&s.Hosts[i], p.Index(i))...)
	}
	all = append(all, validateUnique(s, p)...)
	if controlPlanes(s) == 0 {
		all = append(all, field.Required(p, fmt.Sprintf("at least one host with the role %q", v1alpha1.RoleControlPlane)))
	}
	return all
}

func validateHost(h *v1alpha1.Host, p *field.Path) field.ErrorList {
	all := validateNodeName(h.Name, p.Child("name"))
	switch {
	case h.Address == "":
		all = append(all, field.Required(p.Child("address"), "an IP address or DNS name"))
	case !isHost(h.Address):
		all = append(all, field.Invalid(p.Child("address"), h.Address, "must be an IP address or a DNS name"))
	case !isIP(h.Address) && h.PrivateAddress == "":
		all = append(all, field.Required(p.Child("privateAddress"), "an IP address, because address is a DNS name"))
	}
	all = append(all, validateNodeIP(h, p)...)
	for i, r := range h.Roles {
		all = append(all, oneOf(r, p.Child("roles").Index(i), v1alpha1.RoleControlPlane, v1alpha1.RoleWorker)...)
		if slices.Contains(h.Roles[:i], r) {
			all = append(all, field.Duplicate(p.Child("roles").Index(i), r))
		}
	}
	all = append(all, validateLabels(h.Labels, p.Child("labels"))...)
	all = append(all, validateTaints(h.Taints, p.Child("taints"))...)
	if h.SSH != nil {
		all = append(all, validateSSH(h.SSH, p.Child("ssh"))...)
	}
	return append(all, forbidFields(h.Kubelet, p.Child("kubelet"), kubeletManaged())...)
}

// validateLabels reports in the order of the keys: the library follows the map,
// which has none.
func validateLabels(labels map[string]string, p *field.Path) field.ErrorList {
	var all field.ErrorList
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, metav1validation.ValidateLabels(map[string]string{k: labels[k]}, p)...)
	}
	return all
}

func validateNodeName(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "the name of the node")}
	}
	all := invalid(p, name, validation.IsDNS1123Subdomain(name))
	if len(name) > validation.LabelValueMaxLength {
		all = append(all, field.TooLong(p, name, validation.LabelValueMaxLength))
	}
	return all
}

// validateNodeIP checks the address that nodes use among themselves.
func validateNodeIP(h *v1alpha1.Host, p *field.Path) field.ErrorList {
	at, v := p.Child("privateAddress"), h.PrivateAddress
	if v == "" {
		at, v = p.Child("address"), h.Address
	}
	ip, err := netip.ParseAddr(v)
	switch {
	case err != nil && h.PrivateAddress != "":
		return field.ErrorList{field.Invalid(at, v, "must be an IP address")}
	case err != nil:
		return nil // reported as address
	case !ip.Is4():
		return field.ErrorList{field.Invalid(at, v, "must be an IPv4 address; IPv6 is not supported by this version of kocli yet")}
	case ip.IsLoopback() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLinkLocalUnicast():
		return field.ErrorList{field.Invalid(at, v, "must be an address that the other nodes reach; set privateAddress")}
	}
	return nil
}

// validateUnique refuses two hosts with one name, login or address. Logins
// compare with their port: hosts behind one address may differ in it.
func validateUnique(s *v1alpha1.ClusterSpec, p *field.Path) field.ErrorList {
	var all field.ErrorList
	names, logins, ips := map[string]bool{}, map[string]bool{}, map[string]bool{}
	once := func(seen map[string]bool, key, shown string, at *field.Path) {
		if shown == "" {
			return
		}
		if seen[key] {
			all = append(all, field.Duplicate(at, shown))
		}
		seen[key] = true
	}
	for i, h := range s.Hosts {
		at := p.Index(i)
		port := s.SSH.Port
		if h.SSH != nil && h.SSH.Port != 0 {
			port = h.SSH.Port
		}
		once(names, h.Name, h.Name, at.Child("name"))
		once(logins, fmt.Sprintf("%s port %d", h.Address, port), h.Address, at.Child("address"))
		switch {
		case h.PrivateAddress != "":
			once(ips, h.PrivateAddress, h.PrivateAddress, at.Child("privateAddress"))
		case isIP(h.Address):
			once(ips, h.Address, h.Address, at.Child("address"))
		}
	}
	return all
}

func validateTaints(taints []v1alpha1.Taint, p *field.Path) field.ErrorList {
	var all field.ErrorList
	seen := map[string]bool{}
	for i, t := range taints {
		at := p.Index(i)
		if t.Key == "" {
			all = append(all, field.Required(at.Child("key"), "the key of the taint"))
		} else {
			all = append(all, metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
		}
		all = append(all, invalid(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
		all = append(all, oneOf(t.Effect, at.Child("effect"), "NoSchedule", "PreferNoSchedule", "NoExecute")...)
		if key := t.Key + " " + t.Effect; seen[key] {
			all = append(all, field.Duplicate(at, t.Key+":"+t.Effect))
		} else {
			seen[key] = true
		}
	}
	return all
}

// validateLogins looks at what every host ends up with once it has inherited:
// there must be a way in.
func validateLogins(c *v1alpha1.Cluster) field.ErrorList {
	inv, err := inventory.New(c)
	if err != nil {
		return field.ErrorList{field.InternalError(field.NewPath("spec"), err)}
	}
	var all field.ErrorList
	for i, n := range inv.Nodes {
		if n.SSH.KeyFile == "" && n.SSH.Password == "" && !n.SSH.Agent {
			all = append(all, field.Required(field.NewPath("spec", "hosts").Index(i).Child("ssh"),
				"no way to log in: give keyFile or password, or set agent to true"))
		}
		if n.SSH.Passphrase != "" && n.SSH.KeyFile == "" {
			all = append(all, field.Required(field.NewPath("spec", "hosts").Index(i).Child("ssh", "keyFile"), "for the passphrase"))
		}
	}
	return all
}
