package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/host/containerd"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/host/forward"
	"github.com/kocli/kocli/pkg/host/local"
	"github.com/kocli/kocli/pkg/host/patch"
	"github.com/kocli/kocli/pkg/host/sink"
	"github.com/kocli/kocli/pkg/internal/lean"
	"github.com/kocli/kocli/pkg/netcheck"
	"github.com/kocli/kocli/pkg/workflow"
)

// nodeCommand is what is done to single nodes, and, hidden, what kocli runs on the
// hosts themselves.
func (a *app) nodeCommand() *cobra.Command {
	node := &cobra.Command{
		Use: "node", Short: "Add, remove, replace, drain or cordon single nodes",
		Long: `One-off work on single nodes. add, remove and replace change the hosts of the cluster
YAML, comments kept, and then do what kocli scale does.`,
		Example: `  kocli node list -f cluster.yaml
  kocli node drain node-3 -f cluster.yaml
  kocli node remove node-3 -f cluster.yaml
  kocli node replace node-1 --with node-7 --address 10.0.0.17 -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar`,
		Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	node.AddCommand(a.nodeListCommand(), a.nodeAddCommand(), a.nodeRemoveCommand(), a.nodeReplaceCommand(),
		a.nodeActionCommand(workflow.Drain, "Move the pods of a node away", `Cordons the node and evicts its pods; disruption budgets are obeyed. Where they hold pods
until the time-out, it says which, and the node takes pods again.`),
		a.nodeActionCommand(workflow.Cordon, "Have no new pods placed on a node", "Marks the node as unschedulable. Pods that run there stay."),
		a.nodeActionCommand(workflow.Uncordon, "Have pods placed on a node again", "Takes back what cordon and drain do."))
	hidden := a.onHostCommands()
	for _, c := range hidden {
		c.Hidden = true
	}
	node.AddCommand(hidden...)
	return node
}

// onHostCommands are what kocli runs on hosts and in pods. Nobody types them.
func (a *app) onHostCommands() []*cobra.Command {
	var listen string
	check := &cobra.Command{
		Use: "netcheck", Short: "Serve checks of the pod network", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return netcheck.Serve(cmd.Context(), listen, os.Getenv("NODE_NAME"))
		},
	}
	check.Flags().StringVar(&listen, "listen", ":8080", "`address` to listen on")
	var protocol string
	receive := &cobra.Command{
		Use: "receive", Short: "Write the files that come on stdin", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if protocol != sink.Protocol {
				return usage(cmd, fmt.Errorf("this kocli speaks protocol %s, not %s", sink.Protocol, protocol))
			}
			return sink.Receive(cmd.Context(), a.In, "/")
		},
	}
	receive.Flags().StringVar(&protocol, "protocol", "", "`version` of the stream")
	var also []string
	relay := &cobra.Command{
		Use: "relay", Short: "Take content in and hand it on", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fanout.Relay(cmd.Context(), a.In, a.Out, fanout.Root(), also...)
		},
	}
	relay.Flags().StringSliceVar(&also, "also", nil, "`folders` of others with blobs under their digests")
	var patches string
	apply := &cobra.Command{
		Use: "apply", Short: "Make blobs of those that are here and a delta", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if patches != patch.Protocol {
				return usage(cmd, fmt.Errorf("this kocli speaks protocol %s, not %s", patch.Protocol, patches))
			}
			defer lean.Within(leanMemory)()
			return patch.Apply(cmd.Context(), a.In, a.Out, fanout.Root(), also...)
		},
	}
	apply.Flags().StringVar(&patches, "protocol", "", "`version` of the stream")
	apply.Flags().StringSliceVar(&also, "also", nil, "`folders` of others with blobs under their digests")
	lane := &cobra.Command{
		Use: "lane", Short: "Pass content on to the relay", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return fanout.Lane(cmd.Context(), a.In, fanout.Root()) },
	}
	var speaks, address string
	images := &cobra.Command{
		Use: "images", Short: "Bring images into containerd", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if speaks != containerd.Protocol {
				return usage(cmd, fmt.Errorf("this kocli speaks protocol %s, not %s", containerd.Protocol, speaks))
			}
			c, err := containerd.Connect(cmd.Context(), address)
			if err != nil {
				return err
			}
			return errors.Join(containerd.Import(cmd.Context(), c, a.In, a.Out, fanout.Root()), c.Close())
		},
	}
	var at string
	var to []string
	lend := &cobra.Command{
		Use: "forward", Short: "Pass connections on until the session ends", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return forward.Serve(cmd.Context(), a.In, at, to) },
	}
	lend.Flags().StringVar(&at, "listen", "", "`address` to listen on")
	lend.Flags().StringSliceVar(&to, "to", nil, "`addresses` to try, in this order")
	var snapshotTo string
	snapshot := &cobra.Command{
		Use: "snapshot", Short: "Write the data of this host's etcd to a file", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := etcd.Look(cmd.Context(), local.New("this host"))
			if err != nil {
				return err
			}
			size, err := v.SnapshotFile(cmd.Context(), snapshotTo)
			if err == nil {
				printf(a.Out, "%d\n", size)
			}
			return err
		},
	}
	snapshot.Flags().StringVar(&snapshotTo, "to", "", "`file` to write, with mode 0600")
	images.Flags().StringVar(&speaks, "protocol", "", "`version` of the stream")
	images.Flags().StringVar(&address, "address", containerd.Address, "`socket` of containerd")
	return []*cobra.Command{check, receive, relay, apply, lane, images, lend, snapshot, a.onHostBackupCommand(), a.onHostRestoreCommand()}
}
