package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
)

// rollBack has a control plane be as it was kept, waits until it serves, and returns
// an error that says all of that. An etcd that is well stays at its new version, with
// all that was written to it: older API servers work with it, and older data would
// lose what was written since.
func (s controlPlane) rollBack(ctx context.Context, h host.Host, cause error) error {
	kept, err := exists(ctx, h, SavedDir(s.to()))
	if err != nil || !kept {
		return fault.New(fault.Failure, logsHint(h.Name()), errors.Join(fmt.Errorf("control plane %s at %s: %w; nothing was kept that could be put back", s.Node.Name, s.to(), cause), err))
	}
	plan.Say(ctx, fmt.Sprintf("%s: %v; putting back what it had", s.Node.Name, cause))
	back, err := s.putAllBack(ctx, h)
	if err != nil {
		if lost(ctx, err) {
			return errors.Join(cause, err)
		}
		return fault.New(fault.Failure, logsHint(h.Name()), fmt.Errorf("control plane %s at %s: %w; and putting back what it had came to no end: %w", s.Node.Name, s.to(), cause, err))
	}
	serves := ""
	err = s.within(ctx, s.settle(), func(ctx context.Context) error {
		c, err := s.Local.Dial(ctx)
		if err != nil {
			return err
		}
		if err := c.Ready(ctx); err != nil {
			return err
		}
		if serves, err = c.Version(ctx); err != nil {
			return err
		}
		if err := c.ControlPlaneAt(ctx, s.Node.Name, func(string) bool { return true }); err != nil {
			return err
		}
		n, err := c.Node(ctx, s.Node.Name)
		if err != nil || n == nil {
			return err
		}
		// Its kubelet had nobody to report to for a while.
		if ok, why := kube.NodeCondition(n); !ok {
			return fmt.Errorf("node %s is not ready: %s", n.Name, why)
		}
		return nil
	})
	if err != nil {
		return fault.New(fault.Failure, logsHint(h.Name())+"; a snapshot of etcd from before is at "+SnapshotPath(s.to()),
			fmt.Errorf("control plane %s at %s: %w; what it had was put back (%s), and it does not serve: %w", s.Node.Name, s.to(), cause, back, err))
	}
	if !s.reached(serves) {
		if err := s.forgetVersion(ctx, h, serves); err != nil {
			return errors.Join(cause, err)
		}
	}
	if err := s.setAside(ctx, h); err != nil {
		return errors.Join(cause, err)
	}
	return fault.New(fault.Failure, fmt.Sprintf("the cluster serves; find the cause, or take another bundle, then run the same command again. To see more: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager", h.Name()),
		fmt.Errorf("control plane %s does not get to %s and is back at %s (%s): %w", s.Node.Name, s.to(), serves, back, cause))
}

// putAllBack puts back manifests, kubeadm and the kubelet's configuration, and says
// what it was.
func (s controlPlane) putAllBack(ctx context.Context, h host.Host) (string, error) {
	var what []string
	etcdBack, err := s.etcdBack(ctx, h)
	if err != nil {
		return "", err
	}
	if etcdBack {
		what = append(what, "etcd")
	}
	for _, p := range kubeadm.ComponentManifests() {
		put, err := restore(ctx, h, s.saved(p), p)
		if err != nil {
			return "", err
		}
		if put {
			what = append(what, strings.TrimSuffix(path.Base(p), ".yaml"))
		}
	}
	files := []string{kubeadmBinary}
	if c, err := s.API.Dial(ctx); err == nil {
		n, err := c.Node(ctx, s.Node.Name)
		if err == nil && n != nil && s.reached(n.Status.NodeInfo.KubeletVersion) {
			files = nil // the kubelet is there already, with a configuration of its own
		}
	}
	if files != nil {
		files = append(files, kubeadm.KubeletConfigPath, kubeadm.KubeletFlagsPath)
	}
	for _, f := range files {
		if err := putBack(ctx, h, s.saved(f), f); err != nil {
			return "", err
		}
	}
	what = append(what, "kubeadm and its configuration")
	return strings.Join(what, ", "), nil
}

// etcdBack puts the manifest of etcd back where etcd is not well, and where that is
// safe: data of a newer minor is not read by an older etcd once all members have been
// at it, which kubeadm itself sees to for a single member.
func (s controlPlane) etcdBack(ctx context.Context, h host.Host) (bool, error) {
	v, err := etcd.Look(ctx, h)
	if errors.Is(err, etcd.ErrNone) || s.Inventory.ExternalEtcd() != nil {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = s.within(ctx, s.settle()/2, func(ctx context.Context) error { return v.Here(ctx) })
	if err == nil || lost(ctx, err) {
		return false, ctx.Err()
	}
	return restore(ctx, h, s.saved(kubeadm.EtcdManifestPath), kubeadm.EtcdManifestPath)
}

// forgetVersion has what kubeadm keeps in the cluster be of the version that is served,
// where no API server has the new one: the version that it remembers, and the
// configuration of the kubelets, which a kubelet that joins is given.
func (s controlPlane) forgetVersion(ctx context.Context, h host.Host, serves string) error {
	c, err := s.Local.Dial(ctx)
	if err != nil {
		return err
	}
	others, err := c.APIServers(ctx)
	if err != nil {
		return err
	}
	for _, v := range others {
		if s.reached(v) {
			return nil
		}
	}
	kept, err := h.ReadFile(ctx, KubeletConfigMapPath(s.to()))
	if err == nil {
		err = c.PutBackConfigMap(ctx, kept)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // an older kocli kept none
		return err
	}
	conf, err := c.ConfigMap(ctx, "kube-system", "kubeadm-config")
	if err != nil {
		return err
	}
	text := conf["ClusterConfiguration"]
	v, err := kubeadm.VersionOf(text)
	if err != nil || !s.reached(v) {
		return err
	}
	next, err := kubeadm.WithVersion(text, serves)
	if err != nil {
		return err
	}
	return c.SetConfigMap(ctx, "kube-system", "kubeadm-config", "ClusterConfiguration", next, false)
}

// setAside gives what was kept another name, so that the next try keeps what there is
// then, and takes the mark of the upgrade away, with the copies that kubeadm made: one of
// all the data of etcd in every try.
func (o Options) setAside(ctx context.Context, h host.Host) error {
	if err := h.Remove(ctx, kubeadm.TmpDir); err != nil {
		return err
	}
	there, err := exists(ctx, h, SavedDir(o.to()))
	if err != nil {
		return err
	}
	if there {
		aside := SavedDir(o.to()) + "-rolled-back"
		if err := h.Remove(ctx, aside); err != nil {
			return err
		}
		if _, err := h.Run(ctx, host.Command("mv", "-T", SavedDir(o.to()), aside)); err != nil {
			return err
		}
	}
	return h.Remove(ctx, kubeadm.UpgradeConfigPath)
}
