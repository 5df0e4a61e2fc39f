package workflow

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/steps/certs"
)

// CertsOptions say which certificates are renewed.
type CertsOptions struct {
	Names []string // as kubeadm has them
	All   bool
	// Rescue renews all of them where the cluster is down, and the kubelets' as well.
	Rescue bool
	// Confirm is shown the plan and asked before anything is changed; nil means yes.
	Confirm func(*Preview) error
}

// CertsResult is what a renewal did. Its JSON is stable.
type CertsResult struct {
	*Result
	Operation string `json:"operation"`
	// Certificates are those that were asked for, as they are now.
	Certificates []pki.Entry `json:"certificates"`
	// Skipped are hosts that could not be reached.
	Skipped []string `json:"skipped,omitempty"`
}

// operation is a renewal that has been begun. It is kept until all of it is done, so
// that whoever goes on does not begin another one.
type operation struct {
	ID      string    `json:"id"`
	Rescue  bool      `json:"rescue,omitempty"`
	Planes  []string  `json:"planes"` // control planes that are worked on
	Names   []string  `json:"names"`
	Started time.Time `json:"started"`
}

// begun returns the renewal that was begun and not finished; nil where there is none.
func (s *Session) begun() (*operation, error) {
	data, err := os.ReadFile(s.dir.Renewal())
	if missing(err) {
		return nil, nil
	}
	var op operation
	if err == nil {
		err = json.Unmarshal(data, &op)
	}
	if err != nil {
		return nil, fault.New(fault.Failure, "move the file away: the renewal begins anew then", fmt.Errorf("read %s: %w", s.dir.Renewal(), err))
	}
	return &op, nil
}

// operation goes on with the renewal that was begun, or makes a new one. A rescue
// takes the place of a renewal: it renews everything.
func (s *Session) operation(o CertsOptions, want []pki.Managed) (*operation, error) {
	op, err := s.begun()
	if err != nil {
		return nil, err
	}
	names := pki.Names(want)
	switch {
	case op == nil, o.Rescue && !op.Rescue:
		return &operation{ID: s.o.Clock.Now().UTC().Format("20060102T150405Z") + "-" + rand.Text()[:8], Rescue: o.Rescue, Names: names, Started: s.o.Clock.Now().UTC()}, nil
	case op.Rescue && !o.Rescue:
		return nil, fault.New(fault.Usage, "finish it: kocli certs rescue -f "+s.o.SpecFile, fmt.Errorf("a rescue that began on %s is not finished", op.Started.Format(time.DateTime)))
	case !slices.Equal(op.Names, names):
		return nil, fault.New(fault.Usage, "finish it: kocli certs renew -f "+s.o.SpecFile+" "+strings.Join(op.Names, " "), fmt.Errorf("a renewal of other certificates that began on %s is not finished", op.Started.Format(time.DateTime)))
	}
	return op, nil
}

// CertsRenew renews certificates, on one control plane after another, or rescues a
// cluster whose certificates have ended. The result is not nil once the run has a log.
func CertsRenew(ctx context.Context, o Options, co CertsOptions) (*CertsResult, error) {
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	return s.certsRenew(ctx, co)
}

func (s *Session) certsRenew(ctx context.Context, co CertsOptions) (*CertsResult, error) {
	res := &CertsResult{Result: s.result(len(s.inv.Nodes)), Certificates: []pki.Entry{}}
	r, err := s.renewal(ctx, co)
	if err != nil {
		return res, err
	}
	res.Operation, res.Skipped = r.op.ID, r.skipped
	p, err := s.compile(r.phases(), res.Result)
	if err != nil {
		return res, err
	}
	if co.Confirm != nil {
		pre, err := s.previewOf(ctx, p)
		if err != nil {
			return res, err
		}
		if len(pre.Changes) > 0 {
			if err := co.Confirm(pre); err != nil {
				return res, err
			}
		}
	}
	data, err := json.MarshalIndent(r.op, "", "  ")
	if err == nil {
		err = s.dir.Write(s.dir.Renewal(), append(data, '\n'))
	}
	if err != nil {
		return res, err
	}
	if err := s.run(ctx, p, res.Result); err != nil {
		return res, err
	}
	if len(r.planes) > 0 {
		if res.Kubeconfig, err = s.keepKubeconfig(ctx, r.planes[0]); err != nil {
			return res, err
		}
	}
	if res.Certificates, err = r.now(ctx); err != nil {
		return res, err
	}
	if err := os.Remove(s.dir.Renewal()); err != nil {
		return res, err
	}
	if len(r.skipped) > 0 {
		return res, fault.New(fault.Unreachable, "when they are back: kocli certs rescue -f "+s.o.SpecFile, fmt.Errorf("done but for hosts that could not be reached: %s", strings.Join(r.skipped, ", ")))
	}
	return res, nil
}

// PlanCertsRenew shows what CertsRenew would do, and changes nothing.
func PlanCertsRenew(ctx context.Context, o Options, co CertsOptions) (*Preview, error) {
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	r, err := s.renewal(ctx, co)
	if err != nil {
		return nil, err
	}
	p, err := plan.Compile(r.phases(), plan.Options{Only: o.Only, Skip: o.Skip, Now: o.Clock.Now})
	if err != nil {
		return nil, err
	}
	return s.previewOf(ctx, p)
}

func (s *Session) previewOf(ctx context.Context, p *plan.Plan) (*Preview, error) {
	changes, err := p.Preview(ctx, s.hosts)
	return &Preview{Changes: changes, Nodes: p.Nodes()}, err
}

// renewal is one change of certificates.
type renewal struct {
	*Session
	op      *operation
	want    []pki.Managed
	planes  []inventory.Node // control planes that are renewed
	nodes   []inventory.Node // nodes that have joined and can be reached
	skipped []string
}

// renewal looks at the hosts, and refuses what cannot work before anything is changed.
func (s *Session) renewal(ctx context.Context, co CertsOptions) (*renewal, error) {
	want, err := onlyPlanes(co.Names, co.All || co.Rescue)
	if err != nil {
		return nil, err
	}
	r := &renewal{Session: s, want: want}
	if r.op, err = s.operation(co, want); err != nil {
		return nil, err
	}
	if err := r.joined(ctx, co.Rescue); err != nil {
		return nil, err
	}
	if len(r.planes) == 0 {
		return nil, noCluster(s.o)
	}
	begun, err := s.begun()
	if err != nil {
		return nil, err
	}
	errs := r.wellness(ctx)
	for i, n := range r.planes { // those that are well are left alone by a rescue
		if (!co.Rescue || errs[i] != nil) && !slices.Contains(r.op.Planes, n.Name) {
			r.op.Planes = append(r.op.Planes, n.Name)
		}
	}
	if co.Rescue {
		return r, nil
	}
	if err := s.rotationBegun(ctx); err != nil { // kubeadm would have kubeconfigs trust one CA
		return nil, err
	}
	if sick := errors.Join(errs...); sick != nil && begun == nil {
		return nil, fault.New(fault.Preflight, "kocli certs list shows whether they have ended: then kocli certs rescue; else repair the cluster first: kocli status", fmt.Errorf("certificates are renewed while the cluster is healthy: %w", sick))
	}
	return r, nil
}

// joined finds out which hosts are nodes of a cluster. A rescue does without those
// that cannot be reached.
func (r *renewal) joined(ctx context.Context, without bool) error {
	nodes := r.inv.Nodes
	if !without {
		nodes = r.inv.ControlPlanes()
	}
	there, errs := make([]bool, len(nodes)), make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			l, err := r.hosts.Look(ctx, n.Name)
			if err != nil {
				errs[i] = err
				return
			}
			p := pki.KubeletConfPath
			if n.ControlPlane {
				p = apiServerManifest
			}
			_, err = l.Stat(ctx, p)
			there[i] = err == nil || !n.ControlPlane && missing(err) // a kubelet may have lost its kubeconfig
			if !missing(err) {
				errs[i] = err
			}
		})
	}
	wg.Wait()
	for i, n := range nodes {
		if without && fault.CodeOf(errs[i]) == fault.Unreachable {
			r.skipped = append(r.skipped, n.Name)
			r.o.Observer.Event(plan.Event{Time: r.o.Clock.Now(), Kind: plan.Note, Node: n.Name, Message: "cannot be reached, and is left out: " + firstOf(errs[i])})
			errs[i] = nil
		}
		if !there[i] {
			continue
		}
		r.nodes = append(r.nodes, n)
		if n.ControlPlane {
			r.planes = append(r.planes, n)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(r.planes) == 0 && len(r.skipped) > 0 {
		return fault.New(fault.Unreachable, "bring one of them back: the others are rescued from it", fmt.Errorf("no control plane can be reached: %s", strings.Join(r.skipped, ", ")))
	}
	return nil
}

// healthy returns nil when every control plane answers and every member of etcd is
// healthy; enough of them, where hosts were left out. It asks with what is in the files
// now.
func (r *renewal) healthy(ctx context.Context) error { return errors.Join(r.wellness(ctx)...) }

// wellness says of each control plane why it is not well.
func (r *renewal) wellness(ctx context.Context) []error {
	errs := make([]error, len(r.planes))
	var wg sync.WaitGroup
	for i, n := range r.planes {
		wg.Go(func() { errs[i] = r.wellOn(ctx, n) })
	}
	wg.Wait()
	return errs
}

func (r *renewal) wellOn(ctx context.Context, n inventory.Node) error {
	ctx, cancel := context.WithTimeout(ctx, 2*seedTimeout)
	defer cancel()
	h, err := r.hosts.Dial(ctx, n.Name) // a reader remembers files
	if err != nil {
		return err
	}
	c, err := r.access.Dial(ctx, h)
	if err != nil {
		return err
	}
	if err := c.Ready(ctx); err != nil {
		return fmt.Errorf("API server of %s: %w", n.Name, err)
	}
	v, err := etcd.Look(ctx, h)
	if errors.Is(err, etcd.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	if !r.op.Rescue {
		return v.Healthy(ctx)
	}
	all, err := v.Health(ctx)
	if err != nil {
		return err
	}
	return etcd.HasQuorum(all)
}

// phases: a renewal goes from one control plane to the next; a rescue renews the files
// of all, since members of etcd that have ended do not let the others be healthy.
func (r *renewal) phases() []plan.Phase {
	planes := slices.DeleteFunc(inventory.Names(r.planes), func(n string) bool { return !slices.Contains(r.op.Planes, n) })
	options := func(name string) certs.Options {
		n, _ := r.inv.Node(name)
		o := certs.Options{Inventory: r.inv, Node: n, Operation: r.op.ID, Want: r.want, Now: r.o.Clock.Now}
		if !r.op.Rescue {
			o.Healthy = r.healthy
		}
		return o
	}
	files := func(name string) ([]plan.Step, error) { return []plan.Step{certs.Files(options(name))}, nil }
	restart := func(name string) ([]plan.Step, error) { return []plan.Step{certs.Restart(options(name))}, nil }
	if !r.op.Rescue {
		return []plan.Phase{{Name: "certificates", Nodes: planes, Width: 1, Steps: func(name string) ([]plan.Step, error) {
			return []plan.Step{certs.Files(options(name)), certs.Restart(options(name))}, nil
		}}}
	}
	first := r.planes[0]
	signer := &certs.Signer{Inventory: r.inv, Node: first, Dial: func(ctx context.Context) (host.Host, error) { return r.hosts.Dial(ctx, first.Name) }}
	kubelets := func(name string) ([]plan.Step, error) {
		n, _ := r.inv.Node(name)
		return []plan.Step{certs.Kubelet(certs.KubeletOptions{Inventory: r.inv, Node: n, Sign: signer.Sign, Now: r.o.Clock.Now})}, nil
	}
	c := Cluster{Inventory: r.inv, Seed: first, Dialer: r.hosts, Access: r.access}
	ready := func(string) ([]plan.Step, error) {
		return []plan.Step{certs.Ready(certs.ReadyOptions{API: c.API(), Healthy: r.healthy, Nodes: inventory.Names(r.nodes), Now: r.o.Clock.Now})}, nil
	}
	return []plan.Phase{
		{Name: "certificates", Nodes: planes, Steps: files},
		{Name: "kubelets", Needs: []string{"certificates"}, Nodes: inventory.Names(r.nodes), Steps: kubelets},
		// A kubelet whose certificate has ended does not come up, and starts nothing.
		{Name: "static-pods", Needs: []string{"certificates"}, Follows: []string{"kubelets"}, Nodes: planes, Steps: restart},
		{Name: "ready", Needs: []string{"kubelets", "static-pods"}, Nodes: []string{first.Name}, Steps: ready},
	}
}

// now looks at what was asked for, after the run.
func (r *renewal) now(ctx context.Context) ([]pki.Entry, error) {
	nodes := r.planes
	if r.op.Rescue {
		nodes = r.nodes
	}
	for _, n := range nodes {
		l, err := r.hosts.Look(ctx, n.Name)
		if err != nil {
			return nil, err
		}
		plan.Forget(l)
	}
	all, err := r.pkiSurvey(ctx, nodes)
	names := append(pki.Names(r.want), "kubelet-client")
	return slices.DeleteFunc(all, func(e pki.Entry) bool {
		return !slices.Contains(names, e.Name) || e.Name == "kubelet-client" && !r.op.Rescue || e.Any() == nil
	}), err
}
