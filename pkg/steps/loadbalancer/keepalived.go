package loadbalancer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"regexp"

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

// KeepalivedConfig renders keepalived's configuration for a control plane.
func KeepalivedConfig(inv *inventory.Inventory, n inventory.Node, iface, password string) ([]byte, error) {
	return render.File(templates.Node, "node/keepalived.conf", struct {
		Node, Interface, Password, Address string
		ID, HealthPort                     int
	}{n.Name, iface, password, inv.Spec.ControlPlane.Endpoint.Address, inv.VRRPID(), inv.HealthPort()})
}

// Keepalived has a control plane take part in holding the virtual IP. The kubelet
// starts it anew when its configuration changes.
func Keepalived(o Options) (plan.Step, error) {
	if o.Images != nil {
		if _, err := KeepalivedManifest(o.Images, ""); err != nil {
			return nil, err
		}
	}
	list := func(ctx context.Context, r host.Reader) ([]host.File, error) {
		iface, err := o.iface(ctx, r)
		if err != nil {
			return nil, err
		}
		password, err := o.password(ctx)
		if err != nil {
			return nil, err
		}
		config, err := KeepalivedConfig(o.Inventory, o.Node, iface, password)
		if err != nil {
			return nil, err
		}
		f := host.Bytes(kubeadm.KeepalivedConfigPath, 0o600, config)
		f.Secret = true
		if o.Images == nil {
			return []host.File{f}, nil
		}
		// Four bytes tell configurations apart, and do not give the password away.
		sum := sha256.Sum256(config)
		manifest, err := KeepalivedManifest(o.Images, hex.EncodeToString(sum[:4]))
		return []host.File{f, host.Bytes(kubeadm.KeepalivedManifestPath, 0o600, manifest)}, err
	}
	return converge.Files{Name: "loadbalancer/keepalived", List: list}, nil
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
