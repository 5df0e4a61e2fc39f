package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/steps/certs"
)

// RotateOptions say which CAs are replaced, and how far a run goes.
type RotateOptions struct {
	CA string // kubernetes, etcd, front-proxy or all
	// PauseAfter ends the run after "trust" or "sign"; empty means that it goes to the end.
	PauseAfter string
	// Confirm is shown the plan, and who is to be told, and asked before anything is
	// changed; nil means yes.
	Confirm func(*Preview, *RotateResult) error
}

// RotateResult is what a rotation did. Its JSON is stable.
type RotateResult struct {
	*Result
	CAs []string `json:"cas"`
	// PausedAfter is where the run ended before the rotation has.
	PausedAfter string `json:"pausedAfter,omitempty"`
	// Pods are those of users that were given CAs when they started which are not those
	// of now: whoever read them then and never again needs a restart.
	Pods []string `json:"pods"`
	// Webhooks are those, and aggregated APIs, whose CA is an old one.
	Webhooks []string `json:"webhooks"`
}

// caName is what users call a CA.
func caName(ca pki.CA) string {
	return map[string]string{"ca": "kubernetes", "etcd-ca": "etcd", "front-proxy-ca": "front-proxy"}[ca.Name]
}

// CANames lists what --ca takes besides "all".
func CANames() []string {
	var out []string
	for _, a := range pki.Authorities() {
		out = append(out, caName(a))
	}
	return out
}

// CAFiles lists what certs list calls the CAs that are replaced by RotateCA.
func CAFiles() []string {
	var out []string
	for _, a := range pki.Authorities() {
		out = append(out, a.Name)
	}
	return out
}

// clusterNamespaces have the pods that belong to the cluster itself.
func clusterNamespaces() []string { return []string{"kube-system", "kube-flannel"} }

// chosenCAs returns the CAs that are asked for. An etcd outside the cluster has a CA of
// its own.
func chosenCAs(inv *inventory.Inventory, o RotateOptions) ([]pki.CA, error) {
	if !slices.Contains([]string{"", "trust", "sign"}, o.PauseAfter) {
		return nil, fault.New(fault.Usage, "--pause-after trust: everybody trusts both CAs; --pause-after sign: nothing is of the old one any more", fmt.Errorf("there is no pause after %q", o.PauseAfter))
	}
	if o.CA != "all" && !slices.Contains(CANames(), o.CA) {
		return nil, fault.New(fault.Usage, "there are: "+strings.Join(append(CANames(), "all"), ", "), fmt.Errorf("no CA is called %q", o.CA))
	}
	var out []pki.CA
	for _, a := range pki.Authorities() {
		if o.CA != "all" && o.CA != caName(a) {
			continue
		}
		if caName(a) == "etcd" && inv.ExternalEtcd() != nil {
			if o.CA == "etcd" {
				return nil, fault.New(fault.Usage, "replace it there, with both CAs trusted for a while; put both into the file of spec.etcd.external.caFile and run kocli create, which restarts the API servers one by one",
					errors.New("etcd is outside the cluster, and so is its CA"))
			}
			continue
		}
		out = append(out, a)
	}
	return out, nil
}

// RotateCA puts new CAs in the place of the old ones, in the phases of "Manual Rotation
// of CA Certificates" of kubernetes.io. Run again it goes on from what is on the hosts.
// The result is not nil once the run has a log.
func RotateCA(ctx context.Context, o Options, ro RotateOptions) (*RotateResult, error) {
	if _, err := chosenCAs(o.Inventory, ro); err != nil {
		return nil, err
	}
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	return s.rotateCA(ctx, ro)
}

func (s *Session) rotateCA(ctx context.Context, ro RotateOptions) (*RotateResult, error) {
	res := &RotateResult{Result: s.result(len(s.inv.Nodes)), CAs: []string{}, Pods: []string{}, Webhooks: []string{}}
	r, err := s.rotation(ctx, ro)
	if err != nil {
		return res, err
	}
	for _, x := range r.rotations {
		res.CAs = append(res.CAs, caName(x.CA))
	}
	p, err := s.compile(r.phases(ro.PauseAfter), res.Result)
	if err != nil {
		return res, err
	}
	if ro.Confirm != nil {
		pre, err := s.previewOf(ctx, p)
		if err != nil {
			return res, err
		}
		if len(pre.Changes) > 0 {
			if err := r.tell(ctx, res); err != nil {
				return res, err
			}
			if err := ro.Confirm(pre, res); err != nil {
				return res, err
			}
		}
	}
	if err := s.run(ctx, p, res.Result); err != nil {
		return res, err
	}
	if res.Kubeconfig, err = s.keepKubeconfig(ctx, r.seed); err != nil {
		return res, err
	}
	if len(r.rotations) > 0 {
		res.PausedAfter = ro.PauseAfter
	}
	return res, r.tell(ctx, res)
}

// PlanRotateCA shows what RotateCA would do, and changes nothing.
func PlanRotateCA(ctx context.Context, o Options, ro RotateOptions) (*Preview, error) {
	if _, err := chosenCAs(o.Inventory, ro); err != nil {
		return nil, err
	}
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	r, err := s.rotation(ctx, ro)
	if err != nil {
		return nil, err
	}
	p, err := plan.Compile(r.phases(ro.PauseAfter), plan.Options{Only: o.Only, Skip: o.Skip, Now: o.Clock.Now})
	if err != nil {
		return nil, err
	}
	return s.previewOf(ctx, p)
}

// How many kubelets are restarted at once.
const rotateWidth = 10

// phases are those of the documentation. The first error ends a run between two steps,
// and what needs a phase does not begin before all of its nodes are through: the old CA
// goes only after the proof.
func (r *rotating) phases(pause string) []plan.Phase {
	planes, nodes := inventory.Names(r.planes), inventory.Names(r.inv.Nodes)
	clean := plan.Phase{Name: "clean", Nodes: planes, Width: 1, Steps: func(string) ([]plan.Step, error) { return []plan.Step{certs.Clean()}, nil }}
	if len(r.rotations) == 0 {
		return []plan.Phase{clean}
	}
	var workers []string
	for _, n := range r.inv.Nodes {
		if !n.ControlPlane {
			workers = append(workers, n.Name)
		}
	}
	at := func(name string) certs.RotateOptions {
		n, _ := r.inv.Node(name)
		return certs.RotateOptions{Inventory: r.inv, Node: n, Rotations: r.rotations, Healthy: r.health.healthy}
	}
	each := func(steps ...func(certs.RotateOptions) plan.Step) func(string) ([]plan.Step, error) {
		return func(name string) (out []plan.Step, err error) {
			for _, s := range steps {
				out = append(out, s(at(name)))
			}
			return out, nil
		}
	}
	round := func(name string, s pki.Stage) func(certs.RotateOptions) plan.Step {
		return func(o certs.RotateOptions) plan.Step { return certs.Round(o, name, s) }
	}
	cluster := Cluster{Inventory: r.inv, Seed: r.seed, Dialer: r.hosts, Access: r.access}
	co := certs.ClusterOptions{API: cluster.API(), Rotations: r.rotations, Namespaces: clusterNamespaces(), Nodes: len(nodes)}
	once := func(name string, step func(certs.ClusterOptions) plan.Step) func(string) ([]plan.Step, error) {
		return func(string) ([]plan.Step, error) {
			out := []plan.Step{certs.Ready(certs.ReadyOptions{Name: name, API: co.API, Healthy: r.health.healthy, Nodes: nodes, Now: r.o.Clock.Now})}
			if step != nil {
				out = append(out, step(co))
			}
			return out, nil
		}
	}
	r.signer = &certs.Signer{Inventory: r.inv, Node: r.seed, Dial: func(ctx context.Context) (host.Host, error) { return r.hosts.Dial(ctx, r.seed.Name) }}
	seed := []string{r.seed.Name}
	out := []plan.Phase{
		{Name: "new-ca", Nodes: planes, Width: 1, Steps: each(certs.NewCA)},
		{Name: "trust", Needs: []string{"new-ca"}, Nodes: planes, Width: 1, Steps: each(certs.Trust, round("certs/restart-trust", pki.Trusted))},
		{Name: "trust-workers", Needs: []string{"new-ca"}, Nodes: workers, Width: rotateWidth, Steps: each(certs.Trust)},
		{Name: "trusted", Needs: []string{"trust", "trust-workers"}, Nodes: seed, Steps: once("certs/ready-trust", certs.ClusterTrust)},
	}
	if pause == "trust" {
		return out
	}
	out = append(out,
		plan.Phase{Name: "sign", Needs: []string{"trusted"}, Nodes: planes, Width: 1, Steps: each(certs.Sign, round("certs/restart-sign", pki.Signing))},
		plan.Phase{Name: "kubelets", Needs: []string{"sign"}, Nodes: nodes, Width: rotateWidth, Steps: r.kubelets},
		plan.Phase{Name: "proof", Needs: []string{"sign", "kubelets"}, Nodes: nodes, Steps: each(certs.Proof)},
		plan.Phase{Name: "signed", Needs: []string{"proof"}, Nodes: seed, Steps: once("certs/ready-sign", nil)},
	)
	if pause == "sign" {
		return out
	}
	clean.Needs = []string{"removed"}
	return append(out,
		plan.Phase{Name: "remove", Needs: []string{"signed"}, Nodes: planes, Width: 1, Steps: each(certs.Remove, round("certs/restart-remove", pki.After))},
		plan.Phase{Name: "remove-workers", Needs: []string{"signed"}, Nodes: workers, Width: rotateWidth, Steps: each(certs.Remove)},
		plan.Phase{Name: "removed", Needs: []string{"remove", "remove-workers"}, Nodes: seed, Steps: once("certs/ready-remove", certs.ClusterRemove)},
		clean)
}

// kubelets has the new CA sign for the kubelet of a node; nothing where its CA stays.
func (r *rotating) kubelets(name string) ([]plan.Step, error) {
	i := slices.IndexFunc(r.rotations, pki.Rotation.Main)
	if i < 0 {
		return nil, nil
	}
	n, _ := r.inv.Node(name)
	return []plan.Step{certs.Kubelet(certs.KubeletOptions{Inventory: r.inv, Node: n, Sign: r.signer.Sign, Now: r.o.Clock.Now, Rotation: &r.rotations[i]})}, nil
}

// tell fills in who is to be told: nobody else than their owners can restart pods of
// users, or change webhooks.
func (r *rotating) tell(ctx context.Context, res *RotateResult) error {
	i := slices.IndexFunc(r.rotations, pki.Rotation.Main)
	if i < 0 {
		return nil
	}
	main := r.rotations[i]
	l, err := r.hosts.Look(ctx, r.seed.Name)
	if err != nil {
		return err
	}
	plan.Forget(l)
	c, err := r.access.Look(ctx, l)
	if err != nil {
		return err
	}
	roots, err1 := c.RootCAs(ctx)
	pods, err2 := c.APIPods(ctx, clusterNamespaces()...)
	bundles, err3 := c.CABundles(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	res.Pods, res.Webhooks = []string{}, []string{}
	for _, p := range pods {
		if p.Started.Before(r.handedOut(main, roots[p.Namespace])) {
			res.Pods = append(res.Pods, p.Namespace+"/"+p.Name)
		}
	}
	for _, b := range bundles {
		all, err := pki.All(b.PEM)
		if err == nil && slices.ContainsFunc(all, main.Old.Equal) && !slices.ContainsFunc(all, main.New.Equal) {
			res.Webhooks = append(res.Webhooks, b.Name)
		}
	}
	return nil
}

// handedOut is when pods of a namespace found the new CA first, or before that now. Once
// the old one has been taken out nobody knows it: it was after the new one was made.
func (r *rotating) handedOut(main pki.Rotation, root kube.RootCA) time.Time {
	switch s, err := main.Stage([]byte(root.PEM)); {
	case err != nil || s == pki.Before:
		return r.o.Clock.Now()
	case s == pki.After:
		return main.New.NotBefore.Add(pki.Backdate)
	}
	return root.Changed
}
