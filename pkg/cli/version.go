package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show which kocli this is",
		Long:    "Shows the version of kocli, the commit that it was built from, and with which Go.",
		Example: "  kocli version\n  kocli version -o json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{
				"version": a.build.Version, "commit": a.build.Commit, "date": a.build.Date, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
			}
			return a.result(fault.OK, v, func() error {
				_, err := fmt.Fprintf(a.Out, "kocli %s (commit %s, built %s, %s, %s)\n", v["version"], v["commit"], v["date"], v["go"], v["platform"])
				return err
			})
		},
	}
}

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of cluster.yaml, for editors",
		Long: `Prints the JSON schema of cluster.yaml. With the YAML language server, an editor
completes and checks the fields:

  # yaml-language-server: $schema=cluster.schema.json`,
		Example: "  kocli schema > cluster.schema.json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.Out.Write(config.Schema())
			return err
		},
	}
}
