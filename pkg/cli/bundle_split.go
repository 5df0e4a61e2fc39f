package cli

import (
	"errors"
	"fmt"
	"math"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/archive/split"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/ui"
)

func (a *app) bundleSplitCommand() *cobra.Command {
	var size, out string
	cmd := &cobra.Command{
		Use:   "split BUNDLE --size SIZE [--out FOLDER]",
		Short: "Cut a bundle into parts, for media that are smaller",
		Long: `Writes NAME.001, NAME.002 and so on, and NAME.parts.json with the size and sha256 of
each. 4G means 4,000,000,000 bytes and 4GiB 4,294,967,296; FAT file systems hold
files of less than 4GiB.`,
		Example: `  kocli bundle split kocli-v1.36.3-amd64.tar --size 4G --out /media/usb
  kocli bundle split kocli-v1.36.3-amd64.tar --size 700M`,
		Args: oneArg("the bundle's file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if size == "" {
				return usage(cmd, errors.New("--size is missing: the size of a part, for example 4G"))
			}
			n, err := humanize.ParseBytes(size)
			if err != nil || n == 0 || n > math.MaxInt64 {
				return usage(cmd, fmt.Errorf("--size %s is not a size such as 4G, 4GiB or 700M", size))
			}
			show := a.ui()
			defer show.Close()
			file, p, err := split.Split(cmd.Context(), args[0], out, int64(n), func(done, total int64) { show.Progress("split", done, total) })
			if err != nil {
				return err
			}
			v := map[string]any{"partsFile": file, "parts": p.Parts, "bytes": p.Size}
			return a.result(fault.OK, v, func() error {
				printf(a.Out, "%s of %s\nJoin them with: kocli bundle join %s\n", ui.Count(len(p.Parts), "part"), ui.Bytes(p.Size), file)
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&size, "size", "", "`size` of a part: 4G, 4GiB, 700M")
	f.StringVar(&out, "out", ".", "`folder` for the parts")
	commandLineOnly(cmd, "out")
	return cmd
}

func (a *app) bundleJoinCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "join FOLDER|PARTS-FILE [--out FILE]",
		Short: "Put the parts of a bundle together again",
		Long: `Checks each part while it copies it. When parts are missing or damaged, all of them
are named at once, with exit code 6: copy only these again, and type the command
again. FILE appears when it is whole.`,
		Example: `  kocli bundle join /media/usb --out kocli-v1.36.3-amd64.tar
  kocli bundle join kocli-v1.36.3-amd64.tar.parts.json`,
		Args: oneArg("the folder of the parts, or their .parts.json"),
		RunE: func(cmd *cobra.Command, args []string) error {
			show := a.ui()
			defer show.Close()
			path, p, err := split.Join(cmd.Context(), args[0], out, func(done, total int64) { show.Progress("join", done, total) })
			if err != nil {
				return err
			}
			v := map[string]any{"bundle": path, "parts": len(p.Parts), "bytes": p.Size}
			return a.result(fault.OK, v, func() error {
				printf(a.Out, "%s is whole: %s from %s\n", path, ui.Bytes(p.Size), ui.Count(len(p.Parts), "part"))
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`file` to write (default: the bundle's name, in this folder)")
	commandLineOnly(cmd, "out")
	return cmd
}

// commandLineOnly keeps a flag from being set by a variable or the config file,
// because another command has one of the same name that means something else.
func commandLineOnly(cmd *cobra.Command, flag string) {
	cmd.Flags().Lookup(flag).Annotations = map[string][]string{ownFlag: {"true"}}
}
