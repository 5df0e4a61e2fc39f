package workflow

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/upgrade"
)

// UpgradeChecks names the checks of an upgrade whose errors can be made warnings.
func UpgradeChecks() []string { return slices.Concat(upgrade.Names(), preflight.Names()) }

// gates judge whether the cluster may enter a hop.
func (u *upgrading) gates(ctx context.Context, c *Cluster, hop upgrade.Hop) ([]preflight.Finding, error) {
	s := upgrade.State{Hop: hop, Inventory: u.inv, Forced: u.o.ForceAfter > 0, Moved: u.moved, Now: u.Session.o.Clock.Now()}
	var err error
	if s.Removals, err = upgrade.Table(); err != nil {
		return nil, err
	}
	cat, err := catalogue.Embedded()
	if err != nil {
		return nil, err
	}
	if r, ok := u.bundle.Release(hop.To); ok {
		s.Conflict = cat.Fits(hop.To, r.Components)
	}
	client, err := c.API().Look(ctx)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	errs := make([]error, 7)
	wg.Go(func() { errs[0], errs[5] = u.nodesAndPods(ctx, client, &s) })
	wg.Go(func() { s.Etcd, errs[1] = u.etcdMembers(ctx) })
	wg.Go(func() { s.Certificates, errs[2] = u.certificates(ctx) })
	wg.Go(func() { s.Deprecated, errs[3] = u.deprecated(ctx, c) })
	wg.Go(func() { s.Written, errs[4] = written(ctx, client, s.Removals.Between(hop.From, hop.To)) })
	wg.Go(func() { s.KubeletFlags, errs[6] = u.kubeletFlags(ctx) })
	wg.Wait()
	// What one gate cannot see must not keep the others from reporting.
	if err := errors.Join(errs...); err != nil && (ctx.Err() != nil || fault.CodeOf(err) == fault.Unreachable) {
		return nil, err
	}
	s.Unknown = map[string]error{"nodes-ready": errs[0], "etcd-healthy": errs[1], "certificates-valid": errs[2], "removed-apis": errors.Join(errs[3], errs[4]), "disruption-budgets": errs[5], "removed-flags": errs[6]}
	return upgrade.Judge(s, u.Session.o.Ignore), nil
}

// planSaid judges what kubeadm upgrade plan said against a hop, and returns why it ends
// there; nil where the gate is ignored.
func (u *upgrading) planSaid(said string) error {
	findings := upgrade.Judge(upgrade.State{Plan: said}, u.Session.o.Ignore)
	u.tell(findings)
	return preflight.Refusal(findings)
}

// nodesAndPods looks at all nodes, and at the pods on those that will be drained.
func (u *upgrading) nodesAndPods(ctx context.Context, c *kube.Client, s *upgrade.State) (ofNodes, ofPods error) {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err, nil
	}
	held, err1 := c.HeldBy(ctx)
	bare, err2 := c.Bare(ctx)
	for i := range nodes {
		n := &nodes[i]
		_, listed := u.inv.Node(n.Name)
		ready, why := kube.NodeCondition(n)
		s.Nodes = append(s.Nodes, upgrade.Node{
			Name: n.Name, Listed: listed, Ready: ready, Reason: why, Kubelet: n.Status.NodeInfo.KubeletVersion,
			Ours: kube.CordonedByUs(n), Cordoned: n.Spec.Unschedulable,
		})
		if !listed || n.Status.NodeInfo.KubeletVersion == u.inv.Version() || len(nodes) == 1 {
			continue // it is not drained
		}
		for _, h := range held[n.Name] {
			s.Held = append(s.Held, upgrade.Held{Node: n.Name, Reason: h})
		}
		for _, p := range bare[n.Name] {
			s.Bare = append(s.Bare, p+" on "+n.Name)
		}
	}
	return nil, errors.Join(err1, err2)
}

func (u *upgrading) etcdMembers(ctx context.Context) ([]upgrade.Member, error) {
	r, err := u.hosts.Look(ctx, u.seed.Name)
	if err != nil {
		return nil, err
	}
	if u.inv.ExternalEtcd() != nil {
		return nil, nil // preflight asks it
	}
	v, err := etcd.Look(ctx, r)
	if errors.Is(err, etcd.ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := v.Health(ctx)
	if err != nil {
		return []upgrade.Member{{Name: u.seed.Name, Err: err.Error()}}, ctx.Err()
	}
	var out []upgrade.Member
	for _, h := range all {
		m := upgrade.Member{Name: h.Name, Size: h.Size, Quota: h.Quota}
		if h.Err != nil {
			m.Err = h.Err.Error()
		}
		out = append(out, m)
	}
	return out, nil
}

// certificateFiles are those of a control plane, and whether they are CAs.
func certificateFiles() map[string]bool {
	out := map[string]bool{}
	for _, m := range pki.AllManaged() {
		out[m.CA.CertPath] = true
		if !m.Kubeconfig() { // kubeadm makes those anew
			out[m.Path] = false
		}
	}
	return out
}

// certificates reads when those on the control planes expire.
func (u *upgrading) certificates(ctx context.Context) ([]upgrade.Certificate, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var out []upgrade.Certificate
	var errs []error
	for _, n := range u.inv.ControlPlanes() {
		for file, ca := range certificateFiles() {
			wg.Go(func() {
				c, err := u.certificate(ctx, n, file)
				mu.Lock()
				defer mu.Unlock()
				if errs = append(errs, err); c != nil {
					out = append(out, upgrade.Certificate{Node: n.Name, Path: file, CA: ca, Expires: c.NotAfter})
				}
			})
		}
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b upgrade.Certificate) int {
		if c := strings.Compare(a.Node, b.Node); c != 0 {
			return c
		}
		return strings.Compare(a.Path, b.Path)
	})
	return out, errors.Join(errs...)
}

// certificate returns nil where there is no such file.
func (u *upgrading) certificate(ctx context.Context, n inventory.Node, file string) (*x509.Certificate, error) {
	r, err := u.hosts.Look(ctx, n.Name)
	if err != nil {
		return nil, err
	}
	data, err := r.ReadFile(ctx, file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := pki.First(data)
	if err != nil {
		return nil, fmt.Errorf("%s on %s: %w", file, n.Name, err)
	}
	return c, nil
}

// kubeletFlag finds the name of a flag in a file that gives kubelets theirs.
var kubeletFlag = regexp.MustCompile(`(?:^|[\s"'=])--([a-z0-9][a-z0-9-]*)`)

// kubeletFlags reads with which flags the kubelets are started: those that kubeadm wrote,
// and the operator's.
func (u *upgrading) kubeletFlags(ctx context.Context) (map[string][]string, error) {
	out, errs := map[string][]string{}, make([]error, len(u.inv.Nodes))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, n := range u.inv.Nodes {
		wg.Go(func() {
			r, err := u.hosts.Look(ctx, n.Name)
			if err != nil {
				errs[i] = err
				return
			}
			for _, file := range []string{kubeadm.KubeletFlagsPath, kubeadm.KubeletExtraPath} {
				text, err := r.ReadFile(ctx, file)
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					errs[i] = err
				}
				for _, m := range kubeletFlag.FindAllSubmatch(text, -1) {
					mu.Lock()
					out[n.Name] = append(out[n.Name], string(m[1]))
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// deprecated asks every API server, since each counts for itself. One that does not
// answer is judged by others.
func (u *upgrading) deprecated(ctx context.Context, c *Cluster) ([]upgrade.Request, error) {
	var out []upgrade.Request
	for _, n := range u.inv.ControlPlanes() {
		client, err := c.through(n.Name).Look(ctx)
		var found []kube.DeprecatedRequest
		if err == nil {
			found, err = client.DeprecatedRequests(ctx)
		}
		if err != nil && n.Name != u.seed.Name && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			if r := upgrade.Request(f); !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// written looks for objects whose writers used APIs that go, in the cluster and in the
// releases of Helm.
func written(ctx context.Context, c *kube.Client, apis []upgrade.RemovedAPI) ([]upgrade.Written, error) {
	if len(apis) == 0 {
		return nil, nil
	}
	charts, err := c.HelmObjects(ctx)
	if err != nil {
		return nil, err
	}
	out := fromHelm(charts, apis)
	for _, a := range apis {
		for _, resource := range a.Resources {
			some, count, err := c.WrittenThrough(ctx, a.Group, a.Version, resource)
			if err != nil {
				return nil, err
			}
			if count > 0 {
				out = append(out, upgrade.Written{API: a.GroupVersion() + " " + resource, Removed: a.Removed, Objects: some, Count: count})
			}
		}
	}
	return out, nil
}

// fromHelm is what the releases of Helm hold of APIs that go, a release and an API at a
// time.
func fromHelm(charts []kube.HelmObject, apis []upgrade.RemovedAPI) []upgrade.Written {
	var out []upgrade.Written
	for _, o := range charts {
		for _, a := range apis {
			if a.GroupVersion() != o.GroupVersion || !slices.Contains(a.Resources, o.Resource) {
				continue
			}
			api := a.GroupVersion() + " " + o.Resource
			i := slices.IndexFunc(out, func(w upgrade.Written) bool { return w.Release == o.Release && w.API == api })
			if i < 0 {
				i = len(out)
				out = append(out, upgrade.Written{API: api, Removed: a.Removed, Release: o.Release})
			}
			out[i].Count++
			out[i].Objects = append(out[i].Objects, o.Name)
		}
	}
	return out
}
