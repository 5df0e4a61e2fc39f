// Package endpoint moves a cluster that runs to another address of its API: what
// kubeadm and the cluster remember of it, the certificates of the API servers, and
// the kubeconfigs on the nodes. On a new cluster all of it is as it should be.
package endpoint

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/kubeedit"
	"github.com/kocli/kocli/pkg/plan"
)

// Options are what the steps need.
type Options struct {
	Inventory *inventory.Inventory
	Node      inventory.Node
	API       kube.API
}

// mark says which address kube-proxy was told last: as a key of its ConfigMap, set
// before its kubeconfig there, and as an annotation of its pods.
const mark = "kocli.io.endpoint"

// Cluster has kubeadm, joining nodes and kube-proxy know the address.
func Cluster(o Options) plan.Step {
	return kubeedit.Step("endpoint/cluster", o.API, func(ctx context.Context, c *kube.Client) ([]kubeedit.Edit, error) { return edits(ctx, c, o.Inventory) })
}

// edits lists the objects of the cluster that name another address. Those that
// kubeadm has not made yet are left to it.
func edits(ctx context.Context, c *kube.Client, inv *inventory.Inventory) ([]kubeedit.Edit, error) {
	server := kubeadm.Server(inv)
	conf, err1 := c.ConfigMap(ctx, "kube-system", "kubeadm-config")
	info, err2 := c.ConfigMap(ctx, "kube-public", "cluster-info")
	proxy, err3 := kubeedit.ReadProxy(ctx, c, mark)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	var out []kubeedit.Edit
	if text := conf["ClusterConfiguration"]; text != "" {
		was, err := kubeadm.EndpointOf(text)
		if err != nil {
			return nil, err
		}
		if was != "" && was != inv.Endpoint() {
			out = append(out, kubeedit.Edit{Change: plan.Change{Object: "configuration of kubeadm in the cluster", From: was, To: server}, Apply: func(ctx context.Context, c *kube.Client) error {
				next, err := kubeadm.WithEndpoint(text, inv)
				if err != nil {
					return err
				}
				return c.SetConfigMap(ctx, "kube-system", "kubeadm-config", "ClusterConfiguration", next, false)
			}})
		}
	}
	if text := info["kubeconfig"]; text != "" {
		was, err := elsewhere(text, server)
		if err != nil {
			return nil, fmt.Errorf("configmap kube-public/cluster-info: %w", err)
		}
		if was != "" {
			out = append(out, kubeedit.Edit{Change: plan.Change{Object: "address of the API for nodes that join", From: was, To: server}, Apply: func(ctx context.Context, c *kube.Client) error {
				next, err := kubeadm.WithServer([]byte(text), server)
				if err != nil {
					return err
				}
				return c.SetConfigMap(ctx, "kube-public", "cluster-info", "kubeconfig", string(next), false)
			}})
		}
	}
	if text := proxy.Text("kubeconfig.conf"); text != "" {
		was, err := elsewhere(text, server)
		if err != nil {
			return nil, fmt.Errorf("configmap kube-system/kube-proxy: %w", err)
		}
		if was != "" {
			out = append(out, proxy.Set(plan.Change{Object: "address of the API for kube-proxy", From: was, To: server}, "kubeconfig.conf", server, func() (string, error) {
				next, err := kubeadm.WithServer([]byte(text), server)
				return string(next), err
			}))
		}
	}
	return append(out, proxy.Rollout("an older kubeconfig")...), nil
}

// elsewhere returns the server that a kubeconfig names, where it is another one.
func elsewhere(kubeconfig, server string) (string, error) {
	was, err := kubeadm.ServerOf([]byte(kubeconfig))
	if err != nil || was == server {
		return "", err
	}
	return was, nil
}

const (
	kubeletConf = "/etc/kubernetes/kubelet.conf"
	apiCert     = "/etc/kubernetes/pki/apiserver.crt"
	apiKey      = "/etc/kubernetes/pki/apiserver.key"
	restart     = kubeedit.Restart("restart-kubelet")
)

// Kubelet has the kubelet of a node, and on control planes the administrator's
// kubeconfig, use the address. The kubelet of a control plane talks to its own API
// server, as kubeadm has it.
func Kubelet(o Options) plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		files, err := confs(ctx, r, o)
		if err != nil {
			return nil, err
		}
		var todo []plan.Change
		for _, f := range files {
			todo = append(todo, plan.Change{Object: "file " + f.path, From: f.server, To: kubeadm.Server(o.Inventory)})
		}
		due, err := restart.Due(ctx, r, "an older kubeconfig")
		return append(todo, due...), err
	}
	return converge.Func{
		Name:    "endpoint/kubeconfigs",
		CheckFn: check,
		ApplyFn: func(ctx context.Context, h host.Host) error {
			files, err := confs(ctx, h, o)
			if err != nil {
				return err
			}
			if len(files) > 0 {
				if err := serves(ctx, h, o.Inventory.Endpoint()); err != nil {
					return err
				}
			}
			for _, c := range files {
				next, err := kubeadm.WithServer(c.data, kubeadm.Server(o.Inventory))
				if err != nil {
					return fmt.Errorf("%s: %w", c.path, err)
				}
				f := host.Bytes(c.path, 0o600, next)
				f.Secret = true
				if f.Path == kubeletConf {
					if err := restart.Ask(ctx, h); err != nil {
						return err
					}
				}
				if _, err := h.Put(ctx, f); err != nil {
					return err
				}
			}
			return restart.Do(ctx, h)
		},
	}
}

// conf is a kubeconfig that names another address.
type conf struct {
	path, server string
	data         []byte
}

// confs returns the kubeconfigs of a node that name another address. A node that
// has not joined has none.
func confs(ctx context.Context, r host.Reader, o Options) ([]conf, error) {
	paths := []string{kubeletConf}
	if o.Node.ControlPlane {
		paths = []string{kube.AdminConf()}
	}
	server := kubeadm.Server(o.Inventory)
	var out []conf
	for _, p := range paths {
		data, err := r.ReadFile(ctx, p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		was, err := elsewhere(string(data), server)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		if was != "" {
			out = append(out, conf{p, was, data})
		}
	}
	return out, nil
}

// serveTimeout is how long the new address is given to answer on a node.
const serveTimeout = 2 * time.Minute

// serves waits until the address answers on a node with a certificate of the
// cluster: a kubelet that is sent to one that does not is lost.
func serves(ctx context.Context, h host.Host, endpoint string) error {
	t, ok := h.(host.Tunnel)
	if !ok {
		return fmt.Errorf("%s cannot open connections", h.Name())
	}
	ca, err := h.ReadFile(ctx, kubeadm.CACertPath)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return fmt.Errorf("%s on %s holds no certificate", kubeadm.CACertPath, h.Name())
	}
	name, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, serveTimeout)
	defer cancel()
	err = kube.Poll(wait, time.Second, func(ctx context.Context) error {
		conn, err := t.DialContext(ctx, "tcp", endpoint)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }() // only looked at
		return tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: name, MinVersion: tls.VersionTLS12}).HandshakeContext(ctx)
	})
	if err != nil {
		return fault.New(fault.Failure, fmt.Sprintf("see what stands there: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager; then run the same command again", h.Name()),
			fmt.Errorf("the API does not answer at %s on %s: %w", endpoint, h.Name(), err))
	}
	return nil
}

// Certificate has the API server of a control plane present a certificate for the
// address. The API server reads it again by itself.
func Certificate(o Options) plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		_, err := r.Stat(ctx, kubeadm.APIServerManifestPath)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // init and join make it
		}
		if err != nil {
			return nil, err
		}
		data, err := r.ReadFile(ctx, apiCert)
		if errors.Is(err, fs.ErrNotExist) {
			return []plan.Change{{Object: "certificate of the API server", To: "create"}}, nil
		}
		if err != nil {
			return nil, err
		}
		missing, err := kubeadm.MissingSANs(data, o.Inventory, o.Node)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", apiCert, err)
		}
		if len(missing) == 0 {
			_, err := r.Stat(ctx, kubeadm.CertConfigPath)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			}
			return []plan.Change{{Object: "file " + kubeadm.CertConfigPath, From: "left by a run that was cut off", To: "absent"}}, err
		}
		return []plan.Change{{Object: "certificate of the API server", From: "not for " + strings.Join(missing, ", "), To: "replace"}}, nil
	}
	return converge.Func{
		Name:    "endpoint/certificate",
		CheckFn: check,
		ApplyFn: func(ctx context.Context, h host.Host) error {
			todo, err := check(ctx, h)
			if err != nil || len(todo) == 0 {
				return err
			}
			if todo[0].To == "absent" {
				return h.Remove(ctx, kubeadm.CertConfigPath)
			}
			conf, err := kubeadm.Certificate(o.Inventory, o.Node)
			if err != nil {
				return err
			}
			if _, err := h.Put(ctx, host.Bytes(kubeadm.CertConfigPath, 0o600, conf)); err != nil {
				return err
			}
			for _, p := range []string{apiCert, apiKey} { // kubeadm uses what is there
				if err := h.Remove(ctx, p); err != nil {
					return err
				}
			}
			if err := kubeadmrun.Run(ctx, h, "init", "phase", "certs", "apiserver", "--config", kubeadm.CertConfigPath); err != nil {
				return err
			}
			return h.Remove(ctx, kubeadm.CertConfigPath)
		},
	}
}
