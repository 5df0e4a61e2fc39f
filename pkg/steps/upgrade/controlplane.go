package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/plan"
)

// Kubeadm puts the kubeadm of the version on a control plane, before anything else.
func Kubeadm(binaries []host.File) plan.Step {
	return converge.Files{Name: "upgrade/kubeadm", List: func(context.Context, host.Reader) ([]host.File, error) {
		for _, f := range binaries {
			if f.Path == kubeadmBinary {
				return []host.File{f}, nil
			}
		}
		return nil, errors.New("the bundle has no kubeadm")
	}}
}

// ControlPlane has the static pods of a control plane at the version, running and
// healthy. One that does not become healthy within its limit gets back what it had.
func ControlPlane(o Options) plan.Step {
	s := controlPlane{o}
	name := "upgrade/control-plane"
	return converge.Func{Name: name, CheckFn: s.check, ApplyFn: s.apply}
}

type controlPlane struct{ Options }

func (s controlPlane) check(ctx context.Context, r host.Reader) ([]plan.Change, error) {
	type answer struct {
		there bool
		err   error
	}
	left := make(chan answer, 1)
	go func() {
		there, err := exists(ctx, r, kubeadm.UpgradeConfigPath)
		left <- answer{there, err}
	}()
	oldest, err := s.onDisk(ctx, r)
	a := <-left
	if err := errors.Join(err, a.err); err != nil {
		return nil, err
	}
	change := plan.Change{Object: "control plane of " + s.Node.Name, From: oldest, To: s.to(), Disruptive: true}
	switch {
	case !s.reached(oldest):
		return []plan.Change{change}, nil
	case a.there:
		change.From = "at " + oldest + ", not finished"
		return []plan.Change{change}, nil
	}
	if err := s.running(ctx, s.Local.Look); err != nil {
		if unreachable(err) {
			return nil, err
		}
		change.From, change.Disruptive = err.Error(), false
		return []plan.Change{change}, nil
	}
	return nil, nil
}

// onDisk returns the oldest version in the manifests of the static pods. One that
// lacks, as where kubeadm was ended between two renames, has none.
func (s controlPlane) onDisk(ctx context.Context, r host.Reader) (string, error) {
	paths := kubeadm.ComponentManifests()
	files, errs := make([][]byte, len(paths)), make([]error, len(paths))
	done := make(chan struct{})
	for i, p := range paths {
		go func() {
			files[i], errs[i] = r.ReadFile(ctx, p)
			done <- struct{}{}
		}()
	}
	for range paths {
		<-done
	}
	oldest := ""
	for i := range paths {
		if errors.Is(errs[i], fs.ErrNotExist) {
			return "incomplete", nil
		}
		if errs[i] != nil {
			return "", errs[i]
		}
		v := kubeadm.ManifestVersion(files[i])
		if v == "" {
			return "", fmt.Errorf("%s on %s names no version of Kubernetes that kocli can read", paths[i], r.Name())
		}
		if oldest == "" || !s.reached(v) {
			oldest = v
		}
	}
	return oldest, nil
}

// running returns nil when the API server of the node answers at the version, and the
// static pods beside it are ready at it.
func (s controlPlane) running(ctx context.Context, client func(context.Context) (*kube.Client, error)) error {
	c, err := client(ctx)
	if err != nil {
		return err
	}
	if err := c.Ready(ctx); err != nil {
		return fmt.Errorf("the API server of %s is not ready: %w", s.Node.Name, err)
	}
	v, err := c.Version(ctx)
	if err != nil {
		return err
	}
	if !s.reached(v) {
		return fmt.Errorf("the API server of %s still runs %s", s.Node.Name, v)
	}
	return c.ControlPlaneAt(ctx, s.Node.Name, s.reached)
}

// healthy returns nil when the control plane runs at the version and etcd is well.
func (s controlPlane) healthy(ctx context.Context, h host.Host) error {
	if err := s.running(ctx, s.Local.Dial); err != nil {
		return err
	}
	return s.etcdHealthy(ctx, h)
}

// etcdHealthy returns nil when all members are, or etcd is elsewhere.
func (s controlPlane) etcdHealthy(ctx context.Context, h host.Host) error {
	v, err := etcd.Look(ctx, h)
	if errors.Is(err, etcd.ErrNone) || s.Inventory.ExternalEtcd() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	return v.Healthy(ctx)
}

// kubeadmTries is how often kubeadm is asked where its own look at the cluster fails:
// a node that has just lost its API server is called ready for most of a minute, and
// not ready for a moment afterwards.
const kubeadmTries = 3

func (s controlPlane) kubeadm(ctx context.Context, h host.Host, run func() error) error {
	var err error
	for range kubeadmTries {
		err = run()
		if err == nil || !strings.Contains(err.Error(), "[ERROR ControlPlaneNodesReady]") && !strings.Contains(err.Error(), "[ERROR CreateJob]") {
			return err
		}
		if werr := s.waitCalm(ctx, h); werr != nil {
			return errors.Join(err, werr)
		}
	}
	return err
}

func (s controlPlane) waitCalm(ctx context.Context, h host.Host) error {
	return s.within(ctx, s.limit(), func(ctx context.Context) error { return s.calm(ctx, h) })
}

// calm returns nil when nothing is in the way of kubeadm, which does not wait: all
// control planes are ready, and etcd is well. Where it was interrupted, they come back
// in a minute.
func (s controlPlane) calm(ctx context.Context, h host.Host) error {
	if err := s.planesReady(ctx, ""); err != nil {
		return err
	}
	if err := s.answers(ctx); err != nil {
		return err
	}
	return s.etcdHealthy(ctx, h)
}

// planesReady returns nil when all control planes are ready, except is left out.
func (s controlPlane) planesReady(ctx context.Context, except string) error {
	c, err := s.API.Dial(ctx)
	if err != nil {
		return err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	for i := range nodes {
		n := &nodes[i]
		if ok, why := kube.NodeCondition(n); !ok && n.Name != except && slices.Contains(kube.NodeRoles(n), "control-plane") {
			return fmt.Errorf("node %s is not ready: %s", n.Name, why)
		}
	}
	return nil
}

// spare returns nil when the cluster can be without what is on this node for a moment:
// the other control planes are ready and etcd is well. It can where nothing serves here
// anyway.
func (s controlPlane) spare(ctx context.Context, h host.Host) error {
	if s.serves(ctx, h) != nil {
		return ctx.Err()
	}
	if err := s.planesReady(ctx, s.Node.Name); err != nil {
		return err
	}
	return s.etcdHealthy(ctx, h)
}

// answers returns nil when the node's own API server is ready.
func (s controlPlane) answers(ctx context.Context) error {
	own, err := s.Local.Dial(ctx)
	if err != nil {
		return err
	}
	if err := own.Ready(ctx); err != nil {
		return fmt.Errorf("the API server of %s is not ready: %w", s.Node.Name, err)
	}
	return nil
}

// serves returns nil when the node's own API server is ready, and its member of etcd,
// where it has one, is well.
func (s controlPlane) serves(ctx context.Context, h host.Host) error {
	if err := s.answers(ctx); err != nil {
		return err
	}
	v, err := etcd.Look(ctx, h)
	if errors.Is(err, etcd.ErrNone) || s.Inventory.ExternalEtcd() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	return v.Here(ctx)
}

func (s controlPlane) apply(ctx context.Context, h host.Host) error {
	todo, err := s.check(ctx, h)
	if err != nil || len(todo) == 0 {
		return err
	}
	if err := s.complete(ctx, h); err != nil {
		return err
	}
	begun, err := exists(ctx, h, kubeadm.UpgradeConfigPath)
	if err != nil {
		return err
	}
	if err := s.waitCalm(ctx, h); err != nil {
		// Where others are to blame, what is here is left as it is.
		if begun && !lost(ctx, err) && s.serves(ctx, h) != nil && ctx.Err() == nil {
			return s.rollBack(ctx, h, err)
		}
		return fault.New(fault.Failure, logsHint(h.Name()), fmt.Errorf("before the control plane of %s is upgraded: %w", s.Node.Name, err))
	}
	if err := s.putConfig(ctx, h, kubeadm.UpgradeConfigPath); err != nil {
		return err
	}
	argv := []string{"upgrade", "node", "--config", kubeadm.UpgradeConfigPath}
	if s.First {
		argv = []string{"upgrade", "apply", s.to(), "--yes", "--config", kubeadm.UpgradeConfigPath}
	}
	err = s.kubeadm(ctx, h, func() error { return kubeadmrun.Detached(ctx, h, "to "+s.to(), argv...) })
	if err == nil {
		err = s.within(ctx, s.limit(), func(ctx context.Context) error { return s.healthy(ctx, h) })
		if err != nil {
			err = fmt.Errorf("not healthy within %s: %w", s.limit(), err)
		}
	}
	if err == nil {
		// kubeadm leaves a copy of all the data of etcd; what is needed was kept before.
		if _, err := h.Run(ctx, host.Command("rm", "-rf", "--", kubeadm.TmpDir)); err != nil {
			return err
		}
		return h.Remove(ctx, kubeadm.UpgradeConfigPath)
	}
	if lost(ctx, err) || errors.Is(err, kubeadmrun.ErrNotStarted) {
		return err
	}
	return s.rollBack(ctx, h, err)
}

// complete puts manifests back that lack, and waits for what they start.
func (s controlPlane) complete(ctx context.Context, h host.Host) error {
	back, err := Mend(ctx, h)
	if err != nil || !back {
		return err
	}
	err = s.within(ctx, s.limit(), func(ctx context.Context) error {
		c, err := s.Local.Dial(ctx)
		if err != nil {
			return err
		}
		return c.Ready(ctx)
	})
	if err != nil {
		return fault.New(fault.Failure, logsHint(h.Name()), fmt.Errorf("the control plane does not come back with manifests that were put back: %w", err))
	}
	return nil
}

// Mend puts manifests of static pods back on a control plane that lack there though an
// upgrade was begun: kubeadm was ended between two renames, and nobody else can. One
// that is still at work is waited for. It reports whether it had to put any back.
func Mend(ctx context.Context, h host.Host) (bool, error) {
	begun, err := exists(ctx, h, kubeadm.UpgradeConfigPath)
	if err != nil || !begun {
		return false, err
	}
	if err := kubeadmrun.Wait(ctx, h); err != nil {
		return false, err
	}
	kept, err := h.Query(ctx, host.Command("ls", "-1", Root()))
	var x *host.ExitError
	if err != nil && !errors.As(err, &x) {
		return false, err
	}
	back := false
	for _, name := range strings.Fields(string(kept.Stdout)) {
		if _, err := version.ParseSemantic(name); err != nil || strings.Contains(name, "-") || strings.HasSuffix(name, ".partial") {
			continue // set aside, or not complete
		}
		for _, p := range append(kubeadm.ComponentManifests(), kubeadm.EtcdManifestPath) {
			there, err := exists(ctx, h, p)
			if err != nil {
				return back, err
			}
			if there {
				continue
			}
			put, err := restore(ctx, h, path.Join(SavedDir(name), p), p)
			if err != nil {
				return back, err
			}
			back = back || put
		}
	}
	return back, nil
}

// restore puts a manifest back where it is not as it was kept. It reports whether it
// had to. What was never kept is left.
func restore(ctx context.Context, h host.Host, saved, manifest string) (bool, error) {
	data, err := h.ReadFile(ctx, saved)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return h.Put(ctx, host.Bytes(manifest, 0o600, data))
}

// logsHint is where the static pods of a node say what is wrong.
func logsHint(node string) string {
	return fmt.Sprintf("see why: kocli exec %s --root -- sh -c 'tail -n 20 /var/log/pods/kube-system_*/*/*.log; journalctl -u kubelet -n 30 --no-pager'; then run the same command again", node)
}

func unreachable(err error) bool { return fault.CodeOf(err) == fault.Unreachable }
