package workflow

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/state"
)

// leavers are the hosts that the state knows as part of the cluster and the YAML
// does not name any more: those of the YAML that was applied last, and those that
// an earlier run did not come to.
func (s *Session) leavers() ([]state.Leaver, error) {
	r, err := s.dir.Load()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	known := slices.Clone(r.Leaving)
	if r.Spec != "" {
		old, err := config.Read("the YAML that was applied last", bytes.NewReader([]byte(r.Spec)))
		if err != nil {
			return nil, fmt.Errorf("%s/state.json: %w", s.dir.Root(), err)
		}
		if err := s.sameHosts(old); err != nil {
			return nil, err
		}
		for _, h := range old.Spec.Hosts {
			known = append(known, state.Leaver{Host: h, SSH: old.Spec.SSH})
		}
	}
	var out []state.Leaver
	for _, l := range known {
		_, stays := s.inv.Node(l.Host.Name)
		if !stays && !slices.ContainsFunc(out, func(o state.Leaver) bool { return o.Host.Name == l.Host.Name }) {
			out = append(out, l)
		}
	}
	return out, nil
}

// sameHosts refuses a host that has become another one under its name: kubelet,
// etcd and certificates are bound to address and role.
func (s *Session) sameHosts(old *v1alpha1.Cluster) error {
	for _, h := range old.Spec.Hosts {
		now, ok := s.inv.Node(h.Name)
		if !ok {
			continue
		}
		was, err := inventory.NodeOf(old.Spec.SSH, h)
		if err != nil {
			return err
		}
		switch {
		case was.IP != now.IP:
			return fault.New(fault.Usage, fmt.Sprintf("give the new machine a name of its own: kocli node replace %s --with NAME --address %s", h.Name, now.Address),
				fmt.Errorf("%s had the address %s and now has %s: another machine under the name of one that is in the cluster", h.Name, was.IP, now.IP))
		case was.ControlPlane != now.ControlPlane:
			return fault.New(fault.Usage, fmt.Sprintf("take it out and add it again: kocli node remove %s, then kocli node add %s", h.Name, h.Name),
				fmt.Errorf("%s cannot change between control plane and worker while it is in the cluster", h.Name))
		}
	}
	return nil
}

// expect has the cluster reckon with control planes that are part of it still,
// though the YAML does not name them any more.
func (c *Cluster) expect(leavers []state.Leaver) error {
	nodes, err := nodesOf(leavers)
	c.Leaving = controlPlanes(nodes)
	return err
}

// nodesOf resolves leavers.
func nodesOf(leavers []state.Leaver) ([]inventory.Node, error) {
	out := make([]inventory.Node, 0, len(leavers))
	for _, l := range leavers {
		n, err := inventory.NodeOf(l.SSH, l.Host)
		if err != nil {
			return nil, fmt.Errorf("host %s: %w", l.Host.Name, err)
		}
		out = append(out, n)
	}
	return out, nil
}
