package cli

import (
	"os"

	"github.com/spf13/cobra"

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
	node.AddCommand(check)
	return node
}
