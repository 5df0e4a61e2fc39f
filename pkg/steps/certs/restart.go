package certs

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/staticpod"
)

// How long the cluster is given to be healthy, and a component to serve.
const (
	healthTime = 5 * time.Minute
	provedTime = 4 * time.Minute
)

// Restart has the static pods of a control plane started anew once their files have
// been renewed, and proves by a TLS connection that they serve them. Several control
// planes are restarted one after another, each while the cluster is healthy.
func Restart(o Options) plan.Step {
	pods := pki.Pods(o.Want)
	return converge.Func{
		Name: "certs/restart",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			m, err := readMark(ctx, r, o.Operation)
			if err != nil {
				return nil, err
			}
			changes, errs := make([]*plan.Change, len(pods)), make([]error, len(pods))
			var wg sync.WaitGroup
			for i, pod := range pods {
				wg.Go(func() { changes[i], errs[i] = due(ctx, r, o, m, pod) })
			}
			wg.Wait()
			var out []plan.Change
			for i, c := range changes {
				if errs[i] != nil {
					return nil, errs[i]
				}
				if c != nil {
					out = append(out, *c)
				}
			}
			return out, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error { return restart(ctx, h, o, pods) },
	}
}

// due is what is to be done with a static pod; nil where it runs with what is in the
// files.
func due(ctx context.Context, r host.Reader, o Options, m mark, pod string) (*plan.Change, error) {
	c := &plan.Change{Object: "static pod " + pod, From: "runs with older certificates", To: "restart", Disruptive: true}
	if m.Operation == "" {
		c.After = "certs/renew"
		all, err := look(ctx, r, o.Want)
		if err != nil {
			return nil, err
		}
		for _, f := range all {
			if f.Pod == pod {
				return c, nil
			}
		}
		return nil, nil // an etcd that is elsewhere
	}
	if !m.uses(o.Want, pod) {
		return nil, nil
	}
	if m.Containers == nil {
		return c, nil
	}
	done, err := staticpod.Replaced(ctx, r, pod, m.Containers[pod])
	if err != nil {
		return nil, err
	}
	if !done {
		return c, nil
	}
	if err := proved(ctx, r, o, pod); err != nil {
		c.From, c.To = err.Error(), "serve the new one"
		return c, nil
	}
	return nil, nil
}

// uses reports whether a static pod has any of the certificates that the operation
// found.
func (m mark) uses(want []pki.Managed, pod string) bool {
	for _, w := range want {
		if _, ok := m.Before[w.Name]; ok && w.Pod == pod {
			return true
		}
	}
	return false
}

// proved returns nil when a static pod serves what is in its files.
func proved(ctx context.Context, r host.Reader, o Options, pod string) error {
	for _, w := range o.Want {
		address := w.Address(o.Node)
		if w.Pod != pod || address == "" {
			continue
		}
		f, err := read(ctx, r, w)
		if err != nil {
			return err
		}
		if f == nil {
			continue
		}
		c, err := pki.Served(ctx, r, address)
		if err != nil {
			return fmt.Errorf("%s shows no certificate at %s: %w", pod, address, err)
		}
		if got := pki.FactsOf(c); got.SHA256 != f.SHA256 {
			return fmt.Errorf("%s serves the certificate %s at %s, and its file has %s", pod, got.Serial, address, f.Serial)
		}
	}
	return nil
}

func restart(ctx context.Context, h host.Host, o Options, pods []string) error {
	m, err := readMark(ctx, h, o.Operation)
	if err != nil {
		return err
	}
	if m.Operation == "" {
		return fmt.Errorf("the certificates of %s have not been renewed", h.Name())
	}
	if m, err = m.record(ctx, h, o.Want); err != nil {
		return err
	}
	for _, pod := range pods {
		c, err := due(ctx, h, o, m, pod)
		if err != nil {
			return err
		}
		if c == nil {
			continue
		}
		if err := o.healthy(ctx, "before "+pod+" is restarted"); err != nil {
			return err
		}
		if err := staticpod.Restart(ctx, h, pod, m.Containers[pod]); err != nil {
			return o.hint(err)
		}
		wait, cancel := context.WithTimeout(ctx, provedTime)
		err = kube.Poll(wait, time.Second, func(ctx context.Context) error { return proved(ctx, h, o, pod) })
		cancel()
		if err != nil {
			return o.hint(err)
		}
	}
	return o.healthy(ctx, "after the restarts")
}

// record writes down which containers run while all files are new: those that have to
// go. It does so once.
func (m mark) record(ctx context.Context, h host.Host, want []pki.Managed) (mark, error) {
	if m.Containers != nil {
		return m, nil
	}
	m.Containers = map[string][]string{}
	for _, pod := range pki.Pods(want) {
		ids, err := staticpod.Running(ctx, h, pod)
		if err != nil {
			return m, err
		}
		m.Containers[pod] = ids
	}
	return m, m.write(ctx, h)
}

// healthy waits until the cluster is, where that is asked for.
func (o Options) healthy(ctx context.Context, when string) error {
	if o.Healthy == nil {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	if err := kube.Poll(wait, time.Second, o.Healthy); err != nil {
		return o.hint(fmt.Errorf("the cluster is not healthy %s: %w", when, err))
	}
	return nil
}

func (o Options) hint(err error) error {
	return fault.New(fault.Failure, fmt.Sprintf("see why: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager; then run the same command again: it goes on from here", o.Node.Name), err)
}
