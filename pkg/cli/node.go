package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/host/forward"
	"github.com/kocli/kocli/pkg/host/sink"
	"github.com/kocli/kocli/pkg/netcheck"
)

// nodeCommand is what kocli runs on hosts and in pods. Hidden: nobody types it.
func (a *app) nodeCommand() *cobra.Command {
	node := &cobra.Command{Use: "node", Short: "What kocli runs on the hosts themselves", Hidden: true, Args: noArgs}
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
	splice := &cobra.Command{
		Use: "splice -- PROGRAM...", Short: "Run a program on a stream with stored content filled in", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return sink.Splice(cmd.Context(), a.In, "/", a.Out, a.Err, args...)
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
	node.AddCommand(check, receive, relay, splice, lend)
	return node
}
