package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

func (a *app) certsRotateCommand() *cobra.Command {
	ro, dryRun := workflow.RotateOptions{}, false
	cmd := &cobra.Command{
		Use:   "rotate-ca -f CLUSTER.yaml [--ca all] [--pause-after trust|sign]",
		Short: "Replace the CAs of the cluster while it serves",
		Long: `Puts new CAs in the place of the old ones, in the order of "Manual Rotation of CA
Certificates" of kubernetes.io:

  trust   new CAs are made beside the old ones, and everybody trusts both: control planes
          one after another, kubelets, kubeconfigs, what the API hands out to pods and to
          nodes that join; the cluster's own pods are replaced
  sign    the new CAs sign: every certificate of kubeadm's and of the kubelets is renewed
  remove  once it is proved that nothing is served or used that the old CAs signed, they
          are removed everywhere, their keys too

Typed again after a failure, or after a pause, it goes on from what is on the hosts. All
hosts of the YAML have to answer, and no other node may be in the cluster.

Pods of users get both CAs by themselves, but may read them only when they start: those
that started before are listed. Restart them before the new CA signs: --pause-after trust
ends the run there. Webhooks that trust the old CA are listed as well. Kubeconfigs and
certificates that were given to people end with the old CA; so do backups that were made
before: make a new one. Until the end control planes cannot be added or upgraded.

--ca kubernetes is the CA of the API, of its clients and of kubelets; etcd that of its
members and their clients; front-proxy that of aggregated APIs. They are made together,
and end on one day: all of them is the default. The CA of an etcd outside the cluster is
not kocli's. A CA whose key is not on the hosts (an external CA) is refused.

The keys of service accounts (sa.key) are left alone: their tokens stay good.`,
		Example: `  kocli certs rotate-ca -f cluster.yaml --dry-run
  kocli certs rotate-ca -f cluster.yaml --pause-after trust
  kocli certs rotate-ca -f cluster.yaml --ca etcd --yes`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.certsRotate(cmd, ro, dryRun) },
	}
	cmd.Flags().StringVar(&ro.CA, "ca", "all", "the CA to replace: "+strings.Join(workflow.CANames(), ", ")+" or all")
	cmd.Flags().StringVar(&ro.PauseAfter, "pause-after", "", "end after this part: trust or sign; the next run goes on")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change, and change nothing")
	own(cmd, "ca", "pause-after", "dry-run")
	return cmd
}

// certsRotate shows the plan, asks, and does it.
func (a *app) certsRotate(cmd *cobra.Command, ro workflow.RotateOptions, dryRun bool) error {
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, "", show)
	if err != nil {
		return err
	}
	if dryRun {
		pre, err := workflow.PlanRotateCA(cmd.Context(), o, ro)
		return a.planned(show, o, pre, err)
	}
	ro.Confirm = func(pre *workflow.Preview, told *workflow.RotateResult) error {
		if !a.json() {
			newPlanDoc(o.Inventory, pre).write(a.Out)
			a.writeTold(told)
		}
		return a.confirm(cmd.Context(), fmt.Sprintf("Replace the CAs of cluster %s (%s) and restart what uses them?", o.Inventory.Name, strings.Join(told.CAs, ", ")))
	}
	r, err := workflow.RotateCA(cmd.Context(), o, ro)
	if err != nil {
		if r == nil {
			return err
		}
		return failedRun(err, r.Result)
	}
	return a.result(fault.OK, r, func() error {
		a.writeTold(r)
		at := fmt.Sprintf("%s in %s", ui.Count(r.Changed, "change"), ui.Duration(r.Duration))
		switch r.PausedAfter {
		case "trust":
			printf(a.Out, "Cluster %s: %s. Both CAs are trusted, and the old ones sign. Restart the pods above; then type the command again without --pause-after trust.\nLog: %s\n", r.Cluster, at, r.Log)
		case "sign":
			printf(a.Out, "Cluster %s: %s. The new CAs sign, and nothing of the old ones is served or used by the cluster. Type the command again without --pause-after to remove them.\nLog: %s\n", r.Cluster, at, r.Log)
		default:
			printf(a.Out, "Cluster %s: %s. The old CAs are gone. Make a new backup, and give people new kubeconfigs: kocli kubeconfig\nLog: %s\n", r.Cluster, at, r.Log)
		}
		return nil
	})
}

// shownPods is how many pods are named.
const shownPods = 20

// writeTold lists what kocli does not restart or change.
func (a *app) writeTold(r *workflow.RotateResult) {
	some := func(all []string) string {
		more := ""
		if n := len(all) - shownPods; n > 0 {
			all, more = all[:shownPods], fmt.Sprintf("\n  and %d more (all of them: -o json)", n)
		}
		return "  " + strings.Join(all, "\n  ") + more
	}
	if len(r.Pods) > 0 {
		printf(a.Out, "Pods of users that may have read the old CA alone when they started. Those that talk to the API need a restart, best before the new CA signs (--pause-after trust):\n%s\n", some(r.Pods))
	}
	if len(r.Webhooks) > 0 {
		printf(a.Out, "Trust the old CA, and are their owners' to change:\n%s\n", some(r.Webhooks))
	}
}
