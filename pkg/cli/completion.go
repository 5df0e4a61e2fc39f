package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
)

func completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print the completion script of a shell: bash, zsh, fish or powershell",
		Long: `Prints a script that completes commands, flags and names. Load it from the start-up
file of the shell.`,
		Example: `  source <(kocli completion bash)
  kocli completion zsh > "${fpath[1]}/_kocli"
  kocli completion fish > ~/.config/fish/completions/kocli.fish`,
		Args:      oneArg("the shell"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			script, ok := map[string]func(io.Writer) error{
				"bash":       func(w io.Writer) error { return root.GenBashCompletionV2(w, true) },
				"zsh":        root.GenZshCompletion,
				"fish":       func(w io.Writer) error { return root.GenFishCompletion(w, true) },
				"powershell": root.GenPowerShellCompletionWithDesc,
			}[args[0]]
			if !ok {
				return fault.New(fault.Usage, suggest(args[0], shells, cmd.CommandPath()+" --help"), fmt.Errorf("no completion for %q", args[0]))
			}
			return script(out)
		},
	}
}
