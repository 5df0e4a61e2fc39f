// Package inventory is the resolved view of a cluster that every step works
// with: nodes with their roles, addresses and logins, nothing left to inherit.
//
// It is pure: no I/O, no clock, no randomness, and it imports nothing but the
// user's types. It trusts its input to be defaulted and validated by pkg/config.
package inventory

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// APIServerPort is the port of the API server on every control plane.
const APIServerPort = 6443

// serviceDNSIndex is the address in the service range that kubeadm gives to
// the cluster's DNS: the tenth.
const serviceDNSIndex = 10

// Inventory is a cluster, resolved. It is not changed after New; copies share
// its maps and slices.
type Inventory struct {
	Name  string               // of the cluster
	Spec  v1alpha1.ClusterSpec // with defaults; hosts are better read as Nodes
	Nodes []Node               // in the order of spec.hosts
}

// Node is a host, resolved.
type Node struct {
	Name            string // of the node in Kubernetes
	Address         string // where SSH connects to: IP address or DNS name
	IP              string // used among the nodes: the private address, or the address
	ControlPlane    bool
	Worker          bool // runs ordinary pods
	Labels          map[string]string
	Taints          []v1alpha1.Taint
	SSH             SSH
	KubeletOverride v1alpha1.Object // KubeletConfiguration fields of this host alone
}

// New resolves a cluster that pkg/config has defaulted and validated. The
// errors are for callers that skipped that.
func New(c *v1alpha1.Cluster) (*Inventory, error) {
	inv := &Inventory{Name: c.Metadata.Name, Spec: c.Spec}
	for i := range c.Spec.Hosts {
		n, err := NodeOf(c.Spec.SSH, c.Spec.Hosts[i])
		if err != nil {
			return nil, fmt.Errorf("spec.hosts[%d]: %w", i, err)
		}
		if _, ok := inv.Node(n.Name); ok {
			return nil, fmt.Errorf("spec.hosts[%d]: name %q is used twice", i, n.Name)
		}
		inv.Nodes = append(inv.Nodes, n)
	}
	if len(inv.ControlPlanes()) == 0 {
		return nil, fmt.Errorf("spec.hosts: no host has the role %s", v1alpha1.RoleControlPlane)
	}
	if _, err := netip.ParsePrefix(c.Spec.Network.ServiceCIDR); err != nil {
		return nil, fmt.Errorf("spec.network.serviceCIDR: %w", err)
	}
	return inv, nil
}

// NodeOf resolves one host with the logins of its cluster.
func NodeOf(ssh v1alpha1.SSH, h v1alpha1.Host) (Node, error) {
	ip := h.PrivateAddress
	if ip == "" {
		ip = h.Address
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return Node{}, fmt.Errorf("needs an IP address in privateAddress or address, not %q", ip)
	}
	roles := h.Roles
	if len(roles) == 0 {
		roles = []v1alpha1.Role{v1alpha1.RoleWorker}
	}
	return Node{
		Name:            h.Name,
		Address:         h.Address,
		IP:              addr.String(),
		ControlPlane:    slices.Contains(roles, v1alpha1.RoleControlPlane),
		Worker:          slices.Contains(roles, v1alpha1.RoleWorker),
		Labels:          maps.Clone(h.Labels),
		Taints:          slices.Clone(h.Taints),
		SSH:             newSSH(ssh, h.SSH),
		KubeletOverride: h.Kubelet.DeepCopy(),
	}, nil
}

// ControlPlanes returns the nodes that run a control plane, in order.
func (inv *Inventory) ControlPlanes() []Node {
	return inv.filter(func(n Node) bool { return n.ControlPlane })
}

// Workers returns the nodes without a control plane, in order: those that
// join as workers.
func (inv *Inventory) Workers() []Node {
	return inv.filter(func(n Node) bool { return !n.ControlPlane })
}

func (inv *Inventory) filter(keep func(Node) bool) []Node {
	var out []Node
	for _, n := range inv.Nodes {
		if keep(n) {
			out = append(out, n)
		}
	}
	return out
}

// Node returns the node of that name.
func (inv *Inventory) Node(name string) (Node, bool) {
	for _, n := range inv.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// Names returns the names of nodes, in order.
func Names(nodes []Node) []string {
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.Name
	}
	return names
}

// Seed returns the first control plane of the list. It is where a new cluster
// starts, and no more than a default: once the cluster exists, work that needs
// a control plane goes to a healthy one, whichever that is.
func (inv *Inventory) Seed() Node { return inv.ControlPlanes()[0] }

// ServiceDNSIP returns the address of the cluster's DNS service, the tenth of
// the service range, as kubeadm chooses it.
func (inv *Inventory) ServiceDNSIP() string {
	p, err := netip.ParsePrefix(inv.Spec.Network.ServiceCIDR)
	if err != nil {
		return "" // New refuses it
	}
	a := p.Masked().Addr()
	for range serviceDNSIndex {
		a = a.Next()
	}
	return a.String()
}

// Version returns the version of Kubernetes, with its leading v.
func (inv *Inventory) Version() string { return inv.Spec.Kubernetes.Version }

// At is the same cluster with another version of Kubernetes.
func (inv *Inventory) At(version string) *Inventory {
	out := *inv
	out.Spec.Kubernetes.Version = version
	return &out
}
