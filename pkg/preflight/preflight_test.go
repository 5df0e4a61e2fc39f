package preflight_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/probe"
)

const gib = int64(1) << 30

// healthy returns three hosts, a control plane and two workers, with nothing
// to complain about.
func healthy(t *testing.T) preflight.Input {
	t.Helper()
	c, err := config.Load("../../examples/cluster-three-hosts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	in := preflight.Input{
		Inventory: inv, Facts: map[string]probe.Facts{}, Need: map[string][]preflight.Space{},
		Bundle: preflight.Bundle{Versions: []string{inv.Version()}, Arches: []string{"amd64"}},
	}
	for _, n := range inv.Nodes {
		in.Facts[n.Name] = probe.Facts{
			Node: n.Name, OS: probe.OS{ID: "debian", Version: "12"}, Arch: "amd64", Kernel: "6.1.0-18-amd64",
			CPUs: 4, Memory: 8 * gib, Hostname: n.Name, MachineID: "m-" + n.Name, ProductUUID: "u-" + n.Name,
			Disks:       []probe.Disk{{Path: "/", Mount: "/", Free: 50 * gib}, {Path: "/var/lib/etcd", Mount: "/etcd", Free: 5 * gib}},
			Clock:       probe.Clock{Known: true},
			Resolved:    []netip.Addr{netip.MustParseAddr(n.IP)},
			Nameservers: []string{"10.0.0.53"}, DefaultRoute: "eth0", CgroupVersion: 2,
			Services:   map[string]bool{"chrony": true},
			Interfaces: []probe.Interface{{Name: "eth0", Addresses: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(n.IP), 24)}}},
			Modules:    map[string]probe.Module{"overlay": probe.ModuleOnDisk},
			Systemd:    true, Root: true,
		}
	}
	return in
}

// on changes the facts of one node.
func on(node string, change func(*probe.Facts)) func(*preflight.Input) {
	return func(in *preflight.Input) {
		f := in.Facts[node]
		change(&f)
		in.Facts[node] = f
	}
}

// both makes two changes.
func both(changes ...func(*preflight.Input)) func(*preflight.Input) {
	return func(in *preflight.Input) {
		for _, c := range changes {
			c(in)
		}
	}
}

// endpoint changes the control plane endpoint.
func endpoint(e v1alpha1.Endpoint) func(*preflight.Input) {
	return func(in *preflight.Input) { in.Inventory.Spec.ControlPlane.Endpoint = e }
}

// planes adds control planes until there are n, of which nothing else is known.
func planes(n int) func(*preflight.Input) {
	return func(in *preflight.Input) {
		for i := len(in.Inventory.ControlPlanes()); i < n; i++ {
			in.Inventory.Nodes = append(in.Inventory.Nodes, inventory.Node{Name: fmt.Sprint("more-", i), ControlPlane: true})
		}
	}
}

func spec(change func(*v1alpha1.ClusterSpec)) func(*preflight.Input) {
	return func(in *preflight.Input) { change(&in.Inventory.Spec) }
}

func TestChecks(t *testing.T) {
	no := false
	listens := func(port int, process string) func(*probe.Facts) {
		return func(f *probe.Facts) { f.Listening = []probe.Listener{{Port: port, Process: process}} }
	}
	swap := func(f *probe.Facts) { f.Swap = []probe.Swap{{Name: "/dev/sda2", Size: gib}} }
	cgroup1 := on("cp-1", func(f *probe.Facts) { f.CgroupVersion = 1 })
	kubelet := func(name string, v any) func(*preflight.Input) {
		return spec(func(s *v1alpha1.ClusterSpec) { s.Kubernetes.Overrides.Kubelet = v1alpha1.Object{name: v} })
	}
	firewalld := on("cp-1", func(f *probe.Facts) { f.Services = map[string]bool{"firewalld": true, "chrony": true} })
	for _, tt := range []struct {
		name   string
		change func(*preflight.Input)
		want   string // check, node, level; "" is no finding
		says   string // in the message or the fix
	}{
		{"healthy hosts have no findings", func(*preflight.Input) {}, "", ""},
		{"no root is refused", on("cp-1", func(f *probe.Facts) { f.Root = false }), "root-access cp-1 error", "sudoPassword"},
		{"a host without systemd is refused", on("cp-1", func(f *probe.Facts) { f.Systemd = false }), "systemd cp-1 error", "systemd"},
		{"an unknown system is refused", on("cp-1", func(f *probe.Facts) { f.OS = probe.OS{ID: "arch"} }), "os-supported cp-1 error", "debian"},
		{"an old system is refused", on("cp-1", func(f *probe.Facts) { f.OS.Version = "9" }), "os-supported cp-1 error", "too old"},
		{"a relative of a known system is taken for it", on("cp-1", func(f *probe.Facts) { f.OS = probe.OS{ID: "x", Like: []string{"rhel"}} }), "os-supported cp-1 warning", "rhel"},
		{"Kylin counts with a V", on("cp-1", func(f *probe.Facts) { f.OS = probe.OS{ID: "kylin", Version: "V10"} }), "", ""},
		{"openEuler with its service pack is known", on("cp-1", func(f *probe.Facts) { f.OS = probe.OS{ID: "openeuler", Version: "22.03"} }), "", ""},
		{"an ancient kernel is refused", on("cp-1", func(f *probe.Facts) { f.Kernel = "3.10.0-1160.el7" }), "kernel-version cp-1 error", "4.18"},
		{"nftables needs a newer kernel", on("cp-1", func(f *probe.Facts) { f.Kernel = "4.18.0-553.el8" }), "kernel-version cp-1 error", "proxyMode"},
		{"iptables does not", both(on("cp-1", func(f *probe.Facts) { f.Kernel = "4.18.0-553.el8" }),
			spec(func(s *v1alpha1.ClusterSpec) { s.Network.ProxyMode = v1alpha1.ProxyIPTables })), "", ""},
		{"a missing module is refused", on("cp-1", func(f *probe.Facts) { f.Modules = map[string]probe.Module{"vxlan": probe.ModuleMissing} }), "kernel-modules cp-1 error", "vxlan"},
		{"a module that is not used may be missing", on("cp-1", func(f *probe.Facts) { f.Modules = map[string]probe.Module{"ip_vs": probe.ModuleMissing} }), "", ""},
		{"cgroup v1 is refused by the kubelet of 1.36", cgroup1, "cgroup-version cp-1 error", "failCgroupV1"},
		{"cgroup v1 still works on 1.34", both(cgroup1, func(in *preflight.Input) {
			in.Inventory.Spec.Kubernetes.Version, in.Bundle.Versions = "v1.34.4", nil
		}), "cgroup-version cp-1 warning", ""},
		{"cgroup v1 works where the kubelet is told so", both(cgroup1, kubelet("failCgroupV1", false)), "cgroup-version cp-1 warning", ""},
		{"enforcing SELinux needs the policy", on("cp-1", func(f *probe.Facts) { f.SELinux = probe.SELinuxEnforcing }), "selinux cp-1 error", "container-selinux"},
		{"enforcing SELinux with the policy is fine", on("cp-1", func(f *probe.Facts) { f.SELinux, f.ContainerSELinux = probe.SELinuxEnforcing, true }), "", ""},
		{"a version that the bundle lacks is refused", func(in *preflight.Input) { in.Bundle.Versions = []string{"v1.35.4"} }, "version-in-bundle  error", "v1.35.4"},
		{"an architecture that the bundle lacks is refused", on("worker-1", func(f *probe.Facts) { f.Arch = "arm64" }), "arch-in-bundle worker-1 error", "arm64"},
		{"one processor is refused for a control plane", on("cp-1", func(f *probe.Facts) { f.CPUs = 1 }), "cpu-count cp-1 error", "needs 2"},
		{"one processor is enough for a worker", on("worker-1", func(f *probe.Facts) { f.CPUs = 1 }), "cpu-count worker-1 warning", ""},
		{"1 GiB is refused for a control plane", on("cp-1", func(f *probe.Facts) { f.Memory = gib }), "memory cp-1 error", "1.0 GiB"},
		{"1 GiB is little for a worker", on("worker-1", func(f *probe.Facts) { f.Memory = gib }), "memory worker-1 warning", ""},
		{"a full disk is refused", func(in *preflight.Input) {
			in.Need["cp-1"] = []preflight.Space{{"/var/lib/containerd", 30 * gib}, {"/usr/bin", 25 * gib}}
		}, "disk-space cp-1 error", "55 GiB will be written to /var/lib/containerd, /usr/bin"},
		{"a disk that will be nearly full is worth a word", func(in *preflight.Input) { in.Need["cp-1"] = []preflight.Space{{"/var/lib/etcd", 4 * gib}} }, "disk-space cp-1 warning", "/etcd"},
		{"a disk on which the kubelet would evict pods is refused", both(on("cp-1", func(f *probe.Facts) { f.Disks[0].Size = 400 * gib }), func(in *preflight.Input) {
			in.Need["cp-1"] = []preflight.Space{{"/var/lib/containerd", gib}}
		}), "disk-space cp-1 error", "below 15 % (60 GiB)"},
		{"the kubelet may be told to evict later", both(on("cp-1", func(f *probe.Facts) { f.Disks[0].Size = 400 * gib }), both(kubelet("evictionHard", map[string]any{"imagefs.available": "1Gi"}), func(in *preflight.Input) {
			in.Need["cp-1"] = []preflight.Space{{"/var/lib/containerd", gib}}
		})), "", ""},
		{"what goes to another disk does not count", func(in *preflight.Input) {
			in.Need["cp-1"] = []preflight.Space{{"/var/lib/etcd", gib}, {"/usr", 40 * gib}}
		}, "", ""},
		{"kocli turns swap off and says so", on("cp-1", swap), "swap-on cp-1 warning", "will turn it off"},
		{"swap that kocli may not touch is refused", both(on("cp-1", swap), spec(func(s *v1alpha1.ClusterSpec) { s.OS.ManageSwap = &no })), "swap-on cp-1 error", "swapoff -a"},
		{"swap that the kubelet lives with is fine", both(on("cp-1", swap), kubelet("failSwapOn", false)), "", ""},
		{"a kubelet of somebody else is refused", on("worker-1", func(f *probe.Facts) { f.Binaries = []string{"/usr/bin/kubelet"} }), "foreign-kubelet worker-1 error", "/usr/bin/kubelet"},
		{"a cluster of somebody else is refused", on("worker-1", func(f *probe.Facts) { f.Kubernetes = []string{"/etc/kubernetes/kubelet.conf"} }), "foreign-kubelet worker-1 error", "kubelet.conf"},
		{"kocli's own kubelet is at home", on("worker-1", func(f *probe.Facts) { f.Managed, f.Binaries = true, []string{"/usr/bin/kubelet"} }), "", ""},
		{"a runtime that is in use is worth a word", on("worker-1", func(f *probe.Facts) { f.Services = map[string]bool{"docker": true, "ntp": true} }), "foreign-runtime worker-1 warning", "docker"},
		{"a cloned machine-id is refused", on("worker-1", func(f *probe.Facts) { f.MachineID = "m-cp-1" }), "machine-id-duplicate worker-1 error", "that of cp-1"},
		{"a cloned product_uuid is worth a word", on("worker-1", func(f *probe.Facts) { f.ProductUUID = "u-cp-1" }), "product-uuid-duplicate worker-1 warning", ""},
		{"a hostname used twice is refused", on("worker-1", func(f *probe.Facts) { f.Hostname = "cp-1" }), "hostname-duplicate worker-1 error", "setHostname"},
		{"a hostname that kocli will set does not matter", both(on("worker-1", func(f *probe.Facts) { f.Hostname = "cp-1" }), spec(func(s *v1alpha1.ClusterSpec) { s.OS.SetHostname = true })), "", ""},
		{"a clock off by 10 minutes is refused", on("worker-1", func(f *probe.Facts) { f.Clock.Skew = -10 * time.Minute }), "clock-skew worker-1 error", "10m0s behind"},
		{"a clock off by 10 seconds is worth a word", on("worker-1", func(f *probe.Facts) { f.Clock.Skew = 10 * time.Second }), "clock-skew worker-1 warning", "10s ahead"},
		{"what may be the slow line is no skew", on("worker-1", func(f *probe.Facts) {
			f.Clock = probe.Clock{Known: true, Skew: 3 * time.Second, Error: 2 * time.Second}
		}), "", ""},
		{"hosts that agree accuse the operator's clock once", func(in *preflight.Input) {
			for _, n := range in.Inventory.Nodes {
				on(n.Name, func(f *probe.Facts) { f.Clock.Skew = time.Hour })(in)
			}
		}, "clock-skew  error", "1h0m0s behind"},
		{"no time service is worth a word", on("cp-1", func(f *probe.Facts) { f.Services = map[string]bool{"chrony": false} }), "time-sync cp-1 warning", "chrony"},
		{"an address of another host is refused", on("cp-1", func(f *probe.Facts) {
			f.Interfaces, f.Resolved = []probe.Interface{{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.9.9/24")}}}, nil
		}), "node-address cp-1 error", "privateAddress"},
		{"a name that leads elsewhere is refused", on("cp-1", func(f *probe.Facts) { f.Resolved = []netip.Addr{netip.MustParseAddr("203.0.113.7")} }), "hostname-resolves-elsewhere cp-1 error", "203.0.113.7"},
		{"Debian's own loopback name is fine", on("cp-1", func(f *probe.Facts) { f.Resolved = []netip.Addr{netip.MustParseAddr("127.0.1.1")} }), "", ""},
		{"a name that does not resolve is fine", on("cp-1", func(f *probe.Facts) { f.Resolved = nil }), "", ""},
		{"no default route is worth a word", on("cp-1", func(f *probe.Facts) { f.DefaultRoute = "" }), "default-route cp-1 warning", ""},
		{"a loopback resolver is worth a word", both(on("cp-1", func(f *probe.Facts) { f.Nameservers = []string{"127.0.0.53"} }), spec(func(s *v1alpha1.ClusterSpec) { s.Network.DNS.Upstream = nil })), "resolver-loopback cp-1 warning", "127.0.0.53"},
		{"a loopback stub with servers behind it is fine", on("cp-1", func(f *probe.Facts) { f.Nameservers, f.RealNameservers = []string{"127.0.0.53"}, []string{"10.0.0.53"} }), "", ""},
		{"port 6443 taken is refused", on("cp-1", listens(6443, "nginx")), "ports-free cp-1 error", "port 6443, which kube-apiserver needs, is taken by nginx"},
		{"port 6443 on a worker is nobody's business", on("worker-1", listens(6443, "nginx")), "", ""},
		{"the cluster's own API server is at home", on("cp-1", func(f *probe.Facts) { f.Managed = true; listens(6443, "kube-apiserver")(f) }), "", ""},
		{"names that the kernel cut are known", on("cp-1", func(f *probe.Facts) { f.Managed = true; listens(10257, "kube-controller")(f) }), "", ""},
		{"a stranger on a managed host is refused", on("cp-1", func(f *probe.Facts) { f.Managed = true; listens(6443, "nginx")(f) }), "ports-free cp-1 error", "nginx"},
		{"a firewall is refused with what to open", firewalld, "firewall-active cp-1 error", "--add-port=6443/tcp"},
		{"a firewall that was passed is worth a word", both(firewalld, func(in *preflight.Input) {
			in.Reach = []preflight.Reach{{From: "worker-1", To: "cp-1", Address: "10.0.0.11:6443"}}
		}), "firewall-active cp-1 warning", ""},
		{"ufw is told how", on("worker-1", func(f *probe.Facts) { f.UFW = true }), "firewall-active worker-1 error", "ufw allow 10250/tcp"},
		{"a host that is not reached is refused", func(in *preflight.Input) {
			in.Reach = []preflight.Reach{{From: "worker-1", To: "cp-1", Address: "10.0.0.11:6443", Err: "i/o timeout"}}
		}, "reachability worker-1 error", "open port 6443"},
		{"two control planes are worth a word", planes(2), "control-plane-count  warning", "the loss of none, as 1 do"},
		{"three are fine", planes(3), "", ""},
		{"four are worth a word", planes(4), "control-plane-count  warning", "the loss of 1, as 3 do: etcd needs a majority, which is 3 of 4"},
		{"seven are fine", planes(7), "", ""},
		{"nine are many", planes(9), "control-plane-count  warning", "waits for 5 members"},
		{"an external endpoint that is not reached is refused", func(in *preflight.Input) {
			in.Endpoint = []preflight.Reach{{From: "cp-1", Address: "lb:6443"}, {From: "worker-1", Address: "lb:6443", Err: "i/o timeout"}}
		}, "endpoint-external worker-1 error", "lb:6443 is not reached from worker-1: i/o timeout"},
		{"an external etcd that is not reached is refused", func(in *preflight.Input) {
			in.Etcd = []preflight.Reach{{From: "cp-1", Address: "https://e1:2379"}, {From: "cp-1", Address: "https://e2:2379", Err: "x509: no trust"}}
		}, "etcd-external cp-1 error", "https://e2:2379 is of no use to cp-1: x509: no trust"},
		{"a member that is away while another is there is a warning to who works with it", both(on("cp-1", func(f *probe.Facts) { f.Managed = true }), func(in *preflight.Input) {
			in.Etcd = []preflight.Reach{{From: "cp-1", Address: "https://e1:2379"}, {From: "cp-1", Address: "https://e2:2379", Err: "refused"}}
		}), "etcd-external cp-1 warning", "e2"},
		{"an external etcd that no member of is reached is refused always", both(on("cp-1", func(f *probe.Facts) { f.Managed = true }), func(in *preflight.Input) {
			in.Etcd = []preflight.Reach{{From: "cp-1", Address: "https://e1:2379", Err: "refused"}}
		}), "etcd-external cp-1 error", "refused"},
		{"an external etcd with the data of a cluster is refused to a new one", func(in *preflight.Input) { in.EtcdObjects = 42 }, "etcd-external  error", "42 objects of a cluster"},
		{"with an external etcd an even number of control planes is fine", both(planes(2), func(in *preflight.Input) {
			in.Inventory.Spec.Etcd.External = &v1alpha1.ExternalEtcd{}
		}), "", ""},
		{"with an external etcd its ports may be taken", both(func(in *preflight.Input) {
			in.Inventory.Spec.Etcd.External = &v1alpha1.ExternalEtcd{}
		}, on("cp-1", listens(2379, "etcd"))), "", ""},
		{"a virtual IP in the network of the control plane is fine", endpoint(v1alpha1.Endpoint{Mode: "vip", Address: "10.0.0.99", Port: 8443}), "", ""},
		{"a virtual IP elsewhere is refused", endpoint(v1alpha1.Endpoint{Mode: "vip", Address: "192.168.77.99", Port: 8443}), "vip-interface cp-1 error", "is not in the network of eth0"},
		{"an interface that is not there is refused", endpoint(v1alpha1.Endpoint{Mode: "vip", Address: "10.0.0.99", Port: 8443, VRRP: &v1alpha1.VRRP{Interface: "bond9"}}), "vip-interface cp-1 error", "no interface bond9"},
		{"a virtual IP that a host of the cluster has is refused", both(endpoint(v1alpha1.Endpoint{Mode: "vip", Address: "10.0.0.99", Port: 8443}),
			on("worker-1", func(f *probe.Facts) { f.Interfaces[0].MAC = "02:00:00:00:00:09" }),
			func(in *preflight.Input) {
				in.Neighbours = []preflight.Neighbour{{Node: "cp-1", Answers: true, MAC: "02:00:00:00:00:09"}, {Node: "cp-2"}}
			}), "vip-conflict cp-1 error", "02:00:00:00:00:09, which is worker-1"},
		{"the port of the load balancer taken is refused", both(endpoint(v1alpha1.Endpoint{Mode: "local", Port: 8443}), on("worker-1", listens(8443, "tomcat"))), "ports-free worker-1 error", "port 8443, which haproxy needs, is taken by tomcat"},
		{"so is the port after it", both(endpoint(v1alpha1.Endpoint{Mode: "local", Port: 8443}), on("worker-1", listens(8444, "tomcat"))), "ports-free worker-1 error", "port 8444"},
		{"a firewall has to let VRRP through", both(endpoint(v1alpha1.Endpoint{Mode: "vip", Address: "10.0.0.99", Port: 8443}), firewalld), "firewall-active cp-1 error", "--add-protocol=vrrp"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := healthy(t)
			tt.change(&in)
			findings := preflight.Run(in)
			if tt.want == "" {
				if len(findings) > 0 {
					t.Errorf("found %+v", findings)
				}
				return
			}
			if len(findings) != 1 {
				t.Fatalf("found %+v", findings)
			}
			f := findings[0]
			if got := f.Check + " " + f.Node + " " + string(f.Level); got != tt.want {
				t.Errorf("got %q, want %q: %s", got, tt.want, f.Message)
			}
			if !strings.Contains(f.Message+" "+f.Fix, tt.says) {
				t.Errorf("no %q in %q, fix %q", tt.says, f.Message, f.Fix)
			}
			err := preflight.Refusal(findings)
			if (err != nil) != (f.Level == preflight.Error) {
				t.Errorf("refusal: %v", err)
			}
			if err == nil {
				return
			}
			if fault.CodeOf(err) != fault.Preflight || fault.HintOf(err) == "" {
				t.Errorf("code %d, hint %q", fault.CodeOf(err), fault.HintOf(err))
			}
			in.Ignore = []string{f.Check}
			if again := preflight.Run(in); preflight.Refusal(again) != nil || len(again) != 1 || !again[0].Ignored {
				t.Errorf("ignored, and still refused: %+v", again)
			}
		})
	}
}

func TestChecks_haveUniqueDocumentedNames(t *testing.T) {
	kebab := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	seen := map[string]bool{}
	for _, c := range preflight.Checks() {
		if seen[c.Name] || !kebab.MatchString(c.Name) {
			t.Errorf("name %q", c.Name)
		}
		seen[c.Name] = true
		if len(c.Doc) < 20 || !strings.HasSuffix(c.Doc, ".") || c.Run == nil {
			t.Errorf("%s: %q", c.Name, c.Doc)
		}
	}
}

func TestRun_reportsAllAndErrorsFirst(t *testing.T) {
	in := healthy(t)
	on("worker-2", func(f *probe.Facts) { f.Root, f.CPUs = false, 1 })(&in)
	on("cp-1", func(f *probe.Facts) { f.CPUs, f.Systemd, f.DefaultRoute = 1, false, "" })(&in)
	var got []string
	for _, f := range preflight.Run(in) {
		got = append(got, f.Node+"/"+f.Check)
	}
	want := []string{"cp-1/cpu-count", "cp-1/systemd", "worker-2/root-access", "cp-1/default-route", "worker-2/cpu-count"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if err := preflight.Refusal(preflight.Run(in)); err == nil || !strings.Contains(err.Error(), "3 errors") {
		t.Errorf("%v", err)
	}
}

func TestCheckIgnore_refusesUnknownNames(t *testing.T) {
	c := &v1alpha1.Cluster{}
	c.Spec.Preflight.Ignore = []string{"memory", "memroy"}
	if l := preflight.ValidateIgnore(c); len(l) != 1 || l[0].Field != "spec.preflight.ignore[1]" {
		t.Errorf("%v", l)
	}
}

func TestProfilesAndExamples_ignoreKnownChecks(t *testing.T) {
	for _, f := range []string{"../../templates/init/lab.yaml", "../../templates/init/ha.yaml", "../../templates/init/single.yaml"} {
		if _, err := config.Load(f, preflight.ValidateIgnore); err != nil {
			t.Error(err)
		}
	}
}
