package workflow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/registry"
	"github.com/kocli/kocli/pkg/state"
	"github.com/kocli/kocli/pkg/steps/kubernetes"
	regsteps "github.com/kocli/kocli/pkg/steps/registry"
	ctrd "github.com/kocli/kocli/pkg/steps/runtime"
)

// Registries is what the nodes of a cluster need to pull from its registries, and the
// hosts of the built-in one to serve.
type Registries struct {
	Trust    []ctrd.Registry
	Logins   []registry.Login
	CA       []byte                   // of the built-in registry
	Serving  map[string]registry.Pair // by host of the built-in registry
	Htpasswd []byte
}

// Where the state folder keeps what kocli made for the built-in registry.
const (
	registryCA       = "registry-ca"
	registryPassword = "registry-password"
	registryHtpasswd = "registry-htpasswd"
)

// registries makes what the YAML asks for. What kocli has to make itself is kept in
// the state folder, where keep says so: a run that only looks makes it for itself.
func (s *Session) registries(ctx context.Context, secret func(context.Context, v1alpha1.SecretRef, string) (string, error), keep bool) (*Registries, error) {
	m := materials{dir: s.dir, keep: keep, known: s.replaces, now: s.o.Clock.Now(), secret: secret}
	out, err := m.all(ctx, s.inv)
	if err != nil {
		return nil, fault.New(fault.Usage, "look at spec.registry in "+s.o.SpecFile, err)
	}
	return out, nil
}

type materials struct {
	dir    *state.Dir
	keep   bool
	known  bool // the hosts serve with what was made before: another CA would not be theirs
	now    time.Time
	secret func(ctx context.Context, ref v1alpha1.SecretRef, what string) (string, error)
}

func (m materials) all(ctx context.Context, inv *inventory.Inventory) (*Registries, error) {
	out := &Registries{}
	if b := inv.Spec.Registry.Builtin; b != nil {
		if err := m.builtin(ctx, inv, b, out); err != nil {
			return nil, fmt.Errorf("spec.registry.builtin: %w", err)
		}
	}
	for i, x := range inv.Spec.Registry.External {
		r := ctrd.Registry{Name: x.Name, Endpoints: []string{"https://" + x.Name}}
		if x.CAFile != "" {
			var err error
			if r.CA, err = m.file(x.CAFile); err == nil {
				_, err = registry.CheckCA(r.CA)
			}
			if err != nil {
				return nil, fmt.Errorf("spec.registry.external[%d].caFile: %w", i, err)
			}
		}
		out.Trust = append(out.Trust, r)
		if x.Username != "" {
			password, err := m.secret(ctx, x.Password, "password for "+x.Name)
			if err != nil {
				return nil, err
			}
			out.Logins = append(out.Logins, registry.Login{Registry: x.Name, Username: x.Username, Password: password})
		}
	}
	return out, nil
}

func (m materials) builtin(ctx context.Context, inv *inventory.Inventory, b *v1alpha1.BuiltinRegistry, out *Registries) error {
	password, err := m.password(ctx, b)
	if err != nil {
		return err
	}
	old, err := m.kept(registryHtpasswd)
	if err != nil {
		return err
	}
	if out.Htpasswd, err = registry.Htpasswd(old, b.Username, password); err != nil {
		return err
	}
	if err := m.write(registryHtpasswd, out.Htpasswd); err != nil {
		return err
	}
	out.Serving = map[string]registry.Pair{}
	if b.CertFile != "" {
		err = m.given(inv, b, out)
	} else {
		err = m.signed(inv, b, out)
	}
	if err != nil {
		return err
	}
	name := inventory.RegistryName(b)
	out.Trust = append(out.Trust, ctrd.Registry{Name: name, Endpoints: inv.RegistryEndpoints(), CA: out.CA})
	out.Logins = append(out.Logins, registry.Login{Registry: name, Username: b.Username, Password: password})
	return nil
}

// password is the user's, or one of kocli's.
func (m materials) password(ctx context.Context, b *v1alpha1.BuiltinRegistry) (string, error) {
	if b.Password != "" {
		return m.secret(ctx, b.Password, "password of the built-in registry")
	}
	p, err := m.kept(registryPassword)
	if err != nil || len(p) > 0 {
		return string(p), err
	}
	made := registry.NewPassword()
	return made, m.write(registryPassword, []byte(made))
}

// given takes the operator's certificate.
func (m materials) given(inv *inventory.Inventory, b *v1alpha1.BuiltinRegistry, out *Registries) error {
	var pair registry.Pair
	var errs [3]error
	pair.Cert, errs[0] = m.file(b.CertFile)
	pair.Key, errs[1] = m.file(b.KeyFile)
	out.CA, errs[2] = m.file(b.CAFile)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	if err := pair.Serves(out.CA, []string{b.Name}, m.now); err != nil {
		return fmt.Errorf("%s cannot serve %s: %w", b.CertFile, b.Name, err)
	}
	for _, n := range inv.RegistryHosts() {
		out.Serving[n.Name] = pair
	}
	return nil
}

// signed has a CA of kocli's sign a certificate for each host. One that fits, and does
// not end soon, stays.
func (m materials) signed(inv *inventory.Inventory, b *v1alpha1.BuiltinRegistry, out *Registries) error {
	if have, err := m.kept(registryCA + ".crt"); err != nil || m.known && len(have) == 0 {
		return errors.Join(err, fmt.Errorf("its CA is not on this machine: copy %s from the one that created the cluster", m.dir.Secret("registry-*")))
	}
	ca, err := m.pair(registryCA, func(p registry.Pair) bool {
		_, err := registry.CheckCA(p.Cert)
		return err == nil && !p.Ending(m.now)
	}, func() (registry.Pair, error) { return registry.NewCA(inv.Name, m.now) })
	if err != nil {
		return err
	}
	out.CA = ca.Cert
	for _, n := range inv.RegistryHosts() {
		names := []string{b.Name, n.IP}
		if n.Address != n.IP {
			names = append(names, n.Address)
		}
		out.Serving[n.Name], err = m.pair("registry-"+n.Name, func(p registry.Pair) bool {
			return !p.Ending(m.now) && p.Serves(ca.Cert, names, m.now) == nil
		}, func() (registry.Pair, error) { return ca.Sign(names, m.now) })
		if err != nil {
			return err
		}
	}
	return nil
}

// pair is one that the state folder has, where it is good, or a new one. The key is
// written first: a certificate alone is none that could be used.
func (m materials) pair(name string, good func(registry.Pair) bool, fresh func() (registry.Pair, error)) (registry.Pair, error) {
	var p registry.Pair
	var err1, err2 error
	p.Cert, err1 = m.kept(name + ".crt")
	p.Key, err2 = m.kept(name + ".key")
	if err := errors.Join(err1, err2); err != nil {
		return p, err
	}
	if len(p.Cert) > 0 && len(p.Key) > 0 && good(p) {
		return p, nil
	}
	p, err := fresh()
	if err != nil {
		return p, err
	}
	return p, errors.Join(m.write(name+".key", p.Key), m.write(name+".crt", p.Cert))
}

// kept is a file of the state folder; nil where there is none.
func (m materials) kept(name string) ([]byte, error) {
	data, err := os.ReadFile(m.dir.Secret(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func (m materials) write(name string, data []byte) error {
	old, err := m.kept(name)
	if err != nil || !m.keep || string(old) == string(data) {
		return err
	}
	return m.dir.Write(m.dir.Secret(name), data)
}

func (m materials) file(name string) ([]byte, error) {
	p, err := config.ExpandPath(name)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(p) //nolint:gosec // the operator names the file
}

// registriesOf is what nodes need; nothing where the YAML asks for nothing.
func (c *Cluster) registriesOf() (*Registries, error) {
	if c.Registries == nil {
		return &Registries{}, nil
	}
	return c.Registries()
}

// registryPhase is the one phase that takes content on some nodes alone.
const registryPhase = "registry"

// registryHosts are the nodes of the built-in registry.
func (c *Cluster) registryHosts() []string { return inventory.Names(c.Inventory.RegistryHosts()) }

// registrySteps have the built-in registry run on a host.
func (c *Cluster) registrySteps(n inventory.Node) ([]plan.Step, error) {
	r, err := c.registriesOf()
	if err != nil {
		return nil, err
	}
	return regsteps.Serve(regsteps.Options{Inventory: c.Inventory, Payload: c.Payload(n), TLS: r.Serving[n.Name], Htpasswd: r.Htpasswd})
}

// runtimeSteps have containerd run on a node.
func (c *Cluster) runtimeSteps(n inventory.Node) ([]plan.Step, error) {
	r, err := c.registriesOf()
	if err != nil {
		return nil, err
	}
	return ctrd.Steps(ctrd.Options{Spec: c.Inventory.Spec.Runtime.Containerd, Payload: c.Payload(n), Registries: r.Trust})
}

// kubernetesSteps have the programs of Kubernetes on a node, and the logins that its
// kubelet pulls with.
func (c *Cluster) kubernetesSteps(n inventory.Node) ([]plan.Step, error) {
	r, err := c.registriesOf()
	if err != nil {
		return nil, err
	}
	out, err := kubernetes.Steps(c.Payload(n))
	return append(out, regsteps.Logins(r.Logins)), err
}
