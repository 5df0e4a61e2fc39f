package restore

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/resolver"
)

const pkiDir = kubeadm.PKIDir + "/"

// leaves are the certificates of one control plane, which its addresses and the CA
// decide, each with its CA.
func leaves() map[string]string {
	return map[string]string{
		pkiDir + "apiserver.crt": pkiDir + "ca.crt", pkiDir + "apiserver-kubelet-client.crt": pkiDir + "ca.crt", pkiDir + "front-proxy-client.crt": pkiDir + "front-proxy-ca.crt",
		pkiDir + "apiserver-etcd-client.crt": pkiDir + "etcd/ca.crt", pkiDir + "etcd/server.crt": pkiDir + "etcd/ca.crt", pkiDir + "etcd/peer.crt": pkiDir + "etcd/ca.crt",
		pkiDir + "etcd/healthcheck-client.crt": pkiDir + "etcd/ca.crt",
	}
}

// kubeletConf is the kubelet's own kubeconfig.
const kubeletConf = "/etc/kubernetes/kubelet.conf"

const configDir = "/etc/kubernetes/"

// kubeconfigs are what kubeadm makes for a control plane, by its names.
func kubeconfigs() []string {
	return []string{"admin", "super-admin", "controller-manager", "scheduler", "kubelet"}
}

// own are the kubeconfigs that this control plane has to have. The one that no RBAC
// holds is, as after kubeadm init, on one of them only.
func (o Options) own() []string {
	out := kubeconfigs()
	if o.Node.Name != o.Inventory.ControlPlanes()[0].Name || len(o.Files) == 0 {
		out = slices.DeleteFunc(out, func(n string) bool { return n == "super-admin" })
	}
	return out
}

func confPath(name string) string { return configDir + name + ".conf" }

// Files lays down what all control planes share, and takes away certificates and
// kubeconfigs that do not go with it or with the addresses of this host: kubeadm
// makes those anew.
func Files(o Options) plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, []string, error) {
		out, err := converge.Differences(ctx, r, o.Files)
		if err != nil {
			return nil, nil, err
		}
		old, err := o.stale(ctx, r)
		for _, p := range old {
			out = append(out, plan.Change{Object: "file " + p, From: "of another CA or address, or ended", To: "make anew"})
		}
		return out, old, err
	}
	return converge.Func{
		Name: "restore/files",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			out, _, err := check(ctx, r)
			return out, err
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			_, old, err := check(ctx, h)
			if err != nil {
				return err
			}
			if slices.Contains(old, kubeletConf) { // which starts again with what it gets
				if _, err := h.Run(ctx, host.Command("systemctl", "stop", "kubelet.service")); err != nil {
					return err
				}
				if err := h.Remove(ctx, pki.KubeletClientPath); err != nil { // it would be preferred to what the new one holds
					return err
				}
			}
			for _, p := range old {
				both := []string{p}
				if key, ok := strings.CutSuffix(p, ".crt"); ok { // the certificate last: it says that there is something to do
					both = []string{key + ".key", p}
				}
				for _, f := range both {
					if err := h.Remove(ctx, f); err != nil {
						return err
					}
				}
			}
			return converge.Put(ctx, h, o.Files, 1)
		},
	}
}

// stale lists the certificates and kubeconfigs that this host cannot use.
func (o Options) stale(ctx context.Context, r host.Reader) ([]string, error) {
	var out []string
	var errs []error
	cas := leaves()
	for _, p := range sorted(cas) {
		ok, err := o.pairFits(ctx, r, p, cas[p])
		if errs = append(errs, err); err == nil && !ok {
			out = append(out, p)
		}
	}
	ca, err := o.shared(ctx, r, kubeadm.CACertPath)
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	for _, n := range kubeconfigs() {
		ok, err := o.confFits(ctx, r, confPath(n), ca)
		if errs = append(errs, err); err == nil && !ok {
			out = append(out, confPath(n))
		}
	}
	return out, errors.Join(errs...)
}

// pairFits reports whether kubeadm can be left with a certificate as it is: it is not
// there, or good and with its key. kubeadm uses what it finds, and fails on half a pair,
// which it leaves itself when it is killed.
func (o Options) pairFits(ctx context.Context, r host.Reader, p, caPath string) (bool, error) {
	key, err := present(ctx, r, []string{strings.TrimSuffix(p, ".crt") + ".key"})
	if err != nil {
		return false, err
	}
	data, err := r.ReadFile(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		return len(key) == 0, nil
	}
	ca, err2 := o.shared(ctx, r, caPath)
	if err := errors.Join(err, err2); err != nil {
		return false, err
	}
	return len(key) == 1 && o.fits(p, data, ca), nil
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// shared is a file that all control planes have, as the backup has it.
func (o Options) shared(ctx context.Context, r host.Reader, p string) ([]byte, error) {
	for _, f := range o.Files {
		if f.Path != p {
			continue
		}
		rc, err := f.Open()
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		_, err = b.ReadFrom(rc)
		return b.Bytes(), errors.Join(err, rc.Close())
	}
	return r.ReadFile(ctx, p)
}

// fits reports whether a certificate is of the CA, has not ended and, where it serves,
// is for this host.
func (o Options) fits(p string, data, ca []byte) bool {
	leaf, err := pki.First(data)
	if err != nil || !o.signed(leaf, ca) {
		return false
	}
	switch p {
	case pkiDir + "apiserver.crt":
		missing, err := kubeadm.MissingSANs(data, o.Inventory, o.Node)
		return err == nil && len(missing) == 0
	case pkiDir + "etcd/server.crt", pkiDir + "etcd/peer.crt":
		return leaf.VerifyHostname(o.Node.IP) == nil && leaf.VerifyHostname(o.Node.Name) == nil
	}
	return true
}

// signed reports whether a certificate is of the CA and has not ended.
func (o Options) signed(leaf *x509.Certificate, ca []byte) bool {
	issuer, err := pki.First(ca)
	return err == nil && leaf.CheckSignatureFrom(issuer) == nil && o.Now().Before(leaf.NotAfter)
}

// confFits reports whether a kubeconfig can stay: it is not there, or it trusts the CA,
// leads to this host or to the cluster's endpoint, and its certificate, where it has
// one, is still good and, for the kubelet, in the name of this node.
func (o Options) confFits(ctx context.Context, r host.Reader, p string, ca []byte) (bool, error) {
	conf, err := r.ReadFile(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if !o.leadsHere(conf, ca) {
		return false, nil
	}
	data, file, err := kubeadm.ClientCertificateOf(conf)
	if err != nil {
		return false, nil //nolint:nilerr // it is made anew
	}
	if file != "" {
		data, err = r.ReadFile(ctx, file)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	if len(data) == 0 {
		return true, nil // a token or the like, which the user put there
	}
	leaf, err := pki.First(data)
	if err != nil || !o.signed(leaf, ca) {
		return false, nil //nolint:nilerr // as above
	}
	return p != kubeletConf || leaf.Subject.CommonName == "system:node:"+o.Node.Name, nil
}

// leadsHere reports whether a kubeconfig trusts the CA and leads to this host or to
// the cluster's endpoint.
func (o Options) leadsHere(conf, ca []byte) bool {
	trusted, err1 := kubeadm.CAOf(conf)
	has, err2 := pki.First(trusted)
	want, err3 := pki.First(ca)
	server, err4 := kubeadm.ServerOf(conf)
	if errors.Join(err1, err2, err3, err4) != nil || !has.Equal(want) {
		return false
	}
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	return u.Host == o.Inventory.Endpoint() || u.Host == net.JoinHostPort(o.Node.IP, "6443")
}

// phase runs phases of kubeadm init where what they make is not there.
func phase(o Options, name string, makes []string, phases ...string) plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		there, err := present(ctx, r, makes)
		if err != nil {
			return nil, err
		}
		var out []plan.Change
		for _, p := range makes {
			if !slices.Contains(there, p) {
				out = append(out, plan.Change{Object: "file " + p, To: "create"})
			}
		}
		return out, nil
	}
	return o.withConfig(name, check, phases...)
}

// withConfig runs phases of kubeadm init where something is to do, and removes the
// configuration that an interrupted run has left.
func (o Options) withConfig(name string, check func(context.Context, host.Reader) ([]plan.Change, error), phases ...string) plan.Step {
	return converge.Func{
		Name: "restore/" + name,
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			leftover := kubeadmrun.Leftover(ctx, r, kubeadm.RestoreConfigPath)
			out, err := check(ctx, r)
			there, err2 := leftover()
			if len(out) == 0 && there {
				out = []plan.Change{kubeadmrun.LeftoverChange(kubeadm.RestoreConfigPath)}
			}
			return out, errors.Join(err, err2)
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			todo, err := check(ctx, h)
			if err != nil {
				return err
			}
			if len(todo) > 0 {
				return o.kubeadm(ctx, h, phases...)
			}
			there, err := kubeadmrun.Leftover(ctx, h, kubeadm.RestoreConfigPath)()
			if err != nil || !there {
				return err
			}
			return h.Remove(ctx, kubeadm.RestoreConfigPath)
		},
	}
}

// kubeadm runs phases of kubeadm init, one after another.
func (o Options) kubeadm(ctx context.Context, h host.Host, phases ...string) error {
	resolv, err := resolver.KubeletPath(ctx, h)
	if err != nil {
		return err
	}
	node := kubeadm.NodeOptions{ResolvConf: resolv}
	config, err := kubeadm.Init(o.Inventory, o.Node, kubeadm.InitOptions{NodeOptions: node, Token: kube.NewToken()}) // which no phase here uses
	if err != nil {
		return err
	}
	if err := kubeadmrun.PutPatch(ctx, h, o.Node, node); err != nil {
		return err
	}
	f := host.Bytes(kubeadm.RestoreConfigPath, 0o600, config)
	f.Secret = true
	if _, err := h.Put(ctx, f); err != nil {
		return err
	}
	for _, p := range phases {
		argv := append([]string{"init", "phase"}, strings.Fields(p)...)
		if err := kubeadmrun.Run(ctx, h, append(argv, "--config", kubeadm.RestoreConfigPath)...); err != nil {
			return fault.New(fault.Failure, fmt.Sprintf("see why: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager; then run the same command again", h.Name()), err)
		}
	}
	return h.Remove(ctx, kubeadm.RestoreConfigPath)
}

// Credentials has kubeadm make the certificates and kubeconfigs that lack.
func Credentials(o Options) []plan.Step {
	var paths, confs []string
	for _, n := range o.own() {
		paths, confs = append(paths, confPath(n)), append(confs, "kubeconfig "+n)
	}
	return []plan.Step{phase(o, "certificates", sorted(leaves()), "certs all"), phase(o, "kubeconfigs", paths, confs...)}
}

// Etcd starts the member of this node, and the kubelet that runs it.
func Etcd(o Options) []plan.Step {
	active := host.Command("systemctl", "is-active", "kubelet.service")
	config := "/var/lib/kubelet/config.yaml"
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		there, err := present(ctx, r, []string{config})
		if err != nil {
			return nil, err
		}
		out, err := r.Query(ctx, active)
		var x *host.ExitError
		if err != nil && !errors.As(err, &x) {
			return nil, err
		}
		if len(there) == 1 && slices.Contains([]string{"active", "activating", "reloading"}, out.Text()) {
			return nil, nil
		}
		return []plan.Change{{Object: "service kubelet", From: out.Text(), To: "active"}}, nil
	}
	kubelet := o.withConfig("kubelet", check, "kubelet-start")
	return []plan.Step{phase(o, "etcd", []string{kubeadm.EtcdManifestPath}, "etcd local"), kubelet}
}

// APIServer starts the API server of this node, on an etcd that has its quorum, and
// waits until it answers.
func APIServer(o Options) []plan.Step {
	ready := func(ctx context.Context, look func(context.Context) (*kube.Client, error)) error {
		c, err := look(ctx)
		if err != nil {
			return err
		}
		return c.Ready(ctx)
	}
	answers := converge.Func{
		Name: "restore/api",
		CheckFn: func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
			if err := ready(ctx, o.API.Look); err != nil {
				return []plan.Change{{Object: "API server of " + o.Node.Name, To: "ready", After: "restore/apiserver"}}, ctx.Err()
			}
			return nil, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			if err := patiently(ctx, readyTime, func(ctx context.Context) error { return ready(ctx, o.API.Dial) }); err != nil {
				return fault.New(fault.Unhealthy, fmt.Sprintf("see why: kocli exec %s --root -- sh -c 'tail -n 20 /var/log/pods/kube-system_kube-apiserver-*/*/*.log'; then run the same command again", h.Name()),
					fmt.Errorf("the API server of %s is not ready within %s: %w", o.Node.Name, readyTime, err))
			}
			return nil
		},
	}
	return []plan.Step{phase(o, "apiserver", []string{kubeadm.APIServerManifestPath}, "control-plane apiserver"), answers}
}
