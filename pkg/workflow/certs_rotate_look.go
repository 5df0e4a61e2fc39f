package workflow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/staticpod"
	"github.com/kocli/kocli/pkg/steps/certs"
)

// rotating is one rotation of CAs.
type rotating struct {
	*Session
	health    *renewal
	planes    []inventory.Node
	seed      inventory.Node
	rotations []pki.Rotation // empty where only leftovers are to be removed
	signer    *certs.Signer  // signs for all kubelets, one at a time
}

// rotation looks at the hosts, and refuses what cannot work before anything is changed.
// What has been begun is gone on with.
func (s *Session) rotation(ctx context.Context, ro RotateOptions) (*rotating, error) {
	want, err := chosenCAs(s.inv, ro)
	if err != nil {
		return nil, err
	}
	if op, err := s.begun(); err != nil || op != nil {
		if err == nil {
			err = fault.New(fault.Usage, "finish it first: kocli certs renew, or kocli certs rescue", fmt.Errorf("a renewal of certificates that began on %s is not finished", op.Started.Format(time.DateTime)))
		}
		return nil, err
	}
	r := &rotating{Session: s, planes: s.inv.ControlPlanes()}
	r.health = &renewal{Session: s, op: &operation{}, planes: r.planes}
	if err := r.allJoined(ctx); err != nil {
		return nil, err
	}
	found, err := r.kept(ctx)
	if err != nil {
		return nil, err
	}
	if r.rotations, err = r.pairs(want, found); err != nil {
		return nil, err
	}
	if r.rotations != nil && !r.begun(found) {
		r.seed = r.planes[0]
		return r, r.fit(ctx)
	}
	for _, x := range r.rotations {
		if !slices.ContainsFunc(found, func(k kept) bool { return k.ca == x.CA && k.complete() }) {
			return nil, fault.New(fault.Usage, r.finish(found), fmt.Errorf("a rotation without the CA %s is not finished", caName(x.CA)))
		}
	}
	if err := r.awaitSeed(ctx); err != nil {
		return nil, err
	}
	return r, r.knownNodes(ctx, false)
}

// begun reports whether anybody trusts a new CA yet.
func (r *rotating) begun(all []kept) bool {
	return slices.ContainsFunc(all, func(k kept) bool {
		return slices.ContainsFunc(r.rotations, func(x pki.Rotation) bool {
			s, err := x.Stage(k.file)
			return x.CA == k.ca && err == nil && s > pki.Before
		})
	})
}

// resumeTime is how long an API server is given that a killed run has just had restarted.
const resumeTime = 3 * time.Minute

// awaitSeed chooses a control plane that answers. What else is not well the steps wait
// for themselves.
func (r *rotating) awaitSeed(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, resumeTime)
	defer cancel()
	err := kube.Poll(wait, time.Second, func(ctx context.Context) error {
		var ok bool
		if r.seed, ok = r.answering(ctx, r.planes); !ok {
			return errors.New("no API server is ready")
		}
		return nil
	})
	if err != nil {
		return fault.New(fault.Unhealthy, "see why: kocli certs list; then run the same command again: it goes on from here", err)
	}
	return nil
}

// allJoined refuses hosts that do not answer, or are no nodes: each would be lost when
// the old CA goes.
func (r *rotating) allJoined(ctx context.Context) error {
	there, errs := make([]bool, len(r.inv.Nodes)), make([]error, len(r.inv.Nodes))
	var wg sync.WaitGroup
	for i, n := range r.inv.Nodes {
		wg.Go(func() {
			l, err := r.hosts.Look(ctx, n.Name)
			if err == nil {
				_, err = l.Stat(ctx, pki.KubeletConfPath)
			}
			there[i] = err == nil
			if err != nil && !missing(err) {
				errs[i] = err
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if !slices.Contains(there, true) {
		return noCluster(r.o)
	}
	for i, n := range r.inv.Nodes {
		if !there[i] {
			return fault.New(fault.Preflight, "join it first: kocli scale -f "+r.o.SpecFile+"; or take it out of the YAML", fmt.Errorf("%s is not a node of the cluster: it would be given the CAs by nobody", n.Name))
		}
	}
	return nil
}

// kept is what a control plane has of a CA and of its rotation.
type kept struct {
	node               string
	ca                 pki.CA
	file, old, new     []byte // nil where there is none
	key                []byte // of the new one
	signs, left, begun bool   // it has the key of the CA; RotationDone, RotationDir are there
}

// finish is the command that goes on with what was begun.
func (r *rotating) finish(all []kept) string {
	var names []string
	for _, k := range all {
		if n := caName(k.ca); k.complete() && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if len(names) > 1 {
		names = []string{"all"}
	}
	return "finish it: kocli certs rotate-ca --ca " + strings.Join(names, "") + " -f " + r.o.SpecFile
}

// complete reports whether the new CA is there with its key; what is not was cut off.
func (k kept) complete() bool { return k.new != nil && k.old != nil && pki.Pair(k.new, k.key) }

func (r *rotating) kept(ctx context.Context) ([]kept, error) {
	var out []kept
	for _, n := range r.planes {
		for _, a := range pki.Authorities() {
			if a.Name != "etcd-ca" || r.inv.ExternalEtcd() == nil {
				out = append(out, kept{node: n.Name, ca: a})
			}
		}
	}
	errs := make([]error, len(out))
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() { errs[i] = r.readKept(ctx, &out[i]) })
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

func (r *rotating) readKept(ctx context.Context, k *kept) error {
	l, err := r.hosts.Look(ctx, k.node)
	if err != nil {
		return err
	}
	x := pki.Rotation{CA: k.ca}
	var wg sync.WaitGroup
	errs := make([]error, 7)
	for i, f := range []struct {
		path string
		into *[]byte
	}{{k.ca.CertPath, &k.file}, {x.OldPath(), &k.old}, {x.NewPath(), &k.new}, {x.NewKeyPath(), &k.key}} {
		wg.Go(func() {
			if *f.into, errs[i] = l.ReadFile(ctx, f.path); missing(errs[i]) {
				*f.into, errs[i] = nil, nil
			}
		})
	}
	for i, f := range []struct {
		path string
		into *bool
	}{{k.ca.KeyPath, &k.signs}, {pki.RotationDone, &k.left}, {pki.RotationDir, &k.begun}} {
		wg.Go(func() {
			_, err := l.Stat(ctx, f.path)
			*f.into = err == nil
			if !missing(err) {
				errs[4+i] = err
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// pairs finds the new CAs that control planes have, or makes them. They are nil where a
// rotation has come to its end, and only what it left is to be removed.
func (r *rotating) pairs(want []pki.CA, all []kept) (out []pki.Rotation, err error) {
	left, begun := false, false
	for _, k := range all {
		left, begun = left || k.left, begun || k.begun
		if k.complete() && !slices.Contains(want, k.ca) {
			return nil, fault.New(fault.Usage, r.finish(all), fmt.Errorf("the rotation of the CA %s is not finished", caName(k.ca)))
		}
	}
	if left && !begun {
		return nil, nil
	}
	for _, a := range want {
		x, err := r.pair(a, slices.DeleteFunc(slices.Clone(all), func(k kept) bool { return k.ca != a }))
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

// pair finds the new CA in the place of one, or makes it.
func (r *rotating) pair(a pki.CA, all []kept) (pki.Rotation, error) {
	var found *kept
	for i, k := range all {
		if !k.complete() {
			continue
		}
		if found != nil && !bytes.Equal(found.new, k.new) {
			return pki.Rotation{}, fault.New(fault.Failure, fmt.Sprintf("decide which of them is used anywhere: kocli certs list --wide; remove %s where the other one is", pki.RotationDir),
				fmt.Errorf("%s and %s have different new CAs %s", found.node, k.node, a.Name))
		}
		found = &all[i]
	}
	if found != nil {
		old, err1 := pki.First(found.old)
		made, err2 := pki.First(found.new)
		return pki.Rotation{CA: a, Old: old, New: made, Key: found.key}, errors.Join(err1, err2)
	}
	for _, k := range all {
		certs, err := pki.All(k.file)
		switch {
		case err != nil:
			return pki.Rotation{}, &fault.Error{Node: k.node, Code: fault.Preflight, Err: fmt.Errorf("%s: %w", a.CertPath, err)}
		case !k.signs:
			return pki.Rotation{}, &fault.Error{Node: k.node, Code: fault.Preflight, Hint: `have whoever keeps the key make the new CA and sign with it, in the order of "Manual Rotation of CA Certificates" of kubernetes.io; kocli certs list --wide shows what is served on the way`,
				Err: fmt.Errorf("%s is not there: the CA is an external one, and kocli cannot replace it", a.KeyPath)}
		case len(certs) > 1 || !bytes.Equal(bytes.TrimSpace(k.file), bytes.TrimSpace(all[0].file)):
			return pki.Rotation{}, &fault.Error{Node: k.node, Code: fault.Preflight, Hint: "have the same single CA on all control planes first; kocli certs list --wide shows them",
				Err: fmt.Errorf("%s holds %d CAs, or others than that of %s", a.CertPath, len(certs), all[0].node)}
		}
	}
	old, err := pki.First(all[0].file)
	if err != nil {
		return pki.Rotation{}, err
	}
	x, err := pki.Successor(old, r.o.Clock.Now())
	x.CA = a
	return x, err
}

// signerFlags are those by which a user has the controller manager sign with other CAs
// than kubeadm's.
var signerFlags = regexp.MustCompile(`--cluster-signing-(kubelet|kube-apiserver|legacy)[a-z-]*-file=`)

// fit refuses a cluster that is not healthy, or not as kubeadm makes it.
func (r *rotating) fit(ctx context.Context) error {
	for _, n := range r.planes {
		l, err := r.hosts.Look(ctx, n.Name)
		if err != nil {
			return err
		}
		text, err := l.ReadFile(ctx, certs.ControllerManagerManifest)
		if err == nil {
			for _, x := range r.rotations {
				if x.Main() {
					_, err = staticpod.WithFlags(text, certs.ControllerFlags(x, pki.Trusted))
				}
			}
		}
		if err == nil && signerFlags.Match(text) {
			err = fmt.Errorf("the controller manager has signers of its own: %s", strings.TrimSpace(string(signerFlags.Find(text))))
		}
		if err != nil {
			return &fault.Error{Node: n.Name, Code: fault.Preflight, Hint: "have kubeadm's own flags for the CA there, as kubeadm init writes them", Err: fmt.Errorf("%s: %w", certs.ControllerManagerManifest, err)}
		}
	}
	if err := r.health.healthy(ctx); err != nil {
		return fault.New(fault.Preflight, "repair the cluster first: kocli status; where certificates have ended: kocli certs rescue", fmt.Errorf("CAs are replaced while the cluster is healthy: %w", err))
	}
	return r.knownNodes(ctx, true)
}

// knownNodes refuses nodes that are not in the YAML: kocli could not bring them the new
// CA, and they would be lost with the old one. Where nothing has been begun all have to be
// ready, and so have the cluster's own pods, which are replaced on the way.
func (r *rotating) knownNodes(ctx context.Context, ready bool) error {
	l, err := r.hosts.Look(ctx, r.seed.Name)
	if err != nil {
		return err
	}
	c, err := r.access.Look(ctx, l)
	if err != nil {
		return err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for i := range nodes {
		if _, ok := r.inv.Node(nodes[i].Name); !ok {
			errs = append(errs, fmt.Errorf("node %s of the cluster is not in the YAML: it would be lost with the old CA", nodes[i].Name))
		} else if ok, why := kube.NodeCondition(&nodes[i]); ready && !ok {
			errs = append(errs, fmt.Errorf("node %s: %s", nodes[i].Name, why))
		}
	}
	if ready {
		own, err := c.Templates(ctx, certs.CAMark, clusterNamespaces()...)
		errs = append(errs, err)
		for _, t := range own {
			errs = append(errs, t.Unready)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fault.New(fault.Preflight, "repair what is not ready: kocli status; a node that is not in the YAML: add it to spec.hosts, or take it out of the cluster", err)
	}
	return nil
}

// rotationBegun refuses what would get in the way of a rotation of CAs that has not come
// to its end: new control planes would be told another CA than the others.
func (s *Session) rotationBegun(ctx context.Context) error {
	planes := s.inv.ControlPlanes()
	there := make([]bool, len(planes))
	var wg sync.WaitGroup
	for i, n := range planes {
		wg.Go(func() {
			l, err := s.hosts.Look(ctx, n.Name)
			if err == nil {
				_, err = l.Stat(ctx, pki.RotationDir)
			}
			there[i] = err == nil
		})
	}
	wg.Wait()
	if i := slices.Index(there, true); i >= 0 {
		return fault.New(fault.Preflight, "finish it first: kocli certs rotate-ca -f "+s.o.SpecFile, fmt.Errorf("a rotation of CAs is not finished: %s on %s", pki.RotationDir, planes[i].Name))
	}
	return nil
}
