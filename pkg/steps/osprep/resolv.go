package osprep

import (
	"context"
	"net/netip"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/resolver"
)

// ResolvConf writes kocli's resolver configuration on a host that needs it. It
// names the servers of the YAML, if any.
func ResolvConf(upstream []string) plan.Step {
	return converge.Files{
		Name: "osprep/resolver",
		List: func(ctx context.Context, r host.Reader) ([]host.File, error) {
			p, err := resolver.KubeletPath(ctx, r)
			if err != nil || p != resolver.ManagedPath {
				return nil, err
			}
			text := "# written by kocli: this host has no resolver that a pod can use\n"
			for _, s := range upstream {
				if a, err := netip.ParseAddr(s); err == nil {
					text += "nameserver " + a.String() + "\n"
				}
			}
			return []host.File{host.Bytes(resolver.ManagedPath, 0o644, []byte(text))}, nil
		},
	}
}
