package reset

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/plan/plantest"
)

// table is one table of iptables: chains and rules as iptables-save prints them.
type table struct{ chains, rules []string }

// firewall is what iptables, nft and ip have in a kernel in memory.
type firewall struct {
	rules  map[string]map[string]*table // by program ("iptables") and table ("nat")
	tables []string                     // of nft
}

// load reads the output of iptables-save.
func load(saved string) map[string]*table {
	out := map[string]*table{}
	var t *table
	for _, l := range strings.Split(saved, "\n") {
		switch {
		case strings.HasPrefix(l, "*"):
			t = &table{}
			out[l[1:]] = t
		case strings.HasPrefix(l, ":"):
			t.chains = append(t.chains, l)
		case strings.HasPrefix(l, "-A "):
			t.rules = append(t.rules, l)
		}
	}
	return out
}

func save(tables map[string]*table) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		t := tables[name]
		fmt.Fprintf(&b, "*%s\n%s\nCOMMIT\n", name, strings.Join(slices.Concat(t.chains, t.rules), "\n"))
	}
	return b.String()
}

// restore is iptables-restore --noflush: all of the input, or nothing.
func (f *firewall) restore(program, in string) string {
	next := load(save(f.rules[program]))
	var t *table
	for _, l := range strings.Split(strings.TrimSpace(in), "\n") {
		verb, rest, _ := strings.Cut(l, " ")
		chain := func(l string) bool { return strings.HasPrefix(l, "-A "+rest+" ") }
		switch {
		case strings.HasPrefix(l, "*"):
			t = next[l[1:]]
		case verb == "-D" && slices.Contains(t.rules, "-A "+rest):
			i := slices.Index(t.rules, "-A "+rest)
			t.rules = slices.Delete(t.rules, i, i+1)
		case verb == "-F":
			t.rules = slices.DeleteFunc(t.rules, chain)
		case verb == "-X" && !slices.ContainsFunc(t.rules, func(l string) bool { return chain(l) || strings.HasSuffix(l, " "+rest) }):
			t.chains = slices.DeleteFunc(t.chains, func(l string) bool { return strings.HasPrefix(l, ":"+rest+" ") })
		case l != "COMMIT":
			return program + "-restore: line failed: " + l + "\n"
		}
	}
	f.rules[program] = next
	return ""
}

func (f *firewall) program(_ context.Context, m *hosttest.Machine, argv []string, stdin []byte) (hosttest.Reply, bool) {
	family, verb, _ := strings.Cut(argv[0], "-")
	failed := func(message string) (hosttest.Reply, bool) {
		return hosttest.Reply{Stderr: message, Code: min(1, len(message))}, true
	}
	switch {
	case verb == "save":
		return hosttest.Reply{Stdout: save(f.rules[family])}, true
	case verb == "restore" && slices.Contains(argv, "--noflush"):
		return failed(f.restore(family, string(stdin)))
	case slices.Equal(argv, []string{"nft", "list", "tables"}):
		return hosttest.Reply{Stdout: "table " + strings.Join(f.tables, "\ntable ") + "\n"}, true
	case len(argv) == 5 && argv[0] == "nft" && argv[1] == "delete":
		i := slices.Index(f.tables, argv[3]+" "+argv[4])
		if i < 0 {
			return failed("Error: No such file or directory\n")
		}
		f.tables = slices.Delete(f.tables, i, i+1)
		return failed("")
	case len(argv) == 4 && argv[0] == "ip" && argv[2] == "delete":
		if _, ok := m.Read("/sys/class/net/" + argv[3]); !ok {
			return failed("Cannot find device \"" + argv[3] + "\"\n")
		}
		m.Delete("/sys/class/net/" + argv[3])
		return failed("")
	}
	return hosttest.Reply{}, false
}

func (f *firewall) String() string {
	return save(f.rules["iptables"]) + save(f.rules["ip6tables"]) + strings.Join(f.tables, "\n")
}

func TestNetwork_converges(t *testing.T) {
	const saved6 = "*filter\n:INPUT ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\n-A INPUT -j KUBE-FIREWALL\nCOMMIT\n"
	fresh := func() (*hosttest.Machine, *firewall) {
		m := ours(t)
		f := &firewall{
			rules:  map[string]map[string]*table{"iptables": load(saved), "ip6tables": load(saved6)},
			tables: []string{"inet filter", "ip kube-proxy", "ip6 kube-proxy", "ip flannel-ipv4"},
		}
		m.Install(f.program)
		for _, l := range []string{"lo", "eth0", "docker0", "cni0", "flannel.1", "kube-ipvs0"} {
			m.Write("/sys/class/net/"+l, 0o444, "")
		}
		for _, p := range []string{"/etc/cni/net.d/10-flannel.conflist", "/etc/cni/net.d/99-mine.conflist", "/run/flannel/subnet.env",
			"/var/lib/cni/networks/cbr0/10.244.0.2", "/var/lib/cni/results/cbr0-abc-eth0", "/var/lib/cni/networks/mine/10.9.0.2"} {
			m.Write(p, 0o600, p)
		}
		return m, f
	}
	plantest.Converges(t, func() plantest.World {
		m, f := fresh()
		return plantest.World{Step: Network(), Host: m, State: f.String}
	})
	m, f := fresh()
	if err := Network().Apply(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(f.String(), "KUBE") || !strings.Contains(f.String(), "-A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE") || len(f.tables) != 1 {
		t.Errorf("the rules that are left:\n%s", f)
	}
	for p, want := range map[string]bool{
		"/sys/class/net/docker0": true, "/sys/class/net/cni0": false, "/etc/cni/net.d/99-mine.conflist": true,
		"/var/lib/cni/networks/mine/10.9.0.2": true, "/var/lib/cni/networks/cbr0/10.244.0.2": false, "/run/flannel/subnet.env": false,
	} {
		if _, ok := m.Read(p); ok != want {
			t.Errorf("%s is there: %t", p, ok)
		}
	}
}

func TestNetwork_ofAKubernetesThatIsNotOursStays(t *testing.T) {
	m := ours(t)
	m.Delete("/var/lib/kocli")
	f := &firewall{rules: map[string]map[string]*table{"iptables": load(saved), "ip6tables": {}}, tables: []string{"ip kube-proxy"}}
	m.Install(f.program)
	changes, err := Network().Check(t.Context(), m)
	if err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
}
