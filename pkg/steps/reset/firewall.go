package reset

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/plan"
)

// ownChain reports whether a chain belongs to Kubernetes or to its pod network.
func ownChain(name string) bool {
	for _, p := range []string{"KUBE-", "FLANNEL-", "CNI-"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// ownTable reports whether an nftables table does.
func ownTable(name string) bool {
	return name == "kube-proxy" || name == "flannel-ipv4" || name == "flannel-ipv6"
}

// withoutOwn turns the output of iptables-save into the input of
// iptables-restore --noflush that takes away our own chains, and the rules that
// lead to them. Every other rule stays. Empty when there is nothing of ours.
func withoutOwn(saved string) string {
	var out strings.Builder
	var jumps, chains []string
	table := ""
	for _, l := range strings.Split(saved, "\n") {
		switch {
		case strings.HasPrefix(l, "*"):
			table, jumps, chains = l, nil, nil
		case strings.HasPrefix(l, ":"):
			if name, _, _ := strings.Cut(l[1:], " "); ownChain(name) {
				chains = append(chains, name)
			}
		case strings.HasPrefix(l, "-A "):
			chain, _, _ := strings.Cut(l[3:], " ")
			if !ownChain(chain) && leadsToOwn(l) {
				jumps = append(jumps, "-D "+l[3:])
			}
		case l == "COMMIT" && len(jumps)+len(chains) > 0:
			out.WriteString(table + "\n")
			for _, j := range jumps {
				out.WriteString(j + "\n")
			}
			for _, verb := range []string{"-F ", "-X "} { // empty all of them first: they lead to each other
				for _, c := range chains {
					out.WriteString(verb + c + "\n")
				}
			}
			out.WriteString("COMMIT\n")
		}
	}
	return out.String()
}

func leadsToOwn(rule string) bool {
	f := strings.Fields(rule)
	for i := 0; i < len(f)-1; i++ {
		if (f[i] == "-j" || f[i] == "-g") && ownChain(f[i+1]) {
			return true
		}
	}
	return false
}

// netState is what Kubernetes left in the network of a host.
type netState struct {
	restore map[string]string // by program: input that removes our chains
	tables  []string          // nft: "ip kube-proxy"
	links   []string
	files   []string
}

func (n netState) empty() bool {
	return len(n.restore)+len(n.tables)+len(n.links)+len(n.files) == 0
}

// lookNet reads rules, links and files. A program that is not there has nothing
// to show.
func lookNet(ctx context.Context, r host.Reader) (netState, error) {
	n := netState{restore: map[string]string{}}
	outs, errs, err := converge.Asked(ctx, r,
		host.Command("iptables-save"), host.Command("ip6tables-save"), host.Command("nft", "list", "tables"),
		host.Command("ls", "-1", "/sys/class/net"),
		host.Command("find", "/etc/cni/net.d", "/var/lib/cni", "/run/flannel", "-maxdepth", "2", "(", "-path", "/etc/cni/net.d/10-flannel.conflist",
			"-o", "-path", "/var/lib/cni/networks/cbr0", "-o", "-path", "/var/lib/cni/results/cbr0-*", "-o", "-path", "/var/lib/cni/results/cni-loopback-*", "-o", "-path", "/var/lib/cni/flannel", "-o", "-path", "/run/flannel", ")"))
	if err != nil {
		return n, err
	}
	for i, program := range []string{"iptables-restore", "ip6tables-restore"} {
		if in := withoutOwn(string(outs[i].Stdout)); errs[i] == nil && in != "" {
			n.restore[program] = in
		}
	}
	for _, l := range strings.Split(outs[2].Text(), "\n") {
		if f := strings.Fields(l); len(f) == 3 && ownTable(f[2]) {
			n.tables = append(n.tables, f[1]+" "+f[2])
		}
	}
	for _, l := range strings.Fields(outs[3].Text()) {
		if l == "cni0" || l == "flannel.1" || l == "kube-ipvs0" {
			n.links = append(n.links, l)
		}
	}
	n.files = strings.Fields(outs[4].Text())
	return n, nil
}

// Network removes the rules, links and files of Kubernetes and its pod network,
// and nothing else.
func Network() plan.Step {
	return converge.Func{
		Name: "reset/network",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			n, err := lookNet(ctx, r)
			if err != nil || n.empty() {
				return nil, err
			}
			if ours, err := Ours(ctx, r); err != nil || !ours {
				return nil, err // the network of a Kubernetes that kocli did not install
			}
			return []plan.Change{{Object: "pod network", From: fmt.Sprintf("%d rule sets, %d links", len(n.restore)+len(n.tables), len(n.links)), To: "remove ours, leave all others"}}, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			n, err := lookNet(ctx, h)
			if err != nil {
				return err
			}
			for program, input := range n.restore {
				c := host.Command(program, "--noflush", "-w", "30")
				c.Stdin = strings.NewReader(input)
				if _, err := h.Run(ctx, c); err != nil {
					return err
				}
			}
			var errs []error
			for _, t := range n.tables {
				family, name, _ := strings.Cut(t, " ")
				_, err := h.Run(ctx, host.Command("nft", "delete", "table", family, name))
				errs = append(errs, err)
			}
			for _, l := range n.links {
				_, err := h.Run(ctx, host.Command("ip", "link", "delete", l))
				errs = append(errs, err)
			}
			for _, f := range n.files {
				errs = append(errs, h.Remove(ctx, f))
			}
			return errors.Join(errs...)
		},
	}
}
