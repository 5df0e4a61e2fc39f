package inventory

import (
	"net"
	"slices"
	"strconv"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// RegistryName is the name of the built-in registry as images carry it: HOST:PORT.
func RegistryName(b *v1alpha1.BuiltinRegistry) string {
	return net.JoinHostPort(b.Name, strconv.Itoa(b.Port))
}

// RegistryOn reports whether the built-in registry runs on a node.
func (inv *Inventory) RegistryOn(n Node) bool {
	b := inv.Spec.Registry.Builtin
	return b != nil && slices.Contains(b.Hosts, n.Name)
}

// RegistryHosts are the nodes of the built-in registry, in the order in which they are
// asked.
func (inv *Inventory) RegistryHosts() []Node {
	var out []Node
	if b := inv.Spec.Registry.Builtin; b != nil {
		for _, name := range b.Hosts {
			if n, ok := inv.Node(name); ok {
				out = append(out, n)
			}
		}
	}
	return out
}

// RegistryEndpoints are the URLs of the built-in registry for nodes, one a host. With
// a certificate of kocli's they are addresses, so that nobody has to resolve the name;
// the operator's certificate covers the name alone.
func (inv *Inventory) RegistryEndpoints() []string {
	b := inv.Spec.Registry.Builtin
	if b == nil {
		return nil
	}
	if b.CertFile != "" {
		return []string{"https://" + RegistryName(b)}
	}
	var out []string
	for _, n := range inv.RegistryHosts() {
		out = append(out, "https://"+net.JoinHostPort(n.IP, strconv.Itoa(b.Port)))
	}
	return out
}
