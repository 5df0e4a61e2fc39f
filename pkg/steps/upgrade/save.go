package upgrade

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
)

const (
	kubeletBinary = "/usr/bin/kubelet"
	kubeadmBinary = "/usr/bin/kubeadm"
	kubeletUnit   = "/etc/systemd/system/kubelet.service"
	kubeletDropIn = "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf"
)

// kept are the files and folders that an upgrade may replace on a node.
func (o Options) kept() []string {
	out := []string{kubeletBinary, kubeadmBinary, kubeletUnit, kubeletDropIn, kubeadm.KubeletConfigPath, kubeadm.KubeletFlagsPath}
	if o.Node.ControlPlane {
		out = append(out, kubeadm.ManifestsDir, kubeadm.PKIDir, "/etc/kubernetes/admin.conf", "/etc/kubernetes/controller-manager.conf", "/etc/kubernetes/scheduler.conf")
	}
	return out
}

// copyAll copies from the root: cp of coreutils 9.1 looks for the folders that it has
// made below where it stands. What was copied, to "$4", is on the disk when it ends: a
// host that loses power in the upgrade has to have it.
const copyAll = `cd / && cp "$@" && sync -f -- "$4"`

// snapshotTime is how long a snapshot of etcd may take: 8 GiB at 20 MB/s.
const snapshotTime = 7 * time.Minute

// Save keeps on a node what the hop may replace there, readable by root alone; on a
// control plane with a member of etcd a snapshot of its data too. It is all there or
// not at all: the folder gets its name last. What earlier hops left is removed, and
// where nothing has been begun, what an earlier try at this hop left too: it is old.
func Save(o Options) plan.Step {
	var saved atomic.Bool // by this run
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		there, err := exists(ctx, r, SavedDir(o.to()))
		if err != nil || there && (!o.Anew || saved.Load()) {
			return nil, err
		}
		what := "kubelet and its configuration"
		if o.Node.ControlPlane {
			what = "manifests, certificates, kubelet and its configuration"
			member, err := o.member(ctx, r)
			if err != nil {
				return nil, err
			}
			if member {
				what = "a snapshot of etcd, " + what
			}
		}
		return []plan.Change{{Object: "folder " + SavedDir(o.to()), To: what}}, nil
	}
	return converge.Func{Name: "upgrade/save", CheckFn: check, ApplyFn: func(ctx context.Context, h host.Host) error {
		if todo, err := check(ctx, h); err != nil || len(todo) == 0 {
			return err
		}
		err := o.save(ctx, h)
		saved.Store(err == nil)
		return err
	}}
}

// member reports whether the node has a member of etcd that kubeadm runs.
func (o Options) member(ctx context.Context, r host.Reader) (bool, error) {
	if !o.Node.ControlPlane || o.Inventory.ExternalEtcd() != nil {
		return false, nil
	}
	return exists(ctx, r, kubeadm.EtcdManifestPath)
}

func (o Options) save(ctx context.Context, h host.Host) error {
	if o.Node.ControlPlane { // what another try at another version left half-way is not what has to be kept
		if _, err := Mend(ctx, h); err != nil {
			return err
		}
	}
	old, err := h.Query(ctx, host.Command("ls", "-1", Root()))
	var x *host.ExitError
	if err != nil && !errors.As(err, &x) {
		return err
	}
	partial := SavedDir(o.to()) + ".partial"
	if err := h.Remove(ctx, partial); err != nil {
		return err
	}
	if _, err := h.Run(ctx, host.Command("mkdir", "-p", "-m", "0700", Root(), partial)); err != nil {
		return err
	}
	argv := []string{"sh", "-c", copyAll, "kocli-save", "-a", "--parents", "-t", partial, "--"}
	for _, f := range o.kept() {
		_, err := h.Stat(ctx, f)
		if err == nil {
			argv = append(argv, f)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if _, err := h.Run(ctx, host.Command(argv...)); err != nil {
		return err
	}
	member, err := o.member(ctx, h)
	if err != nil {
		return err
	}
	if member {
		c := host.Command(o.Kocli, "node", "snapshot", "--to", path.Join(partial, path.Base(SnapshotPath(o.to()))))
		c.Timeout = snapshotTime
		if _, err := h.Run(ctx, c); err != nil {
			return fault.New(fault.Failure, "make etcd healthy first: kocli status; then run the same command again", err)
		}
	}
	if o.Node.ControlPlane {
		if err := o.keepKubeletConfig(ctx, h, path.Join(partial, path.Base(KubeletConfigMapPath(o.to())))); err != nil {
			return err
		}
	}
	for _, name := range strings.Fields(string(old.Stdout)) {
		if name != path.Base(partial) {
			if err := h.Remove(ctx, path.Join(Root(), name)); err != nil {
				return err
			}
		}
	}
	_, err = h.Run(ctx, host.Command("mv", "-T", partial, SavedDir(o.to())))
	return err
}

// keepKubeletConfig writes the configuration that all kubelets share to a file, as the
// cluster has it.
func (o Options) keepKubeletConfig(ctx context.Context, h host.Host, file string) error {
	c, err := o.API.Dial(ctx)
	if err != nil {
		return err
	}
	kept, err := c.KeepConfigMap(ctx, "kube-system", KubeletConfigMap)
	if err != nil || kept == nil {
		return err
	}
	_, err = h.Put(ctx, host.Bytes(file, 0o600, kept))
	return err
}
