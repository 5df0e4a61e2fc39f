package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"strconv"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// LoadBalancerPort is the default port of kocli's own load balancer.
const LoadBalancerPort = 8443

// loopback is where a load balancer on every node is reached.
const loopback = "127.0.0.1"

// Port is a TCP port that a program listens on.
type Port struct {
	Number       int
	Owner        string // the program that should listen there
	Peers        bool   // other nodes connect to it
	ControlPlane bool   // on control planes only
}

// Ports returns the TCP ports of Kubernetes itself.
func Ports() []Port {
	return []Port{
		{10250, "kubelet", true, false}, {10248, "kubelet", false, false}, {10249, "kube-proxy", false, false}, {10256, "kube-proxy", false, false},
		{APIServerPort, "kube-apiserver", true, true}, {2379, "etcd", true, true}, {2380, "etcd", true, true}, {2381, "etcd", false, true},
		{10257, "kube-controller-manager", false, true}, {10259, "kube-scheduler", false, true},
	}
}

// Ports returns the TCP ports of a node: those of Kubernetes that its role brings,
// and those of the load balancer where it has one.
func (inv *Inventory) Ports(n Node) []Port {
	var out []Port
	for _, p := range Ports() {
		if (n.ControlPlane || !p.ControlPlane) && (p.Owner != "etcd" || inv.ExternalEtcd() == nil) {
			out = append(out, p)
		}
	}
	if inv.LoadBalancerOn(n) {
		e := inv.Spec.ControlPlane.Endpoint
		out = append(out, Port{e.Port, "haproxy", e.Mode == v1alpha1.EndpointVIP, false}, Port{inv.HealthPort(), "haproxy", false, false})
	}
	if inv.RegistryOn(n) {
		out = append(out, Port{inv.Spec.Registry.Builtin.Port, "registry", true, false})
	}
	return out
}

// ExternalEtcd returns the etcd outside the cluster; nil where the control planes
// have its members.
func (inv *Inventory) ExternalEtcd() *v1alpha1.ExternalEtcd { return inv.Spec.Etcd.External }

// Endpoint returns host:port of the API as all nodes use it.
func (inv *Inventory) Endpoint() string {
	e := inv.Spec.ControlPlane.Endpoint
	port := strconv.Itoa(e.Port)
	switch e.Mode {
	case v1alpha1.EndpointExternal:
		if e.Port == 0 {
			port = strconv.Itoa(APIServerPort)
		}
		return net.JoinHostPort(e.Address, port)
	case v1alpha1.EndpointVIP:
		return net.JoinHostPort(e.Address, port)
	case v1alpha1.EndpointLocal:
		return net.JoinHostPort(loopback, port)
	case v1alpha1.EndpointNone:
	}
	return inv.Seed().APIServer()
}

// APIServer returns host:port of the API server on a control plane.
func (n Node) APIServer() string { return net.JoinHostPort(n.IP, strconv.Itoa(APIServerPort)) }

// OutsideEndpoint returns host:port of the API for the operator's machine, with
// a control plane that answers: the endpoint, or where that leads nowhere from
// outside, the control plane at the address of its SSH.
func (inv *Inventory) OutsideEndpoint(through Node) string {
	if inv.Spec.ControlPlane.Endpoint.Mode == v1alpha1.EndpointLocal {
		return net.JoinHostPort(through.Address, strconv.Itoa(APIServerPort))
	}
	return inv.Endpoint()
}

// LoadBalancerOn reports whether kocli's load balancer runs on a node: on control
// planes with a virtual IP, on all with mode local.
func (inv *Inventory) LoadBalancerOn(n Node) bool {
	mode := inv.Spec.ControlPlane.Endpoint.Mode
	return mode == v1alpha1.EndpointLocal || mode == v1alpha1.EndpointVIP && n.ControlPlane
}

// HealthPort is where the load balancer tells about itself, on the loopback.
func (inv *Inventory) HealthPort() int { return inv.Spec.ControlPlane.Endpoint.Port + 1 }

// VRRPID returns the id of the virtual router. Two clusters in one network get
// different ones in most cases: where they do not, the password keeps them apart,
// and spec.controlPlane.endpoint.vrrp.id ends it.
func (inv *Inventory) VRRPID() int {
	if v := inv.Spec.ControlPlane.Endpoint.VRRP; v != nil && v.ID != 0 {
		return v.ID
	}
	return int(inv.vrrpDigest()[0])%255 + 1
}

// VRRPPassword returns the password of the virtual router where the user gave
// none. All that it has to do is to differ from that of other clusters.
func (inv *Inventory) VRRPPassword() string {
	sum := inv.vrrpDigest()
	return hex.EncodeToString(sum[1:5])
}

func (inv *Inventory) vrrpDigest() [sha256.Size]byte {
	return sha256.Sum256([]byte(inv.Name + " " + inv.Spec.ControlPlane.Endpoint.Address))
}
