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
	return converge.Func{
		Name: "endpoint/cluster",
		CheckFn: func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
			c, err := o.API.Look(ctx)
			if errors.Is(err, kube.ErrNoCluster) {
				return nil, nil // init writes what it is told
			}
			if err != nil {
				return nil, err
			}
			edits, err := edits(ctx, c, o.Inventory)
			if err != nil {
				return nil, err
			}
			var out []plan.Change
			for _, e := range edits {
				out = append(out, plan.Change{Object: e.title, From: e.from, To: kubeadm.Server(o.Inventory)})
			}
			return out, nil
		},
		ApplyFn: func(ctx context.Context, _ host.Host) error {
			c, err := o.API.Dial(ctx)
			if err != nil {
				return err
			}
			edits, err := edits(ctx, c, o.Inventory)
			if err != nil {
				return err
			}
			for _, e := range edits {
				if err := e.apply(ctx, c); err != nil {
					return fmt.Errorf("%s: %w", e.title, err)
				}
			}
			return nil
		},
	}
}

// edit is one object that names the address.
type edit struct {
	title, from string
	apply       func(context.Context, *kube.Client) error
}

// edits lists the objects of the cluster that name another address. Those that
// kubeadm has not made yet are left to it.
func edits(ctx context.Context, c *kube.Client, inv *inventory.Inventory) ([]edit, error) {
	server := kubeadm.Server(inv)
	conf, err1 := c.ConfigMap(ctx, "kube-system", "kubeadm-config")
	info, err2 := c.ConfigMap(ctx, "kube-public", "cluster-info")
	proxy, err3 := c.ConfigMap(ctx, "kube-system", "kube-proxy")
	told, err4 := c.TemplateAnnotation(ctx, "kube-system", "kube-proxy", mark)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	var out []edit
	if text := conf["ClusterConfiguration"]; text != "" {
		was, err := kubeadm.EndpointOf(text)
		if err != nil {
			return nil, err
		}
		if was != "" && was != inv.Endpoint() {
			out = append(out, edit{"configuration of kubeadm in the cluster", was, func(ctx context.Context, c *kube.Client) error {
				next, err := kubeadm.WithEndpoint(text, inv)
				if err != nil {
					return err
				}
				return c.SetConfigMap(ctx, "kube-system", "kubeadm-config", "ClusterConfiguration", next, false)
			}})
		}
	}
	set := func(namespace, name, key, text, title string) error {
		if text == "" {
			return nil
		}
		was, err := kubeadm.ServerOf([]byte(text))
		if err != nil {
			return fmt.Errorf("configmap %s/%s: %w", namespace, name, err)
		}
		if was == "" || was == server {
			return nil
		}
		out = append(out, edit{title, was, func(ctx context.Context, c *kube.Client) error {
			next, err := kubeadm.WithServer([]byte(text), server)
			if err != nil {
				return err
			}
			return c.SetConfigMap(ctx, namespace, name, key, string(next), false)
		}})
		return nil
	}
	if err := set("kube-public", "cluster-info", "kubeconfig", info["kubeconfig"], "address of the API for nodes that join"); err != nil {
		return nil, err
	}
	// kube-proxy reads its kubeconfig when it starts. What its pods have been told is
	// held against what stands beside the kubeconfig, written together with it.
	if err := set("kube-system", "kube-proxy", "kubeconfig.conf", proxy["kubeconfig.conf"], "address of the API for kube-proxy"); err != nil {
		return nil, err
	}
	last := proxy[mark]
	if n := len(out); n > 0 && out[n-1].title == "address of the API for kube-proxy" {
		last = server
		move := out[n-1].apply
		out[n-1].apply = func(ctx context.Context, c *kube.Client) error {
			if err := c.SetConfigMap(ctx, "kube-system", "kube-proxy", mark, server, false); err != nil {
				return err
			}
			return move(ctx, c)
		}
	}
	if last != "" && told != last {
		out = append(out, edit{"kube-proxy", "runs with an older kubeconfig", func(ctx context.Context, c *kube.Client) error {
			return c.AnnotateTemplate(ctx, "kube-system", "kube-proxy", mark, last)
		}})
	}
	return out, nil
}

const (
	kubeletConf = "/etc/kubernetes/kubelet.conf"
	apiCert     = "/etc/kubernetes/pki/apiserver.crt"
	apiKey      = "/etc/kubernetes/pki/apiserver.key"
	// restart says that the kubelet has not been restarted since its kubeconfig
	// changed. It is there before the change and goes after the restart.
	restart = kubeadm.ConfigDir + "/restart-kubelet"
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
		_, err = r.Stat(ctx, restart)
		if err == nil {
			todo = append(todo, plan.Change{Object: "service kubelet.service", From: "runs with an older kubeconfig", To: "restart"})
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return todo, nil
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
					if _, err := h.Put(ctx, host.Bytes(restart, 0o600, nil)); err != nil {
						return err
					}
				}
				if _, err := h.Put(ctx, f); err != nil {
					return err
				}
			}
			if _, err := h.Stat(ctx, restart); errors.Is(err, fs.ErrNotExist) {
				return nil
			} else if err != nil {
				return err
			}
			if _, err := h.Run(ctx, host.Command("systemctl", "restart", "kubelet.service")); err != nil {
				return err
			}
			return h.Remove(ctx, restart)
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
		was, err := kubeadm.ServerOf(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		if was != "" && was != server {
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
