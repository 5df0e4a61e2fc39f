// Package network sets up the pod network, cluster DNS on hosts without a
// usable resolver, and proves from inside that both work.
package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kocli/kocli/manifests"
	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/render"
)

// Flannel applies flannel's manifest.
func Flannel(inv *inventory.Inventory, p payload.Payload, api kube.API) (plan.Step, error) {
	manifest, err := FlannelManifest(inv, p)
	if err != nil {
		return nil, err
	}
	return applied("network/flannel", manifest, api)
}

// Images finds the full reference of an image by the last word of its
// repository, as payload.Payload does.
type Images interface {
	Image(name string) (string, error)
}

// FlannelManifest renders flannel for a cluster.
func FlannelManifest(inv *inventory.Inventory, p Images) ([]byte, error) {
	image, err := p.Image("flannel")
	if err != nil {
		return nil, err
	}
	plugin, err := p.Image("flannel-cni-plugin")
	if err != nil {
		return nil, err
	}
	apiHost, apiPort, err := net.SplitHostPort(inv.Endpoint())
	if err != nil {
		return nil, err
	}
	data := struct {
		PodCIDR, Backend, Image, PluginImage, ConfigDigest, APIHost, APIPort string
		MTU                                                                  int
		NFTables                                                             bool
	}{
		APIHost: apiHost, APIPort: apiPort,
		PodCIDR: inv.Spec.Network.PodCIDR, Backend: string(v1alpha1.FlannelVXLAN), Image: image, PluginImage: plugin,
		NFTables: inv.Spec.Network.ProxyMode == v1alpha1.ProxyNFTables,
	}
	if f := inv.Spec.Network.CNI.Flannel; f != nil {
		data.MTU = f.MTU
		if f.Backend != "" {
			data.Backend = string(f.Backend)
		}
	}
	// The pods restart when the configuration changes, because its digest is in
	// their template.
	first, err := render.File(manifests.FS, "flannel.yaml", data)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(first)
	data.ConfigDigest = hex.EncodeToString(sum[:8])
	return render.File(manifests.FS, "flannel.yaml", data)
}

// applied is a step that has a manifest's objects in the cluster.
func applied(id string, manifest []byte, api kube.API) (plan.Step, error) {
	objs, err := kube.Decode(manifest)
	if err != nil {
		return nil, err
	}
	return converge.Func{
		Name: id,
		CheckFn: func(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
			c, err := api.Look(ctx)
			if errors.Is(err, kube.ErrNoCluster) {
				return asChanges(objs, "controlplane/init"), nil
			}
			if err != nil {
				return nil, err
			}
			old, err := c.Outdated(ctx, objs)
			return asChanges(old, ""), err
		},
		ApplyFn: func(ctx context.Context, _ host.Host) error {
			c, err := api.Dial(ctx)
			if err != nil {
				return err
			}
			old, err := c.Outdated(ctx, objs)
			if err != nil {
				return err
			}
			return c.Apply(ctx, old)
		},
	}, nil
}

func asChanges(objs []*unstructured.Unstructured, after string) []plan.Change {
	var out []plan.Change
	for _, o := range objs {
		out = append(out, plan.Change{Object: kube.Title(o), To: "apply", After: after})
	}
	return out
}
