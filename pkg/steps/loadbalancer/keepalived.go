package loadbalancer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/probe"
	"github.com/kocli/kocli/pkg/render"
	"github.com/kocli/kocli/templates"
)

// maxPassword is how many characters of a password VRRP sends.
const maxPassword = 8

// usable is a password that keepalived reads as one word.
var usable = regexp.MustCompile(`^[A-Za-z0-9._/+=,:-]{1,8}$`)

// nobody stands for the others where a control plane is alone and VRRP goes by
// unicast: without a peer keepalived goes back to multicast, and a reload that
// changes between the two has it give the address up.
const nobody = "127.0.0.1"

// processPrefix starts the name of a keepalived that speaks by unicast. The digest
// of what it has loaded follows; the kernel takes 15 characters.
const processPrefix = "kocli-"

// keepalivedConfig is what is filled into keepalived's configuration.
type keepalivedConfig struct {
	Node, Interface, Password, Address string
	ID, HealthPort                     int
	Source                             string   // address of the control plane itself
	Peers                              []string // addresses of the others; none means by multicast
	Process                            string   // name of the process; empty means keepalived's own
}

func (c keepalivedConfig) render() ([]byte, error) {
	return render.File(templates.Node, "node/keepalived.conf", c)
}

// digest tells configurations apart. Its four bytes do not give the password away.
func digest(config []byte) string {
	sum := sha256.Sum256(config)
	return hex.EncodeToString(sum[:4])
}

// KeepalivedConfig renders keepalived's configuration for a control plane. peers
// are the other control planes, for VRRP by unicast.
//
// The digest changes when keepalived has to be started anew. Other peers are only
// loaded: the name of the process, which is not empty with unicast, says of a
// running one whether it has. keepalived takes it from its configuration.
func KeepalivedConfig(inv *inventory.Inventory, n inventory.Node, iface, password string, peers []inventory.Node) (config []byte, sum, process string, err error) {
	c := keepalivedConfig{
		Node: n.Name, Interface: iface, Password: password, Address: inv.Spec.ControlPlane.Endpoint.Address,
		ID: inv.VRRPID(), HealthPort: inv.HealthPort(), Source: n.IP,
	}
	if !unicast(inv) {
		config, err = c.render()
		return config, digest(config), "", err
	}
	c.Peers = []string{nobody}
	alone, err := c.render()
	if err != nil {
		return nil, "", "", err
	}
	if len(peers) > 0 {
		c.Peers = nil
	}
	for _, p := range peers {
		c.Peers = append(c.Peers, p.IP)
	}
	slices.Sort(c.Peers) // the order of the YAML means nothing
	with, err := c.render()
	if err != nil {
		return nil, "", "", err
	}
	c.Process = processPrefix + digest(with)
	config, err = c.render()
	return config, digest(alone), c.Process, err
}

// unicast reports whether control planes are told of each other, instead of
// finding each other by multicast.
func unicast(inv *inventory.Inventory) bool {
	v := inv.Spec.ControlPlane.Endpoint.VRRP
	return v != nil && v.Unicast
}

// peers are the other control planes that take part: those that leave in this run
// too. One that was left out would not hear of the address being held, and take it.
func (o Options) peers() []inventory.Node {
	var out []inventory.Node
	for _, n := range slices.Concat(o.Inventory.ControlPlanes(), o.Leaving) {
		if n.ControlPlane && n.Name != o.Node.Name && !slices.ContainsFunc(out, func(p inventory.Node) bool { return p.IP == n.IP }) {
			out = append(out, n)
		}
	}
	return out
}

// Keepalived has a control plane take part in holding the virtual IP. The kubelet
// starts it anew when its configuration changes, on one control plane after another;
// other peers are loaded by the one that runs, which keeps the address.
func Keepalived(o Options) (plan.Step, error) { return keepalived("loadbalancer/keepalived", o) }

// Peers is Keepalived once more, for when control planes have left.
func Peers(o Options) (plan.Step, error) { return keepalived("loadbalancer/peers", o) }

func keepalived(name string, o Options) (plan.Step, error) {
	if o.Images != nil {
		if _, err := KeepalivedManifest(o.Images, ""); err != nil {
			return nil, err
		}
	}
	d := daemon{name: name, program: "keepalived", pod: kubeadm.KeepalivedPod, signal: "SIGHUP", reload: "reload; the address stays", want: o.keepalivedFiles, turn: o.turn(), settles: settleTime}
	if unicast(o.Inventory) {
		d.loaded = speakers
	}
	return converge.Func{Name: d.name, CheckFn: d.check, ApplyFn: func(ctx context.Context, h host.Host) error {
		o.Election.begin()
		return d.apply(ctx, h)
	}}, nil
}

// keepalivedFiles returns keepalived's files, and the name of the process that has
// loaded them.
func (o Options) keepalivedFiles(ctx context.Context, r host.Reader) ([]host.File, string, error) {
	iface, err := o.iface(ctx, r)
	if err != nil {
		return nil, "", err
	}
	password, err := o.password(ctx)
	if err != nil {
		return nil, "", err
	}
	config, sum, process, err := KeepalivedConfig(o.Inventory, o.Node, iface, password, o.peers())
	if err != nil {
		return nil, "", err
	}
	f := host.Bytes(kubeadm.KeepalivedConfigPath, 0o600, config)
	f.Secret = true
	if o.Images == nil {
		return []host.File{f}, process, nil
	}
	manifest, err := KeepalivedManifest(o.Images, sum)
	return []host.File{f, host.Bytes(kubeadm.KeepalivedManifestPath, 0o600, manifest)}, process, err
}

// named finds our names in the list of raw sockets, one of which every process has
// that speaks VRRP.
var named = regexp.MustCompile(`"(` + processPrefix + `[0-9a-f]{8})"`)

// speakers lists what the keepalived of a host has loaded, by the name of its
// process.
func speakers(ctx context.Context, r host.Reader) ([]string, error) {
	out, err := r.Query(ctx, host.Command("ss", "-Hnawp"))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, m := range named.FindAllSubmatch(out.Stdout, -1) {
		all = append(all, string(m[1]))
	}
	return all, nil
}

// iface is the interface that carries the virtual IP: the user's, or the one that
// has the address of the node.
func (o Options) iface(ctx context.Context, r host.Reader) (string, error) {
	if v := o.Inventory.Spec.ControlPlane.Endpoint.VRRP; v != nil && v.Interface != "" {
		return v.Interface, nil
	}
	out, err := r.Query(ctx, probe.InterfacesCommand())
	var x *host.ExitError
	if err != nil && !errors.As(err, &x) {
		return "", err
	}
	ip, err := netip.ParseAddr(o.Node.IP)
	if err != nil {
		return "", err
	}
	if i, ok := probe.InterfaceOf(probe.ParseInterfaces(string(out.Stdout)), ip); ok {
		return i.Name, nil
	}
	return "", fault.New(fault.Preflight, "name it in spec.controlPlane.endpoint.vrrp.interface, or set privateAddress of this host to one of its own addresses",
		fmt.Errorf("no interface of %s has the address %s, so it is not known where the virtual IP belongs", o.Node.Name, o.Node.IP))
}

// password is the user's, cut to what VRRP takes, or the derived one.
func (o Options) password(ctx context.Context) (string, error) {
	v := o.Inventory.Spec.ControlPlane.Endpoint.VRRP
	if v == nil || v.Password == "" {
		return o.Inventory.VRRPPassword(), nil
	}
	p, err := o.Password(ctx)
	if err != nil {
		return "", err
	}
	p = p[:min(len(p), maxPassword)]
	if !usable.MatchString(p) {
		return "", fault.New(fault.Usage, "use letters, digits and . _ / + = , : - alone; only the first 8 count",
			errors.New("spec.controlPlane.endpoint.vrrp.password has characters that keepalived does not take"))
	}
	return p, nil
}
