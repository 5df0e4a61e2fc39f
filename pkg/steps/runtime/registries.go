package runtime

import (
	"bytes"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/host"
)

// Registry is one that pods may pull from.
type Registry struct {
	Name      string // as images carry it: HOST[:PORT]
	Endpoints []string
	CA        []byte // in PEM; none means those of the host
}

// registryFiles returns a hosts.toml for every registry, mirrored or not, and the
// default for all others: no registry is ever asked over the internet.
func registryFiles(mirrors map[string]v1alpha1.Mirror, registries []Registry) ([]host.File, error) {
	var out []host.File
	add := func(r Registry) error {
		ca := ""
		if len(r.CA) > 0 {
			ca = path.Join(certsDir, r.Name, "ca.crt")
			out = append(out, host.Bytes(ca, 0o644, r.CA))
		}
		data, err := hostsFile(r.Endpoints, ca)
		out = append(out, host.Bytes(path.Join(certsDir, r.Name, "hosts.toml"), 0o644, data))
		return err
	}
	if err := add(Registry{Name: "_default"}); err != nil {
		return nil, err
	}
	for _, n := range slices.Sorted(maps.Keys(mirrors)) {
		r := Registry{Name: n, Endpoints: mirrors[n].Endpoints}
		if f := mirrors[n].CAFile; f != "" {
			pem, err := os.ReadFile(f)
			if err != nil {
				return nil, fmt.Errorf("spec.runtime.containerd.mirrors[%s].caFile: %w", n, err)
			}
			r.CA = pem
		}
		registries = append(registries, r)
	}
	for _, r := range registries {
		if err := add(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// hostsFile is a hosts.toml. Each endpoint is written by itself: containerd asks
// them in the order of the file, which a map would lose.
func hostsFile(endpoints []string, ca string) ([]byte, error) {
	type server struct {
		Capabilities []string `toml:"capabilities"`
		CA           string   `toml:"ca,omitempty"`
		OverridePath bool     `toml:"override_path,omitempty"`
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# written by kocli\nserver = '%s'\n", Offline)
	for _, e := range endpoints {
		u, err := url.Parse(e)
		if err != nil {
			return nil, err
		}
		// containerd puts /v2 behind a path that does not end with it. A path that
		// has it in front is meant as it is: https://harbor.example.com/v2/project.
		data, err := toml.Marshal(server{[]string{"pull", "resolve"}, ca, strings.HasPrefix(u.Path, "/v2/")})
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "\n[host.%q]\n%s", e, data)
	}
	return b.Bytes(), nil
}
