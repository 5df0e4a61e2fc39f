// Package restore makes the control planes of a cluster anew from a backup, or from
// the one member of etcd that survived: the data of etcd first, on all members at
// once, then what runs on it, in its order. Every step looks at what is true on the
// host, so that a run that was killed goes on; what was there stays beside.
package restore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/etcd/datadir"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/staticpod"
)

// Options are what the steps of one control plane need.
type Options struct {
	// Inventory has the members of the restored etcd, and no others, as its control
	// planes.
	Inventory *inventory.Inventory
	Node      inventory.Node
	API       kube.API // leads to the API server of this node
	ID        string   // of the restore: see NewID
	Kocli     string   // where kocli is on the host
	// Files are those that all control planes share, from the backup. None where they
	// are on the host: of a survivor.
	Files []host.File
	// Snapshot is the snapshot of etcd, with its size and digest; its path is of no
	// meaning. Nil has the data that is on the host taken.
	Snapshot *host.File
	Now      func() time.Time
	// Patience is how long a kubelet is given to register or to report by itself; zero
	// means ownTime.
	Patience time.Duration
}

// DataDir is etcd's data directory, as kubeadm has it.
const DataDir = "/var/lib/etcd"

// snapshotPath is where a snapshot waits on a host: on the disk that it is for.
const snapshotPath = DataDir + "/.kocli-snapshot.db"

// NewID names a restore by its source, which has to be another one each time, and the
// members. The token of the new cluster is made of it.
func NewID(source string, members []inventory.Node) string {
	h := sha256.New()
	_, _ = fmt.Fprintln(h, source) // never fails
	for _, m := range members {
		_, _ = fmt.Fprintln(h, m.Name, m.IP) // never fails
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// Restored reports whether the data on a host is that of this restore.
func Restored(ctx context.Context, r host.Reader, id string) (bool, error) {
	data, err := r.ReadFile(ctx, datadir.MarkerPath(DataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && datadir.MarkerID(data) == id, err
}

// manifests are the static pods of a control plane, in the order in which they end.
func manifests() []string {
	return []string{
		kubeadm.ManifestsDir + "/kube-scheduler.yaml", kubeadm.ManifestsDir + "/kube-controller-manager.yaml", kubeadm.APIServerManifestPath, kubeadm.EtcdManifestPath,
	}
}

// containers are what runs in them.
func containers() []string {
	return []string{"kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"}
}

// How long things may take on a busy host.
const (
	stopTime    = 3 * time.Minute
	stopNudge   = 45 * time.Second // until what does not end is told to
	quorumTime  = 5 * time.Minute
	readyTime   = 5 * time.Minute
	restoreTime = 30 * time.Minute
)

// Stop ends the control plane on a host, as long as its data is the old one.
func Stop(o Options) plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		done, err := Restored(ctx, r, o.ID)
		if err != nil || done {
			return nil, err
		}
		var out []plan.Change
		there, err := present(ctx, r, manifests())
		if err != nil {
			return nil, err
		}
		for _, p := range there {
			out = append(out, plan.Change{Object: "static pod " + strings.TrimSuffix(path.Base(p), ".yaml"), To: "stop", Disruptive: true})
		}
		running, err := staticpod.Running(ctx, r, "etcd")
		if err == nil && len(out) == 0 && len(running) > 0 {
			out = append(out, plan.Change{Object: "etcd", From: "still running", To: "stop", Disruptive: true})
		}
		return out, err
	}
	return converge.Func{Name: "restore/stop", CheckFn: check, ApplyFn: func(ctx context.Context, h host.Host) error {
		if todo, err := check(ctx, h); err != nil || len(todo) == 0 {
			return err
		}
		for _, p := range manifests() { // the ledger keeps what was there
			if err := h.Remove(ctx, p); err != nil {
				return err
			}
		}
		return stopped(ctx, h)
	}}
}

// stopped waits until nothing of a control plane runs. Where the kubelet does not end
// it, because it is ill, it is told to end.
func stopped(ctx context.Context, h host.Host) error {
	wait, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	nudge := time.Now().Add(stopNudge)
	err := kube.Poll(wait, time.Second, func(ctx context.Context) error {
		var left []string
		for _, c := range containers() {
			ids, err := staticpod.Running(ctx, h, c)
			if err != nil {
				return err
			}
			if len(ids) > 0 {
				left = append(left, c)
			}
			if len(ids) > 0 && time.Now().After(nudge) {
				if _, err := staticpod.Signal(ctx, h, c, "SIGTERM"); err != nil {
					return err
				}
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("%s still runs", strings.Join(left, ", "))
		}
		return nil
	})
	if err != nil {
		return fault.New(fault.Failure, fmt.Sprintf("see why: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager; then run the same command again", h.Name()),
			fmt.Errorf("stop the control plane on %s: %w", h.Name(), err))
	}
	return nil
}

// patiently asks until it is told yes, or the time is over. Its error is the last
// answer, and not that the last question had no time left.
func patiently(ctx context.Context, limit time.Duration, ask func(context.Context) error) error {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	err := kube.Poll(wait, time.Second, func(ctx context.Context) error {
		err := ask(ctx)
		if ctx.Err() == nil {
			last = err
		}
		return err
	})
	if err != nil && last != nil && !errors.Is(err, context.Canceled) {
		return last
	}
	return err
}

// present lists the paths that are there.
func present(ctx context.Context, r host.Reader, paths []string) ([]string, error) {
	var out []string
	for _, p := range paths {
		_, err := r.Stat(ctx, p)
		if err == nil {
			out = append(out, p)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return out, nil
}

// Data puts the restored data of etcd in its place. The old data stays beside it.
func Data(o Options) plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		done, err := Restored(ctx, r, o.ID)
		if err != nil {
			return nil, err
		}
		if done {
			left, err := present(ctx, r, []string{snapshotPath})
			if len(left) > 0 {
				return []plan.Change{{Object: "file " + snapshotPath, To: "remove"}}, err
			}
			return nil, err
		}
		c := plan.Change{Object: "data of etcd", To: fmt.Sprintf("restore as a cluster of %d members", len(o.Inventory.ControlPlanes())), Disruptive: true}
		if o.Snapshot != nil {
			c.Bytes = o.Snapshot.Size
		}
		return []plan.Change{c}, nil
	}
	return converge.Func{Name: "restore/data", CheckFn: check, ApplyFn: func(ctx context.Context, h host.Host) error {
		todo, err := check(ctx, h)
		if err != nil || len(todo) == 0 {
			return err
		}
		done, err := Restored(ctx, h, o.ID)
		if err != nil {
			return err
		}
		if !done {
			if err := o.restore(ctx, h); err != nil {
				return err
			}
		}
		return h.Remove(ctx, snapshotPath)
	}}
}

func (o Options) restore(ctx context.Context, h host.Host) error {
	rq := datadir.Request{ID: o.ID, Dir: DataDir, Member: o.member()}
	if o.Snapshot != nil {
		f := *o.Snapshot
		f.Path, f.Mode, f.Secret = snapshotPath, 0o600, true
		if err := converge.Put(ctx, h, []host.File{f}, 1); err != nil {
			return err
		}
		rq.Snapshot = snapshotPath
	}
	doc, err := json.Marshal(rq)
	if err != nil {
		return err
	}
	c := host.Command(o.Kocli, "node", "restore", "--protocol", datadir.Protocol)
	c.Stdin, c.Timeout = strings.NewReader(string(doc)), restoreTime
	if _, err := h.Run(ctx, c); err != nil {
		return fault.New(fault.Failure, fmt.Sprintf("see what is wrong on %s (room: df -h %s), then run the same command again", h.Name(), DataDir), fmt.Errorf("restore the data of etcd: %w", err))
	}
	return nil
}

// member is this node's member of the new cluster.
func (o Options) member() datadir.Member {
	var all []string
	for _, n := range o.Inventory.ControlPlanes() {
		all = append(all, n.Name+"="+peerURL(n))
	}
	return datadir.Member{Name: o.Node.Name, PeerURL: peerURL(o.Node), Cluster: strings.Join(all, ","), Token: "kocli-" + o.ID}
}

// peerURL is where kubeadm has a member serve the others.
func peerURL(n inventory.Node) string {
	if strings.Contains(n.IP, ":") {
		return "https://[" + n.IP + "]:2380"
	}
	return "https://" + n.IP + ":2380"
}

// Quorum waits until the restored etcd has all its members, and says which lack.
func Quorum(o Options) plan.Step {
	whole := func(ctx context.Context, r host.Reader) error {
		v, err := etcd.Look(ctx, r)
		if err != nil {
			return err
		}
		all, err := v.Health(ctx)
		if err != nil {
			return err
		}
		var errs []error
		for _, n := range o.Inventory.ControlPlanes() {
			i := slices.IndexFunc(all, func(h etcd.Health) bool { return h.At(n.Name, n.IP) })
			switch {
			case i < 0:
				errs = append(errs, fmt.Errorf("%s is no member", n.Name))
			case all[i].Err != nil:
				errs = append(errs, fmt.Errorf("%s: %w", n.Name, all[i].Err))
			}
		}
		return errors.Join(errs...)
	}
	return converge.Func{
		Name: "restore/quorum",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			if err := whole(ctx, r); err != nil {
				return []plan.Change{{Object: "etcd", To: fmt.Sprintf("%d members that are healthy", len(o.Inventory.ControlPlanes())), After: "restore/etcd"}}, ctx.Err()
			}
			return nil, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			if err := patiently(ctx, quorumTime, func(ctx context.Context) error { return whole(ctx, h) }); err != nil {
				return fault.New(fault.Unhealthy, fmt.Sprintf("see why: kocli exec %s --root -- sh -c 'tail -n 20 /var/log/pods/kube-system_etcd-*/*/*.log'; then run the same command again", h.Name()),
					fmt.Errorf("the restored etcd is not healthy within %s: %w", quorumTime, err))
			}
			return nil
		},
	}
}
