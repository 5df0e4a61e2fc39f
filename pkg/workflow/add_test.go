package workflow_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
)

// sized writes the YAML of a cluster with a load balancer on every node, the case
// in which nodes know most of each other.
func sized(t testing.TB, planes, workers int) string {
	t.Helper()
	var hosts strings.Builder
	for i := range planes {
		fmt.Fprintf(&hosts, "    - {name: cp-%d, address: 10.0.0.%d, roles: [control-plane]}\n", i+1, i+1)
	}
	for i := range workers {
		fmt.Fprintf(&hosts, "    - {name: worker-%d, address: 10.0.1.%d, labels: {example.com/rack: r1}}\n", i+1, i+1)
	}
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	text := "apiVersion: kocli.io/v1alpha1\nkind: Cluster\nmetadata: {name: c}\nspec:\n  kubernetes: {version: v1.36.3}\n" +
		"  controlPlane: {endpoint: {mode: local}}\n  ssh: {user: root, keyFile: ~/.ssh/id_ed25519}\n  hosts:\n" + hosts.String()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// growing is a cluster in memory that nodes are added to.
type growing struct {
	*lab
	planes, workers int
}

// grow makes a cluster of so many nodes, two of them control planes.
func grow(t testing.TB, nodes int) *growing {
	t.Helper()
	g := &growing{newLab(t, sized(t, 3, nodes-1)), 2, nodes - 2}
	g.ask(t)
	g.create(t, plan.Options{})
	return g
}

// ask makes the YAML be one with as many hosts as g says.
func (g *growing) ask(t testing.TB) {
	t.Helper()
	c, err := config.Load(sized(t, g.planes, g.workers))
	if err != nil {
		t.Fatal(err)
	}
	if g.cluster.Inventory, err = inventory.New(c); err != nil {
		t.Fatal(err)
	}
}

// written is what a run wrote.
type written struct {
	existing map[string][]string // on hosts that were nodes before, where it wrote anything
	newcomer int                 // how much on the one that joined
	api      []string            // to the API; the names of tokens are random and left out
}

var token = regexp.MustCompile(`bootstrap-token-[a-z0-9]{6}`)

// join has one more host join, and returns what that took.
func (g *growing) join(t testing.TB, name string) written {
	t.Helper()
	g.ask(t)
	before := map[string]int{}
	for n, m := range g.hosts {
		before[n] = len(m.Log())
	}
	api := len(g.wire.Log())
	g.create(t, plan.Options{})
	if g.api.Get("nodes", "", name) == nil {
		t.Fatalf("%s has not joined", name)
	}
	out := written{existing: map[string][]string{}}
	for n, m := range g.hosts {
		log := m.Log()[before[n]:]
		if n == name {
			out.newcomer = len(log)
		} else if len(log) > 0 {
			out.existing[n] = log
		}
	}
	for _, l := range g.wire.Log()[api:] {
		out.api = append(out.api, strings.ReplaceAll(token.ReplaceAllString(l, "bootstrap-token-*"), name, "NEW"))
	}
	return out
}

func (g *growing) addWorker(t testing.TB) written {
	t.Helper()
	g.workers++
	return g.join(t, fmt.Sprintf("worker-%d", g.workers))
}

func (g *growing) addControlPlane(t testing.TB) written {
	t.Helper()
	g.planes++
	return g.join(t, fmt.Sprintf("cp-%d", g.planes))
}

// However large a cluster is, one more worker is nothing to the nodes that are
// there, the control plane that it joins through included; and the API is written
// to as often, about the newcomer. One more control plane is a name and a backend
// to each of them.
func TestAddNode_costsExistingNodesNothing(t *testing.T) {
	t.Parallel()
	var first written
	for _, nodes := range []int{5, 100} {
		t.Run(fmt.Sprintf("to %d nodes", nodes), func(t *testing.T) {
			g := grow(t, nodes)
			w := g.addWorker(t)
			for n, log := range w.existing {
				t.Errorf("one more worker wrote to %s:\n%s", n, strings.Join(log, "\n"))
			}
			if w.newcomer == 0 || len(w.api) == 0 {
				t.Fatalf("nothing was written to the newcomer (%d) or the API (%d)", w.newcomer, len(w.api))
			}
			if first.api == nil {
				first = w
				t.Logf("%d writes to the newcomer; to the API:\n%s", w.newcomer, strings.Join(w.api, "\n"))
			}
			if w.newcomer != first.newcomer || !slices.Equal(w.api, first.api) {
				t.Errorf("a cluster of another size: %d writes to the newcomer, and not %d; to the API:\n%s", w.newcomer, first.newcomer, lineDiff(strings.Join(first.api, "\n"), strings.Join(w.api, "\n")))
			}
			w = g.addControlPlane(t)
			want := []string{"put /etc/hosts", "put " + kubeadm.HAProxyConfigPath}
			for n, log := range w.existing {
				if slices.Sort(log); !slices.Equal(log, want) {
					t.Errorf("one more control plane wrote to %s:\n%s", n, strings.Join(log, "\n"))
				}
			}
			if len(w.existing) != nodes+1 {
				t.Errorf("one more control plane is known to %d nodes", len(w.existing))
			}
		})
	}
}

// BenchmarkAddWorker prints how often nodes that are there are written to when a
// worker joins, and how often the API is.
func BenchmarkAddWorker(b *testing.B) {
	for _, nodes := range []int{5, 100} {
		b.Run(fmt.Sprintf("to-%d-nodes", nodes), func(b *testing.B) {
			g := grow(b, nodes)
			for b.Loop() {
				w := g.addWorker(b)
				n := 0
				for _, log := range w.existing {
					n += len(log)
				}
				b.ReportMetric(float64(n), "writes-on-existing")
				b.ReportMetric(float64(len(w.api)), "api-writes")
			}
		})
	}
}
