package preflight

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/probe"
)

// mostMembers is how many members etcd is still quick with.
const mostMembers = 7

// Neighbour is what a control plane found when it asked its network for the virtual
// IP, before anything of the cluster has it.
type Neighbour struct {
	Node    string // that asked
	Answers bool   // somebody has the address
	MAC     string // of who answered; empty where unknown
}

// controlPlaneCount warns of an etcd that gains nothing by its last member. A
// majority has to agree, and a majority of 4 is 3, as it is of 5.
func controlPlaneCount(in Input) []Finding {
	n := len(in.Inventory.ControlPlanes())
	switch {
	case in.Inventory.ExternalEtcd() != nil: // how many members it has is not the cluster's to say
		return nil
	case n > mostMembers:
		return []Finding{warn("make the others workers; 3, 5 or 7 control planes are usual",
			"%d control planes: each change waits for %d members of etcd, and gets slower with every one more", n, n/2+1)}
	case n%2 == 0:
		return []Finding{warn(fmt.Sprintf("use %d or %d control planes", n-1, n+1),
			"%d control planes bear the loss of %s, as %d do: etcd needs a majority, which is %d of %d", n, members((n-1)/2), n-1, n/2+1, n)}
	}
	return nil
}

func members(n int) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprint(n)
}

// endpointExternal refuses hosts that do not reach the endpoint that the user
// brings. That nothing answers there yet is no fault: API servers come later.
func endpointExternal(in Input) []Finding {
	var all []Finding
	for _, r := range in.Endpoint {
		if r.Err == "" {
			continue
		}
		f := refuse("let it lead to port 6443 of the control planes, and let every host reach it; then run kocli preflight again",
			"the endpoint %s is not reached from %s: %s", r.Address, r.From, r.Err)
		f.Node = r.From
		all = append(all, f)
	}
	return all
}

// etcdExternal refuses control planes that cannot work with the external etcd. Of
// those that work with it already, a member that is away is no reason to leave them
// alone, as long as there is another.
func etcdExternal(in Input) []Finding {
	reached := map[string]bool{}
	for _, r := range in.Etcd {
		reached[r.From] = reached[r.From] || r.Err == ""
	}
	var all []Finding
	for _, r := range in.Etcd {
		if r.Err == "" {
			continue
		}
		f := refuse("look at spec.etcd.external: the endpoint has to be reached from every control plane, and its certificate and the client's have to be of CAs that the other side trusts",
			"the member of etcd at %s is of no use to %s: %s", r.Address, r.From, r.Err)
		if in.Facts[r.From].Managed && reached[r.From] {
			f.Level = Warning
		}
		f.Node = r.From
		all = append(all, f)
	}
	if n := in.EtcdObjects; n > 0 {
		all = append(all, refuse("if nobody needs them, remove them: etcdctl del --prefix /registry/; otherwise give spec.etcd.external another etcd",
			"the external etcd holds %d objects of a cluster already: a new one would take them for its own", n))
	}
	return all
}

// vipInterface refuses a virtual IP that cannot be on the interface where it
// belongs.
func vipInterface(in Input, n inventory.Node, f probe.Facts) []Finding {
	e := in.Inventory.Spec.ControlPlane.Endpoint
	vip, err := netip.ParseAddr(e.Address)
	ip, err2 := netip.ParseAddr(n.IP)
	if e.Mode != v1alpha1.EndpointVIP || !n.ControlPlane || len(f.Interfaces) == 0 || err != nil || err2 != nil {
		return nil
	}
	i, ok := probe.InterfaceOf(f.Interfaces, ip)
	if e.VRRP != nil && e.VRRP.Interface != "" {
		at := slices.IndexFunc(f.Interfaces, func(x probe.Interface) bool { return x.Name == e.VRRP.Interface })
		if at < 0 {
			return []Finding{refuse("name one that every control plane has, or leave spec.controlPlane.endpoint.vrrp.interface out",
				"there is no interface %s for the virtual IP", e.VRRP.Interface)}
		}
		i, ok = f.Interfaces[at], true
	}
	if !ok {
		return nil // node-address says what is wrong
	}
	var nets []string
	for _, p := range i.Addresses {
		if !p.Addr().Is4() || p.Addr() == vip {
			continue // the virtual IP itself is no network
		}
		if p.Contains(vip) {
			return nil
		}
		nets = append(nets, p.Masked().String())
	}
	return []Finding{refuse("give spec.controlPlane.endpoint.address an unused address of that network, or use mode local, which needs none",
		"the virtual IP %s is not in the network of %s, which is %s", vip, i.Name, strings.Join(nets, ", "))}
}

// vipConflict refuses a virtual IP that somebody has already.
func vipConflict(in Input) []Finding {
	var all []Finding
	for _, a := range in.Neighbours {
		if !a.Answers {
			continue
		}
		who := "a machine that is not of this cluster"
		if a.MAC != "" {
			who = "a machine with the MAC address " + a.MAC
		}
		for _, n := range in.Inventory.Nodes {
			f := in.Facts[n.Name]
			if slices.ContainsFunc(f.Interfaces, func(i probe.Interface) bool { return a.MAC != "" && strings.EqualFold(i.MAC, a.MAC) }) {
				who += ", which is " + n.Name
			}
		}
		f := refuse("give spec.controlPlane.endpoint.address another, unused address; or take it from the machine that has it",
			"the virtual IP %s is in use by %s", in.Inventory.Spec.ControlPlane.Endpoint.Address, who)
		f.Node = a.Node
		all = append(all, f)
	}
	return all
}
