package certs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/plan"
)

// ReadyOptions are what Ready needs.
type ReadyOptions struct {
	Name    string // of the step; "certs/ready" where it is empty
	API     kube.API
	Healthy func(context.Context) error // of the control planes
	Nodes   []string                    // that have to be ready
	Now     func() time.Time
}

// silentTime is how long a kubelet may not have reported. The condition of a node says
// ready for as long as the API was away.
const silentTime = 2 * time.Minute

// readyTime is how long a rescued cluster is given: kubelets back off for up to five
// minutes.
const readyTime = 8 * time.Minute

// Ready waits until the cluster answers and its nodes are ready.
func Ready(o ReadyOptions) plan.Step {
	return converge.Func{
		Name: cmp.Or(o.Name, "certs/ready"),
		CheckFn: func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
			if err := o.ready(ctx); err != nil {
				return []plan.Change{{Object: "cluster", From: firstLine(err), To: "answers, its nodes ready"}}, ctx.Err()
			}
			return nil, nil
		},
		ApplyFn: func(ctx context.Context, _ host.Host) error {
			wait, cancel := context.WithTimeout(ctx, readyTime)
			defer cancel()
			if err := kube.Poll(wait, 2*time.Second, o.ready); err != nil {
				return fault.New(fault.Unhealthy, "kocli certs list and kocli status show what is left; then run the same command again: it goes on from here", err)
			}
			return nil
		},
	}
}

func (o ReadyOptions) ready(ctx context.Context) error {
	if err := o.Healthy(ctx); err != nil {
		return err
	}
	c, err := o.API.Dial(ctx)
	if err != nil {
		return err
	}
	nodes, err1 := c.Nodes(ctx)
	reported, err2 := c.Renewals(ctx)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	var errs []error
	for _, n := range nodes {
		if !slices.Contains(o.Nodes, n.Name) {
			continue
		}
		last := reported[n.Name]
		if ok, why := kube.NodeCondition(&n); !ok {
			errs = append(errs, fmt.Errorf("node %s: %s", n.Name, why))
		} else if o.Now().Sub(last) > silentTime {
			errs = append(errs, fmt.Errorf("node %s: its kubelet reported last at %s", n.Name, last.UTC().Format(time.RFC3339)))
		}
	}
	return errors.Join(errs...)
}

// firstLine is an error in a line of a plan.
func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}
