package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/addon"
	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/sshhost"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

// load reads and validates the cluster YAML.
func (a *app) load(more ...config.Validator) (*v1alpha1.Cluster, error) {
	raw, err := a.read()
	if err != nil {
		return nil, err
	}
	return a.parse(raw, more...)
}

// read returns the text of the cluster YAML.
func (a *app) read() ([]byte, error) {
	raw, err := a.readFile(a.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Usage, "write one with: kocli init > "+a.file, err)
	}
	if err != nil {
		return nil, fault.New(fault.Usage, "name a readable file with -f", err)
	}
	return raw, nil
}

// parse decodes and validates the text of a cluster YAML.
func (a *app) parse(raw []byte, more ...config.Validator) (*v1alpha1.Cluster, error) {
	all := append([]config.Validator{kubeadm.ValidateOverrides, preflight.ValidateIgnore, addon.Validate}, more...)
	return config.Read(a.file, bytes.NewReader(raw), all...)
}

// readFile reads a file, or stdin for "-".
func (a *app) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(a.In)
	}
	return os.ReadFile(name) //nolint:gosec // the operator names the file
}

// options gathers what a workflow needs. The files that the YAML names have to
// be there.
func (a *app) options(cmd *cobra.Command, bundle string, show *ui.UI) (workflow.Options, error) {
	raw, err := a.read()
	if err != nil {
		return workflow.Options{}, err
	}
	return a.optionsOf(cmd, raw, bundle, show)
}

// optionsOf is options for a text that need not be that of the file.
func (a *app) optionsOf(cmd *cobra.Command, raw []byte, bundle string, show *ui.UI) (workflow.Options, error) {
	c, err := a.parse(raw, config.CheckFiles)
	if err != nil {
		return workflow.Options{}, err
	}
	inv, err := inventory.New(c)
	if err != nil {
		return workflow.Options{}, fault.New(fault.Usage, "kocli validate -f "+a.file, err)
	}
	file, more := workflow.KnownHosts(a.home)
	keys := &sshhost.KnownHosts{File: file, More: more, Accept: sshhost.AcceptBy(a.acceptKey(cmd.Context()))}
	return workflow.Options{
		Home: a.home, Command: cmd.CommandPath() + " -f " + a.file, Inventory: inv, SpecFile: a.file, SpecYAML: raw, Bundle: bundle,
		SSH: sshhost.Options{Keys: keys}, Secrets: &config.Secrets{Prompt: a.askSecret},
		Observer: show, Version: a.build.Version, Clock: workflow.Clock{Now: a.now},
	}, nil
}

// nodes checks names of hosts against the inventory; none means all.
func nodes(inv *inventory.Inventory, names []string) ([]string, error) {
	all := inventory.Names(inv.Nodes)
	if len(names) == 0 || len(names) == 1 && names[0] == "all" {
		return all, nil
	}
	var errs []error
	for _, n := range names {
		if _, ok := inv.Node(n); !ok {
			errs = append(errs, fault.New(fault.Usage, suggest(n, all, "kocli status shows the nodes"), fmt.Errorf("no host is called %q", n)))
		}
	}
	return names, errors.Join(errs...)
}
