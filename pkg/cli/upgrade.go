package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/upgrade"
	"github.com/kocli/kocli/pkg/workflow"
)

// upgradeFlags are the flags of upgrade.
type upgradeFlags struct {
	leaveFlags
	bundles, keys, ignore []string
	to, pauseAfter        string
	dryRun                bool
}

func (a *app) upgradeCommand() *cobra.Command {
	var u upgradeFlags
	cmd := &cobra.Command{
		Use:   "upgrade -f CLUSTER.yaml --bundle FILE",
		Short: "Bring the cluster to another version of Kubernetes",
		Long: `Brings the cluster to the version of the YAML, or to that of --to, minor by minor. Each
minor needs a bundle; one bundle may hold several versions. The way is shown first.

Before each hop the cluster is judged: nodes, etcd, certificates, APIs that go, disruption
budgets, disks. All that is wrong is reported together, with exit code 3 and nothing
changed. Then content goes to all hosts and what will be replaced is kept on them, while
the cluster works. kubeadm of the version is there by then: it is asked as well before
anything of the cluster is changed (kubeadm upgrade plan). Control planes are upgraded one
by one, each behind a check of its health; then kubelets, on nodes that are drained: of
control planes, of one worker, of the others as spec.maintenance allows. A control plane
or kubelet that does not become healthy gets back what it had.

Interrupted anywhere, the same command goes on. A kubeadm that is at work on a host when
kocli ends goes on there, and the same command waits for it. The checks of the cluster are
called ` + strings.Join(upgrade.Names(), ", ") + `.`,
		Example: `  kocli upgrade -f cluster.yaml --bundle kocli-v1.37.2-amd64.tar
  kocli upgrade -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar --bundle kocli-v1.37.2-amd64.tar --to v1.37.2 --dry-run
  kocli upgrade -f cluster.yaml --bundle kocli-v1.37.2-amd64.tar --pause-after canary --yes`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.upgrade(cmd, u) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&u.bundles, "bundle", nil, "bundle `file` with a version on the way; may be repeated")
	keyFlag(cmd, &u.keys)
	f.StringVar(&u.to, "to", "", "`version` to go to, for example v1.37.2 (default: spec.kubernetes.version)")
	f.StringSliceVar(&u.ignore, "ignore", nil, "`checks` whose errors become warnings")
	f.StringVar(&u.pauseAfter, "pause-after", "", "end the last hop early: `where`: after the control planes (control-plane) or after the first worker (canary); the same command without it goes on")
	f.BoolVar(&u.dryRun, "dry-run", false, "show the way and what would change, and change nothing")
	u.add(cmd)
	own(cmd, "dry-run", "pause-after", "to")
	fixed(cmd, map[string][]string{"pause-after": pauses(), "ignore": workflow.UpgradeChecks()})
	return cmd
}

func pauses() []string {
	return []string{workflow.PauseAfterControlPlane, workflow.PauseAfterCanary}
}

// check refuses what cannot work before anything is read.
func (u *upgradeFlags) check(cmd *cobra.Command) error {
	if len(u.bundles) == 0 {
		return fault.New(fault.Usage, "make one with: kocli bundle build -f BUNDLE.yaml --to FILE, then: "+cmd.CommandPath()+" --bundle FILE",
			errors.New("--bundle is missing: the file that holds the version to go to"))
	}
	if u.pauseAfter != "" && !slices.Contains(pauses(), u.pauseAfter) {
		return fault.New(fault.Usage, suggest(u.pauseAfter, pauses(), "one of: "+strings.Join(pauses(), ", ")), fmt.Errorf("--pause-after %s: nothing is called that", u.pauseAfter))
	}
	for _, n := range u.ignore {
		if !slices.Contains(workflow.UpgradeChecks(), n) {
			return fault.New(fault.Usage, suggest(n, workflow.UpgradeChecks(), "kocli upgrade --help and kocli preflight --list name them"), fmt.Errorf("--ignore %s: no check is called that", n))
		}
	}
	return nil
}

func (a *app) upgrade(cmd *cobra.Command, u upgradeFlags) error {
	show := a.ui()
	defer show.Close()
	if err := u.check(cmd); err != nil {
		return err
	}
	raw, err := a.read()
	if err != nil {
		return err
	}
	keys, err := publicKeys(u.keys)
	if err != nil {
		return err
	}
	o, err := a.optionsOf(cmd, raw, "", show)
	if err != nil {
		return err
	}
	o.Keys, o.Ignore = keys, u.ignore
	uo := workflow.UpgradeOptions{
		Bundles: u.bundles, To: u.to, PauseAfter: u.pauseAfter,
		DrainTimeout: u.drainTimeout, ForceAfter: u.forceAfter, MaxUnavailable: u.maxUnavailable,
	}
	if u.dryRun {
		hops, err := workflow.PlanUpgrade(cmd.Context(), o, uo)
		if err != nil {
			return err
		}
		show.Close()
		doc := newUpgradeDoc(o.Inventory, hops)
		return a.result(fault.OK, doc, func() error { doc.write(a.Out); return nil })
	}
	if !a.json() {
		uo.Show = func(path []upgrade.Hop) { writePath(a.Err, path) }
	}
	uo.Confirm = func(path []upgrade.Hop) error {
		return a.confirm(cmd.Context(), fmt.Sprintf("Upgrade cluster %s from %s to %s? Nodes are drained one after another.", o.Inventory.Name, path[0].From, path[len(path)-1].To))
	}
	r, err := workflow.Upgrade(cmd.Context(), o, uo)
	if err != nil {
		if r == nil {
			return failedRun(err, nil)
		}
		return failedRun(err, &r.Result)
	}
	return a.result(fault.OK, r, func() error { writeUpgraded(a.Out, r, o.Inventory.Version(), a.file); return nil })
}

// writePath shows the way.
func writePath(w io.Writer, path []upgrade.Hop) {
	for i, h := range path {
		begun := ""
		if h.Begun {
			begun = ", begun"
		}
		printf(w, "hop %d of %d: %s -> %s%s, from %s\n", i+1, len(path), h.From, h.To, begun, h.Bundle)
	}
}

// writeUpgraded shows the result of an upgrade to people.
func writeUpgraded(w io.Writer, r *workflow.UpgradeResult, listed, file string) {
	switch {
	case len(r.Path) == 0:
		printf(w, "Cluster %s runs Kubernetes %s on all nodes: nothing to upgrade.\n", r.Cluster, r.Kubernetes)
	case r.Paused != "":
		printf(w, "Cluster %s is on its way to Kubernetes %s, paused after %s: %s in %s.\n", r.Cluster, r.Kubernetes, r.Paused, ui.Count(r.Changed, "change"), ui.Duration(r.Duration))
		printf(w, "The same command without --pause-after goes on.\nLog: %s\n", r.Log)
	default:
		writeResult(w, &r.Result)
	}
	if listed != r.Kubernetes {
		printf(w, "Now set spec.kubernetes.version to %s in %s: other commands go by the YAML.\n", r.Kubernetes, file)
	}
}

// upgradeDoc is an upgrade as it is shown before it is done. Its JSON is stable.
type upgradeDoc struct {
	Cluster string    `json:"cluster"`
	Hops    []hopDocs `json:"hops"`
}

type hopDocs struct {
	upgrade.Hop
	Plan planDoc `json:"plan"`
}

func newUpgradeDoc(inv *inventory.Inventory, hops []workflow.HopPreview) upgradeDoc {
	doc := upgradeDoc{Cluster: inv.Name, Hops: []hopDocs{}}
	for _, h := range hops {
		doc.Hops = append(doc.Hops, hopDocs{h.Hop, newPlanDoc(inv, h.Preview)})
	}
	return doc
}

// write shows the upgrade to people.
func (d upgradeDoc) write(w io.Writer) {
	if len(d.Hops) == 0 {
		printf(w, "Cluster %s: nothing to upgrade.\n", d.Cluster)
		return
	}
	var path []upgrade.Hop
	for _, h := range d.Hops {
		path = append(path, h.Hop)
	}
	writePath(w, path)
	for i, h := range d.Hops {
		printf(w, "\nHop %d, %s -> %s", i+1, h.From, h.To)
		if i > 0 {
			printf(w, " (as seen from now)")
		}
		printf(w, ":\n\n")
		h.Plan.write(w)
	}
}
