package cli

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

// preflightFlags are the flags of preflight.
type preflightFlags struct {
	bundle string
	keys   []string
	ignore []string
	list   bool
}

func (a *app) preflightCommand() *cobra.Command {
	var p preflightFlags
	cmd := &cobra.Command{
		Use:   "preflight -f CLUSTER.yaml [--bundle FILE]",
		Short: "Check the hosts and the network between them, and change nothing",
		Long: `Makes all checks that create makes before it changes anything, and reports all
findings. With --bundle it also checks that the bundle fits the hosts and that it
fits on their disks.

Exit code 3 when a check refuses. --ignore, or spec.preflight.ignore in the YAML,
makes the errors of a check warnings.`,
		Example: `  kocli preflight -f cluster.yaml
  kocli preflight -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar -o json
  kocli preflight -f cluster.yaml --ignore memory,cpu-count
  kocli preflight --list`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.list {
				return a.listChecks()
			}
			return a.preflight(cmd, p)
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.bundle, "bundle", "", "bundle `file` that would be installed, or a delta to what the hosts have")
	keyFlag(cmd, &p.keys)
	f.StringSliceVar(&p.ignore, "ignore", nil, "`checks` whose errors become warnings")
	f.BoolVar(&p.list, "list", false, "list the checks and what each is for")
	fixed(cmd, map[string][]string{"ignore": preflight.Names()})
	return cmd
}

func (a *app) listChecks() error {
	type check struct {
		Name string `json:"name"`
		Doc  string `json:"doc"`
	}
	var all []check
	for _, c := range preflight.Checks() {
		all = append(all, check{c.Name, c.Doc})
	}
	return a.result(fault.OK, map[string]any{"checks": all}, func() error {
		t := a.table("CHECK", "WHAT IT IS FOR")
		for _, c := range all {
			t.AppendRow(table.Row{c.Name, c.Doc})
		}
		t.Render()
		return nil
	})
}

func (a *app) preflight(cmd *cobra.Command, p preflightFlags) error {
	if err := checkIgnore(p.ignore); err != nil {
		return err
	}
	keys, err := publicKeys(p.keys)
	if err != nil {
		return err
	}
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, p.bundle, show)
	if err != nil {
		return err
	}
	o.Ignore, o.Keys = p.ignore, keys
	found, lost := workflow.CheckHosts(cmd.Context(), o)
	if len(found) == 0 && lost != nil || cmd.Context().Err() != nil {
		return lost
	}
	if found == nil {
		found = []preflight.Finding{}
	}
	// A host that does not answer is worse than one that does not fit.
	outcome := lost
	if outcome == nil {
		outcome = preflight.Refusal(found)
	}
	if a.json() {
		doc := map[string]any{"cluster": o.Inventory.Name, "hosts": len(o.Inventory.Nodes), "findings": found}
		if lost != nil {
			doc["errors"] = troubles(lost)
		}
		if err := ui.Result(a.Out, int(fault.CodeOf(outcome)), doc); err != nil || outcome == nil {
			return err
		}
		return shown(fault.CodeOf(outcome))
	}
	a.writeFindings(o.Inventory.Name, len(o.Inventory.Nodes), found)
	if n := countErrors(found); lost == nil && n > 1 {
		return fault.New(fault.Preflight, "correct what the table says, then type the same command again; --ignore CHECK makes a warning of it", fmt.Errorf("%d findings refuse the install", n))
	}
	return outcome
}

func countErrors(found []preflight.Finding) int {
	n := 0
	for _, f := range found {
		if f.Level == preflight.Error {
			n++
		}
	}
	return n
}

func (a *app) writeFindings(cluster string, hosts int, found []preflight.Finding) {
	if len(found) == 0 {
		printf(a.Out, "Cluster %s: %d checks on %s, nothing found.\n", cluster, len(preflight.Checks()), ui.Count(hosts, "host"))
		return
	}
	t := a.table("LEVEL", "HOST", "CHECK", "FINDING")
	for _, f := range found {
		node, level := f.Node, string(f.Level)
		if node == "" {
			node = "(all)"
		}
		if f.Ignored {
			level = "ignored"
		}
		text := f.Message
		if f.Fix != "" {
			text += "\n-> " + f.Fix
		}
		t.AppendRow(table.Row{level, node, f.Check, text})
	}
	t.Render()
}
