package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/templates"
)

func (a *app) bundleInitCommand() *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use:   "init [--kubernetes VERSION]",
		Short: "Print a commented bundle.yaml to start from",
		Long: `Prints a bundle.yaml in which every field is explained, for one version of
Kubernetes and amd64.`,
		Example: "  kocli bundle init > bundle.yaml\n  kocli bundle init --kubernetes v1.36.3 > bundle.yaml",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			cat, err := catalogue.Embedded()
			if err != nil {
				return err
			}
			if version == "" {
				version = cat.Newest()
			}
			if _, err := cat.Release(version, nil); err != nil {
				return err
			}
			text := templates.Bundle(version)
			return a.result(fault.OK, map[string]string{"kubernetes": version, "bundleYAML": text}, func() error {
				_, err := fmt.Fprint(a.Out, text)
				return err
			})
		},
	}
	known := knownVersions()
	cmd.Flags().StringVar(&version, "kubernetes", "", "`version` of Kubernetes: "+strings.Join(known, ", ")+" (default: the newest)")
	fixed(cmd, map[string][]string{"kubernetes": known})
	return cmd
}

// knownVersions are the versions of the catalogue, for help and completion.
func knownVersions() []string {
	cat, err := catalogue.Embedded()
	if err != nil {
		return nil // a test loads it
	}
	return cat.Versions()
}
