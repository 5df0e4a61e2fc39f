package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/ui"
	"github.com/kocli/kocli/pkg/workflow"
)

func (a *app) planCommand() *cobra.Command {
	var p planFlags
	cmd := &cobra.Command{
		Use:   "plan -f CLUSTER.yaml --bundle FILE",
		Short: "Show what create would change, and change nothing",
		Long: `Looks at the hosts and lists, for each, what create would do there: files, packages,
services, images, kubeadm. Marks:

  +  is added or set        ~  is changed        -  is removed
  !  is disruptive: a drain, a restart, or a loss of data

It makes the same checks as create and ends with exit code 3 where one refuses. It
writes nothing, on no host and not here, but for host keys that you accept.`,
		Example: `  kocli plan -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar
  kocli plan -f cluster.yaml --bundle kocli-v1.36.3-amd64.tar --only runtime -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.plan(cmd, p) },
	}
	p.add(cmd)
	return cmd
}

func (a *app) plan(cmd *cobra.Command, p planFlags) error {
	show := a.ui()
	defer show.Close()
	o, err := p.options(a, cmd, show)
	if err != nil {
		return err
	}
	pre, err := workflow.Plan(cmd.Context(), o)
	return a.planned(show, o, pre, err)
}

// planDoc is a plan as it is shown. Its JSON is stable.
type planDoc struct {
	Cluster    string     `json:"cluster"`
	Changes    int        `json:"changes"`
	Disruptive int        `json:"disruptive"`
	Bytes      int64      `json:"bytes"` // to send, all hosts together
	Hosts      []planHost `json:"hosts"`
}

type planHost struct {
	Name    string       `json:"name"`
	Roles   []string     `json:"roles"`
	Bytes   int64        `json:"bytes"`
	Changes []planChange `json:"changes"`
}

type planChange struct {
	Phase      string `json:"phase"`
	Step       string `json:"step"`
	Object     string `json:"object"`
	From       string `json:"from,omitempty"`
	To         string `json:"to,omitempty"`
	After      string `json:"after,omitempty"`
	Disruptive bool   `json:"disruptive,omitempty"`
	Bytes      int64  `json:"bytes,omitempty"`
}

// planned ends a command that only looked: it prints the plan, or returns why there is
// none.
func (a *app) planned(show *ui.UI, o workflow.Options, pre *workflow.Preview, err error) error {
	if err != nil {
		return err
	}
	show.Close()
	doc := newPlanDoc(o.Inventory, pre)
	return a.result(fault.OK, doc, func() error { doc.write(a.Out); return nil })
}

// newPlanDoc sorts the changes by host, in the order of the YAML; those of a
// host keep their order.
func newPlanDoc(inv *inventory.Inventory, pre *workflow.Preview) planDoc {
	doc := planDoc{Cluster: inv.Name, Hosts: []planHost{}}
	for _, n := range inv.Nodes {
		h := planHost{Name: n.Name, Bytes: pre.Bytes(n.Name), Changes: []planChange{}, Roles: roles(n)}
		for _, c := range pre.Changes {
			if c.Node != n.Name {
				continue
			}
			h.Changes = append(h.Changes, planChange{c.Phase, c.Step, c.Object, c.From, c.To, c.After, c.Disruptive, c.Bytes})
			if c.Disruptive {
				doc.Disruptive++
			}
		}
		doc.Changes, doc.Bytes = doc.Changes+len(h.Changes), doc.Bytes+h.Bytes
		doc.Hosts = append(doc.Hosts, h)
	}
	return doc
}

func roles(n inventory.Node) []string {
	var out []string
	if n.ControlPlane {
		out = append(out, "control-plane")
	}
	if n.Worker {
		out = append(out, "worker")
	}
	return out
}

// write shows the plan to people.
func (d planDoc) write(w io.Writer) {
	if d.Changes == 0 {
		printf(w, "Cluster %s is as described: nothing to change.\n", d.Cluster)
		return
	}
	changed := 0
	for _, h := range d.Hosts {
		if len(h.Changes) == 0 {
			printf(w, "%s (%s): nothing to change\n\n", h.Name, strings.Join(h.Roles, ", "))
			continue
		}
		changed++
		printf(w, "%s (%s): %s, %s to send\n", h.Name, strings.Join(h.Roles, ", "), ui.Count(len(h.Changes), "change"), ui.Bytes(h.Bytes))
		phase := ""
		for _, c := range h.Changes {
			if c.Phase != phase {
				phase = c.Phase
				printf(w, "  %s\n", phase)
			}
			printf(w, "    %s %s\n", c.mark(), c.text())
		}
		printf(w, "\n")
	}
	printf(w, "Plan for cluster %s: %s on %s, %d disruptive, %s to send.\n",
		d.Cluster, ui.Count(d.Changes, "change"), ui.Count(changed, "host"), d.Disruptive, ui.Bytes(d.Bytes))
}

// mark is one sign for what happens to an object.
func (c planChange) mark() string {
	gone := func(s string) bool { return s == "" || s == "absent" }
	switch {
	case c.Disruptive:
		return "!"
	case gone(c.From):
		return "+"
	case c.To == "absent":
		return "-"
	}
	return "~"
}

func (c planChange) text() string {
	s := plan.Change{Object: c.Object, From: c.From, To: c.To, After: c.After}.String()
	if c.Bytes > 0 {
		s += fmt.Sprintf("  [%s]", ui.Bytes(c.Bytes))
	}
	if c.Disruptive {
		s += "  (disruptive)"
	}
	return s
}
