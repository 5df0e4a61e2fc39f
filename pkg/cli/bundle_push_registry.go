package cli

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/archive/push"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/ui"
)

// registryFlags are the flags of bundle push for a registry.
type registryFlags struct {
	url, caFile     string
	keepHost, plain bool
	allow           []string
}

func (r *registryFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.url, "registry", "", "OCI registry to push images and charts into: `URL` with an optional prefix")
	f.BoolVar(&r.keepHost, "keep-host", false, "put the registry that an image comes from into its path")
	f.StringVar(&r.caFile, "ca-file", "", "`file` with the CA of the registry, beside the system's")
	f.BoolVar(&r.plain, "plain-http", false, "the registry speaks HTTP without encryption")
	f.StringSliceVar(&r.allow, "allow-host", nil, "another `host` that belongs to the registry: of its tokens or its storage; may be repeated")
}

// check refuses flags that belong to the other kind of push.
func (r *registryFlags) check(cmd *cobra.Command) error {
	f := cmd.Flags()
	if r.url != "" {
		if f.Changed("fan-out") {
			return usage(cmd, fmt.Errorf("--fan-out is for hosts, and --registry for a registry: give one of them"))
		}
		return nil
	}
	for _, name := range []string{"keep-host", "ca-file", "plain-http", "allow-host"} {
		if f.Changed(name) {
			return usage(cmd, fmt.Errorf("--%s needs --registry", name))
		}
	}
	return nil
}

func (a *app) bundlePushRegistry(cmd *cobra.Command, path string, keys []string, reg registryFlags) error {
	b, err := openBundle(path, keys)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	show := a.ui()
	defer show.Close()
	r, err := push.Push(cmd.Context(), push.Options{
		Bundle: b, Registry: reg.url, KeepHost: reg.keepHost, PlainHTTP: reg.plain, CAFile: reg.caFile, AlsoHosts: reg.allow,
		Progress: func(done, total int64) { show.Progress("push", done, total) },
	})
	show.Close()
	if err != nil {
		if r != nil && r.Pushed+r.Skipped > 0 && !a.json() {
			printf(a.Err, "%s are in %s so far.\n", ui.Count(r.Pushed+r.Skipped, "reference"), r.Registry)
		}
		return err
	}
	return a.result(fault.OK, r, func() error {
		printf(a.Out, "%s: %d pushed, %d were there; %s of %s sent.\n", r.Registry, r.Pushed, r.Skipped, ui.Bytes(r.Sent), ui.Bytes(r.Total))
		printf(a.Out, "For hosts that shall pull from there, in the cluster YAML:\n\n  runtime:\n    containerd:\n      mirrors:\n")
		for _, from := range slices.Sorted(maps.Keys(r.Mirrors)) {
			printf(a.Out, "        %s: {endpoints: [%q]}\n", from, r.Mirrors[from])
		}
		return nil
	})
}
