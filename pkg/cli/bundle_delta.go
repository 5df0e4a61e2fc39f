package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/archive/delta"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/internal/lean"
	"github.com/kocli/kocli/pkg/ui"
)

// deltaFlags are the flags of bundle delta and bundle apply.
type deltaFlags struct {
	base, to string
}

func (d *deltaFlags) add(cmd *cobra.Command, base, to string) {
	f := cmd.Flags()
	f.StringVar(&d.base, "base", "", base)
	f.StringVar(&d.to, "to", "", to)
	commandLineOnly(cmd, "base")
	commandLineOnly(cmd, "to")
}

func (d *deltaFlags) check(cmd *cobra.Command) error {
	if d.base == "" || d.to == "" {
		return usage(cmd, errors.New("--base and --to are needed: the bundle that the other side has, and the file to write"))
	}
	return nil
}

// leanMemory is what Go's memory may grow to before it is collected more often,
// in bytes. Deltas use about 80 MB whatever the size of the files, and leave much
// behind.
const leanMemory = 96 << 20

func (a *app) bundleDeltaCommand() *cobra.Command {
	var d deltaFlags
	cmd := &cobra.Command{
		Use:   "delta --base OLD BUNDLE --to DELTA",
		Short: "Make the small file that turns one bundle into a newer one",
		Long: `Writes what BUNDLE has and OLD has not, as patches against OLD where that is smaller.
Carry only this file to where OLD is, and make BUNDLE there with kocli bundle apply: it
is the same, byte for byte, with its signatures. Where hosts have what is in OLD, the
delta can be pushed to them as it is (kocli bundle push), or be the --bundle of create,
plan, preflight and scale.`,
		Example: "  kocli bundle delta --base kocli-v1.36.1-amd64.tar kocli-v1.36.3-amd64.tar --to v1.36.1-v1.36.3.delta.tar",
		Args:    oneArg("the new bundle's file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.check(cmd); err != nil {
				return err
			}
			defer lean.Within(leanMemory)()
			show := a.ui()
			defer show.Close()
			r, err := delta.Make(cmd.Context(), delta.Options{
				Base: d.base, Input: args[0], Output: d.to, Version: a.build.Version,
				Each: func(done, total int64) { show.Progress("delta", done, total) },
			})
			if err != nil {
				return err
			}
			return a.result(fault.OK, r, func() error {
				printf(a.Out, "%s: %s for %s of new blobs (%d patched, %d compressed, %d whole)\n",
					r.Output, ui.Bytes(r.Size), ui.Bytes(r.NewBytes), r.Patched, r.Packed, r.Whole)
				printf(a.Out, "Apply it with: kocli bundle apply --base %s %s --to %s\n", d.base, r.Output, args[0])
				return nil
			})
		},
	}
	d.add(cmd, "the bundle `file` that the other side has", "delta `file` to write")
	return cmd
}

func (a *app) bundleApplyCommand() *cobra.Command {
	var d deltaFlags
	cmd := &cobra.Command{
		Use:   "apply --base OLD DELTA --to BUNDLE",
		Short: "Make a bundle of an older one and a delta",
		Long: `Writes the bundle that the delta was made for, byte for byte, with its signatures. Every
blob is checked against its digest, and the whole against the digest that the delta
names. With a base that lacks something, it says what, and ends with exit code 6.`,
		Example: "  kocli bundle apply --base kocli-v1.36.1-amd64.tar v1.36.1-v1.36.3.delta.tar --to kocli-v1.36.3-amd64.tar",
		Args:    oneArg("the delta's file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.check(cmd); err != nil {
				return err
			}
			defer lean.Within(leanMemory)()
			show := a.ui()
			defer show.Close()
			made, err := delta.Apply(cmd.Context(), delta.Options{
				Base: d.base, Input: args[0], Output: d.to, Version: a.build.Version,
				Each: func(done, total int64) { show.Progress("apply", done, total) },
			})
			if err != nil {
				return err
			}
			v := map[string]any{"bundle": d.to, "digest": made.Digest, "bytes": made.Size}
			return a.result(fault.OK, v, func() error {
				printf(a.Out, "%s is whole: %s\nDigest: %s\n", d.to, ui.Bytes(made.Size), made.Digest)
				return nil
			})
		},
	}
	d.add(cmd, "the bundle `file` that the delta was made from", "bundle `file` to write")
	return cmd
}
