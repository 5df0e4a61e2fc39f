package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/addon"
	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube/helm"
	"github.com/kocli/kocli/pkg/steps/addons"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

func (a *app) addonCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "addon",
		Short: "Install, upgrade and remove what runs in the cluster beside Kubernetes",
		Long: `Add-ons are Helm charts that a bundle brings with their images. The cluster YAML names
them under spec.addons, and storage under spec.storage: create, scale and upgrade then keep
them as described. Releases are Helm's own; helm list shows them.`,
		Example: `  kocli addon list -f cluster.yaml
  kocli addon install metrics-server -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.addonListCommand(), a.addonInfoCommand(), a.addonInstallCommand(), a.addonUpgradeCommand(), a.addonRemoveCommand(), a.addonValuesCommand())
	return cmd
}

func (a *app) addonListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list [-f CLUSTER.yaml]",
		Short: "Show the add-ons that there are, and which of them the cluster has",
		Long: `Shows the add-ons that kocli knows, what the cluster YAML says of each, and what is in the
cluster. Without a cluster YAML it shows the first only. CI says whether kocli's own tests
install the add-on on hosts; where it says no, we have never seen it running.`,
		Example: `  kocli addon list -f cluster.yaml
  kocli addon list -f cluster.yaml -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.addonList(cmd) },
	}
}

// addonsReport asks the cluster, where there is a YAML.
func (a *app) addonsReport(cmd *cobra.Command) (*workflow.AddonsReport, error) {
	raw, err := a.read()
	if errors.Is(err, fs.ErrNotExist) && !cmd.Flags().Changed("file") {
		known, err := catalogue.EmbeddedAddons()
		if err != nil {
			return nil, err
		}
		return &workflow.AddonsReport{Addons: workflow.KnownAddons(known)}, nil
	}
	if err != nil {
		return nil, err
	}
	show := a.ui()
	defer show.Close()
	o, err := a.optionsOf(cmd, raw, "", show)
	if err != nil {
		return nil, err
	}
	return workflow.AddonsList(cmd.Context(), o)
}

func (a *app) addonList(cmd *cobra.Command) error {
	rep, err := a.addonsReport(cmd)
	if err != nil {
		return err
	}
	return a.result(fault.OK, rep, func() error {
		t := a.table("ADD-ON", "YAML", "STATUS", "VERSION", "NAMESPACE", "CI", "")
		for _, s := range rep.Addons {
			t.AppendRow([]any{s.Name, orDash(s.Declared), s.Status, orDash(s.Version), s.Namespace, yesNo(s.TestedInCI), s.Description})
		}
		t.Render()
		if rep.Unread != "" {
			printf(a.Err, "the cluster was not asked: %s\n", rep.Unread)
		}
		return nil
	})
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// knownAddon returns an add-on by name.
func knownAddon(name string) (*catalogue.Addon, error) {
	known, err := catalogue.EmbeddedAddons()
	if err != nil {
		return nil, err
	}
	e, ok := known.Find(name)
	if !ok {
		return nil, fault.New(fault.Usage, suggest(name, known.Names(), "kocli addon list shows them all"), fmt.Errorf("no add-on is called %q", name))
	}
	return e, nil
}

// addonInfo is all that is known of an add-on. Its JSON is stable.
type addonInfo struct {
	workflow.AddonStatus
	Chart    catalogue.ChartSource    `json:"chart"`
	Versions []catalogue.AddonVersion `json:"versions"`
	Values   map[string]any           `json:"values"` // that kocli sets
	Schema   map[string]any           `json:"schema"`
	Health   catalogue.Health         `json:"health"`
	Licence  string                   `json:"licence"`
}

func (a *app) addonInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "info NAME [-f CLUSTER.yaml]",
		Short:   "Show one add-on: versions, images, what kocli sets, and how it is in the cluster",
		Long:    "Shows all that kocli knows of an add-on and, with a cluster YAML, how it is in the cluster.\n-o json has the schema of its values too.",
		Example: "  kocli addon info metrics-server -f cluster.yaml\n  kocli addon info metrics-server -o json",
		Args:    oneArg("the name of the add-on"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := knownAddon(args[0])
			if err != nil {
				return err
			}
			rep, err := a.addonsReport(cmd)
			if err != nil {
				return err
			}
			info := addonInfo{Chart: e.Chart, Versions: e.Versions, Values: e.Values, Schema: e.Schema, Health: e.Health, Licence: e.Licence}
			for _, s := range rep.Addons {
				if s.Name == e.Name {
					info.AddonStatus = s
				}
			}
			return a.result(fault.OK, info, func() error { return a.writeAddon(info) })
		},
	}
}

func (a *app) writeAddon(i addonInfo) error {
	printf(a.Out, "%s: %s\n", i.Name, i.Description)
	if i.Storage != "" {
		printf(a.Out, "Asked for with: spec.storage, type: %s\n", i.Storage)
	} else {
		printf(a.Out, "Asked for with: spec.addons, name: %s\n", i.Name)
	}
	printf(a.Out, "In the cluster: %s", i.Status)
	if i.Version != "" {
		printf(a.Out, ", version %s, revision %d, since %s", i.Version, i.Revision, i.Updated.Format(time.DateTime))
	}
	printf(a.Out, "\nNamespace: %s\nLicence: %s\nInstalled by kocli's own tests: %s\n", i.Namespace, i.Licence, yesNo(i.TestedInCI))
	for _, v := range i.Versions {
		printf(a.Out, "Version %s (%s), for Kubernetes %s and newer, below %s:\n", v.Version, v.App, v.Kubernetes.From, v.Kubernetes.Below)
		for _, im := range v.Images {
			printf(a.Out, "  %s\n", im)
		}
	}
	text, err := yaml.Marshal(i.Values)
	if err != nil {
		return err
	}
	printf(a.Out, "Values that kocli sets:\n  %s\n", strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "\n  "))
	return nil
}

// addonFlags are those of the commands that install.
type addonFlags struct {
	planFlags
	version string
	dryRun  bool
}

func (f *addonFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.bundle, "bundle", "", "bundle `file` with the chart and its images")
	keyFlag(cmd, &f.keys)
	fl.StringVar(&f.version, "version", "", "`version` of the chart (default: that of the cluster YAML, else the newest of the bundle)")
	own(cmd, "version")
}

// options has the add-on in the inventory, as the YAML says, else with its defaults.
func (f *addonFlags) addonOptions(a *app, cmd *cobra.Command, name string, show *ui.UI) (workflow.Options, error) {
	e, err := knownAddon(name)
	if err != nil {
		return workflow.Options{}, err
	}
	o, err := f.options(a, cmd, show)
	if err != nil {
		return o, err
	}
	return o, f.declare(o.Inventory, e, a.file)
}

// declare has the inventory ask for the add-on.
func (f *addonFlags) declare(inv *inventory.Inventory, e *catalogue.Addon, file string) error {
	on := true
	spec := &inv.Spec
	if e.Storage != "" {
		for i := range spec.Storage {
			if string(spec.Storage[i].Type) == e.Storage {
				if f.version != "" {
					spec.Storage[i].Version = f.version
				}
				return nil
			}
		}
		return fault.New(fault.Usage, fmt.Sprintf("add to %s: storage: [{name: %s, type: %s}]; then kocli create installs it", file, e.Storage, e.Storage),
			fmt.Errorf("%s has no storage of type %s", file, e.Storage))
	}
	found := false
	for i := range spec.Addons {
		if s := &spec.Addons[i]; s.Name == e.Name {
			found, s.Enabled = true, &on
			if f.version != "" {
				s.Version = f.version
			}
		}
	}
	if !found {
		spec.Addons = append(spec.Addons, v1alpha1.Addon{Name: e.Name, Version: f.version, Enabled: &on})
	}
	if errs := addon.Validate(&v1alpha1.Cluster{Spec: *spec}); len(errs) > 0 {
		return fault.New(fault.Usage, "kocli addon info "+e.Name, errs.ToAggregate())
	}
	return nil
}

func (a *app) addonInstallCommand() *cobra.Command {
	var f addonFlags
	cmd := &cobra.Command{
		Use:   "install NAME -f CLUSTER.yaml --bundle FILE",
		Short: "Install an add-on, with the values of the cluster YAML",
		Long: `Sends the add-on's images to the hosts that lack them, installs its chart, waits until it is
ready, and proves that it works. Where that fails, nothing of the chart is left. An add-on
that the cluster YAML does not name is installed with its defaults, and stays: create takes
out only what the YAML has with enabled: false.

Typed again after a failure, or after kill -9, it goes on.`,
		Example: `  kocli addon install metrics-server -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar
  kocli addon install metrics-server --version 3.13.1 --bundle kocli-v1.36.3-amd64.tar`,
		Args: oneArg("the name of the add-on"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.addonRun(cmd, f, args[0], false) },
	}
	f.add(cmd)
	return cmd
}

func (a *app) addonUpgradeCommand() *cobra.Command {
	var f addonFlags
	cmd := &cobra.Command{
		Use:   "upgrade NAME -f CLUSTER.yaml --bundle FILE",
		Short: "Show what changes in an add-on's manifests, and change it",
		Long: `Renders the chart of the bundle with the values of the cluster YAML, shows the difference to
what is in the cluster, asks, and upgrades. Values of Secrets are not shown. Where the upgrade
fails, the release before it is rolled back to. With --dry-run it ends after the difference.`,
		Example: `  kocli addon upgrade metrics-server -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar
  kocli addon upgrade metrics-server --bundle kocli-v1.36.3-amd64.tar --dry-run`,
		Args: oneArg("the name of the add-on"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.addonRun(cmd, f, args[0], true) },
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "show what would change, and change nothing")
	own(cmd, "dry-run")
	return cmd
}

// errDryRun ends a dry run once the difference has been shown.
var errDryRun = errors.New("nothing was changed")

func (a *app) addonRun(cmd *cobra.Command, f addonFlags, name string, upgrade bool) error {
	show := a.ui()
	defer show.Close()
	o, err := f.addonOptions(a, cmd, name, show)
	if err != nil {
		return err
	}
	ao := workflow.AddonOptions{Name: name}
	if upgrade {
		ao.Confirm = func(diff string) error {
			if f.dryRun {
				if err := a.result(fault.OK, map[string]string{"cluster": o.Inventory.Name, "addon": name, "diff": diff}, func() error {
					printf(a.Out, "%s", cmp.Or(diff, "Nothing changes in the manifests of "+name+".\n"))
					return nil
				}); err != nil {
					return err
				}
				return errDryRun
			}
			if diff == "" {
				return nil // it is only seen to work
			}
			if !a.json() {
				printf(a.Out, "%s", diff)
			}
			return a.confirm(cmd.Context(), fmt.Sprintf("Upgrade %s of cluster %s?", name, o.Inventory.Name))
		}
	}
	r, err := workflow.AddonInstall(cmd.Context(), o, ao)
	if errors.Is(err, errDryRun) {
		return nil
	}
	if err != nil {
		return failedRun(err, r)
	}
	return a.result(fault.OK, r, func() error {
		if r.Changed == 0 {
			printf(a.Out, "%s of cluster %s is as described: nothing to change (%s).\n", name, r.Cluster, ui.Duration(r.Duration))
			return nil
		}
		printf(a.Out, "%s of cluster %s is installed and works: %s in %s.\nLog: %s\n", name, r.Cluster, ui.Count(r.Changed, "change"), ui.Duration(r.Duration), r.Log)
		return nil
	})
}

func (a *app) addonRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME -f CLUSTER.yaml",
		Short: "Take an add-on out of the cluster",
		Long: `Uninstalls the add-on's release and waits until its objects are gone. Storage with volumes is
refused. Images stay on the hosts, and custom resource definitions in the cluster. An add-on
that the cluster YAML has enabled comes back with the next create.`,
		Example: `  kocli addon remove metrics-server -f cluster.yaml
  kocli addon remove metrics-server -f cluster.yaml --yes -o json`,
		Args: oneArg("the name of the add-on"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.addonRemove(cmd, args[0]) },
	}
}

func (a *app) addonRemove(cmd *cobra.Command, name string) error {
	e, err := knownAddon(name)
	if err != nil {
		return err
	}
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, "", show)
	if err != nil {
		return err
	}
	if err := a.confirm(cmd.Context(), fmt.Sprintf("Take %s out of cluster %s?", name, o.Inventory.Name)); err != nil {
		return err
	}
	r, err := workflow.AddonRemove(cmd.Context(), o, *e)
	if err != nil {
		return failedRun(err, r)
	}
	return a.result(fault.OK, r, func() error {
		if r.Changed == 0 {
			printf(a.Out, "Cluster %s has no %s.\n", r.Cluster, name)
			return nil
		}
		printf(a.Out, "%s is gone from cluster %s (%s).\n", name, r.Cluster, ui.Duration(r.Duration))
		known := &catalogue.Addons{Addons: []catalogue.Addon{*e}}
		if len(addon.Enabled(&o.Inventory.Spec, known)) > 0 {
			printf(a.Out, "%s still asks for it: create installs it again.\n", a.file)
		}
		return nil
	})
}

func (a *app) addonValuesCommand() *cobra.Command {
	var f addonFlags
	cmd := &cobra.Command{
		Use:   "values NAME -f CLUSTER.yaml [--bundle FILE]",
		Short: "Show the values that an add-on is installed with",
		Long: `Shows the values that kocli and the cluster YAML set, as YAML. With --bundle the chart's own
are below them: all values that the chart is rendered with.`,
		Example: `  kocli addon values metrics-server -f cluster.yaml
  kocli addon values metrics-server -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar`,
		Args: oneArg("the name of the add-on"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.addonValues(f, args[0]) },
	}
	f.add(cmd)
	return cmd
}

func (a *app) addonValues(f addonFlags, name string) error {
	e, err := knownAddon(name)
	if err != nil {
		return err
	}
	c, err := a.load()
	if err != nil {
		return err
	}
	inv, err := inventory.New(c)
	if err != nil {
		return fault.New(fault.Usage, "kocli validate -f "+a.file, err)
	}
	if err := f.declare(inv, e, a.file); err != nil {
		return err
	}
	one := addon.Declared(&inv.Spec, &catalogue.Addons{Addons: []catalogue.Addon{*e}})[0]
	values := one.Values
	if f.bundle != "" {
		b, err := openBundle(f.bundle, f.keys)
		if err != nil {
			return err
		}
		defer func() { _ = b.Close() }()
		chart, err := one.Chart(b, inv.Version())
		if err != nil {
			return err
		}
		r, err := addons.Release(one, chart)
		if err != nil {
			return err
		}
		if values, err = helm.Values(r); err != nil {
			return err
		}
	}
	return a.result(fault.OK, map[string]any{"addon": name, "values": values}, func() error {
		text, err := yaml.Marshal(values)
		if err == nil {
			printf(a.Out, "%s", text)
		}
		return err
	})
}
