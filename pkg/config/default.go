package config

import (
	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/inventory"
)

// Defaults that other packages and the documentation refer to.
const (
	DefaultPodCIDR          = "10.244.0.0/16"
	DefaultServiceCIDR      = "10.96.0.0/16"
	DefaultNodeCIDRMaskSize = 24
	DefaultDNSDomain        = "cluster.local"
	DefaultLocalPath        = "/var/lib/kocli-volumes"
	defaultSSHPort          = 22
	defaultSSHUser          = "root"
	defaultAuditMaxAge      = 30
	defaultAuditMaxBackups  = 10
	defaultAuditMaxSize     = 100
	defaultMaxUnavailable   = "1"
	defaultDrainTimeout     = "10m"
	defaultHookTimeout      = "5m"
	defaultRegistryName     = "registry.kocli.internal"
	defaultRegistryPort     = 5000
	defaultRegistryDir      = "/var/lib/kocli-registry"
	defaultRegistryUser     = "kocli"
)

// Default fills in what the user left out. What a host leaves out of its ssh
// stays absent: it is inherited when the inventory is made.
func Default(c *v1alpha1.Cluster) {
	s := &c.Spec
	def(&s.Network.PodCIDR, DefaultPodCIDR)
	def(&s.Network.ServiceCIDR, DefaultServiceCIDR)
	def(&s.Network.NodeCIDRMaskSize, DefaultNodeCIDRMaskSize)
	def(&s.Network.DNSDomain, DefaultDNSDomain)
	def(&s.Network.ProxyMode, v1alpha1.ProxyNFTables)
	def(&s.Network.CNI.Name, v1alpha1.CNIFlannel)
	if s.Network.CNI.Name == v1alpha1.CNIFlannel {
		if s.Network.CNI.Flannel == nil {
			s.Network.CNI.Flannel = &v1alpha1.Flannel{}
		}
		def(&s.Network.CNI.Flannel.Backend, v1alpha1.FlannelVXLAN)
	}
	def(&s.ControlPlane.Endpoint.Mode, v1alpha1.EndpointNone)
	switch s.ControlPlane.Endpoint.Mode {
	case v1alpha1.EndpointExternal:
		def(&s.ControlPlane.Endpoint.Port, inventory.APIServerPort)
	case v1alpha1.EndpointVIP, v1alpha1.EndpointLocal:
		def(&s.ControlPlane.Endpoint.Port, inventory.LoadBalancerPort)
	case v1alpha1.EndpointNone:
	}
	def(&s.Runtime.Containerd.CgroupDriver, v1alpha1.CgroupSystemd)
	if a := &s.Kubernetes.Audit; a.Enabled {
		def(&a.MaxAge, defaultAuditMaxAge)
		def(&a.MaxBackups, defaultAuditMaxBackups)
		def(&a.MaxSize, defaultAuditMaxSize)
	}
	def(&s.SSH.User, defaultSSHUser)
	def(&s.SSH.Port, defaultSSHPort)
	bastion(s.SSH.Bastion)
	def(&s.Maintenance.MaxUnavailable, defaultMaxUnavailable)
	def(&s.Maintenance.DrainTimeout, defaultDrainTimeout)
	for _, list := range [][]v1alpha1.Hook{s.Hooks.BeforeUpgrade, s.Hooks.AfterUpgrade} {
		for i := range list {
			def(&list[i].On, v1alpha1.HookOnOperator)
			def(&list[i].Timeout, defaultHookTimeout)
		}
	}
	if b := s.Registry.Builtin; b != nil {
		def(&b.Name, defaultRegistryName)
		def(&b.Port, defaultRegistryPort)
		def(&b.DataDir, defaultRegistryDir)
		def(&b.Username, defaultRegistryUser)
	}
	for i := range s.Storage {
		st := &s.Storage[i]
		def(&st.ReclaimPolicy, reclaimDelete)
		if st.Default == nil {
			only := len(s.Storage) == 1
			st.Default = &only
		}
		if st.Type == v1alpha1.StorageLocal {
			if st.Local == nil {
				st.Local = &v1alpha1.LocalStorage{}
			}
			def(&st.Local.Path, DefaultLocalPath)
		}
	}
	for i := range s.Addons {
		yes(&s.Addons[i].Enabled)
	}
	yes(&s.OS.ManageHosts)
	yes(&s.OS.ManageSwap)
	yes(&s.OS.InstallPackages)
	for i := range s.Hosts {
		h := &s.Hosts[i]
		if len(h.Roles) == 0 {
			h.Roles = []v1alpha1.Role{v1alpha1.RoleWorker}
		}
		if h.SSH != nil {
			bastion(h.SSH.Bastion)
		}
	}
}

func bastion(b *v1alpha1.Bastion) {
	if b != nil {
		def(&b.User, defaultSSHUser)
		def(&b.Port, defaultSSHPort)
	}
}

func yes(b **bool) {
	if *b == nil {
		t := true
		*b = &t
	}
}

func def[T comparable](to *T, v T) {
	var zero T
	if *to == zero {
		*to = v
	}
}
