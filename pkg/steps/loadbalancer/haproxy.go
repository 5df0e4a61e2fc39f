package loadbalancer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"regexp"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/render"
	"github.com/kocli/kocli/templates"
)

// fingerprintPrefix starts the name, in the abstract name space of sockets, that
// haproxy listens on beside its ports. The digest of the configuration follows.
const fingerprintPrefix = "kocli-haproxy-"

// socketTable is where the kernel lists who listens on such names. What is there
// is what a running process has loaded: no file and no clock has to be trusted.
const socketTable = "/proc/net/unix"

// HAProxyConfig renders haproxy's configuration for a node, and returns the name
// that a haproxy listens on which has loaded it.
func HAProxyConfig(inv *inventory.Inventory) (config []byte, fingerprint string, err error) {
	type server struct{ Name, Address string }
	e := inv.Spec.ControlPlane.Endpoint
	data := struct {
		Bind, Fingerprint string
		Port, HealthPort  int
		Servers           []server
	}{Bind: "127.0.0.1", Fingerprint: fingerprintPrefix, Port: e.Port, HealthPort: inv.HealthPort()}
	if e.Mode == v1alpha1.EndpointVIP {
		data.Bind = "*" // not the virtual IP alone: others than its holder could not listen there
	}
	for _, n := range inv.ControlPlanes() {
		data.Servers = append(data.Servers, server{n.Name, n.APIServer()})
	}
	first, err := render.File(templates.Node, "node/haproxy.cfg", data)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(first)
	data.Fingerprint += hex.EncodeToString(sum[:8])
	config, err = render.File(templates.Node, "node/haproxy.cfg", data)
	return config, data.Fingerprint, err
}

// HAProxy has a node's load balancer be there, and a running one have loaded the
// control planes of the inventory. A change of them is loaded without a
// connection being dropped.
func HAProxy(o Options) (plan.Step, error) {
	config, fingerprint, err := HAProxyConfig(o.Inventory)
	if err != nil {
		return nil, err
	}
	// The configuration first: a pod never starts with an older one.
	files := []host.File{host.Bytes(kubeadm.HAProxyConfigPath, 0o600, config)}
	if o.Images != nil {
		manifest, err := HAProxyManifest(o.Inventory, o.Images)
		if err != nil {
			return nil, err
		}
		files = append(files, host.Bytes(kubeadm.HAProxyManifestPath, 0o600, manifest))
	}
	d := daemon{
		name: "loadbalancer/haproxy", program: "haproxy", pod: kubeadm.HAProxyPod, signal: "SIGUSR2", reload: "reload; connections stay", loaded: proxies, turn: o.turn(),
		want: func(context.Context, host.Reader) ([]host.File, string, error) { return files, fingerprint, nil },
	}
	return converge.Func{Name: d.name, CheckFn: d.check, ApplyFn: d.apply}, nil
}

// names finds our name in a line of the socket table, which a longer name than
// ours fills up with "@".
var names = regexp.MustCompile(`@(` + fingerprintPrefix + `[0-9a-f]{16})(?:@|\s|$)`)

// proxies lists what the haproxies of a host have loaded. The master process loads
// the file on SIGUSR2 and hands the listening sockets on to a new worker; the old
// one keeps its connections until they end.
func proxies(ctx context.Context, r host.Reader) ([]string, error) {
	table, err := r.ReadFile(ctx, socketTable)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, m := range names.FindAllSubmatch(table, -1) {
		out = append(out, string(m[1]))
	}
	return out, nil
}
