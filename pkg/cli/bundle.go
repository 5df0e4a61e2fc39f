package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/build"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/ui"
)

func (a *app) bundleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Build, inspect, verify and push offline bundles",
		Long: `A bundle is one file with all that is installed: images, binaries and OS packages,
for one or more versions of Kubernetes and architectures. It is an OCI image layout
in a tar, and every byte of it is covered by a digest.`,
		Example: `  kocli bundle init > bundle.yaml
  kocli bundle build -f examples/bundle-v1.36.3-amd64.yaml --to kocli-v1.36.3-amd64.tar
  kocli bundle inspect kocli-v1.36.3-amd64.tar
  kocli bundle verify kocli-v1.36.3-amd64.tar`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usage(cmd, errors.New("what to do is missing: init, versions, build, inspect, verify, sign, diff, split, delta or push"))
		},
	}
	cmd.AddCommand(a.bundleInitCommand(), a.bundleVersionsCommand(), a.bundleBuildCommand(), a.bundleInspectCommand(), a.bundleVerifyCommand(),
		a.bundlePushCommand())
	cmd.AddCommand(a.bundleKeygenCommand(), a.bundleSignCommand(), a.bundleDiffCommand(), a.bundleSBOMCommand())
	cmd.AddCommand(a.bundleSplitCommand(), a.bundleJoinCommand(), a.bundleDeltaCommand(), a.bundleApplyCommand())
	return cmd
}

// bundleBuildFlags are the flags of bundle build.
type bundleBuildFlags struct {
	spec, out, cache string
	base             string
	mirrors, arch    []string
	kocli            []string
	locked, update   bool
	dropCache        bool
}

func (a *app) bundleBuildCommand() *cobra.Command {
	var b bundleBuildFlags
	cmd := &cobra.Command{
		Use:   "build -f BUNDLE.yaml [--to FILE]",
		Short: "Collect images, binaries and OS packages into one bundle",
		Long: `Downloads everything that the bundle YAML asks for, checks it against upstream's
checksums and signatures, and writes one file. The digests are recorded in
BUNDLE.lock beside the YAML and enforced from then on.`,
		Example: `  kocli bundle build -f examples/bundle-v1.36.3-amd64.yaml --to kocli-v1.36.3-amd64.tar
  kocli bundle build -f bundle.yaml --to bundle.tar --mirror https://mirror.example.com
  kocli bundle build -f bundle.yaml --to new.tar --base old.tar`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.bundleBuild(cmd, b) },
	}
	f := cmd.Flags()
	f.StringVarP(&b.spec, "file", "f", "bundle.yaml", "bundle `YAML`")
	f.Lookup("file").Annotations = map[string][]string{ownFlag: {"true"}}
	f.StringVar(&b.out, "to", "", "bundle `file` to write (default: the bundle's name and .tar)")
	f.StringVar(&b.cache, "cache", "", "`folder` for downloads (default HOME/cache)")
	f.StringVar(&b.base, "base", "", "older `bundle` to take from what is in it already, instead of downloading it")
	f.BoolVar(&b.dropCache, "drop-cache", false, "take downloads out of the cache as they are written: needs the room once, the next build starts anew")
	f.StringSliceVar(&b.mirrors, "mirror", nil, "take everything from this `URL` or folder, under upstream's host names and paths; \"direct\" is upstream itself")
	f.StringSliceVar(&b.arch, "arch", nil, "`architectures` instead of those of the YAML")
	f.StringSliceVar(&b.kocli, "kocli", nil, "kocli binaries for the hosts, as `ARCH=PATH` (default: this kocli for its own architecture)")
	f.BoolVar(&b.locked, "locked", false, "refuse what the lock does not have")
	f.BoolVar(&b.update, "update-lock", false, "accept what differs from the lock, and record it")
	return cmd
}

func (a *app) bundleBuild(cmd *cobra.Command, b bundleBuildFlags) error {
	data, err := os.ReadFile(b.spec)
	if err != nil {
		return fault.New(fault.Usage, "write one with: kocli bundle init > "+b.spec, err)
	}
	spec, err := archive.DecodeSpec(data)
	if err != nil {
		return err
	}
	cat, err := catalogue.Embedded()
	if err != nil {
		return err
	}
	if b.out == "" {
		b.out = spec.Metadata.Name + ".tar"
	}
	if b.cache == "" {
		b.cache = filepath.Join(a.home, "cache")
	}
	binaries, err := kocliBinaries(cmd, b.kocli)
	if err != nil {
		return err
	}
	show := a.ui()
	defer show.Close()
	r, err := build.Build(cmd.Context(), build.Options{
		Spec: spec, SpecDir: filepath.Dir(b.spec), Catalogue: cat, Mirrors: b.mirrors, CacheDir: b.cache, DropCache: b.dropCache, Base: b.base, Output: b.out, Arch: b.arch,
		Version: a.build.Version, KocliBinaries: binaries, LockPath: build.LockPath(b.spec), UpdateLock: b.update, Locked: b.locked,
		Progress: func(p build.Progress) {
			if p.Stage != build.StageResolve { // counts items, not bytes
				show.Progress(string(p.Stage), p.Done, p.Total)
			}
		},
	})
	if err != nil {
		return err
	}
	return a.result(fault.OK, r, func() error {
		_, err := fmt.Fprintf(a.Out, "Bundle %s: %d items, %s, %s downloaded\nDigest: %s\n", r.Output, r.Items, ui.Bytes(r.Size), ui.Bytes(r.Downloaded), r.Digest)
		return err
	})
}

// kocliBinaries reads ARCH=PATH pairs; without any, the running kocli serves its
// own architecture.
func kocliBinaries(cmd *cobra.Command, pairs []string) (map[string]string, error) {
	out := map[string]string{}
	for _, p := range pairs {
		arch, path, ok := strings.Cut(p, "=")
		if !ok {
			return nil, usage(cmd, fmt.Errorf("--kocli %s: write ARCH=PATH", p))
		}
		out[arch] = path
	}
	if len(pairs) > 0 || runtime.GOOS != "linux" {
		return out, nil
	}
	self, err := os.Executable()
	out[runtime.GOARCH] = self
	return out, err
}

func (a *app) bundleInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect BUNDLE",
		Short: "Show what a bundle holds",
		Long: `Lists the items of a bundle with version, architecture, size and licence, and the
digest that names the bundle as a whole. With -o json also sources and digests.`,
		Example: "  kocli bundle inspect kocli-v1.36.3-amd64.tar\n  kocli bundle inspect kocli-v1.36.3-amd64.tar -o json",
		Args:    oneArg("the bundle's file"),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := archive.Open(args[0])
			if err != nil {
				return err
			}
			defer func() { _ = b.Close() }()
			in := b.Inspect()
			return a.result(fault.OK, in, func() error { return a.writeInspection(in) })
		},
	}
}

func (a *app) writeInspection(in archive.Inspection) error {
	_, err := fmt.Fprintf(a.Out, "%s  %s, %d blobs, %s saved by sharing\nDigest: %s\n", in.Name, ui.Bytes(in.Size), in.Blobs, ui.Bytes(in.SharedBytes), in.Digest)
	for _, id := range in.SignedBy {
		printf(a.Out, "Signed by: %s\n", id)
	}
	printf(a.Out, "\n")
	t := a.table("KIND", "NAME", "VERSION", "ARCH", "HOSTS", "SIZE", "LICENCE")
	for _, it := range in.Items {
		t.AppendRow(table.Row{it.Kind, it.Name, it.Version, it.Arch, it.Role, ui.Bytes(it.Size), it.Licence})
	}
	t.Render()
	return err
}

// table returns a plain table on stdout.
func (a *app) table(columns ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(a.Out)
	s := table.StyleDefault
	s.Options = table.OptionsNoBordersAndSeparators
	s.Box.PaddingLeft = ""
	t.SetStyle(s)
	t.AppendHeader(columns)
	t.SuppressTrailingSpaces()
	return t
}
