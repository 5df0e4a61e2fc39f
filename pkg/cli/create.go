package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

// planFlags narrow a plan down.
type planFlags struct {
	bundle       string
	keys         []string
	only, skip   []string
	ignoreChecks []string
}

func (p *planFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.bundle, "bundle", "", "bundle `file` with everything that is installed, or a delta to what the hosts have")
	keyFlag(cmd, &p.keys)
	f.StringSliceVar(&p.only, "only", nil, "only these steps or `phases`")
	f.StringSliceVar(&p.skip, "skip", nil, "all but these steps or `phases`")
	f.StringSliceVar(&p.ignoreChecks, "ignore", nil, "preflight `checks` whose errors become warnings; kocli preflight --list names them")
	fixed(cmd, map[string][]string{"ignore": preflight.Names()})
}

// check refuses what cannot work before anything is read.
func (p *planFlags) check(cmd *cobra.Command) error {
	if p.bundle == "" {
		return fault.New(fault.Usage, "make one with: kocli bundle build -f BUNDLE.yaml --to FILE, then: "+cmd.CommandPath()+" --bundle FILE",
			errors.New("--bundle is missing: the file that holds what is installed"))
	}
	return checkIgnore(p.ignoreChecks)
}

// checkIgnore refuses names that are no check, before any host is asked.
func checkIgnore(names []string) error {
	for _, n := range names {
		if !slices.Contains(preflight.Names(), n) {
			return fault.New(fault.Usage, suggest(n, preflight.Names(), "kocli preflight --list shows them all"), fmt.Errorf("--ignore %s: no check is called that", n))
		}
	}
	return nil
}

func (a *app) createCommand() *cobra.Command {
	var p planFlags
	cmd := &cobra.Command{
		Use:   "create -f CLUSTER.yaml --bundle FILE",
		Short: "Make the hosts be the cluster that the YAML describes",
		Long: `Checks the hosts, sends them what they lack of the bundle, runs kubeadm, sets up
the pod network, joins the workers and proves that DNS, pods and services work.

On a healthy cluster it changes nothing and says so. After any failure, Ctrl-C,
kill -9, cut cable or reboot, the same command goes on from what is true.`,
		Example: `  kocli create -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar
  kocli create -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar -o json
  kocli create -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar --ignore memory`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.create(cmd, p) },
	}
	p.add(cmd)
	return cmd
}

// options checks the flags and gathers what the workflow of a plan needs.
func (p *planFlags) options(a *app, cmd *cobra.Command, show *ui.UI) (workflow.Options, error) {
	if err := p.check(cmd); err != nil {
		return workflow.Options{}, err
	}
	raw, err := a.read()
	if err != nil {
		return workflow.Options{}, err
	}
	return p.optionsOf(a, cmd, raw, show)
}

// optionsOf is options for a text that need not be that of the file, and with a
// bundle or without.
func (p *planFlags) optionsOf(a *app, cmd *cobra.Command, raw []byte, show *ui.UI) (workflow.Options, error) {
	if err := checkIgnore(p.ignoreChecks); err != nil {
		return workflow.Options{}, err
	}
	keys, err := publicKeys(p.keys)
	if err != nil {
		return workflow.Options{}, err
	}
	o, err := a.optionsOf(cmd, raw, p.bundle, show)
	o.Keys = keys
	o.Only, o.Skip, o.Ignore = p.only, p.skip, p.ignoreChecks
	return o, err
}

func (a *app) create(cmd *cobra.Command, p planFlags) error {
	show := a.ui()
	defer show.Close()
	o, err := p.options(a, cmd, show)
	if err != nil {
		return err
	}
	r, err := workflow.Create(cmd.Context(), o)
	if err != nil {
		return failedRun(err, r)
	}
	return a.result(fault.OK, r, func() error { writeResult(a.Out, r); return nil })
}

// failedRun is the error of a run that writes: with a hint, and with its log.
func failedRun(err error, r *workflow.Result) error {
	if fault.HintOf(err) == "" && fault.CodeOf(err) == fault.Failure {
		err = fault.New(fault.Failure, "when the cause is gone, type the same command again: it goes on from here", err)
	}
	if r == nil {
		return err
	}
	return withLog(err, r.Log)
}

// writeResult shows the result of a run to people.
func writeResult(w io.Writer, r *workflow.Result) {
	var sent int64
	for _, s := range r.Hosts {
		sent += s.BytesSent
	}
	if r.Content != nil {
		sent += r.Content.Direct
	}
	if r.Changed == 0 {
		printf(w, "Cluster %s is as described: Kubernetes %s on %d nodes, nothing to change (%s).\n", r.Cluster, r.Kubernetes, r.Nodes, ui.Duration(r.Duration))
	} else {
		printf(w, "Cluster %s runs Kubernetes %s on %d nodes: %d changes in %s, %s sent.\n",
			r.Cluster, r.Kubernetes, r.Nodes, r.Changed, ui.Duration(r.Duration), ui.Bytes(sent))
		for _, p := range r.Order {
			if d, ok := r.Phases[p]; ok && d >= 100*time.Millisecond {
				printf(w, "  %-14s %s\n", p, ui.Duration(d))
			}
		}
	}
	if r.Kubeconfig != "" {
		printf(w, "Kubeconfig: %s\n", r.Kubeconfig)
	}
	if r.Changed > 0 {
		printf(w, "Log: %s\n", r.Log)
	}
}
