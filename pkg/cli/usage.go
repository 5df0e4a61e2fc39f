package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kocli/kocli/pkg/fault"
)

// usage is an error of the command line.
func usage(cmd *cobra.Command, err error) error {
	return fault.New(fault.Usage, cmd.CommandPath()+" --help", err)
}

// flagError is an error of pflag, with the flag that was probably meant.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || len(unknown.GetSpecifiedName()) < 2 {
		return usage(cmd, err)
	}
	var names []string
	add := func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, "--"+f.Name)
		}
	}
	cmd.Flags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	return fault.New(fault.Usage, suggest("--"+unknown.GetSpecifiedName(), names, cmd.CommandPath()+" --help"), err)
}

// noArgs refuses arguments; below a command with subcommands they are commands
// that do not exist.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasAvailableSubCommands() {
		return usage(cmd, fmt.Errorf("unexpected argument %q", args[0]))
	}
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			names = append(names, c.Name())
		}
	}
	return fault.New(fault.Usage, suggest(args[0], names, cmd.CommandPath()+" --help"),
		fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath()))
}

// oneArg wants exactly one argument.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 1:
			return nil
		case 0:
			return usage(cmd, fmt.Errorf("%s is missing", what))
		}
		return usage(cmd, fmt.Errorf("one %s is wanted, not %d: %s", what, len(args), strings.Join(args, " ")))
	}
}

// manyArgs wants at least one argument.
func manyArgs(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage(cmd, fmt.Errorf("%s is missing", what))
		}
		return nil
	}
}

// fixed completes flags that have few values.
func fixed(cmd *cobra.Command, values map[string][]string) {
	for flag, v := range values {
		if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(v, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // a flag that does not exist: every test of the command line meets it
		}
	}
}
