package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/ui"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show which kocli this is",
		Example: "  kocli version\n  kocli version -o json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.json() {
				ui.JSON(a.Out, map[string]string{
					"version": a.build.Version, "commit": a.build.Commit, "date": a.build.Date, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
				})
				return nil
			}
			_, err := fmt.Fprintf(a.Out, "kocli %s (commit %s, built %s, %s, %s/%s)\n", a.build.Version, a.build.Commit, a.build.Date, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON schema of cluster.yaml, for editors",
		Example: "  kocli schema > cluster.schema.json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.Out.Write(config.Schema())
			return err
		},
	}
}

// topics are help pages that are not commands.
func topics() []*cobra.Command {
	codes := "kocli ends with one of these exit codes. They never change their meaning.\n\n"
	for _, c := range fault.Codes() {
		codes += fmt.Sprintf("  %3d  %s\n", c.Code, c.Meaning)
	}
	return []*cobra.Command{
		{Use: "exit-codes", Short: "The exit codes and what they mean", Long: codes},
	}
}
