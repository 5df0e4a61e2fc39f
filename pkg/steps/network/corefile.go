package network

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/plan"
)

// Corefile points CoreDNS to the servers of the YAML, or to none where neither
// the YAML nor a host has one that a pod can use: kubeadm's Corefile then would
// make CoreDNS fail at its start. managed is whether any host needs it.
func Corefile(upstream []string, managed bool, api kube.API) plan.Step {
	edit := func(text string) string {
		if len(upstream) == 0 && !managed {
			return text
		}
		return forward(text, upstream)
	}
	return converge.Func{
		Name: "network/dns",
		CheckFn: func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
			c, err := api.Look(ctx)
			if errors.Is(err, kube.ErrNoCluster) {
				if len(upstream) == 0 && !managed {
					return nil, nil
				}
				return []plan.Change{{Object: "ConfigMap kube-system/coredns", To: describe(upstream), After: "controlplane/init"}}, nil
			}
			if err != nil {
				return nil, err
			}
			m, err := c.ConfigMap(ctx, "kube-system", "coredns")
			if err != nil {
				return nil, err
			}
			if text, ok := m["Corefile"]; !ok || edit(text) != text {
				return []plan.Change{{Object: "ConfigMap kube-system/coredns", To: describe(upstream)}}, nil
			}
			return nil, nil
		},
		ApplyFn: func(ctx context.Context, _ host.Host) error {
			c, err := api.Dial(ctx)
			if err != nil {
				return err
			}
			m, err := c.ConfigMap(ctx, "kube-system", "coredns")
			if err != nil {
				return err
			}
			text, ok := m["Corefile"]
			if !ok {
				return errors.New("kubeadm left no Corefile in kube-system/coredns")
			}
			if edit(text) == text {
				return nil
			}
			return c.SetConfigMap(ctx, "kube-system", "coredns", "Corefile", edit(text), false)
		},
	}
}

func describe(upstream []string) string {
	if len(upstream) == 0 {
		return "answer for the cluster only: no host has a resolver that a pod can use"
	}
	return "forward to " + strings.Join(upstream, " ")
}

// The comment that stands where a forward block was taken out.
const noForward = "# kocli: no upstream resolver"

// forward replaces the forward plugin of a Corefile's server blocks.
func forward(corefile string, upstream []string) string {
	var out []string
	depth := 0 // inside the forward block
	for _, l := range strings.Split(corefile, "\n") {
		trimmed := strings.TrimSpace(l)
		indent := l[:len(l)-len(strings.TrimLeft(l, " \t"))]
		switch {
		case depth > 0:
			depth += strings.Count(trimmed, "{") - strings.Count(trimmed, "}")
		case strings.HasPrefix(trimmed, "forward . ") || trimmed == noForward:
			depth = strings.Count(trimmed, "{") - strings.Count(trimmed, "}")
			if len(upstream) == 0 {
				out = append(out, indent+noForward)
			} else {
				out = append(out, fmt.Sprintf("%sforward . %s {", indent, strings.Join(upstream, " ")), indent+"   max_concurrent 1000", indent+"}")
			}
		default:
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}
