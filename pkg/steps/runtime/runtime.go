// Package runtime installs containerd, runc and the CNI plugins, and configures
// containerd so that it never asks the internet.
package runtime

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/render"
	"github.com/kocli/kocli/templates"
)

// Socket is where containerd listens.
const Socket = "/run/containerd/containerd.sock"

// ContentDir is where containerd keeps blobs, under the hex of their digests.
func ContentDir() string {
	return "/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256"
}

// Unit is containerd's systemd unit.
const Unit = "containerd.service"

// The folders of the runtime.
const (
	binDir   = "/usr/local/bin"
	runcDir  = "/usr/local/sbin"
	cniDir   = "/opt/cni/bin"
	certsDir = "/etc/containerd/certs.d"
)

// Options say how the runtime is set up on one node.
type Options struct {
	Spec       v1alpha1.Containerd
	Payload    payload.Payload
	Registries []Registry // beside the mirrors of Spec
}

// Steps returns the steps of the runtime phase: binaries, configuration, service.
func Steps(o Options) ([]plan.Step, error) {
	binaries, err := Binaries(o.Payload)
	if err != nil {
		return nil, err
	}
	config, err := configFiles(o)
	if err != nil {
		return nil, err
	}
	// What containerd reads when it starts. It reads what is said of registries for every pull.
	fingerprint := converge.Fingerprint(slices.Concat(binaries[:1], config[:1]))
	unit, err := render.File(templates.Node, "node/containerd.service", map[string]string{
		"Binary": path.Join(binDir, "containerd"), "Fingerprint": converge.FingerprintVariable + "=" + fingerprint,
	})
	if err != nil {
		return nil, err
	}
	config = append(config, host.Bytes("/etc/systemd/system/"+Unit, 0o644, unit))
	return []plan.Step{
		converge.Files{Name: "runtime/binaries", List: converge.Fixed(binaries), Width: 4},
		converge.Files{Name: "runtime/config", List: converge.Fixed(config), Width: 4},
		converge.Service{Name: "runtime/service", Unit: Unit, Fingerprint: fingerprint, After: "runtime/config", Disruptive: true},
	}, nil
}

// Binaries returns containerd first, then its companions, runc and the plugins.
func Binaries(p payload.Payload) ([]host.File, error) {
	var out []host.File
	for _, c := range []struct{ component, dir string }{{"containerd", binDir}, {"runc", runcDir}, {"cni-plugins", cniDir}} {
		files, err := p.Binaries(c.component, c.dir)
		if err != nil {
			return nil, err
		}
		if c.component == "containerd" {
			slices.SortFunc(files, func(a, b host.File) int { return strings.Compare(a.Path, b.Path) })
		}
		out = append(out, files...)
	}
	return out, nil
}

// configFiles returns containerd's configuration and those of the registries.
func configFiles(o Options) ([]host.File, error) {
	pause, err := o.Payload.Image("pause")
	if err != nil {
		return nil, err
	}
	version, err := o.Payload.Component("containerd")
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(strings.TrimPrefix(version, "v"), "2.") {
		return nil, fmt.Errorf("containerd %s: only 2.x is supported", version)
	}
	config, err := Config(o.Spec, pause)
	if err != nil {
		return nil, err
	}
	hosts, err := registryFiles(o.Spec.Mirrors, o.Registries)
	if err != nil {
		return nil, err
	}
	return append([]host.File{host.Bytes("/etc/containerd/config.toml", 0o644, config)}, hosts...), nil
}

// Config returns containerd's config.toml, version 3, with overrides merged.
func Config(spec v1alpha1.Containerd, pause string) ([]byte, error) {
	tree := map[string]any{
		"version": 3,
		"plugins": map[string]any{
			"io.containerd.cri.v1.images": map[string]any{
				"pinned_images": map[string]any{"sandbox": pause},
				"registry":      map[string]any{"config_path": certsDir},
			},
			"io.containerd.cri.v1.runtime": map[string]any{
				"containerd": map[string]any{"runtimes": map[string]any{"runc": map[string]any{
					"runtime_type": "io.containerd.runc.v2",
					"options":      map[string]any{"SystemdCgroup": spec.CgroupDriver != v1alpha1.CgroupCgroupfs},
				}}},
			},
		},
	}
	if len(spec.Overrides) > 0 {
		raw, err := json.Marshal(spec.Overrides)
		if err != nil {
			return nil, err
		}
		var over map[string]any
		d := json.NewDecoder(strings.NewReader(string(raw)))
		d.UseNumber()
		if err := d.Decode(&over); err != nil {
			return nil, fmt.Errorf("spec.runtime.containerd.overrides: %w", err)
		}
		merge(tree, over)
	}
	out, err := toml.Marshal(numbers(tree))
	if err != nil {
		return nil, fmt.Errorf("write containerd configuration: %w", err)
	}
	return append([]byte("# written by kocli; change spec.runtime.containerd in the cluster YAML instead\n"), out...), nil
}

// PinnedImages returns the images that a configuration names: the sandbox of
// every pod.
func PinnedImages(config []byte) ([]string, error) {
	var c struct {
		Plugins struct {
			Images struct {
				Pinned map[string]string `toml:"pinned_images"`
			} `toml:"io.containerd.cri.v1.images"`
		} `toml:"plugins"`
	}
	if err := toml.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("read containerd configuration: %w", err)
	}
	return slices.Sorted(maps.Values(c.Plugins.Images.Pinned)), nil
}

// merge lays over on base: tables key by key, everything else as a whole; null
// removes.
func merge(base, over map[string]any) {
	for k, v := range over {
		b, isTable := base[k].(map[string]any)
		o, overTable := v.(map[string]any)
		switch {
		case v == nil:
			delete(base, k)
		case isTable && overTable:
			merge(b, o)
		default:
			base[k] = v
		}
	}
}

// numbers turns JSON numbers into the integers or floats that TOML tells apart.
func numbers(v any) any {
	switch t := v.(type) {
	case map[string]any:
		for k := range t {
			t[k] = numbers(t[k])
		}
	case []any:
		for i := range t {
			t[i] = numbers(t[i])
		}
	case json.Number:
		if i, err := t.Int64(); err == nil {
			return i
		}
		f, err := t.Float64()
		if err != nil {
			return t.String()
		}
		return f
	}
	return v
}

// Offline is the server that containerd falls back to where no mirror serves an
// image. The name can never exist (RFC 2606), and says in the error message
// what is the matter.
const Offline = "https://not-in-the-bundle.kocli.invalid"
