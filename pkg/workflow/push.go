package workflow

import (
	"context"
	"slices"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/steps/content"
	ctrd "github.com/kocli/kocli/pkg/steps/runtime"
)

// PushResult is what a push to hosts did. Its JSON is stable.
type PushResult struct {
	Cluster   string           `json:"cluster"`
	Bundle    string           `json:"bundle"` // its digest
	Nodes     int              `json:"nodes"`
	Missing   map[string]int64 `json:"missingBytes"` // of each host, before the push
	Sent      int64            `json:"sentBytes"`    // that left this machine
	Links     int              `json:"links"`        // between hosts
	Moved     int              `json:"moved"`        // links that were made anew
	Lanes     int              `json:"lanes"`        // further SSH connections, where the round trip is long
	Made      int              `json:"madeBlobs"`    // that hosts made of what they had and a delta, of all hosts together
	MadeBytes int64            `json:"madeBytes"`    // of these
	Duration  time.Duration    `json:"durationNs"`
	Hosts     map[string]Stats `json:"hosts,omitempty"`
	Log       string           `json:"log,omitempty"`
	Unchanged bool             `json:"unchanged"` // no host lacked anything
}

// Push brings what an install or upgrade will need to the hosts, and installs
// nothing. Every host holds what it gets against its digest, so the bundle need
// not be read a second time here. The result is not nil once the run has a log, also with an error.
func Push(ctx context.Context, o Options, mode fanout.Mode) (*PushResult, error) {
	if o.Bundle == "" {
		return nil, fault.New(fault.Usage, "", errNoBundle)
	}
	start := o.Clock.Now()
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	res := &PushResult{Cluster: s.inv.Name, Bundle: s.bundle.Digest(), Nodes: len(s.inv.Nodes), Missing: map[string]int64{}, Log: s.LogPath, Unchanged: true}
	if s.allThere(ctx) {
		res.Hosts, res.Duration = s.Stats(), o.Clock.Now().Sub(start)
		return res, nil
	}
	c, err := s.examine(ctx)
	if err != nil {
		return res, err
	}
	c.made = func(blobs int, bytes int64) { res.Made, res.MadeBytes, res.Unchanged = blobs, bytes, false }
	phases, err := c.pushPhases(mode, func(r fanout.Report) {
		res.Missing, res.Sent, res.Links, res.Moved, res.Lanes, res.Unchanged = r.Missing, r.Sent, r.Links, r.Moved, r.Lanes, false
	})
	if err != nil {
		return res, err
	}
	p, err := plan.Compile(phases, plan.Options{Now: o.Clock.Now})
	if err != nil {
		return res, err
	}
	_, err = p.Execute(ctx, s.hosts, o.Observer.Event)
	res.Hosts, res.Duration = s.Stats(), o.Clock.Now().Sub(start)
	return res, err
}

// contentFrom is the number of nodes from which create sends its content to all
// hosts in one go: below it, each host gets its own while others work already,
// unless one of them is far away.
const contentFrom = 4

// installing are the phases whose steps take content from the bundle.
func installing() []string { return []string{"os", "runtime", "kubernetes", "images", registryPhase} }

// pushPhases are those of create up to where content is on the hosts.
func (c *Cluster) pushPhases(mode fanout.Mode, done func(fanout.Report)) ([]plan.Phase, error) {
	var agent []plan.Phase
	all := c.installPhases()
	for _, ph := range all {
		if ph.Name == "agent" {
			ph.HeadStart = nil
			agent = append(agent, ph)
		}
	}
	phase, err := c.contentPhase(all, mode, done)
	return append(agent, phase), err
}

// contentPhase sends all that the installing ones of all phases will need.
func (c *Cluster) contentPhase(all []plan.Phase, mode fanout.Mode, done func(fanout.Report)) (plan.Phase, error) {
	o, err := c.content(all)
	if err != nil {
		return plan.Phase{}, err
	}
	o.Mode, o.Done, o.Made = mode, done, c.made
	step := content.Push(o)
	return plan.Phase{
		Name: "content", Needs: []string{"agent"}, Nodes: []string{c.Seed.Name},
		Steps: func(string) ([]plan.Step, error) { return []plan.Step{step}, nil },
	}, nil
}

// content is what all nodes need of the bundle, for the installing ones of all
// phases.
func (c *Cluster) content(all []plan.Phase) (content.Options, error) {
	blobs := ctrd.ContentDir()
	o := content.Options{
		Dialer: c.Dialer, Item: c.item, Now: c.Clock.Now,
		Relay: []string{kocliPath(), "node", "relay", "--also", blobs}, Also: []string{blobs},
		Lane: []string{kocliPath(), "node", "lane"}, Line: c.Line,
		Delta: content.Of(c.Bundle, []string{kocliPath(), "node", "apply", "--also", blobs}, c.wholeBundle),
	}
	for _, n := range c.Inventory.Nodes {
		cn := content.Node{Name: n.Name, IP: n.IP}
		for _, ph := range all {
			to := &cn.Steps
			if ph.Name == "agent" {
				to = &cn.First
			} else if !slices.Contains(installing(), ph.Name) || ph.Name == registryPhase && !slices.Contains(ph.Nodes, n.Name) {
				continue
			}
			steps, err := ph.Steps(n.Name)
			if err != nil {
				return o, err
			}
			*to = append(*to, steps...)
		}
		if o.Delta == nil {
			cn.First = nil
		}
		o.Nodes = append(o.Nodes, cn)
	}
	return o, nil
}

// complete refuses a delta that does not lead to what the hosts need, before
// anything is changed.
func (c *Cluster) complete(ctx context.Context) error {
	if c.Bundle == nil {
		return nil
	}
	if _, ok := c.Bundle.Delta(); !ok {
		return nil
	}
	o, err := c.content(c.installPhases())
	if err != nil {
		return err
	}
	return content.Refusal(ctx, o)
}

// item is a blob of the bundle for a push.
func (c *Cluster) item(digest string) (fanout.Item, bool) {
	s, ok := c.Bundle.Section(digest)
	if !ok {
		return fanout.Item{}, false
	}
	return fanout.Item{Digest: digest, Size: s.Size(), Content: s}, true
}

// pushes reports whether create sends its content in one go.
func (c *Cluster) pushes() bool {
	if c.Bundle == nil {
		return false
	}
	_, delta := c.Bundle.Delta() // whose blobs hosts make in their content stores
	return delta || c.Far || len(c.Inventory.Nodes) >= contentFrom
}
