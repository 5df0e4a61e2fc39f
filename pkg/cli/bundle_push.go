package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

func (a *app) bundlePushCommand() *cobra.Command {
	modes := []string{string(fanout.Auto), string(fanout.Chain), string(fanout.SSH)}
	var mode string
	var keys []string
	cmd := &cobra.Command{
		Use:   "push BUNDLE -f CLUSTER.yaml",
		Short: "Bring the content of a bundle to the hosts, and install nothing",
		Long: `Asks every host of the cluster YAML what it lacks of the bundle, and sends it there:
only what the host's role and architecture need, and only what it does not have.
What arrived before an interruption is not sent again. A later create finds
everything in place.

With three hosts or more, each hands on to the next while it receives, so that one
copy leaves this machine. Hosts that cannot reach each other get theirs over SSH.
--fan-out ssh uses nothing but SSH.`,
		Example: `  kocli bundle push kocli-v1.36.3-amd64.tar -f cluster.yaml
  kocli bundle push kocli-v1.36.3-amd64.tar -f cluster.yaml --fan-out ssh`,
		Args: oneArg("the bundle's file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(modes, mode) {
				return usage(cmd, fmt.Errorf("--fan-out %s: write auto, chain or ssh", mode))
			}
			return a.bundlePush(cmd, args[0], fanout.Mode(mode), keys)
		},
	}
	cmd.Flags().StringVar(&mode, "fan-out", string(fanout.Auto), "how content reaches many hosts: auto, chain or `ssh`")
	fixed(cmd, map[string][]string{"fan-out": modes})
	keyFlag(cmd, &keys)
	return cmd
}

func (a *app) bundlePush(cmd *cobra.Command, bundle string, mode fanout.Mode, keyFiles []string) error {
	keys, err := publicKeys(keyFiles)
	if err != nil {
		return err
	}
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, bundle, show)
	if err != nil {
		return err
	}
	o.Keys = keys
	r, err := workflow.Push(cmd.Context(), o, mode)
	if err != nil {
		if r == nil {
			return err
		}
		return failedRun(err, &workflow.Result{Log: r.Log})
	}
	return a.result(fault.OK, r, func() error {
		if r.Unchanged {
			printf(a.Out, "All %d hosts have what they need of %s (%s).\n", r.Nodes, bundle, ui.Duration(r.Duration))
			return nil
		}
		var missing int64
		for _, n := range r.Missing {
			missing += n
		}
		printf(a.Out, "%d of %d hosts lacked %s together: %s left this machine in %s, %d links between hosts.\n",
			len(r.Missing), r.Nodes, ui.Bytes(missing), ui.Bytes(r.Sent), ui.Duration(r.Duration), r.Links)
		printf(a.Out, "Log: %s\n", r.Log)
		return nil
	})
}
