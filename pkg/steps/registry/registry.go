// Package registry runs the built-in registry on its hosts, and gives the kubelet of
// every node the logins that it pulls with.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"path"
	"slices"
	"strconv"

	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/registry"
	"github.com/kocli/kocli/pkg/render"
	"github.com/kocli/kocli/templates"
)

// Unit is the registry's systemd unit.
const Unit = "kocli-registry.service"

// The folders of the registry on a host.
const (
	binDir  = "/usr/local/lib/kocli"
	confDir = "/etc/kocli-registry"
)

const unitPath = "/etc/systemd/system/" + Unit

// LoginsPath is where a kubelet looks for logins of registries, at every pull.
const LoginsPath = "/var/lib/kubelet/config.json"

// Options say how the registry is set up on one of its hosts.
type Options struct {
	Inventory *inventory.Inventory
	Payload   payload.Payload
	TLS       registry.Pair
	Htpasswd  []byte
}

// Serve has the registry run on a host: program, configuration, service.
func Serve(o Options) ([]plan.Step, error) {
	binaries, err := o.Payload.Binaries("registry", binDir)
	if err != nil {
		return nil, err
	}
	b := o.Inventory.Spec.Registry.Builtin
	conf, err := yaml.Marshal(map[string]any{
		"version": "0.1",
		"log":     map[string]any{"level": "info", "accesslog": map[string]any{"disabled": true}},
		"storage": map[string]any{"filesystem": map[string]any{"rootdirectory": b.DataDir}, "delete": map[string]any{"enabled": true}},
		"http": map[string]any{
			"addr": net.JoinHostPort("", strconv.Itoa(b.Port)),
			"tls":  map[string]any{"certificate": in("tls.crt"), "key": in("tls.key"), "minimumtls": "tls1.2"},
		},
		"auth": map[string]any{"htpasswd": map[string]any{"realm": "kocli", "path": in("htpasswd")}},
	})
	if err != nil {
		return nil, err
	}
	files := []host.File{
		host.Bytes(in("config.yml"), 0o644, conf), host.Bytes(in("tls.crt"), 0o644, o.TLS.Cert), secret(in("tls.key"), o.TLS.Key), secret(in("htpasswd"), o.Htpasswd),
	}
	fingerprint := converge.Fingerprint(slices.Concat(binaries, files))
	unit, err := render.File(templates.Node, "node/"+Unit, map[string]string{
		"Binary": path.Join(binDir, "registry"), "Config": in("config.yml"), "Data": b.DataDir, "Fingerprint": converge.FingerprintVariable + "=" + fingerprint,
	})
	if err != nil {
		return nil, err
	}
	files = append(files, host.Bytes(unitPath, 0o644, unit))
	return []plan.Step{
		converge.Files{Name: "registry/binary", List: converge.Fixed(binaries)},
		folder(b.DataDir),
		converge.Files{Name: "registry/config", List: converge.Fixed(files), Width: 4},
		converge.Service{Name: "registry/service", Unit: Unit, Fingerprint: fingerprint, After: "registry/config"},
	}, nil
}

func in(name string) string { return path.Join(confDir, name) }

func secret(p string, data []byte) host.File {
	f := host.Bytes(p, 0o600, data)
	f.Secret = true
	return f
}

// folder is where the images are. It is the user's: a reset leaves it.
func folder(dir string) plan.Step {
	return converge.When("registry/data", func(ctx context.Context, r host.Reader) (plan.Change, bool, error) {
		_, err := r.Stat(ctx, dir)
		if errors.Is(err, fs.ErrNotExist) {
			return plan.Change{Object: "folder " + dir, To: "create"}, true, nil
		}
		return plan.Change{}, false, err
	}, func(ctx context.Context, h host.Host) error {
		_, err := h.Run(ctx, host.Command("mkdir", "-p", "-m", "0700", "--", dir))
		return err
	})
}

// Logins keeps the logins of registries where the kubelet of a node looks for them.
// Where there are none, a file that kocli wrote goes.
func Logins(logins []registry.Login) plan.Step {
	if len(logins) > 0 {
		return converge.Files{Name: "registry/logins", List: func(context.Context, host.Reader) ([]host.File, error) {
			data, err := registry.DockerConfig(logins)
			return []host.File{secret(LoginsPath, data)}, err
		}}
	}
	return converge.When("registry/logins", func(ctx context.Context, r host.Reader) (plan.Change, bool, error) {
		data, err := r.ReadFile(ctx, LoginsPath)
		if errors.Is(err, fs.ErrNotExist) {
			return plan.Change{}, false, nil
		}
		return plan.Change{Object: "file " + LoginsPath, To: "remove"}, ours(data), err
	}, func(ctx context.Context, h host.Host) error { return h.Remove(ctx, LoginsPath) })
}

// ours reports whether kocli wrote a file of logins.
func ours(data []byte) bool {
	var c struct {
		By string `json:"x-written-by"`
	}
	return json.Unmarshal(data, &c) == nil && c.By == registry.WrittenBy
}

// Off ends the registry on a host that is to have none. Its images stay. The unit goes
// last: it says that there is something left.
func Off() plan.Step {
	return converge.When("registry/off", func(ctx context.Context, r host.Reader) (plan.Change, bool, error) {
		_, err := r.Stat(ctx, unitPath)
		if errors.Is(err, fs.ErrNotExist) {
			return plan.Change{}, false, nil
		}
		return plan.Change{Object: "service " + Unit, To: "remove: " + r.Name() + " is no host of the registry any more"}, err == nil, err
	}, func(ctx context.Context, h host.Host) error {
		if _, err := h.Run(ctx, host.Command("systemctl", "disable", "--now", Unit)); err != nil {
			return err
		}
		for _, p := range []string{confDir, path.Join(binDir, "registry"), unitPath} {
			if err := h.Remove(ctx, p); err != nil {
				return err
			}
		}
		return nil
	})
}
