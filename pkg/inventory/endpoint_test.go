package inventory_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
)

func TestEndpoint_byMode(t *testing.T) {
	plane := cp("a", "a.example.com")
	plane.PrivateAddress = "10.0.0.1"
	c := cluster(plane, v1alpha1.Host{Name: "w", Address: "10.0.0.9"})
	for _, x := range []struct {
		e                           v1alpha1.Endpoint
		inside, outside, balancedOn string
	}{
		{v1alpha1.Endpoint{Mode: "none"}, "10.0.0.1:6443", "10.0.0.1:6443", ""},
		{v1alpha1.Endpoint{Mode: "external", Address: "lb"}, "lb:6443", "lb:6443", ""},
		{v1alpha1.Endpoint{Mode: "vip", Address: "10.0.0.100", Port: 8443}, "10.0.0.100:8443", "10.0.0.100:8443", "a"},
		{v1alpha1.Endpoint{Mode: "local", Port: 9443}, "127.0.0.1:9443", "a.example.com:6443", "a w"},
	} {
		c.Spec.ControlPlane.Endpoint = x.e
		inv := mustNew(t, c)
		var on []string
		for _, n := range inv.Nodes {
			if inv.LoadBalancerOn(n) {
				on = append(on, n.Name)
			}
		}
		if got := []string{inv.Endpoint(), inv.OutsideEndpoint(inv.Seed()), strings.Join(on, " ")}; fmt.Sprint(got) != fmt.Sprint([]string{x.inside, x.outside, x.balancedOn}) {
			t.Errorf("%s: %q", x.e.Mode, got)
		}
	}
}

func TestPorts_ofTheLoadBalancerAreTheNodes(t *testing.T) {
	c := cluster(cp("a", "10.0.0.1"), v1alpha1.Host{Name: "w", Address: "10.0.0.9"})
	c.Spec.ControlPlane.Endpoint = v1alpha1.Endpoint{Mode: "vip", Address: "10.0.0.100", Port: 8443}
	inv := mustNew(t, c)
	of := func(n inventory.Node) string {
		var out []string
		for _, p := range inv.Ports(n) {
			if p.Owner == "haproxy" || p.ControlPlane {
				out = append(out, fmt.Sprint(p.Number))
			}
		}
		return strings.Join(out, " ")
	}
	if a, w := of(inv.Nodes[0]), of(inv.Nodes[1]); a != "6443 2379 2380 2381 10257 10259 8443 8444" || w != "" {
		t.Errorf("%s; %s", a, w)
	}
}

// What is derived stays the same from run to run, and differs between clusters.
func TestVRRP_derived(t *testing.T) {
	c := cluster(cp("a", "10.0.0.1"))
	ids, passwords := map[int]bool{}, map[string]bool{}
	for i := range 64 {
		c.Spec.ControlPlane.Endpoint = v1alpha1.Endpoint{Mode: "vip", Address: fmt.Sprintf("10.0.1.%d", i), Port: 8443}
		inv := mustNew(t, c)
		id, pw := inv.VRRPID(), inv.VRRPPassword()
		if id < 1 || id > 255 || len(pw) != 8 || id != mustNew(t, c).VRRPID() || pw != mustNew(t, c).VRRPPassword() {
			t.Errorf("%d %q", id, pw)
		}
		ids[id], passwords[pw] = true, true
	}
	if len(ids) < 32 || len(passwords) != 64 {
		t.Errorf("%d ids and %d passwords for 64 clusters", len(ids), len(passwords))
	}
	c.Spec.ControlPlane.Endpoint.VRRP = &v1alpha1.VRRP{ID: 200}
	if id := mustNew(t, c).VRRPID(); id != 200 {
		t.Errorf("the user's id became %d", id)
	}
}
