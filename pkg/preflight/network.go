package preflight

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/probe"
)

// portsFree refuses ports that another program has. On a host that kocli
// worked on before, the components of Kubernetes are at home.
func portsFree(in Input, n inventory.Node, f probe.Facts) []Finding {
	var all []Finding
	for _, p := range in.Inventory.Ports(n) {
		l, taken := f.Listener(p.Number)
		if !taken {
			continue
		}
		// The kernel cuts the names of programs at 15 letters.
		own := l.Process == "" || strings.HasPrefix(p.Owner, l.Process)
		if f.Managed && own {
			continue
		}
		who := "another program"
		if l.Process != "" {
			who = l.Process
		}
		all = append(all, refuse(fmt.Sprintf("see who it is: ss -ltnp 'sport = :%d', and stop it", p.Number),
			"port %d, which %s needs, is taken by %s", p.Number, p.Owner, who))
	}
	return all
}

func nodeAddress(_ Input, n inventory.Node, f probe.Facts) []Finding {
	ip, err := netip.ParseAddr(n.IP)
	if err != nil || f.Has(ip) {
		return nil
	}
	return []Finding{refuse("set privateAddress of this host to one of its own addresses",
		"no interface of the host has the address %s", n.IP)}
}

// resolvesElsewhere allows the loopback addresses that distributions write for
// a host's own name.
func resolvesElsewhere(_ Input, n inventory.Node, f probe.Facts) []Finding {
	node, err := netip.ParseAddr(n.IP)
	if err != nil || len(f.Resolved) == 0 || slices.Contains(f.Resolved, node) {
		return nil
	}
	for _, a := range f.Resolved {
		if a.IsLoopback() || len(f.Interfaces) > 0 && f.Has(a) {
			continue
		}
		return []Finding{refuse("correct "+n.Name+" in /etc/hosts of the host or in DNS",
			"%s resolves to %s on the host, and its address is %s", n.Name, a, n.IP)}
	}
	return nil
}

func defaultRoute(_ Input, _ inventory.Node, f probe.Facts) []Finding {
	if f.DefaultRoute != "" || len(f.Interfaces) == 0 {
		return nil
	}
	return []Finding{warn("ip route add default via GATEWAY, any gateway will do",
		"there is no default route; service addresses cannot be reached from the host itself")}
}

func resolverLoopback(in Input, _ inventory.Node, f probe.Facts) []Finding {
	if usable(f.Nameservers) || usable(f.RealNameservers) {
		return nil
	}
	what := "there is no DNS server in /etc/resolv.conf"
	if len(f.Nameservers) > 0 {
		what = "the DNS server " + f.Nameservers[0] + " is on the host's loopback, where pods cannot reach it"
	}
	if len(in.Inventory.Spec.Network.DNS.Upstream) > 0 {
		return nil // CoreDNS asks those
	}
	return []Finding{warn("name DNS servers in spec.network.dns.upstream if pods should resolve names outside the cluster",
		"%s: pods resolve the names of the cluster only", what)}
}

func usable(servers []string) bool {
	for _, s := range servers {
		if a, err := netip.ParseAddr(s); err != nil || a.IsLoopback() || a.IsUnspecified() {
			return false
		}
	}
	return len(servers) > 0
}

// firewallActive says what has to be open. Where the hosts were seen to reach
// each other, it only reminds.
func firewallActive(in Input, n inventory.Node, f probe.Facts) []Finding {
	name := ""
	switch {
	case f.Services["firewalld"]:
		name = "firewalld"
	case f.UFW:
		name = "ufw"
	default:
		return nil
	}
	what := make([]string, 0, 8)
	for _, p := range in.Inventory.Ports(n) {
		if p.Peers {
			what = append(what, strconv.Itoa(p.Number)+"/tcp")
		}
	}
	if fl := in.Inventory.Spec.Network.CNI.Flannel; fl != nil && fl.Backend == v1alpha1.FlannelVXLAN {
		what = append(what, "8472/udp")
	}
	net := in.Inventory.Spec.Network
	if in.Inventory.Spec.ControlPlane.Endpoint.Mode == v1alpha1.EndpointVIP && n.ControlPlane {
		what = append(what, "vrrp")
	}
	finding := refuse(openPorts(name, what, net.PodCIDR, net.ServiceCIDR),
		"%s is active: it has to let in %s, and everything from %s and %s", name, strings.Join(what, " "), net.PodCIDR, net.ServiceCIDR)
	if len(in.Inventory.Nodes) == 1 || reached(in, n.Name) || f.Managed {
		finding.Level = Warning
	}
	return []Finding{finding}
}

// ignoreAfter is said because rules cannot be read back reliably.
const ignoreAfter = "; then add firewall-active to spec.preflight.ignore"

func openPorts(firewall string, ports []string, sources ...string) string {
	var b strings.Builder
	if firewall == "ufw" {
		for _, p := range ports {
			if p == "vrrp" { // ufw has no word for it
				b.WriteString("allow protocol 112 (VRRP) between the control planes in /etc/ufw/before.rules; ")
				continue
			}
			b.WriteString("ufw allow " + p + "; ")
		}
		for _, s := range sources {
			b.WriteString("ufw allow from " + s + "; ")
		}
		b.WriteString("ufw default allow routed")
		return b.String() + ignoreAfter
	}
	b.WriteString("firewall-cmd --permanent")
	for _, p := range ports {
		if p == "vrrp" {
			b.WriteString(" --add-protocol=vrrp")
			continue
		}
		b.WriteString(" --add-port=" + p)
	}
	b.WriteString("; firewall-cmd --permanent --zone=trusted")
	for _, s := range sources {
		b.WriteString(" --add-source=" + s)
	}
	b.WriteString("; firewall-cmd --reload")
	return b.String() + ignoreAfter
}

// reached reports whether connections to the node were tried and all succeeded.
func reached(in Input, to string) bool {
	tried := false
	for _, r := range in.Reach {
		if r.To != to {
			continue
		}
		if r.Err != "" {
			return false
		}
		tried = true
	}
	return tried
}

func reachability(in Input) []Finding {
	var all []Finding
	for _, r := range in.Reach {
		if r.Err == "" {
			continue
		}
		port := r.Address
		if _, p, err := net.SplitHostPort(r.Address); err == nil {
			port = p
		}
		f := refuse(fmt.Sprintf("open port %s for %s on %s, and on what lies between them", port, r.From, r.To),
			"%s is not reached from %s at %s: %s", r.To, r.From, r.Address, r.Err)
		f.Node = r.From
		all = append(all, f)
	}
	return all
}
