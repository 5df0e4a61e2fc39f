package workflow

import (
	"context"
	"errors"
	"fmt"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/plan"
)

// NodeAction is what is done to a node that stays in the cluster.
type NodeAction string

// The actions on a node.
const (
	Cordon   NodeAction = "cordon"
	Uncordon NodeAction = "uncordon"
	Drain    NodeAction = "drain"
)

// NodeResult is what an action did. Its JSON is stable.
type NodeResult struct {
	Cluster string     `json:"cluster"`
	Node    string     `json:"node"`
	Action  NodeAction `json:"action"`
	Changed bool       `json:"changed"`
	Log     string     `json:"log,omitempty"`
}

// Node cordons, uncordons or drains a node, through any control plane that
// answers.
func Node(ctx context.Context, o Options, name string, action NodeAction, so ScaleOptions) (*NodeResult, error) {
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	res := &NodeResult{Cluster: s.inv.Name, Node: name, Action: action, Log: s.LogPath}
	through, ok := s.answering(ctx, s.inv.ControlPlanes())
	if !ok {
		return res, s.noneAnswers(ctx)
	}
	h, err := s.hosts.Dial(ctx, through.Name)
	if err != nil {
		return res, err
	}
	c, err := s.access.Dial(ctx, h)
	if err != nil {
		return res, err
	}
	if n, err := c.Node(ctx, name); err != nil || n == nil {
		if err == nil {
			err = fault.New(fault.Usage, "kocli node list shows the nodes", fmt.Errorf("no node of the cluster is called %s", name))
		}
		return res, err
	}
	if action != Drain {
		res.Changed, err = c.Cordon(ctx, name, action == Cordon)
		return res, err
	}
	done, err := c.Drained(ctx, name)
	if err != nil || done {
		return res, err
	}
	sc := &scaling{Session: s, o: so}
	d := kube.DrainOptions{Timeout: sc.drainTimeout(), ForceAfter: so.ForceAfter, Say: func(text string) {
		o.Observer.Event(plan.Event{Time: o.Clock.Now(), Kind: plan.Note, Node: name, Message: text})
	}}
	if err := c.Drain(ctx, name, d); err != nil {
		return res, fault.New(fault.Failure, "make room for its pods (kubectl get pdb -A shows the budgets), then run the same command again; --force-after DURATION goes past budgets", err)
	}
	res.Changed = true
	return res, nil
}

// noneAnswers says why the cluster cannot be reached.
func (s *Session) noneAnswers(ctx context.Context) error {
	errs := s.throughControlPlane(ctx, func(r host.Reader) error {
		c, err := s.access.Look(ctx, r)
		if errors.Is(err, kube.ErrNoCluster) {
			return noCluster(s.o)
		}
		if err != nil {
			return err
		}
		return c.Ready(ctx)
	})
	if len(errs) == 0 {
		return errors.New("the API server answers now: run the same command again")
	}
	return errors.Join(errs...)
}
