package restore

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
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
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/resolver"
)

const pki = "/etc/kubernetes/pki/"

// leaves are the certificates of one control plane, which its addresses and the CA
// decide, each with its CA.
func leaves() map[string]string {
	return map[string]string{
		pki + "apiserver.crt": pki + "ca.crt", pki + "apiserver-kubelet-client.crt": pki + "ca.crt", pki + "front-proxy-client.crt": pki + "front-proxy-ca.crt",
		pki + "apiserver-etcd-client.crt": pki + "etcd/ca.crt", pki + "etcd/server.crt": pki + "etcd/ca.crt", pki + "etcd/peer.crt": pki + "etcd/ca.crt",
		pki + "etcd/healthcheck-client.crt": pki + "etcd/ca.crt",
	}
}

// kubeletConf is the kubelet's own kubeconfig.
const kubeletConf = "/etc/kubernetes/kubelet.conf"

// kubeconfigs are what kubeadm makes for a control plane.
func kubeconfigs() []string {
	const dir = "/etc/kubernetes/"
	return []string{dir + "admin.conf", dir + "super-admin.conf", dir + "controller-manager.conf", dir + "scheduler.conf", kubeletConf}
}

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
			out = append(out, plan.Change{Object: "file " + p, From: "of another CA or address", To: "make anew"})
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
		data, err := r.ReadFile(ctx, p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		ca, err2 := o.shared(ctx, r, cas[p])
		if err := errors.Join(err, err2); err != nil {
			errs = append(errs, err)
			continue
		}
		if !o.fits(p, data, ca) {
			out = append(out, p)
		}
	}
	ca, err := o.shared(ctx, r, pki+"ca.crt")
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	for _, p := range kubeconfigs() {
		data, err := r.ReadFile(ctx, p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !o.leadsHere(data, ca) {
			out = append(out, p)
		}
	}
	return out, errors.Join(errs...)
}

func sorted(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

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

// fits reports whether a certificate is of the CA and, where it serves, for this host.
func (o Options) fits(p string, data, ca []byte) bool {
	leaf, err1 := certificate(data)
	issuer, err2 := certificate(ca)
	if err1 != nil || err2 != nil || leaf.CheckSignatureFrom(issuer) != nil {
		return false
	}
	switch p {
	case pki + "apiserver.crt":
		missing, err := kubeadm.MissingSANs(data, o.Inventory, o.Node)
		return err == nil && len(missing) == 0
	case pki + "etcd/server.crt", pki + "etcd/peer.crt":
		return leaf.VerifyHostname(o.Node.IP) == nil && leaf.VerifyHostname(o.Node.Name) == nil
	}
	return true
}

func certificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no certificate is in it")
	}
	return x509.ParseCertificate(block.Bytes)
}

// leadsHere reports whether a kubeconfig trusts the CA and leads to this host or to
// the cluster's endpoint.
func (o Options) leadsHere(conf, ca []byte) bool {
	if !bytes.Contains(conf, []byte(base64.StdEncoding.EncodeToString(ca))) {
		return false
	}
	server, err := kubeadm.ServerOf(conf)
	if err != nil {
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
	return []plan.Step{phase(o, "certificates", sorted(leaves()), "certs all"), phase(o, "kubeconfigs", kubeconfigs(), "kubeconfig all")}
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

// Controllers starts what writes to the API, once all API servers answer, and marks
// the node as a control plane.
func Controllers(o Options) []plan.Step {
	const label = "node-role.kubernetes.io/control-plane"
	marked := func(ctx context.Context, look func(context.Context) (*kube.Client, error)) (there, has bool, err error) {
		c, err := look(ctx)
		if err != nil {
			return false, false, err
		}
		n, err := c.Node(ctx, o.Node.Name)
		if err != nil || n == nil {
			return false, false, err
		}
		_, has = n.Labels[label]
		return true, has, nil
	}
	registered := converge.Func{
		Name: "restore/registered",
		CheckFn: func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
			there, _, err := marked(ctx, o.API.Look)
			if err != nil || !there {
				return []plan.Change{{Object: "node " + o.Node.Name, To: "registered", After: "restore/api"}}, ctx.Err()
			}
			return nil, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			err := patiently(ctx, readyTime, func(ctx context.Context) error {
				there, _, err := marked(ctx, o.API.Dial)
				if err == nil && !there {
					err = fmt.Errorf("the kubelet has not registered node %s", o.Node.Name)
				}
				return err
			})
			if err != nil {
				return fault.New(fault.Unhealthy, fmt.Sprintf("see why: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager; then run the same command again", h.Name()), err)
			}
			return nil
		},
	}
	mark := o.withConfig("node", func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
		_, has, err := marked(ctx, o.API.Look)
		if err != nil || !has {
			return []plan.Change{{Object: "node " + o.Node.Name, To: "control plane", After: "restore/registered"}}, ctx.Err()
		}
		return nil, nil
	}, "mark-control-plane")
	scheduler, manager := kubeadm.ManifestsDir+"/kube-scheduler.yaml", kubeadm.ManifestsDir+"/kube-controller-manager.yaml"
	return []plan.Step{phase(o, "controllers", []string{scheduler, manager}, "control-plane controller-manager", "control-plane scheduler"), registered, mark}
}

// Forget takes a node out of the restored cluster whose host is another one now. Its
// pods are made anew elsewhere.
func Forget(node string, api kube.API) plan.Step {
	check := func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
		change := plan.Change{Object: "node " + node, From: "of a host that is no more", To: "forget"}
		c, err := api.Look(ctx)
		if errors.Is(err, kube.ErrNoCluster) {
			change.After = "restore/api"
			return []plan.Change{change}, nil
		}
		if err != nil {
			return nil, err
		}
		n, err := c.Node(ctx, node)
		if err != nil || n == nil {
			return nil, err
		}
		return []plan.Change{change}, nil
	}
	return converge.Func{Name: "restore/forget-" + node, CheckFn: check, ApplyFn: func(ctx context.Context, h host.Host) error {
		if todo, err := check(ctx, h); err != nil || len(todo) == 0 {
			return err
		}
		c, err := api.Dial(ctx)
		if err != nil {
			return err
		}
		return c.DeleteNode(ctx, node)
	}}
}
