package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

func (a *app) certsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Look at the certificates of the cluster, and renew them",
		Long: `Certificates of kubeadm's are good for a year, and end without a word. kocli shows what
is really served beside what the files have, renews them on a cluster that runs, and
brings a cluster back whose certificates have ended. Their CAs are good for ten years:
they are replaced while the cluster serves.`,
		Example: `  kocli certs list -f cluster.yaml
  kocli certs renew --all -f cluster.yaml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.certsListCommand(), a.certsRenewCommand(), a.certsRescueCommand(), a.certsRotateCommand())
	return cmd
}

func (a *app) certsListCommand() *cobra.Command {
	var wide bool
	cmd := &cobra.Command{
		Use:   "list -f CLUSTER.yaml [--wide]",
		Short: "Show every certificate: its file beside what is served",
		Long: `Asks every node, over SSH alone: the certificates in files and kubeconfigs, and those
that the API server, etcd, the kubelet, the controller manager and the scheduler show
when they are connected to; what is shown at the endpoint; and, where the API answers,
the CAs of webhooks and aggregated APIs.

Exit code 7 when one has ended or ends within 30 days (in the last tenth of its time
where it is made for less than 300 days), cannot be read, or is served and is not that
of its file. 4 when a host cannot be reached; the others are shown all the same.`,
		Example: `  kocli certs list -f cluster.yaml
  kocli certs list -f cluster.yaml --wide
  kocli certs list -f cluster.yaml -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.certsList(cmd, wide) },
	}
	cmd.Flags().BoolVar(&wide, "wide", false, "show serial numbers, names and addresses, and paths as well")
	return cmd
}

func (a *app) certsList(cmd *cobra.Command, wide bool) error {
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, "", show)
	if err != nil {
		return err
	}
	rep, err := workflow.CertsList(cmd.Context(), o)
	if rep == nil {
		return err
	}
	code := fault.OK
	if len(rep.Problems) > 0 {
		code = fault.Unhealthy
	}
	if err != nil {
		code = fault.CodeOf(err)
		for _, t := range troubles(err) {
			rep.Unread = append(rep.Unread, t.headline())
		}
	}
	text := func() error {
		a.writeCerts(rep.Certificates, wide)
		if err == nil {
			for _, u := range rep.Unread {
				printf(a.Err, "not read: %s\n", u)
			}
		}
		return nil
	}
	if err := a.result(code, rep, text); err != nil || code == fault.OK {
		return err
	}
	switch {
	case a.json():
		return shown(code)
	case err != nil:
		return err
	}
	return fault.New(code, certsHint(rep), fmt.Errorf("cluster %s: %s\n%s", rep.Cluster, ui.Count(len(rep.Problems), "problem")+" with certificates", strings.Join(rep.Problems, "\n")))
}

// certsHint is the next command. A renewal does not help CAs.
func certsHint(rep *workflow.CertsReport) string {
	leaf, ca := "", ""
	for _, e := range rep.Certificates {
		switch f := e.Any(); {
		case e.Node == "" || f == nil:
		case slices.Contains(workflow.CAFiles(), e.Name):
			if e.State == pki.Expiring {
				ca = "kocli certs rotate-ca"
			}
		case e.State == pki.Expired:
			leaf = "kocli certs renew --all while the cluster answers, kocli certs rescue where it does not"
		case leaf == "" && (e.State == pki.Expiring || e.Differs || e.Problem != ""):
			leaf = "kocli certs renew --all"
		}
	}
	switch {
	case ca != "" && leaf != "":
		return leaf + "; for the CA that ends: " + ca
	case ca != "":
		return ca
	}
	return cmp.Or(leaf, "kocli certs renew --all")
}

func (a *app) writeCerts(all []pki.Entry, wide bool) {
	if len(all) == 0 {
		return
	}
	head := []any{"CERTIFICATE", "NODE", "EXPIRES", "DAYS", "ISSUER", "SERVED", ""}
	if wide {
		head = append(head, "SERIAL", "SANS", "WHERE")
	}
	t := a.table(head...)
	for _, e := range all {
		row := table.Row{e.Name, e.Node, "", "", "", servedAs(e), certNote(e)}
		if f := e.Any(); f != nil {
			row[2], row[3], row[4] = e.Expires.Format(time.DateOnly), e.Days, commonName(f.Issuer)
			if f.Issuer == f.Subject {
				row[4] = "itself"
			}
			if wide {
				row = append(row, f.Serial, strings.Join(f.SANs, ","), strings.Trim(e.Path+" "+e.Address, " "))
			}
		}
		t.AppendRow(row)
	}
	t.Render()
}

// servedAs says in a word how what is served compares to the file.
func servedAs(e pki.Entry) string {
	switch {
	case e.Served == nil && e.Address != "":
		return "NO ANSWER"
	case e.Served == nil:
		return "-"
	case e.Differs:
		return "DIFFERS"
	case e.File == nil:
		return "yes"
	}
	return "same"
}

func certNote(e pki.Entry) string {
	switch e.State {
	case pki.Expired:
		return "ENDED"
	case pki.Expiring:
		return "ends soon"
	}
	return e.Problem
}

// commonName is the CN of a name, or all of it.
func commonName(name string) string {
	for _, part := range strings.Split(name, ",") {
		if cn, ok := strings.CutPrefix(part, "CN="); ok {
			return cn
		}
	}
	return name
}

func (a *app) certsRenewCommand() *cobra.Command {
	var all, dryRun bool
	cmd := &cobra.Command{
		Use:   "renew [NAME...] -f CLUSTER.yaml [--all]",
		Short: "Renew certificates on one control plane after another",
		Long: `Has kubeadm renew the named certificates on each control plane, restarts the static pods
that use them, and proves by a connection that the new ones are served. The next control
plane follows once all API servers and members of etcd are healthy. The administrator's
kubeconfig in kocli's folder becomes the new one.

Names are kubeadm's: ` + strings.Join(pki.Names(pki.AllManaged()), ", ") + `.
Kubelets renew their client certificates by themselves, and make their serving
certificates. Where the key of a CA is not on the hosts (an external CA), kocli refuses
and says how they are signed.

Typed again after a failure it goes on: no certificate is renewed twice.`,
		Example: `  kocli certs renew --all -f cluster.yaml
  kocli certs renew apiserver admin.conf -f cluster.yaml --dry-run
  kocli certs renew --all -f cluster.yaml --yes -o json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.certsChange(cmd, workflow.CertsOptions{Names: args, All: all}, dryRun)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all that kubeadm renews")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change, and change nothing")
	own(cmd, "all", "dry-run")
	return cmd
}

func (a *app) certsRescueCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "rescue -f CLUSTER.yaml",
		Short: "Bring back a cluster whose certificates have ended",
		Long: `Works over SSH alone: the API need not answer. On all control planes it has kubeadm renew
every certificate and kubeconfig, gives kubelets whose client certificate has ended a new
one that is signed on a control plane, restarts kubelets and static pods, and waits until
all nodes are ready. Hosts that cannot be reached are left out and named, with exit code
4: run it again when they are back.

On a cluster that answers it looks at the kubelets only. Typed again after a failure it
goes on.`,
		Example: `  kocli certs rescue -f cluster.yaml
  kocli certs rescue -f cluster.yaml --dry-run`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.certsChange(cmd, workflow.CertsOptions{Rescue: true}, dryRun)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change, and change nothing")
	own(cmd, "dry-run")
	return cmd
}

// certsChange shows the plan, asks, and does it.
func (a *app) certsChange(cmd *cobra.Command, co workflow.CertsOptions, dryRun bool) error {
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, "", show)
	if err != nil {
		return err
	}
	if dryRun {
		pre, err := workflow.PlanCertsRenew(cmd.Context(), o, co)
		return a.planned(show, o, pre, err)
	}
	co.Confirm = func(pre *workflow.Preview) error {
		if !a.json() {
			newPlanDoc(o.Inventory, pre).write(a.Out)
		}
		return a.confirm(cmd.Context(), fmt.Sprintf("Renew certificates of cluster %s and restart what uses them?", o.Inventory.Name))
	}
	r, err := workflow.CertsRenew(cmd.Context(), o, co)
	if err != nil {
		if r == nil {
			return err
		}
		return failedRun(err, r.Result)
	}
	return a.result(fault.OK, r, func() error {
		if r.Changed == 0 {
			printf(a.Out, "Cluster %s: nothing to renew.\n", r.Cluster)
			return nil
		}
		a.writeCerts(r.Certificates, true)
		printf(a.Out, "Cluster %s: %s in %s. The new certificates are served.\nKubelets renew their own client certificates.\nLog: %s\n", r.Cluster, ui.Count(r.Changed, "change"), ui.Duration(r.Duration), r.Log)
		return nil
	})
}
