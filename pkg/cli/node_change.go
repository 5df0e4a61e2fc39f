package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
)

// changeFlags are shared by the commands that change which nodes there are.
type changeFlags struct {
	scaleFlags
	address, private string
	keepFile, gone   bool
}

func (c *changeFlags) add(cmd *cobra.Command) {
	c.planFlags.add(cmd)
	c.leaveFlags.add(cmd)
	f := cmd.Flags()
	f.BoolVar(&c.dryRun, "dry-run", false, "show what would change, and change nothing")
	f.BoolVar(&c.keepFile, "keep-file", false, "leave the cluster YAML as it is; the next scale with it would take the change back")
	own(cmd, "dry-run", "keep-file")
}

// newHost adds the flags of a host that joins.
func (c *changeFlags) newHost(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.address, "address", "", "`address` that kocli connects to with SSH: IP address or DNS name")
	f.StringVar(&c.private, "private-address", "", "IP `address` that the nodes use among themselves (default: --address)")
	own(cmd, "address", "private-address")
}

func (a *app) nodeAddCommand() *cobra.Command {
	var c changeFlags
	var roles, labels []string
	cmd := &cobra.Command{
		Use: "add NAME --address ADDRESS --bundle FILE", Short: "Add a host to the cluster YAML and to the cluster",
		Long: `Writes the host into the cluster YAML, below the others, and joins it as kocli scale does.
Typed again after a failure it goes on.`,
		Example: `  kocli node add node-4 --address 10.0.0.14 -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar
  kocli node add cp-3 --address 10.0.0.3 --role control-plane --bundle kocli-v1.36.3-amd64.tar`,
		Args: oneArg("the name of the node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if c.address == "" {
				return usage(cmd, errors.New("--address is missing: where kocli logs in"))
			}
			h := v1alpha1.Host{Name: args[0], Address: c.address, PrivateAddress: c.private}
			for _, r := range roles {
				h.Roles = append(h.Roles, v1alpha1.Role(r))
			}
			var err error
			if h.Labels, err = labelsOf(labels); err != nil {
				return usage(cmd, err)
			}
			return a.changeNodes(cmd, c, func(raw []byte, now *v1alpha1.Cluster) ([]byte, error) {
				if was := hostOf(now, h.Name); was != nil && was.Address == h.Address && slices.Equal(was.Roles, h.Roles) {
					return raw, nil // an earlier run came as far as that
				}
				return config.AddHost(raw, h)
			})
		},
	}
	c.add(cmd)
	c.newHost(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&roles, "role", []string{string(v1alpha1.RoleWorker)}, "`role` of the host: control-plane, worker; may be repeated")
	f.StringSliceVar(&labels, "label", nil, "label of the node, as `key=value`; may be repeated")
	own(cmd, "role", "label")
	fixed(cmd, map[string][]string{"role": {string(v1alpha1.RoleControlPlane), string(v1alpha1.RoleWorker)}})
	return cmd
}

func (a *app) nodeRemoveCommand() *cobra.Command {
	var c changeFlags
	cmd := &cobra.Command{
		Use: "remove NAME...", Short: "Take nodes out of the cluster and of the cluster YAML",
		Long: `Drains each node, takes its member out of etcd with the quorum proved before and after, has
the cluster forget it, and takes its host back to what it was. With --dead the host is not
asked: it is switched off or gone, and its pods and volumes are freed without it.`,
		Example: `  kocli node remove node-3 -f cluster.yaml
  kocli node remove cp-2 --dead --yes`,
		Args: manyArgs("the name of a node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.leave = args
			if c.gone {
				c.dead = args
			}
			return a.changeNodes(cmd, c, func(raw []byte, now *v1alpha1.Cluster) ([]byte, error) {
				var err error
				for _, name := range args {
					if hostOf(now, name) == nil {
						continue // an earlier run came as far as that, or kocli did not put it there
					}
					if raw, err = config.RemoveHost(raw, name); err != nil {
						return nil, err
					}
				}
				return raw, nil
			})
		},
	}
	c.add(cmd)
	cmd.Flags().BoolVar(&c.gone, "dead", false, "the hosts are gone for good, and are not asked")
	own(cmd, "dead")
	return cmd
}

func (a *app) nodeReplaceCommand() *cobra.Command {
	var c changeFlags
	var name string
	cmd := &cobra.Command{
		Use: "replace OLD --with NEW --address ADDRESS --bundle FILE", Short: "Put a fresh host in the place of a node",
		Long: `Gives the new host the roles, labels and taints of the old node, joins it, and takes the old
node out: any node, the first control plane too. A live node leaves when the new one has
joined. With --dead the old one is taken out first, and its host is not asked.`,
		Example: `  kocli node replace node-1 --with node-7 --address 10.0.0.17 --bundle kocli-v1.36.3-amd64.tar
  kocli node replace cp-1 --with cp-4 --address 10.0.0.4 --dead --yes --bundle kocli-v1.36.3-amd64.tar`,
		Args: oneArg("the name of the node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" || c.address == "" {
				return usage(cmd, errors.New("--with NAME and --address ADDRESS say what the new host is"))
			}
			c.leave = args
			if c.gone {
				c.dead = args
			}
			return a.changeNodes(cmd, c, func(raw []byte, now *v1alpha1.Cluster) ([]byte, error) {
				old, fresh := hostOf(now, args[0]), hostOf(now, name)
				if old == nil && fresh != nil && fresh.Address == c.address {
					return raw, nil // an earlier run came as far as that
				}
				if old == nil {
					return nil, fmt.Errorf("spec.hosts has no host %s", args[0])
				}
				h := *old
				h.Name, h.Address, h.PrivateAddress = name, c.address, c.private
				return config.ReplaceHost(raw, args[0], h)
			})
		},
	}
	c.add(cmd)
	c.newHost(cmd)
	cmd.Flags().StringVar(&name, "with", "", "`name` of the new node")
	cmd.Flags().BoolVar(&c.gone, "dead", false, "the old host is gone for good, and is not asked")
	own(cmd, "with", "dead")
	return cmd
}

// changeNodes edits the text of the cluster YAML and makes the cluster be so.
func (a *app) changeNodes(cmd *cobra.Command, c changeFlags, edit func([]byte, *v1alpha1.Cluster) ([]byte, error)) error {
	show := a.ui()
	defer show.Close()
	raw, err := a.read()
	if err != nil {
		return err
	}
	now, err := a.parse(raw)
	if err != nil {
		return err
	}
	next, err := edit(raw, now)
	if err != nil {
		if fault.HintOf(err) == "" {
			err = fault.New(fault.Usage, "see spec.hosts in "+a.file, err)
		}
		return err
	}
	return a.runScale(cmd, next, show, c.scaleFlags, func() error {
		if c.keepFile || a.file == "-" || string(next) == string(raw) {
			return nil
		}
		return replaceFile(a.file, next)
	})
}

// replaceFile writes a file whole or not at all, and keeps its mode. A link stays
// one.
func replaceFile(path string, data []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(path, data, st.Mode().Perm()); err != nil {
		return fmt.Errorf("write the change to %s: %w", path, err)
	}
	return nil
}

// hostOf finds a host of a cluster; nil where there is none.
func hostOf(c *v1alpha1.Cluster, name string) *v1alpha1.Host {
	for i := range c.Spec.Hosts {
		if c.Spec.Hosts[i].Name == name {
			return &c.Spec.Hosts[i]
		}
	}
	return nil
}

// labelsOf reads key=value.
func labelsOf(list []string) (map[string]string, error) {
	var out map[string]string
	for _, l := range list {
		k, v, ok := strings.Cut(l, "=")
		if !ok {
			return nil, fmt.Errorf("--label %q is not of the form key=value", l)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[k] = v
	}
	return out, nil
}
