package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

// leaveFlags say how nodes leave.
type leaveFlags struct {
	drainTimeout, forceAfter time.Duration
	maxUnavailable           int
}

func (l *leaveFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.DurationVar(&l.drainTimeout, "drain-timeout", 0, "how long pods are given to leave a node, for example `10m` (default: spec.maintenance)")
	f.DurationVar(&l.forceAfter, "force-after", 0, "delete pods that a disruption budget still holds after so long, for example `5m`; without it, never")
	f.IntVar(&l.maxUnavailable, "max-unavailable", 0, "how many workers may be out of service at once (default: spec.maintenance)")
	own(cmd, "force-after", "max-unavailable")
}

func (l *leaveFlags) options() workflow.ScaleOptions {
	return workflow.ScaleOptions{DrainTimeout: l.drainTimeout, ForceAfter: l.forceAfter, MaxUnavailable: l.maxUnavailable}
}

// own marks flags that only the command line sets: a variable that is still set
// must not decide what is taken apart.
func own(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		cmd.Flags().Lookup(name).Annotations = map[string][]string{ownFlag: {"true"}}
	}
}

// scaleFlags are the flags of scale.
type scaleFlags struct {
	planFlags
	leaveFlags
	dead   []string
	leave  []string // nodes that have to be among those that leave
	dryRun bool
}

func (a *app) scaleCommand() *cobra.Command {
	var s scaleFlags
	cmd := &cobra.Command{
		Use:   "scale -f CLUSTER.yaml [--bundle FILE]",
		Short: "Make the nodes of the cluster be those of the YAML",
		Long: `Compares the hosts of the YAML with the cluster. Those that are new join, as in create.
Those that left the YAML are drained, leave etcd and the cluster, and their hosts become
what they were. Disruption budgets are obeyed, and etcd's quorum is proved before and
after each of its members goes. Nodes that kocli did not put there stay.

A host that left the YAML and cannot be reached any more is named with --dead: its pods
and volumes are freed without it. The bundle is needed where a host joins.`,
		Example: `  kocli scale -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar
  kocli scale -f cluster.yaml --dry-run
  kocli scale -f cluster.yaml --dead node-3 --yes`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.scale(cmd, s) },
	}
	s.planFlags.add(cmd)
	s.leaveFlags.add(cmd)
	cmd.Flags().StringSliceVar(&s.dead, "dead", nil, "`name` of a node that is gone for good and is not asked; may be repeated")
	cmd.Flags().BoolVar(&s.dryRun, "dry-run", false, "show what would change, and change nothing")
	own(cmd, "dead", "dry-run")
	return cmd
}

func (a *app) scale(cmd *cobra.Command, s scaleFlags) error {
	show := a.ui()
	defer show.Close()
	raw, err := a.read()
	if err != nil {
		return err
	}
	return a.runScale(cmd, raw, show, s, nil)
}

// runScale makes the nodes be those of a text: it shows what would leave, asks, and
// does it. commit is called once nothing refuses and before anything is changed.
func (a *app) runScale(cmd *cobra.Command, raw []byte, show *ui.UI, s scaleFlags, commit func() error) error {
	o, err := s.optionsOf(a, cmd, raw, show)
	if err != nil {
		return err
	}
	so := s.leaveFlags.options()
	so.Dead, so.Leave, so.Commit = s.dead, s.leave, commit
	if s.dryRun {
		pre, err := workflow.PlanScale(cmd.Context(), o, so)
		return a.planned(show, o, pre, err)
	}
	so.Confirm = func(leaving []string) error {
		return a.confirm(cmd.Context(), fmt.Sprintf("Take %s out of cluster %s: %s?", ui.Count(len(leaving), "node"), o.Inventory.Name, strings.Join(leaving, ", ")))
	}
	r, err := workflow.Scale(cmd.Context(), o, so)
	if err != nil {
		return failedRun(err, r)
	}
	return a.result(fault.OK, r, func() error { writeScaled(a.Out, r); return nil })
}

// writeScaled shows the result of a scale to people.
func writeScaled(w io.Writer, r *workflow.Result) {
	if len(r.Left) > 0 {
		printf(w, "Left cluster %s: %s\n", r.Cluster, strings.Join(r.Left, ", "))
	}
	writeResult(w, r)
}
