package preflight

// Checks returns all checks, in the order of their topics.
func Checks() []Check {
	return []Check{
		// Access and system.
		{"root-access", "kocli has to run commands as root on every host.", perNode(rootAccess)},
		{"systemd", "The kubelet and containerd are run by systemd.", perNode(systemd)},
		{"os-supported", "kocli knows how to prepare this operating system and its version.", perNode(osSupported)},
		{"kernel-version", "The kernel is new enough for Kubernetes and the chosen proxy mode.", perNode(kernelVersion)},
		{"kernel-modules", "The kernel modules that containers and the network need can be loaded.", perNode(kernelModules)},
		{"cgroup-version", "Kubernetes 1.35 and later refuse cgroup v1 unless told otherwise.", perNode(cgroupVersion)},
		{"selinux", "With SELinux enforcing, containers need the policy of container-selinux.", perNode(selinux)},
		// Bundle.
		{"version-in-bundle", "The bundle holds the version of Kubernetes that is asked for.", versionInBundle},
		{"arch-in-bundle", "The bundle holds the architecture of every host.", perNode(archInBundle)},
		// Size.
		{"cpu-count", "kubeadm wants two processors on a control plane.", perNode(cpuCount)},
		{"memory", "A control plane needs 1700 MiB of memory, a worker 700 MiB.", perNode(memory)},
		{"disk-space", "What will be written fits on the disks, with room to run.", perNode(diskSpace)},
		{"swap-on", "The kubelet does not start while swap is on, unless it is told to.", perNode(swapOn)},
		// Identity.
		{"foreign-kubelet", "A kubelet or cluster that kocli did not install is never overwritten.", perNode(foreignKubelet)},
		{"foreign-runtime", "Another container runtime on the host can disturb Kubernetes.", perNode(foreignRuntime)},
		{"machine-id-duplicate", "Hosts with one machine-id get one DHCP address and mix up their logs.", machineIDDuplicate},
		{"product-uuid-duplicate", "Hosts with one product_uuid confuse cloud and storage drivers.", productUUIDDuplicate},
		{"hostname-duplicate", "Hosts with one hostname cannot be told apart in logs.", hostnameDuplicate},
		// Time.
		{"clock-skew", "Clocks that differ make certificates invalid and etcd unstable.", clockSkew},
		{"time-sync", "A time service keeps the clocks together.", perNode(timeSync)},
		// Network.
		{"node-address", "The address that the node is known by is on an interface of the host.", perNode(nodeAddress)},
		{"hostname-resolves-elsewhere", "The node's name leads to the node itself.", perNode(resolvesElsewhere)},
		{"default-route", "Kubernetes picks addresses by the default route.", perNode(defaultRoute)},
		{"resolver-loopback", "A resolver on the loopback cannot be used from pods.", perNode(resolverLoopback)},
		{"ports-free", "The ports of Kubernetes are not taken by another program.", perNode(portsFree)},
		{"firewall-active", "A firewall lets the traffic of Kubernetes through.", perNode(firewallActive)},
		{"control-plane-count", "An even number of control planes bears no more than one less, and many are slow.", controlPlaneCount},
		{"endpoint-external", "Every host reaches the external endpoint of the API.", endpointExternal},
		{"etcd-external", "Every control plane reaches every member of the external etcd, and each side trusts the other.", etcdExternal},
		{"vip-interface", "The virtual IP lies in the network of the interface that it is put on.", perNode(vipInterface)},
		{"vip-conflict", "No other machine has the virtual IP.", vipConflict},
		{"reachability", "The hosts reach each other on the ports of Kubernetes.", reachability},
	}
}
