package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/templates"
)

func (a *app) initCommand() *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use:   "init [--profile NAME]",
		Short: "Print a commented cluster.yaml to start from",
		Long: `Prints a cluster.yaml in which every field is explained. Profiles:

  single  one host that runs everything
  ha      three control planes behind a load balancer, and workers
  lab     three small hosts to try kocli on`,
		Example: `  kocli init > cluster.yaml
  kocli init --profile ha > cluster.yaml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := templates.Profile(profile)
			if err != nil {
				return fault.New(fault.Usage, suggest(profile, templates.Profiles(), cmd.CommandPath()+" --help"), err)
			}
			return a.result(fault.OK, map[string]string{"profile": profile, "clusterYAML": string(text)}, func() error {
				_, err := a.Out.Write(text)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&profile, "profile", "single", "`name` of the profile: "+strings.Join(templates.Profiles(), ", "))
	fixed(cmd, map[string][]string{"profile": templates.Profiles()})
	return cmd
}
