package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

// statusInterval is how often status --wait looks.
const statusInterval = 3 * time.Second

func (a *app) statusCommand() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "status -f CLUSTER.yaml [--wait DURATION]",
		Short: "Show whether the cluster is healthy, and what is not",
		Long: `Asks the Kubernetes API, through the SSH connection to a control plane: nodes, the
control plane's components, cluster DNS, kube-proxy and the pod network. It shows the
last run of kocli from this machine and who works on the cluster now.

Exit code 7 when the cluster answers and is not healthy, or when a certificate of a
control plane ends within 30 days, 4 when no control plane can be reached.`,
		Example: `  kocli status -f cluster.yaml
  kocli status -f cluster.yaml --wait 5m
  kocli status -f cluster.yaml -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.status(cmd, wait) },
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait as long for the cluster to be healthy, for example `5m`")
	return cmd
}

func (a *app) status(cmd *cobra.Command, wait time.Duration) error {
	show := a.ui()
	defer show.Close()
	o, err := a.options(cmd, "", show)
	if err != nil {
		return err
	}
	last := ""
	st, err := workflow.WaitHealthy(cmd.Context(), o, wait, statusInterval, func(st *workflow.ClusterStatus, err error) {
		why := waitingFor(st, err)
		if why != last && !a.json() {
			printf(a.Err, "waiting: %s\n", why)
		}
		last = why
	})
	if err != nil {
		return err
	}
	code := fault.OK
	if !st.Healthy || len(st.Expiring) > 0 {
		code = fault.Unhealthy
	}
	if err := a.result(code, st, func() error { a.writeStatus(st); return nil }); err != nil || code == fault.OK {
		return err
	}
	if a.json() {
		return shown(code)
	}
	if st.Healthy {
		return fault.New(code, "renew them: kocli certs renew --all", fmt.Errorf("cluster %s is healthy, and %s: kocli certs list", st.Cluster, expiringCount(len(st.Expiring))))
	}
	return fault.New(code, statusHint(st), fmt.Errorf("cluster %s is not healthy: %s", st.Cluster, ui.Count(len(st.Problems), "problem")))
}

// waitingFor is one line on what is not ready yet.
func waitingFor(st *workflow.ClusterStatus, err error) string {
	if err != nil {
		return troubles(err)[0].headline()
	}
	s := st.Problems[0]
	if more := len(st.Problems) - 1; more > 0 {
		s += fmt.Sprintf(" (and %d more)", more)
	}
	return s
}

// statusHint is the next command for the worst of the problems.
func statusHint(st *workflow.ClusterStatus) string {
	if !st.API.Ready && slices.ContainsFunc(st.Expiring, func(l string) bool { return strings.Contains(l, " ended on ") }) {
		return "certificates have ended: kocli certs rescue"
	}
	for _, n := range st.Nodes {
		if !n.Ready && n.Version != "" {
			return fmt.Sprintf("look at its kubelet: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager", n.Name)
		}
		if !n.Ready {
			return "join it with: kocli create -f CLUSTER.yaml --bundle FILE"
		}
	}
	if !st.API.Ready {
		return "look at the control plane: kocli exec NODE --root -- journalctl -u kubelet -n 50 --no-pager"
	}
	return "wait for it with: kocli status --wait 5m; or repair with: kocli create -f CLUSTER.yaml --bundle FILE"
}

// expiringCount is "3 certificates end within 30 days".
func expiringCount(n int) string {
	if n == 1 {
		return "1 certificate ends within 30 days"
	}
	return fmt.Sprintf("%d certificates end within 30 days", n)
}

func (a *app) writeStatus(st *workflow.ClusterStatus) {
	health := "healthy"
	if !st.Healthy {
		health = "NOT healthy"
	}
	api := "not ready: " + st.API.Reason
	if st.API.Ready {
		api = fmt.Sprintf("ready, %s, asked through %s", st.API.Version, st.API.Through)
	}
	printf(a.Out, "Cluster     %s is %s\nAPI server  %s %s\n", st.Cluster, health, st.API.Endpoint, api)
	if st.LastRun != nil {
		printf(a.Out, "Last run    %s, log %s\n", st.LastRun.ID, st.LastRun.Log)
	}
	if h := st.Holder; h != nil {
		printf(a.Out, "Worked on   by %q of %s@%s (pid %d) since %s\n", h.Command, h.User, h.Host, h.PID, h.Since.Local().Format(time.DateTime))
	}
	for _, l := range st.Expiring {
		printf(a.Out, "WARNING     %s\n", l)
	}
	if b := st.Backups; b != nil {
		a.writeScheduled(b)
	}
	if len(st.Nodes) > 0 {
		printf(a.Out, "\n")
		t := a.table("NODE", "ROLES", "VERSION", "READY", "")
		for _, n := range st.Nodes {
			t.AppendRow(table.Row{n.Name, strings.Join(n.Roles, ","), n.Version, yesNo(n.Ready), nodeNote(n)})
		}
		t.Render()
	}
	ready := 0
	var bad []table.Row
	for _, w := range st.Workloads {
		if w.Ready() {
			ready++
			continue
		}
		bad = append(bad, table.Row{w.Kind, w.Namespace + "/" + w.Name, fmt.Sprintf("%d/%d", w.Have, w.Want), w.Reason})
	}
	if len(st.Workloads) > 0 {
		printf(a.Out, "\n%d of %d components of the cluster are ready\n", ready, len(st.Workloads))
	}
	if len(bad) > 0 {
		t := a.table("KIND", "NAME", "READY", "REASON")
		t.AppendRows(bad)
		t.SetColumnConfigs([]table.ColumnConfig{{Number: 4, WidthMax: 90, WidthMaxEnforcer: text.WrapSoft}})
		t.Render()
	}
}

// writeScheduled shows how the backups go that control planes make by themselves.
func (a *app) writeScheduled(b *workflow.ScheduledBackups) {
	last := "none yet"
	var at time.Time
	for _, r := range b.Nodes {
		if r.LastGood.After(at) {
			at, last = r.LastGood, fmt.Sprintf("last good one %s, of %s", r.LastGood.Local().Format(time.DateTime), r.Node)
		}
	}
	printf(a.Out, "Backups     %s to %s, %s\n", b.Schedule, b.Target, last)
	for _, p := range b.Problems {
		printf(a.Out, "            %s\n", p)
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func nodeNote(n workflow.NodeStatus) string {
	var out []string
	if n.Reason != "" {
		out = append(out, n.Reason)
	}
	if n.Unschedulable {
		out = append(out, "cordoned")
	}
	if !n.Listed {
		out = append(out, "not in the YAML")
	}
	return strings.Join(out, "; ")
}
