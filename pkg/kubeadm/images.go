package kubeadm

import (
	"strings"

	componentversion "k8s.io/component-base/version"
	kubeadmapi "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	"k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm/v1beta4"
	"k8s.io/kubernetes/cmd/kubeadm/app/constants"
	"k8s.io/kubernetes/cmd/kubeadm/app/images"

	"github.com/kocli/kocli/pkg/inventory"
)

// Image is a container image that kubeadm has the nodes run.
type Image struct {
	Ref          string // full reference
	What         string // that runs it: "static pod etcd"
	ControlPlane bool   // on control planes only
}

// Images returns the images that kubeadm has a cluster run, overrides applied,
// as `kubeadm config images list` of its version of Kubernetes would. The tags
// of etcd, coredns and pause are kubeadm's own constants where its minor is the one
// that this kocli was built with; for others they are components.
func Images(inv *inventory.Inventory, components map[string]string) ([]Image, error) {
	d := clusterDocument(inv)
	into := &v1beta4.ClusterConfiguration{}
	d.into = into
	if _, err := d.merged(); err != nil {
		return nil, err
	}
	cfg := imageConfiguration(into)
	pause := images.GetPauseImage(cfg)
	if !linked(cfg.KubernetesVersion) {
		for tag, name := range map[*string]string{&cfg.DNS.ImageTag: "coredns", &cfg.Etcd.Local.ImageTag: "etcd"} {
			if *tag == "" {
				*tag = components[name]
			}
		}
		pause = images.GetGenericImage(cfg.ImageRepository, "pause", components["pause"])
	}
	out := []Image{{pause, "sandbox of pods", false}}
	for _, name := range []string{constants.KubeAPIServer, constants.KubeControllerManager, constants.KubeScheduler} {
		out = append(out, Image{images.GetKubernetesImage(name, cfg), "static pod " + name, true})
	}
	if into.Etcd.External == nil {
		out = append(out, Image{images.GetEtcdImage(cfg, constants.SupportedEtcdVersion), "static pod " + constants.Etcd, true})
	}
	if !cfg.Proxy.Disabled {
		out = append(out, Image{images.GetKubernetesImage(constants.KubeProxy, cfg), "DaemonSet kube-system/kube-proxy", false})
	}
	if !cfg.DNS.Disabled {
		out = append(out, Image{images.GetDNSImage(cfg), "Deployment kube-system/coredns", false})
	}
	return out, nil
}

// imageConfiguration is what kubeadm's own functions read of a configuration.
func imageConfiguration(c *v1beta4.ClusterConfiguration) *kubeadmapi.ClusterConfiguration {
	cfg := &kubeadmapi.ClusterConfiguration{
		KubernetesVersion: c.KubernetesVersion, ImageRepository: c.ImageRepository,
		DNS:   kubeadmapi.DNS{ImageMeta: kubeadmapi.ImageMeta(c.DNS.ImageMeta), Disabled: c.DNS.Disabled},
		Proxy: kubeadmapi.Proxy{Disabled: c.Proxy.Disabled},
		Etcd:  kubeadmapi.Etcd{Local: &kubeadmapi.LocalEtcd{}},
	}
	if cfg.ImageRepository == "" {
		cfg.ImageRepository = v1beta4.DefaultImageRepository
	}
	if l := c.Etcd.Local; l != nil {
		cfg.Etcd.Local.ImageMeta = kubeadmapi.ImageMeta(l.ImageMeta)
	}
	return cfg
}

// linked reports whether a version of Kubernetes has the minor of the kubeadm
// that this kocli was built with.
func linked(version string) bool {
	return strings.HasPrefix(version, "v"+componentversion.DefaultKubeBinaryVersion+".")
}
