package cli

import (
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
)

func (a *app) bundleVersionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "versions",
		Short: "List what a bundle can hold",
		Long: `Lists the versions of Kubernetes that a bundle can be built for, the component
versions that were tried with each and where they come from, the operating systems
whose packages can be in a bundle, and combinations that are refused. It needs no
network: this is the catalogue that kocli was built with.`,
		Example: "  kocli bundle versions\n  kocli bundle versions -o json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			cat, err := catalogue.Embedded()
			if err != nil {
				return err
			}
			o := cat.Overview()
			return a.result(fault.OK, o, func() error { return a.writeVersions(o) })
		},
	}
}

func (a *app) writeVersions(o catalogue.Overview) error {
	head := []any{"COMPONENT"}
	for _, v := range o.Kubernetes {
		head = append(head, v)
	}
	t := a.table(append(head, "FROM")...)
	for _, c := range o.Components {
		row := table.Row{c.Name}
		for _, v := range o.Kubernetes {
			row = append(row, c.Versions[v])
		}
		t.AppendRow(append(row, c.From))
	}
	t.Render()
	var text strings.Builder
	fmt.Fprintf(&text, "\nCNIs: %s\nPackages of: ", strings.Join(o.CNI, ", "))
	for i, d := range o.Distributions {
		if i > 0 {
			text.WriteString(", ")
		}
		fmt.Fprintf(&text, "%s %s", d.ID, d.Version)
	}
	text.WriteString("\nRefused:\n")
	for _, c := range o.Conflicts {
		fmt.Fprintf(&text, "  %s\n", c)
	}
	_, err := fmt.Fprint(a.Out, text.String())
	return err
}
