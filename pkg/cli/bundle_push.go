package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

func (a *app) bundlePushCommand() *cobra.Command {
	modes := []string{string(fanout.Auto), string(fanout.Chain), string(fanout.SSH)}
	var mode string
	var keys []string
	var reg registryFlags
	cmd := &cobra.Command{
		Use:   "push BUNDLE -f CLUSTER.yaml | --registry URL",
		Short: "Bring the content of a bundle to the hosts, or its images into a registry",
		Long: `Asks every host of the cluster YAML what it lacks of the bundle, and sends it there:
only what the host's role and architecture need, and only what it does not have.
What arrived before an interruption is not sent again. A later create finds
everything in place.

A delta (kocli bundle delta) does in place of the bundle where the hosts have what it
was made from: only the delta is carried and sent, and each host makes the rest of
what it holds. What is nowhere is listed, host by host, before anything is changed.

With three hosts or more, each hands on to the next while it receives, so that one
copy leaves this machine. Hosts that cannot reach each other get theirs over SSH.
--fan-out ssh uses nothing but SSH.

With --registry, images and charts go into an OCI registry instead, and no host is
touched. registry.k8s.io/pause:3.10.2 becomes HOST/PREFIX/pause:3.10.2: what a mirror
of one registry serves; --keep-host makes it HOST/PREFIX/registry.k8s.io/pause:3.10.2,
for images of several registries in one place. Manifests keep their digests; of
several architectures, an index is made. The login is Docker's own (docker login,
$DOCKER_CONFIG). Nothing but the registry is contacted, through no proxy.`,
		Example: `  kocli bundle push kocli-v1.36.3-amd64.tar -f cluster.yaml
  kocli bundle push kocli-v1.36.3-amd64.tar -f cluster.yaml --fan-out ssh
  kocli bundle push v1.36.1-v1.36.3.delta.tar -f cluster.yaml
  kocli bundle push kocli-v1.36.3-amd64.tar --registry https://harbor.example.com/kocli`,
		Args: oneArg("the bundle's file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(modes, mode) {
				return usage(cmd, fmt.Errorf("--fan-out %s: write auto, chain or ssh", mode))
			}
			if err := reg.check(cmd); err != nil {
				return err
			}
			if reg.url != "" {
				return a.bundlePushRegistry(cmd, args[0], keys, reg)
			}
			return a.bundlePush(cmd, args[0], keys, fanout.Mode(mode))
		},
	}
	keyFlag(cmd, &keys)
	reg.add(cmd)
	cmd.Flags().StringVar(&mode, "fan-out", string(fanout.Auto), "how content reaches many hosts: auto, chain or `ssh`")
	fixed(cmd, map[string][]string{"fan-out": modes})
	return cmd
}

func (a *app) bundlePush(cmd *cobra.Command, bundle string, keyFiles []string, mode fanout.Mode) error {
	keys, err := publicKeys(keyFiles)
	if err != nil {
		return err
	}
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, bundle, show)
	if err != nil {
		return err
	}
	o.Keys = keys
	r, err := workflow.Push(cmd.Context(), o, mode)
	if err != nil {
		if r == nil {
			return err
		}
		return failedRun(err, &workflow.Result{Log: r.Log})
	}
	return a.result(fault.OK, r, func() error {
		if r.Unchanged {
			printf(a.Out, "All %d hosts have what they need of %s (%s).\n", r.Nodes, bundle, ui.Duration(r.Duration))
			return nil
		}
		var missing int64
		for _, n := range r.Missing {
			missing += n
		}
		printf(a.Out, "%d of %d hosts lacked %s together: %s left this machine in %s, %d links between hosts.\n",
			len(r.Missing), r.Nodes, ui.Bytes(missing), ui.Bytes(r.Sent), ui.Duration(r.Duration), r.Links)
		if r.Made > 0 {
			printf(a.Out, "The hosts made %d blobs, %s, of what they had and the delta.\n", r.Made, ui.Bytes(r.MadeBytes))
		}
		printf(a.Out, "Log: %s\n", r.Log)
		return nil
	})
}
