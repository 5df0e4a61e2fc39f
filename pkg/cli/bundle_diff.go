package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/sbom"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/ui"
)

func (a *app) bundleDiffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff BUNDLE NEWER",
		Short: "Show what one bundle has that another has not",
		Long: `Compares two bundles: versions of components, items that were added, removed or
changed, and how many bytes are new. Images are compared by their digests, whatever
their tags say. With -o json also digests.`,
		Example: "  kocli bundle diff kocli-v1.36.3-amd64.tar kocli-v1.37.2-amd64.tar",
		Args:    twoArgs("two bundles"),
		RunE: func(_ *cobra.Command, args []string) (err error) {
			from, err := archive.Open(args[0])
			if err != nil {
				return err
			}
			defer func() { _ = from.Close() }()
			to, err := archive.Open(args[1])
			if err != nil {
				return err
			}
			defer func() { _ = to.Close() }()
			d := archive.Diff(from, to)
			return a.result(fault.OK, d, func() error { a.writeDifference(d); return nil })
		},
	}
}

func (a *app) writeDifference(d archive.Difference) {
	printf(a.Out, "From: %s  %s\nTo:   %s  %s\n\n", d.From.Name, d.From.Digest, d.To.Name, d.To.Digest)
	if len(d.Components) > 0 {
		t := a.table("COMPONENT", "FROM", "TO")
		for _, c := range d.Components {
			t.AppendRow(table.Row{c.Name, strings.Join(c.From, " "), strings.Join(c.To, " ")})
		}
		t.Render()
		printf(a.Out, "\n")
	}
	if len(d.Items) > 0 {
		t := a.table("CHANGE", "KIND", "NAME", "ARCH", "FROM", "TO", "NEW BYTES")
		for _, c := range d.Items {
			t.AppendRow(table.Row{c.Change, c.Kind, c.Name, c.Arch, c.FromVersion, c.ToVersion, ui.Bytes(c.NewBytes)})
		}
		t.Render()
		printf(a.Out, "\n")
	}
	printf(a.Out, "%s differ, %d are the same. Bytes: %s new, %s gone, %s shared.\n",
		ui.Count(len(d.Items), "item"), d.Unchanged, ui.Bytes(d.Bytes.New), ui.Bytes(d.Bytes.Gone), ui.Bytes(d.Bytes.Shared))
}

// twoArgs wants exactly two arguments.
func twoArgs(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 2 {
			return usage(cmd, fmt.Errorf("%s are wanted, not %d", what, len(args)))
		}
		return nil
	}
}

func (a *app) bundleSBOMCommand() *cobra.Command {
	var component string
	cmd := &cobra.Command{
		Use:   "sbom BUNDLE [--component NAME]",
		Short: "List what a bundle holds as SPDX, for licence and vulnerability scanners",
		Long: `Prints an SPDX 2.3 document in JSON: a package for every item with version, licence,
checksum, origin and package URL. The same bundle always gives the same document.

It lists what the bundle holds, not what is inside of its images.`,
		Example: `  kocli bundle sbom kocli-v1.36.3-amd64.tar > kocli-v1.36.3-amd64.spdx.json
  kocli bundle sbom kocli-v1.36.3-amd64.tar --component containerd`,
		Args: oneArg("the bundle's file"),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := archive.Open(args[0])
			if err != nil {
				return err
			}
			doc, err := sbom.New(b, component)
			if err := errors.Join(err, b.Close()); err != nil {
				return err
			}
			enc := json.NewEncoder(a.Out)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			return enc.Encode(doc)
		},
	}
	cmd.Flags().StringVar(&component, "component", "", "only this component of the catalogue, for example `containerd`")
	return cmd
}
