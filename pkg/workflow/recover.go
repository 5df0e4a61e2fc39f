package workflow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/probe"
	"github.com/kocli/kocli/pkg/steps/osprep"
	"github.com/kocli/kocli/pkg/steps/restore"
)

// kocliStep puts kocli on a host.
func kocliStep(f host.File) plan.Step { return osprep.Kocli(f) }

// Recovered is what Recover did. Its JSON is stable.
type Recovered struct {
	Result
	From string `json:"from"`
	// Lost are the control planes that are no members of etcd any more.
	Lost []string `json:"lost"`
}

// Recover makes an etcd of one member from the one that survived, where the others
// are lost and there is no quorum. Others join it afterwards.
func Recover(ctx context.Context, o Options, from string, confirm func(question string) error) (*Recovered, error) {
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	res := &Recovered{Result: *s.result(1), From: from}
	rs, err := s.recovering(ctx, from)
	if err != nil {
		return res, err
	}
	for _, n := range s.inv.ControlPlanes() {
		if n.Name != from {
			res.Lost = append(res.Lost, n.Name)
		}
	}
	agent := plan.Phase{Name: "agent", Nodes: []string{from}, Steps: func(string) ([]plan.Step, error) {
		n, _ := rs.members.Node(from)
		f, err := rs.cluster.kocli(n)
		return []plan.Step{kocliStep(f)}, err
	}}
	phases := rs.restorePhases([]string{from}, []string{"agent"})
	p, err := s.compile(append([]plan.Phase{agent}, phases...), &res.Result)
	if err != nil {
		return res, err
	}
	if confirm != nil && !rs.begun {
		q := fmt.Sprintf("Make %s the only member of etcd of cluster %s? What the others (%s) had and it had not is lost.", from, s.inv.Name, strings.Join(res.Lost, ", "))
		if err := confirm(q); err != nil {
			return res, err
		}
	}
	h, err := s.hosts.Dial(ctx, from)
	if err != nil {
		return res, err
	}
	if _, err := h.Put(ctx, host.Bytes(kubeadm.RecoverPath, 0o600, []byte(rs.id))); err != nil {
		return res, err
	}
	if err := s.run(ctx, p, &res.Result); err != nil {
		return res, err
	}
	if err := h.Remove(ctx, kubeadm.RecoverPath); err != nil {
		return res, err
	}
	n, _ := s.inv.Node(from)
	res.Kubeconfig, err = s.keepKubeconfig(ctx, n)
	return res, err
}

// begunRecovery is the ID of a recovery that was interrupted; empty where there is
// none.
func begunRecovery(ctx context.Context, r host.Reader) (string, error) {
	id, err := r.ReadFile(ctx, kubeadm.RecoverPath)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(id), err
}

// recovering looks at the survivor, and refuses where the cluster works: there is
// nothing to recover, and two clusters would come of it. A run that was interrupted
// before it replaced anything is no excuse: what was true then may not be any more.
func (s *Session) recovering(ctx context.Context, from string) (*restoring, error) {
	n, ok := s.inv.Node(from)
	if !ok || !n.ControlPlane {
		return nil, fault.New(fault.Usage, "name a control plane of the YAML: "+strings.Join(inventory.Names(s.inv.ControlPlanes()), ", "), fmt.Errorf("%s is no control plane", from))
	}
	if s.inv.ExternalEtcd() != nil {
		return nil, fault.New(fault.Usage, "recover it where it is", errors.New("the cluster's data is in an etcd that kocli does not run"))
	}
	r, err := s.hosts.Look(ctx, from)
	if err != nil {
		return nil, err
	}
	id, err := begunRecovery(ctx, r)
	if err != nil {
		return nil, err
	}
	alone := *s.inv
	alone.Nodes = slices.DeleteFunc(slices.Clone(s.inv.Nodes), func(m inventory.Node) bool { return m.ControlPlane && m.Name != from })
	k, err := s.kocli()
	if err != nil {
		return nil, err
	}
	out, err := r.Query(ctx, host.Command("uname", "-m"))
	if err != nil {
		return nil, err
	}
	rs := &restoring{Session: s, id: id, members: &alone}
	rs.cluster = &Cluster{Inventory: &alone, Seed: n, Dialer: s.hosts, Access: s.access, Kocli: k, Clock: s.o.Clock}
	rs.cluster.Facts = map[string]probe.Facts{from: {Arch: probe.Arch(out.Text())}}
	if id != "" {
		if rs.begun, err = restore.Restored(ctx, r, id); err != nil || rs.begun {
			return rs, err
		}
	} else {
		rs.id = restore.NewID(s.RunID, []inventory.Node{n})
	}
	return rs, s.noQuorum(ctx, r, from)
}

// noQuorum refuses to recover what works: etcd as the survivor sees it, or the cluster
// as another control plane does that the survivor is only cut off from.
func (s *Session) noQuorum(ctx context.Context, r host.Reader, from string) error {
	v, err := etcd.Look(ctx, r)
	if errors.Is(err, etcd.ErrNone) {
		return fault.New(fault.Usage, "name the control plane whose etcd survived; with none left: kocli backup restore", fmt.Errorf("%s: %w", from, err))
	}
	if err != nil {
		return err
	}
	all, err := v.Health(ctx)
	if err == nil {
		err = etcd.HasQuorum(all)
	}
	if err == nil {
		return fault.New(fault.Preflight, "take those that are lost out with: kocli node remove NAME --dead",
			fmt.Errorf("etcd has its quorum, asked through %s: there is nothing to recover", from))
	}
	others := slices.DeleteFunc(s.inv.ControlPlanes(), func(m inventory.Node) bool { return m.Name == from })
	if other, ok := s.answering(ctx, others); ok {
		return fault.New(fault.Preflight, fmt.Sprintf("see why %[1]s is cut off from it; to make it a new member: kocli node remove %[1]s, then kocli node add %[1]s", from),
			fmt.Errorf("the cluster works without %s: the API server of %s is ready", from, other.Name))
	}
	return ctx.Err()
}
