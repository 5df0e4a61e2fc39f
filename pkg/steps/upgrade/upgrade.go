// Package upgrade brings the nodes of a running cluster to another version of
// Kubernetes, at most a minor further: control planes by kubeadm, one by one, then
// kubelets on nodes that are drained. What a node had is kept first, and put back
// where it does not become healthy.
package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/resolver"
)

// Options are what the steps of one node need for one hop.
type Options struct {
	Inventory *inventory.Inventory // at the version that the hop leads to
	Node      inventory.Node
	From      string   // the oldest version in the cluster
	API       kube.API // of the cluster, through a control plane that answers
	Local     kube.API // through this node, which is a control plane
	Kocli     string   // where kocli is on the host
	// First says that this is the control plane that tells the cluster of the version:
	// kubeadm upgrade apply. The others follow: kubeadm upgrade node.
	First bool
	// Anew says that the hop has not been begun on any node.
	Anew bool
	// Components are the versions that the bundle has for this version of Kubernetes.
	Components map[string]string
	Drain      kube.DrainOptions
	// Before runs before the node is drained, and After once its kubelet is back; nil
	// where there is nothing to run.
	Before, After func(context.Context, host.Host) error
	// Alone says that the cluster has no other node that pods could move to.
	Alone bool
	// PlanSaid is told what kubeadm upgrade plan says against the hop, and returns why it
	// ends there; nil where the hop goes on all the same.
	PlanSaid func(said string) error
	// Limit is how long a control plane or a kubelet is given to become healthy, and
	// Settle how long for what was put back; zero means Limit's default.
	Limit, Settle time.Duration
	// Calm is how long the static pods of a control plane have to be well without a break
	// once its kubelet is back; zero means calm.
	Calm time.Duration
	// Deaf is how long clients may not notice that the virtual IP has moved; zero means
	// deaf.
	Deaf time.Duration
	// Poll is how often it is looked at; zero means every second.
	Poll time.Duration
}

// healthy is how long a control plane or a kubelet is given by default.
const healthy = 5 * time.Minute

// calm is longer than a kubelet takes from its start to its first look at its static
// pods.
const calm = 15 * time.Second

// deaf is when client-go gives a silent connection up: it asks after 30 s, and waits
// for an answer for 15 s (golang.org/x/net/http2, ReadIdleTimeout and PingTimeout as
// k8s.io/apimachinery sets them).
const deaf = 45 * time.Second

func (o Options) calm() time.Duration { return orElse(o.Calm, calm) }
func (o Options) deaf() time.Duration { return orElse(o.Deaf, deaf) }

func (o Options) limit() time.Duration  { return orElse(o.Limit, healthy) }
func (o Options) settle() time.Duration { return orElse(o.Settle, healthy) }
func (o Options) poll() time.Duration   { return orElse(o.Poll, time.Second) }

func orElse(d, other time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return other
}

// to is the version that the hop leads to.
func (o Options) to() string { return o.Inventory.Version() }

// reached reports whether a version is the one that the hop leads to, or a newer one.
func (o Options) reached(v string) bool {
	have, err1 := version.ParseSemantic(v)
	want, err2 := version.ParseSemantic(o.to())
	return err1 == nil && err2 == nil && have.AtLeast(want)
}

// Root is the folder on a host in which what an upgrade replaces is kept.
func Root() string { return ledger.UpgradeDir() }

// SavedDir is where what a node had before the hop to a version is kept, each file
// under its own path. SnapshotPath in it is the data of etcd, and KubeletConfigMapPath
// a part of what kubeadm keeps in the cluster.
func SavedDir(version string) string { return path.Join(Root(), version) }

// SnapshotPath is the snapshot of etcd from before the hop to a version.
func SnapshotPath(version string) string { return path.Join(SavedDir(version), "etcd.db") }

// KubeletConfigMap is where kubeadm keeps in the cluster what all kubelets share. Its
// uploads have the defaults of their own version.
const KubeletConfigMap = "kubelet-config"

// KubeletConfigMapPath is where it is kept as it was before the hop to a version.
func KubeletConfigMapPath(version string) string {
	return path.Join(SavedDir(version), KubeletConfigMap+".yaml")
}

func (o Options) saved(file string) string { return path.Join(SavedDir(o.to()), file) }

// Unfinished reports whether an upgrade was interrupted in its work on a node: on its
// control plane, or on its kubelet.
func Unfinished(ctx context.Context, r host.Reader) (controlPlane, kubelet bool, err error) {
	var found [2]bool
	var errs [2]error
	var wg sync.WaitGroup
	for i, p := range []string{kubeadm.UpgradeConfigPath, kubeadm.UpgradeKubeletConfigPath} {
		wg.Go(func() { found[i], errs[i] = exists(ctx, r, p) })
	}
	wg.Wait()
	return found[0], found[1], errors.Join(errs[:]...)
}

// exists reports whether there is something at a path.
func exists(ctx context.Context, r host.Reader, file string) (bool, error) {
	_, err := r.Stat(ctx, file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// within polls until ready returns nil, for a time.
func (o Options) within(ctx context.Context, limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return kube.Poll(ctx, o.poll(), ready)
}

// putConfig writes kubeadm's configuration for the upgrade to a path, and what the
// node's kubelet has of its own.
func (o Options) putConfig(ctx context.Context, h host.Host, to string) error {
	resolv, err := resolver.KubeletPath(ctx, h)
	if err != nil {
		return err
	}
	node := kubeadm.NodeOptions{ResolvConf: resolv}
	config, err := kubeadm.Upgrade(o.Inventory, o.Node, node)
	if err != nil {
		return err
	}
	if err := kubeadmrun.PutPatch(ctx, h, o.Node, node); err != nil {
		return err
	}
	_, err = h.Put(ctx, host.Bytes(to, 0o600, config))
	return err
}

// putBack replaces a file by the one that was kept, where one was. A program that runs
// cannot be written over, so it is renamed into place.
func putBack(ctx context.Context, h host.Host, saved, file string) error {
	there, err := exists(ctx, h, saved)
	if err != nil || !there {
		return err
	}
	next := file + ".kocli"
	if _, err := h.Run(ctx, host.Command("cp", "-a", "-T", saved, next)); err != nil {
		return fmt.Errorf("put %s back: %w", file, err)
	}
	if _, err := h.Run(ctx, host.Command("mv", "-T", next, file)); err != nil {
		return fmt.Errorf("put %s back: %w", file, err)
	}
	return nil
}

// lost reports whether nothing may be done on a host any more: the run was
// interrupted, the connection is gone, or kubeadm is still at work.
func lost(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, context.Canceled) || errors.Is(err, kubeadmrun.ErrGoesOn) || unreachable(err)
}
