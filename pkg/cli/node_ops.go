package cli

import (
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/workflow"
)

func (a *app) nodeListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the nodes of the cluster and of the YAML",
		Long: `Lists the nodes that the YAML names, whether they have joined, and those that only the
cluster knows. kocli status says more.`,
		Example: "  kocli node list -f cluster.yaml\n  kocli node list -f cluster.yaml -o json",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.nodeList(cmd) },
	}
}

func (a *app) nodeList(cmd *cobra.Command) error {
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, "", show)
	if err != nil {
		return err
	}
	st, err := workflow.Status(cmd.Context(), o)
	if err != nil {
		return err
	}
	doc := map[string]any{"cluster": st.Cluster, "nodes": st.Nodes}
	return a.result(fault.OK, doc, func() error {
		t := a.table("NODE", "ROLES", "VERSION", "READY", "")
		for _, n := range st.Nodes {
			t.AppendRow(table.Row{n.Name, strings.Join(n.Roles, ","), n.Version, yesNo(n.Ready), nodeNote(n)})
		}
		t.Render()
		return nil
	})
}

// nodeActionCommand is cordon, uncordon or drain.
func (a *app) nodeActionCommand(action workflow.NodeAction, short, long string) *cobra.Command {
	var l leaveFlags
	cmd := &cobra.Command{
		Use: string(action) + " NAME", Short: short, Long: long,
		Example: "  kocli node " + string(action) + " node-3 -f cluster.yaml",
		Args:    oneArg("the name of the node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.nodeAction(cmd, action, args[0], l)
		},
	}
	if action == workflow.Drain {
		f := cmd.Flags()
		f.DurationVar(&l.drainTimeout, "drain-timeout", 0, "how long pods are given to leave, for example `10m` (default: spec.maintenance)")
		f.DurationVar(&l.forceAfter, "force-after", time.Duration(0), "delete pods that a disruption budget still holds after so long, for example `5m`; without it, never")
		own(cmd, "force-after")
	}
	return cmd
}

func (a *app) nodeAction(cmd *cobra.Command, action workflow.NodeAction, name string, l leaveFlags) error {
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, "", show)
	if err != nil {
		return err
	}
	r, err := workflow.Node(cmd.Context(), o, name, action, l.options())
	if err != nil {
		if r != nil {
			err = withLog(err, r.Log)
		}
		return err
	}
	return a.result(fault.OK, r, func() error {
		if !r.Changed {
			printf(a.Out, "Node %s: nothing to do.\n", name)
			return nil
		}
		done := map[workflow.NodeAction]string{workflow.Cordon: "cordoned: no new pods", workflow.Uncordon: "takes pods again", workflow.Drain: "drained and cordoned; kocli node uncordon " + name + " takes it back"}
		printf(a.Out, "Node %s: %s.\n", name, done[action])
		return nil
	})
}
