package workflow

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/registry"
	"github.com/kocli/kocli/pkg/state"
)

// checkRepository is where a check pushes to in the built-in registry.
const checkRepository = "kocli/check"

// RegistryLogin is what a client outside the cluster needs for a registry. Its JSON is
// stable.
type RegistryLogin struct {
	Name         string   `json:"name"` // as images carry it
	Builtin      bool     `json:"builtin"`
	Addresses    []string `json:"addresses,omitempty"` // where the built-in one is reached from outside, HOST:PORT
	CAFile       string   `json:"caFile,omitempty"`    // on this machine
	Username     string   `json:"username,omitempty"`
	PasswordFile string   `json:"passwordFile,omitempty"` // on this machine; empty where the user's YAML refers to it
}

// RegistryLogins tells how clients outside use the registries of a cluster. No host is
// asked.
func RegistryLogins(o Options) []RegistryLogin {
	dir := state.Open(o.Home, o.Inventory.Name)
	out := []RegistryLogin{}
	if b := o.Inventory.Spec.Registry.Builtin; b != nil {
		l := RegistryLogin{Name: inventory.RegistryName(b), Builtin: true, CAFile: b.CAFile, Username: b.Username}
		for _, n := range o.Inventory.RegistryHosts() {
			l.Addresses = append(l.Addresses, net.JoinHostPort(n.Address, strconv.Itoa(b.Port)))
		}
		if b.CertFile == "" {
			l.CAFile = dir.Secret(registryCA + ".crt")
		}
		if b.Password == "" {
			l.PasswordFile = dir.Secret(registryPassword)
		}
		out = append(out, l)
	}
	for _, x := range o.Inventory.Spec.Registry.External {
		out = append(out, RegistryLogin{Name: x.Name, CAFile: x.CAFile, Username: x.Username})
	}
	return out
}

// RegistryState is how a registry is, seen from this machine. Its JSON is stable.
type RegistryState struct {
	Name    string   `json:"name"`
	Address string   `json:"address,omitempty"`
	Passed  []string `json:"passed"` // connect, certificate, login, push, pull
	Error   string   `json:"error,omitempty"`
	Hint    string   `json:"hint,omitempty"`
}

// RegistryCheck does with each registry what docker login, push and pull do. Of
// registries of others, the one in push is pushed to: HOST[:PORT]/REPOSITORY. The error
// is that of the first that is not well.
func RegistryCheck(ctx context.Context, o Options, push string) ([]RegistryState, error) {
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // it only looked
	m, err := s.registries(ctx, s.secret, false)
	if err != nil {
		return nil, err
	}
	if len(m.Trust) == 0 {
		return nil, fault.New(fault.Usage, "name one in "+o.SpecFile+": spec.registry.builtin or spec.registry.external", errors.New("the cluster has no registry"))
	}
	logins := map[string]registry.Login{}
	for _, l := range m.Logins {
		logins[l.Registry] = l
	}
	out := []RegistryState{}
	var first error
	ask := func(t registry.Target) {
		st := RegistryState{Name: t.Name, Address: t.Address}
		passed, err := registry.Check(ctx, t)
		st.Passed = append([]string{}, passed...)
		if err != nil {
			st.Error, st.Hint = err.Error(), fault.HintOf(err)
			if first == nil {
				first = err
			}
		}
		out = append(out, st)
	}
	for _, r := range m.Trust {
		t := registry.Target{Name: r.Name, CA: r.CA, Username: logins[r.Name].Username, Password: logins[r.Name].Password}
		if b := o.Inventory.Spec.Registry.Builtin; b != nil && r.Name == inventory.RegistryName(b) {
			t.Repository = checkRepository
			for _, n := range o.Inventory.RegistryHosts() {
				t.Address = net.JoinHostPort(n.Address, strconv.Itoa(b.Port))
				ask(t)
			}
			continue
		}
		if host, repository, ok := strings.Cut(push, "/"); ok && host == r.Name {
			t.Repository = repository
		}
		ask(t)
	}
	return out, first
}
