package cli

import (
	"testing"

	"github.com/spf13/cobra"
)

// family is a command and all below it that people type.
func family(c *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			out = append(out, family(sub)...)
		}
	}
	return out
}

// Whoever adds a command owes it an example.
func TestCommands_haveLongAndExample(t *testing.T) {
	for _, c := range family((&app{}).root()) {
		if !c.Runnable() {
			continue
		}
		if c.Long == "" || c.Example == "" {
			t.Errorf("%s has no long help or no example", c.CommandPath())
		}
		if c.Args == nil && c.Name() != "exec" && c.Name() != "help" {
			t.Errorf("%s does not check its arguments", c.CommandPath())
		}
	}
}
