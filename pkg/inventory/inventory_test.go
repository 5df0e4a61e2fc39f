package inventory_test

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
)

func cluster(hosts ...v1alpha1.Host) *v1alpha1.Cluster {
	c := &v1alpha1.Cluster{}
	c.Metadata.Name = "x"
	c.Spec.Kubernetes.Version = "v1.36.3"
	c.Spec.Network.ServiceCIDR = "10.96.0.0/16"
	c.Spec.Hosts = hosts
	return c
}

func cp(name, addr string) v1alpha1.Host {
	return v1alpha1.Host{Name: name, Address: addr, Roles: []v1alpha1.Role{v1alpha1.RoleControlPlane}}
}

func mustNew(t *testing.T, c *v1alpha1.Cluster) *inventory.Inventory {
	t.Helper()
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func TestInventory_rolesSeedAndEndpoint(t *testing.T) {
	both := cp("b", "10.0.0.2")
	both.Roles = append(both.Roles, v1alpha1.RoleWorker)
	c := cluster(v1alpha1.Host{Name: "w", Address: "w.example.com", PrivateAddress: "10.0.0.9"}, cp("a", "10.0.0.1"), both)
	inv := mustNew(t, c)
	for _, tt := range []struct{ what, got, want string }{
		{"control planes", fmt.Sprint(inventory.Names(inv.ControlPlanes())), "[a b]"},
		{"workers", fmt.Sprint(inventory.Names(inv.Workers())), "[w]"},
		{"seed", inv.Seed().Name, "a"},
		{"endpoint", inv.Endpoint(), "10.0.0.1:6443"},
		{"dns", inv.ServiceDNSIP(), "10.96.0.10"},
		{"version", inv.Version(), "v1.36.3"},
		{"ip of a named host", inv.Nodes[0].IP, "10.0.0.9"},
		{"default role", fmt.Sprint(inv.Nodes[0].Worker, inv.Nodes[1].Worker, inv.Nodes[2].Worker), "true false true"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %s, want %s", tt.what, tt.got, tt.want)
		}
	}
	c.Spec.ControlPlane.Endpoint = v1alpha1.Endpoint{Mode: v1alpha1.EndpointExternal, Address: "lb", Port: 8443}
	if got := mustNew(t, c).Endpoint(); got != "lb:8443" {
		t.Errorf("external endpoint: %s", got)
	}
	if _, ok := inv.Node("nope"); ok {
		t.Error("found a node that is not there")
	}
}

func TestNew_refuses(t *testing.T) {
	noRange := cluster(cp("a", "10.0.0.1"))
	noRange.Spec.Network.ServiceCIDR = ""
	for name, c := range map[string]*v1alpha1.Cluster{
		"no control plane":   cluster(v1alpha1.Host{Name: "a", Address: "10.0.0.1"}),
		"no IP address":      cluster(cp("a", "a.example.com")),
		"a name used twice":  cluster(cp("a", "10.0.0.1"), cp("a", "10.0.0.2")),
		"no service network": noRange,
	} {
		if _, err := inventory.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSSH_hostOverridesCluster(t *testing.T) {
	no := false
	base := v1alpha1.SSH{User: "root", KeyFile: "k", Passphrase: "env:P", Password: "env:PW", SudoPassword: "env:S"}
	for _, tt := range []struct {
		name string
		base v1alpha1.SSH
		over *v1alpha1.SSH
		want inventory.SSH
	}{
		{"nothing said: root, 22 and the agent", v1alpha1.SSH{}, nil,
			inventory.SSH{User: "root", Port: 22, Agent: true}},
		{"all inherited", base, &v1alpha1.SSH{},
			inventory.SSH{User: "root", Port: 22, KeyFile: "k", Passphrase: "env:P", Password: "env:PW", SudoPassword: "env:S"}},
		{"another key has another passphrase", base, &v1alpha1.SSH{KeyFile: "k2"},
			inventory.SSH{User: "root", Port: 22, KeyFile: "k2", Password: "env:PW", SudoPassword: "env:S"}},
		{"another user has other passwords", base, &v1alpha1.SSH{User: "ops"},
			inventory.SSH{User: "ops", Port: 22, KeyFile: "k", Passphrase: "env:P"}},
		{"another password is sudo's too", base, &v1alpha1.SSH{Password: "env:Q"},
			inventory.SSH{User: "root", Port: 22, KeyFile: "k", Passphrase: "env:P", Password: "env:Q", SudoPassword: "env:Q"}},
		{"the agent can be refused", v1alpha1.SSH{}, &v1alpha1.SSH{Agent: &no, Port: 2222},
			inventory.SSH{User: "root", Port: 2222}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := cp("a", "10.0.0.1")
			h.SSH = tt.over
			c := cluster(h)
			c.Spec.SSH = tt.base
			if got := mustNew(t, c).Nodes[0].SSH; !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// Every field of the user's host, login and bastion reaches the node: a field
// that newNode or newSSH forgets changes nothing, and fails here.
func TestNew_forgetsNoField(t *testing.T) {
	full := func() *v1alpha1.Cluster {
		h := v1alpha1.Host{}
		n := 0
		fill(reflect.ValueOf(&h).Elem(), &n)
		h.Address, h.PrivateAddress = "10.0.0.1", "10.0.0.2"
		h.Roles = []v1alpha1.Role{v1alpha1.RoleControlPlane}
		h.SSH.Agent, h.SSH.Bastion.Agent = nil, nil // they follow from the others, and are tested above
		return cluster(h)
	}
	want := mustNew(t, full()).Nodes[0]
	each(reflect.TypeFor[v1alpha1.Host](), nil, func(index [][]int, name string) {
		if name == "Agent" || name == "Roles" {
			return
		}
		c := full()
		v := reflect.ValueOf(&c.Spec.Hosts[0]).Elem()
		for _, i := range index {
			if v.Kind() == reflect.Pointer {
				v = v.Elem()
			}
			v = v.FieldByIndex(i)
		}
		if name == "PrivateAddress" {
			v.SetString("10.0.0.3")
		} else {
			v.SetZero()
		}
		got, err := inventory.New(c)
		if err == nil && reflect.DeepEqual(got.Nodes[0], want) {
			t.Errorf("the node does not depend on %s", name)
		}
	})
}

// fill gives every field a value, and every text a different one.
func fill(v reflect.Value, n *int) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		e := reflect.New(v.Type().Elem()).Elem()
		if e.Kind() == reflect.Interface {
			e.Set(reflect.ValueOf("x"))
		} else {
			fill(e, n)
		}
		v.SetMapIndex(reflect.ValueOf("k"), e)
	case reflect.String:
		*n++
		v.SetString(fmt.Sprintf("env:%d", *n))
	case reflect.Int:
		v.SetInt(7)
	case reflect.Bool:
		v.SetBool(true)
	}
}

// each visits the fields of a struct and of the structs it points to.
func each(t reflect.Type, at [][]int, visit func(index [][]int, name string)) {
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(append([][]int{}, at...), f.Index)
		if f.Type.Kind() == reflect.Pointer && f.Type.Elem().Kind() == reflect.Struct {
			each(f.Type.Elem(), index, visit)
			continue
		}
		visit(index, f.Name)
	}
}
