package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
)

// helpCommand is cobra's help with our exit code for what does not exist.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND|TOPIC]",
		Short: "Help about a command or a topic: exit-codes, cluster, environment",
		Long:  "Shows the help of a command, or a page about a topic: exit-codes, cluster, environment.",
		Example: `  kocli help create
  kocli help exit-codes
  kocli help cluster`,
		// Help is shown however wrong the settings are.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				var names []string
				for _, c := range cmd.Root().Commands() {
					if !c.Hidden {
						names = append(names, c.Name())
					}
				}
				return fault.New(fault.Usage, suggest(args[0], names, "kocli help"), fmt.Errorf("no help for %q", strings.Join(args, " ")))
			}
			target.InitDefaultHelpFlag()
			return target.Help()
		},
	}
}

// topics are help pages that are not commands.
func topics() []*cobra.Command {
	page := func(name, short string, text func() string) *cobra.Command {
		c := &cobra.Command{Use: name, Short: short, Long: short + "."}
		c.SetHelpFunc(func(cmd *cobra.Command, _ []string) { printf(cmd.OutOrStdout(), "%s", text()) })
		return c
	}
	return []*cobra.Command{
		page("exit-codes", "The exit codes and what they mean", exitCodes),
		page("cluster", "Every field of cluster.yaml", fieldReference),
		page("environment", "Variables, files and the config file", environment),
	}
}

func exitCodes() string {
	var b strings.Builder
	b.WriteString("kocli ends with one of these exit codes. They never change their meaning.\n\n")
	for _, c := range fault.Codes() {
		fmt.Fprintf(&b, "  %3d  %s\n", c.Code, c.Meaning)
	}
	return b.String()
}

func environment() string {
	return `Every flag can be set in three places. A flag on the command line comes before a
KOCLI_* variable, and both come before the config file.

Variables
  KOCLI_<FLAG>        a flag in capitals, dashes as underscores:
                      KOCLI_HOME, KOCLI_FILE, KOCLI_BUNDLE, KOCLI_KEY, KOCLI_OUTPUT, KOCLI_YES=true,
                      KOCLI_LOG_LEVEL, KOCLI_ACCEPT_NEW_HOST_KEYS=true
  KOCLI_CONFIG        the config file, instead of HOME/config.yaml
  NO_COLOR            no colours, whatever its value
  SSH_AUTH_SOCK       the SSH agent, used where the cluster YAML allows it
  NAME                any variable that a secret of the YAML refers to as env:NAME

Config file, for example ~/.kocli/config.yaml: flags without their dashes
  bundle: /srv/kocli-v1.36.3-amd64.tar
  log-level: debug
  ignore: [memory, cpu-count]

Files below --home (default ~/.kocli)
  config.yaml                  the config file
  known_hosts                  SSH host keys that were accepted; ~/.ssh/known_hosts is read too
  cache/                       downloads of kocli bundle build
  clusters/NAME/state.json     what was last asked for
  clusters/NAME/kubeconfig     the administrator's kubeconfig (0600)
  clusters/NAME/secrets/       (0700)
  clusters/NAME/certs-renewal.json   a renewal of certificates that is to be gone on with
  clusters/NAME/runs/ID/       the log of every run, with every command
  clusters/NAME/lock           held while a run changes the cluster
`
}
