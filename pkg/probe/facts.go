// Package probe reads the facts of a host: what is there, without judging it
// (pkg/preflight does) and without changing anything. All questions are asked
// at the same time through a host.Reader, which sends those that arrive
// together in one round trip.
//
// A program that is missing or a file that is not there leaves a fact unknown,
// which is its zero value unless the field says otherwise; only a lost
// connection is an error.
package probe

import (
	"net/netip"
	"time"
)

// Facts is what was found out about one host.
type Facts struct {
	Node string `json:"node"` // name in the cluster YAML
	OS   OS     `json:"os"`

	Machine string `json:"machine,omitempty"` // as uname -m: x86_64
	Arch    string `json:"arch,omitempty"`    // as Go and OCI say it: amd64
	Kernel  string `json:"kernel,omitempty"`  // release: 6.1.0-18-amd64

	CPUs   int    `json:"cpus,omitempty"`
	Memory int64  `json:"memory,omitempty"` // bytes
	Swap   []Swap `json:"swap,omitempty"`
	Disks  []Disk `json:"disks,omitempty"`

	Hostname    string       `json:"hostname,omitempty"`
	Resolved    []netip.Addr `json:"resolved,omitempty"` // what the node's name resolves to on the host
	MachineID   string       `json:"machineID,omitempty"`
	ProductUUID string       `json:"productUUID,omitempty"`
	Container   bool         `json:"container,omitempty"` // the host is a container itself

	Clock Clock `json:"clock"`

	Listening     []Listener        `json:"listening,omitempty"` // TCP
	CgroupVersion int               `json:"cgroupVersion,omitempty"`
	Sysctls       map[string]string `json:"sysctls,omitempty"`
	Modules       map[string]Module `json:"modules,omitempty"` // those of NeededModules

	Binaries   []string `json:"binaries,omitempty"`   // paths of kubelet, kubeadm, containerd ... that are there
	Kubernetes []string `json:"kubernetes,omitempty"` // files below /etc/kubernetes and marks of a cluster elsewhere
	Managed    bool     `json:"managed,omitempty"`    // kocli's ledger is there: kocli worked on this host before

	Nameservers     []string `json:"nameservers,omitempty"`     // of /etc/resolv.conf
	RealNameservers []string `json:"realNameservers,omitempty"` // of systemd-resolved, behind its stub

	Services         map[string]bool `json:"services,omitempty"` // active or not, of watchedServices
	UFW              bool            `json:"ufw,omitempty"`      // ufw is enabled in its configuration
	SELinux          SELinux         `json:"selinux,omitempty"`
	ContainerSELinux bool            `json:"containerSELinux,omitempty"` // the package container-selinux is installed
	PackageManager   string          `json:"packageManager,omitempty"`   // apt, dnf, yum or zypper
	Systemd          bool            `json:"systemd"`                    // process 1
	TimeSynced       bool            `json:"timeSynced,omitempty"`       // systemd-timesyncd says so
	Root             bool            `json:"root"`                       // commands run as root

	DefaultRoute string      `json:"defaultRoute,omitempty"` // interface
	Interfaces   []Interface `json:"interfaces,omitempty"`
}

// OS is the operating system, from os-release.
type OS struct {
	ID      string   `json:"id,omitempty"`      // debian, rocky, openEuler ... in lower case
	Like    []string `json:"like,omitempty"`    // ID_LIKE
	Version string   `json:"version,omitempty"` // VERSION_ID
	Name    string   `json:"name,omitempty"`    // PRETTY_NAME
}

// Swap is an active swap device or file.
type Swap struct {
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes
}

// Disk is the file system that holds a path.
type Disk struct {
	Path   string `json:"path"`   // what was asked for
	Device string `json:"device"` // two paths on one device share its space
	Mount  string `json:"mount"`
	Size   int64  `json:"size"` // bytes
	Free   int64  `json:"free"` // bytes that root may use
}

// Clock is the host's time against the operator's.
type Clock struct {
	Known bool `json:"known,omitempty"`
	// Skew is the host's time less the operator's; zero where it is within Error.
	Skew time.Duration `json:"skew,omitempty"`
	// Error is half of the round trip: Skew may be off by as much.
	Error time.Duration `json:"error,omitempty"`
}

// Listener is a TCP port that something listens on.
type Listener struct {
	Port    int    `json:"port"`
	Process string `json:"process,omitempty"` // name of the program; empty where unknown
}

// Module is whether a kernel module can be used.
type Module string

// The states of a module.
const (
	ModuleUnknown Module = ""
	ModuleLoaded  Module = "loaded" // or built in
	ModuleOnDisk  Module = "on disk"
	ModuleMissing Module = "missing"
)

// SELinux is its mode.
type SELinux string

// The modes of SELinux.
const (
	SELinuxUnknown    SELinux = ""
	SELinuxDisabled   SELinux = "disabled"
	SELinuxPermissive SELinux = "permissive"
	SELinuxEnforcing  SELinux = "enforcing"
)

// Interface is a network interface.
type Interface struct {
	Name      string         `json:"name"`
	MTU       int            `json:"mtu"`
	MAC       string         `json:"mac,omitempty"`
	Up        bool           `json:"up"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
}

// NeededModules returns the kernel modules that are looked for.
func NeededModules() []string {
	return []string{"overlay", "br_netfilter", "nf_tables", "vxlan", "ip_vs"}
}

// ProbedPaths returns the paths whose file systems are measured.
func ProbedPaths() []string {
	return []string{"/", "/var", "/var/lib", "/var/lib/containerd", "/var/lib/etcd", "/var/lib/kubelet", "/var/lib/kocli", "/usr", "/tmp"}
}

// Disk returns the file system that holds path: of the probed paths, the
// longest that path lies in.
func (f *Facts) Disk(path string) (Disk, bool) {
	var best Disk
	for _, d := range f.Disks {
		if within(path, d.Path) && len(d.Path) > len(best.Path) {
			best = d
		}
	}
	return best, best.Path != ""
}

// Listener returns who listens on a port.
func (f *Facts) Listener(port int) (Listener, bool) {
	for _, l := range f.Listening {
		if l.Port == port {
			return l, true
		}
	}
	return Listener{}, false
}

// Has reports whether an interface of the host has the address. It is true
// where the interfaces are unknown.
func (f *Facts) Has(a netip.Addr) bool {
	if len(f.Interfaces) == 0 {
		return true
	}
	for _, i := range f.Interfaces {
		for _, p := range i.Addresses {
			if p.Addr() == a {
				return true
			}
		}
	}
	return false
}

// InterfaceOf returns the interface that has an address.
func InterfaceOf(all []Interface, a netip.Addr) (Interface, bool) {
	for _, i := range all {
		for _, p := range i.Addresses {
			if p.Addr() == a {
				return i, true
			}
		}
	}
	return Interface{}, false
}
