package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

// resetFlags are the flags of reset.
type resetFlags struct {
	nodes, skip []string
}

func (a *app) resetCommand() *cobra.Command {
	var r resetFlags
	cmd := &cobra.Command{
		Use:   "reset -f CLUSTER.yaml [--node NAME]...",
		Short: "Take hosts back to what they were before kocli came",
		Long: `Drains the nodes, takes them out of the cluster, and undoes on each host what kocli did
there: its ledger knows every file, package and setting, and what was there before.
Rules of others in nftables and iptables, foreign containers and data stay.

Without --node the whole cluster ends, and what it stored in etcd is lost. A host that
is clean already is left alone; typing it again after a failure goes on.`,
		Example: `  kocli reset -f cluster.yaml
  kocli reset -f cluster.yaml --node node-3
  kocli reset -f cluster.yaml --yes -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.reset(cmd, r) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&r.nodes, "node", nil, "`name` of a host; may be repeated (default all)")
	f.StringSliceVar(&r.skip, "skip", nil, "all but these steps or `phases`: --skip drain where the cluster does not answer")
	own(cmd, "node", "skip")
	return cmd
}

func (a *app) reset(cmd *cobra.Command, r resetFlags) error {
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, "", show)
	if err != nil {
		return err
	}
	names, err := nodes(o.Inventory, r.nodes)
	if err != nil {
		return err
	}
	if err := a.confirm(cmd.Context(), resetQuestion(o.Inventory, names)); err != nil {
		return err
	}
	o.Skip = r.skip
	res, err := workflow.Reset(cmd.Context(), o, workflow.ResetOptions{Nodes: r.nodes})
	if err != nil {
		return failedRun(err, res)
	}
	return a.result(fault.OK, res, func() error {
		if res.Changed == 0 {
			printf(a.Out, "Cluster %s: nothing of kocli is on %s (%s).\n", res.Cluster, ui.Count(res.Nodes, "host"), ui.Duration(res.Duration))
			return nil
		}
		printf(a.Out, "Cluster %s: %s reset, %s in %s.\nLog: %s\n", res.Cluster, ui.Count(res.Nodes, "host"), ui.Count(res.Changed, "change"), ui.Duration(res.Duration), res.Log)
		return nil
	})
}

// resetQuestion names what is going to be lost.
func resetQuestion(inv *inventory.Inventory, names []string) string {
	what := fmt.Sprintf("Reset %s of cluster %s", ui.Count(len(names), "host"), inv.Name)
	if len(names) == len(inv.Nodes) {
		what = fmt.Sprintf("Reset ALL %s of cluster %s, and lose everything that is stored in it", ui.Count(len(names), "host"), inv.Name)
	}
	list := make([]string, len(names))
	for i, name := range names {
		n, _ := inv.Node(name)
		list[i] = fmt.Sprintf("%s (%s)", n.Name, n.Address)
	}
	return what + ": " + strings.Join(list, ", ") + "?"
}
