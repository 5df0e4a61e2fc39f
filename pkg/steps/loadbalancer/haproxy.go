package loadbalancer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/render"
	"github.com/kocli/kocli/pkg/staticpod"
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
	p := proxy{files: files, fingerprint: fingerprint}
	return converge.Func{Name: "loadbalancer/haproxy", CheckFn: p.check, ApplyFn: p.apply}, nil
}

type proxy struct {
	files       []host.File
	fingerprint string
}

// running is what a load balancer does.
type running int

const (
	asleep  running = iota // nothing runs, and no kubelet that would start it
	absent                 // a kubelet runs, and nothing listens
	current                // it has loaded what it should
	old                    // it has loaded something else
)

func (p proxy) check(ctx context.Context, r host.Reader) ([]plan.Change, error) {
	type answer struct {
		is  running
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		is, err := p.look(ctx, r)
		ch <- answer{is, err}
	}()
	out, err := converge.Differences(ctx, r, p.files)
	a := <-ch
	if err := errors.Join(err, a.err); err != nil {
		return nil, err
	}
	switch a.is {
	case old:
		out = append(out, plan.Change{Object: "haproxy", From: "running with an older configuration", To: "reload; connections stay"})
	case absent:
		out = append(out, plan.Change{Object: "haproxy", From: "not running", To: "started by the kubelet"})
	case asleep, current:
	}
	return out, nil
}

// names finds our name in a line of the socket table, which a longer name than
// ours fills up with "@".
var names = regexp.MustCompile(`@(` + fingerprintPrefix + `[0-9a-f]{16})(?:@|\s|$)`)

func (p proxy) look(ctx context.Context, r host.Reader) (running, error) {
	kubelet := make(chan error, 1)
	go func() {
		_, err := r.Query(ctx, host.Command("systemctl", "is-active", "kubelet.service"))
		kubelet <- err
	}()
	table, err := r.ReadFile(ctx, socketTable)
	down := <-kubelet
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return asleep, err
	}
	var x *host.ExitError
	if down != nil && !errors.As(down, &x) {
		return asleep, down
	}
	var loaded []string
	for _, m := range names.FindAllSubmatch(table, -1) {
		loaded = append(loaded, string(m[1]))
	}
	switch {
	case slices.Contains(loaded, p.fingerprint):
		return current, nil
	case len(loaded) > 0:
		return old, nil
	case down == nil:
		return absent, nil
	}
	return asleep, nil
}

// The time that haproxy is given to load a configuration and a kubelet to start
// a static pod whose image is there, after which haproxy is told again, and between
// two looks.
const (
	startTime = 90 * time.Second
	againTime = 3 * time.Second
	loadPoll  = 100 * time.Millisecond
)

func (p proxy) apply(ctx context.Context, h host.Host) error {
	if err := converge.Put(ctx, h, p.files, 1); err != nil {
		return err
	}
	is, err := p.look(ctx, h)
	if err != nil || is == current || is == asleep {
		return err
	}
	// A pod that changed itself is started anew by the kubelet meanwhile.
	for i := range startTime / loadPoll {
		// The master process loads the file and hands the listening sockets on to a
		// new worker; the old one keeps its connections until they end. A signal that
		// arrives while the master still starts is lost on it.
		if is == old && i%(againTime/loadPoll) == 0 {
			if _, err := staticpod.Signal(ctx, h, kubeadm.HAProxyPod, "SIGUSR2"); err != nil {
				return fmt.Errorf("reload haproxy: %w", err)
			}
		}
		if is, err = p.look(ctx, h); err != nil || is == current || is == asleep {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(loadPoll):
		}
	}
	return p.stuck(h.Name(), is)
}

// stuck says that haproxy does not do what it was told.
func (p proxy) stuck(node string, is running) error {
	what := "has not loaded its new configuration"
	if is == absent {
		what = "was not started by the kubelet"
	}
	return fault.New(fault.Failure,
		fmt.Sprintf("see why: kocli exec %s --root -- sh -c 'tail -n 20 /var/log/pods/kube-system_%s-*/*/*.log'; then run the same command again", node, kubeadm.HAProxyPod),
		fmt.Errorf("haproxy on %s %s within %s", node, what, startTime))
}
