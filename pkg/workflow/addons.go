package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kocli/kocli/pkg/addon"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/helm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/steps/addons"
)

// addonsPhase is the phase of the add-ons of the cluster YAML. ("addons" is that of an
// upgrade's: kubeadm calls kube-proxy and CoreDNS so.)
const addonsPhase = "charts"

// addonSteps bring the add-ons of the YAML, the lower in order first, once those that
// it does not want any more are gone.
func (c *Cluster) addonSteps(inventory.Node) ([]plan.Step, error) {
	if c.Bundle == nil {
		return nil, nil // nothing is installed in this run
	}
	known, err := catalogue.EmbeddedAddons()
	if err != nil {
		return nil, err
	}
	list := addon.Declared(&c.Inventory.Spec, known)
	var out []plan.Step
	for _, a := range slices.Backward(list) {
		if !a.Enabled {
			out = append(out, addons.Steps(c.addon(a, nil))...)
		}
	}
	for _, a := range list {
		if !a.Enabled {
			continue
		}
		chart, err := a.Chart(c.Bundle, c.Inventory.Version())
		if err != nil {
			return nil, err
		}
		out = append(out, addons.Steps(c.addon(a, chart))...)
	}
	return out, nil
}

func (c *Cluster) addon(a addon.Addon, chart *addon.Chart) addons.Options {
	return addons.Options{Addon: a, Chart: chart, API: c.API(), SpecFile: c.SpecFile}
}

// AddonsReport is what add-ons there are, and which of them the cluster has. Its JSON
// is stable.
type AddonsReport struct {
	Cluster string        `json:"cluster,omitempty"`
	Addons  []AddonStatus `json:"addons"`
	// Unread is why the cluster could not be looked at; empty where it could.
	Unread string `json:"unread,omitempty"`
}

// AddonStatus is one add-on.
type AddonStatus struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Storage     string `json:"storage,omitempty"` // type under spec.storage
	Namespace   string `json:"namespace"`
	// Declared says what the cluster YAML has of it: "enabled", "disabled", or nothing.
	Declared string `json:"declared,omitempty"`
	// Version is that of the chart in the cluster, and Status Helm's own word, or
	// "absent".
	Version  string    `json:"version,omitempty"`
	Revision int       `json:"revision,omitempty"`
	Status   string    `json:"status"`
	Updated  time.Time `json:"updated,omitzero"`
	// Known are the versions of the chart that kocli knows.
	Known []string `json:"known"`
	// TestedInCI says whether kocli's own journeys install it.
	TestedInCI bool `json:"testedInCI"`
}

// KnownAddons lists the add-ons that there are, and nothing of a cluster.
func KnownAddons(known *catalogue.Addons) []AddonStatus {
	var out []AddonStatus
	for _, e := range known.Addons {
		st := AddonStatus{Name: e.Name, Description: e.Description, Storage: e.Storage, Namespace: e.Namespace, Status: "unknown", TestedInCI: e.CI, Known: []string{}}
		for _, v := range e.Versions {
			st.Known = append(st.Known, v.Version)
		}
		out = append(out, st)
	}
	return out
}

// AddonsList looks which add-ons the cluster has. One that cannot be asked is no error.
func AddonsList(ctx context.Context, o Options) (*AddonsReport, error) {
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	return s.addonsList(ctx)
}

func (s *Session) addonsList(ctx context.Context) (*AddonsReport, error) {
	known, err := catalogue.EmbeddedAddons()
	if err != nil {
		return nil, err
	}
	rep := &AddonsReport{Cluster: s.inv.Name, Addons: KnownAddons(known)}
	var have []kube.Release
	ask, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	err = errors.Join(s.throughControlPlane(ask, func(r host.Reader) error {
		c, err := s.access.Look(ask, r)
		if err == nil {
			have, err = c.Releases(ask)
		}
		return err
	})...)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		rep.Unread = firstOf(err)
	}
	declared := addon.Declared(&s.inv.Spec, known)
	for i := range rep.Addons {
		st := &rep.Addons[i]
		if j := slices.IndexFunc(declared, func(a addon.Addon) bool { return a.Name == st.Name }); j >= 0 {
			st.Declared, st.Namespace = "disabled", declared[j].Namespace
			if declared[j].Enabled {
				st.Declared = "enabled"
			}
		}
		if err == nil {
			st.Status = "absent"
		}
		for _, r := range have {
			if r.Labels[kube.LabelAddon] == st.Name {
				st.Namespace, st.Version, st.Revision, st.Status, st.Updated = r.Namespace, r.Labels[kube.LabelVersion], r.Revision, r.Status, r.Updated
			}
		}
	}
	return rep, nil
}

// AddonOptions say what is done about an add-on.
type AddonOptions struct {
	Name string
	// Confirm is shown what an upgrade changes in manifests, which may be nothing; its
	// error ends the command. Nil means that nobody is asked.
	Confirm func(diff string) error
}

// AddonInstall makes one add-on of the cluster be as the YAML says: its images come to
// the hosts, its chart into the cluster, and it is proved to work. The result is not nil
// once the run has a log, also with an error.
func AddonInstall(ctx context.Context, o Options, ao AddonOptions) (*Result, error) {
	if o.Bundle == "" {
		return nil, fault.New(fault.Usage, "", errNoBundle)
	}
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	res := s.result(len(s.inv.Nodes))
	c, err := s.prepare(ctx)
	if err != nil {
		return res, err
	}
	if err := s.rotationBegun(ctx); err != nil {
		return res, err
	}
	if ao.Confirm != nil {
		if err := s.confirmAddon(ctx, c, ao); err != nil {
			return res, err
		}
	}
	phases, err := c.CreatePhases()
	if err != nil {
		return res, err
	}
	s.o.Only = []string{"agent", "images", "addon/" + ao.Name, "addon/" + ao.Name + "-health"}
	if slices.ContainsFunc(phases, func(p plan.Phase) bool { return p.Name == "content" }) {
		s.o.Only = append(s.o.Only, "content")
	}
	p, err := s.compile(phases, res)
	if err != nil {
		return res, err
	}
	return res, s.run(ctx, p, res)
}

// confirmAddon shows what would change in the manifests of an add-on that is there.
func (s *Session) confirmAddon(ctx context.Context, c *Cluster, ao AddonOptions) error {
	a, chart, err := s.declared(c, ao.Name)
	if err != nil {
		return err
	}
	api, err := c.API().Look(ctx)
	if errors.Is(err, kube.ErrNoCluster) {
		return noCluster(s.o)
	}
	if err != nil {
		return err
	}
	r, err := addons.Release(*a, chart)
	if err != nil {
		return err
	}
	have, err := api.Release(ctx, r.Namespace, r.Name)
	if err != nil {
		return err
	}
	if have == nil {
		return fault.New(fault.Usage, fmt.Sprintf("kocli addon install %s -f %s --bundle %s", ao.Name, s.o.SpecFile, s.o.Bundle), fmt.Errorf("%s is not in the cluster", ao.Name))
	}
	diff, err := helm.Diff(ctx, api, r)
	if err != nil {
		return err
	}
	return ao.Confirm(diff)
}

// declared is the add-on of that name, with its chart in the bundle.
func (s *Session) declared(c *Cluster, name string) (*addon.Addon, *addon.Chart, error) {
	known, err := catalogue.EmbeddedAddons()
	if err != nil {
		return nil, nil, err
	}
	list := addon.Declared(&s.inv.Spec, known)
	i := slices.IndexFunc(list, func(a addon.Addon) bool { return a.Name == name })
	if i < 0 {
		return nil, nil, fmt.Errorf("no add-on is called %s", name)
	}
	chart, err := list[i].Chart(c.Bundle, s.inv.Version())
	return &list[i], chart, err
}

// AddonRemove takes an add-on out of the cluster. Images stay on the hosts.
func AddonRemove(ctx context.Context, o Options, entry catalogue.Addon) (*Result, error) {
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	res := s.result(len(s.inv.Nodes))
	facts, err := s.Facts(ctx)
	if err != nil {
		return res, err
	}
	c, err := s.cluster(ctx, facts)
	if err != nil {
		return res, err
	}
	api, err := c.API().Look(ctx)
	if errors.Is(err, kube.ErrNoCluster) {
		return res, noCluster(s.o)
	}
	if err != nil {
		return res, err
	}
	a := addon.Addon{Addon: entry, Namespace: entry.Namespace}
	all, err := api.Releases(ctx)
	if err != nil {
		return res, err
	}
	for _, r := range all { // wherever it was installed
		if r.Labels[kube.LabelAddon] == entry.Name {
			a.Namespace = r.Namespace
		}
	}
	p, err := s.compile([]plan.Phase{{Name: addonsPhase, Nodes: []string{c.Seed.Name}, Steps: func(string) ([]plan.Step, error) {
		return addons.Steps(c.addon(a, nil)), nil
	}}}, res)
	if err != nil {
		return res, err
	}
	return res, s.run(ctx, p, res)
}
