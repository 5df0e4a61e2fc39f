package probe_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/probe"
)

// machine answers from tables; what is not there does not exist.
type machine struct {
	files    map[string]string
	commands map[string]string // by program, or by program and first argument
	lost     bool

	mu    sync.Mutex
	asked []string
}

func (m *machine) Name() string { return "node-1" }

func (m *machine) Query(_ context.Context, c host.Cmd) (host.Output, error) {
	if err := host.CheckQuery(c); err != nil {
		return host.Output{}, err
	}
	m.mu.Lock()
	m.asked = append(m.asked, c.String())
	m.mu.Unlock()
	if m.lost {
		return host.Output{}, errors.New("connection lost")
	}
	out, ok := m.commands[c.Argv[0]]
	if !ok {
		return host.Output{}, &host.ExitError{Cmd: c.String(), Code: 127}
	}
	return host.Output{Stdout: []byte(out)}, nil
}

func (m *machine) ReadFile(_ context.Context, path string) ([]byte, error) {
	if m.lost {
		return nil, errors.New("connection lost")
	}
	data, ok := m.files[path]
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fs.ErrNotExist}
	}
	return []byte(data), nil
}

func (m *machine) Stat(context.Context, string) (fs.FileInfo, error) { return nil, fs.ErrNotExist }

// clock moves on by a second each time it is looked at.
func clock() func() time.Time {
	t := time.Unix(1_700_000_000, 0)
	return func() time.Time {
		t = t.Add(time.Second)
		return t
	}
}

func TestGather_readsAHost(t *testing.T) {
	m := &machine{
		files: map[string]string{
			"/etc/os-release":                  "PRETTY_NAME=\"openEuler 22.03 (LTS-SP3)\"\nID=\"openEuler\"\nVERSION_ID='22.03'\nID_LIKE=\"rhel fedora\"\n",
			"/proc/meminfo":                    "MemTotal:        8000000 kB\nMemFree: 1 kB\n",
			"/proc/swaps":                      "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1048576 0 -2\n",
			"/proc/sys/kernel/hostname":        "host-1\n",
			"/proc/sys/net/ipv4/ip_forward":    "1\n",
			"/etc/machine-id":                  "abc\n",
			"/sys/class/dmi/id/product_uuid":   "ABCD-1\n",
			"/proc/modules":                    "overlay 151552 5 - Live 0x0\n",
			"/lib/modules/6.1/modules.builtin": "kernel/net/vxlan/vxlan.ko\n",
			"/etc/resolv.conf":                 "# x\nnameserver 127.0.0.53\nsearch a\n",
			"/etc/ufw/ufw.conf":                "ENABLED=yes\n",
			"/sys/fs/selinux/enforce":          "1",
			"/proc/1/comm":                     "systemd\n",
			"/proc/net/route":                  "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\neth1 0000000A 0 1 0 0 0 000000FF 0 0 0\neth0 00000000 0100000A 3 0 0 0 00000000 0 0 0\n",
		},
		commands: map[string]string{
			"id": "0\n", "uname": "6.1 aarch64\n", "nproc": "4\n",
			"df":   "Filesystem 1-blocks Used Available Capacity Mounted on\n/dev/sda1 100 60 40 60% /\n/dev/sda1 100 60 40 60% /\n/dev/sdb 900 100 800 12% /var/lib/etcd\n",
			"date": "1700000301.500000000 x\n",
			"grep": "   0: 00000000:192B 00000000:0000 0A 0:0\n   1: 0100007F:1F90 00000000:0000 01 00000000:0 0A \n" +
				"   0: 00000000000000000000000000000000:280A 0:0 0A 0:0\n",
			"getent":    "10.0.0.5 STREAM node-1\n10.0.0.5 DGRAM\n",
			"ss":        "LISTEN 0 4096 *:10250 *:* users:((\"kubelet\",pid=1,fd=3))\n",
			"find":      "/lib/modules/6.1/kernel/net/netfilter/nf_tables.ko.xz\n/lib/modules/5.10/kernel/net/bridge/br_netfilter.ko\n",
			"stat":      "/var/lib/kocli/ledger.jsonl\n/sys/fs/cgroup/cgroup.controllers\n/usr/bin/dnf\n/usr/bin/yum\n/usr/bin/kubelet\n",
			"systemctl": strings.Repeat("inactive\n", 4) + "active\n" + strings.Repeat("inactive\n", 8),
			"rpm":       "container-selinux-2.232-1.noarch\n",
			"ip":        `[{"ifname":"eth0","mtu":1500,"flags":["UP"],"addr_info":[{"local":"10.0.0.5","prefixlen":24}]}]`,
		},
	}
	f, err := probe.Gather(t.Context(), m, clock())
	if err != nil {
		t.Fatal(err)
	}
	f.Disks = nil // below
	want := probe.Facts{
		Node: "node-1", OS: probe.OS{ID: "openeuler", Like: []string{"rhel", "fedora"}, Version: "22.03", Name: "openEuler 22.03 (LTS-SP3)"},
		Machine: "aarch64", Arch: "arm64", Kernel: "6.1", CPUs: 4, Memory: 8000000 << 10,
		Swap: []probe.Swap{{Name: "/dev/sda2", Size: 1 << 30}}, Hostname: "host-1", Resolved: []netip.Addr{netip.MustParseAddr("10.0.0.5")},
		MachineID: "abc", ProductUUID: "abcd-1", Clock: probe.Clock{Known: true, Skew: 300 * time.Second, Error: 500 * time.Millisecond},
		Listening:     []probe.Listener{{Port: 6443}, {Port: 10250, Process: "kubelet"}},
		CgroupVersion: 2, Sysctls: map[string]string{"net.ipv4.ip_forward": "1"},
		Modules: map[string]probe.Module{"overlay": probe.ModuleLoaded, "br_netfilter": probe.ModuleMissing, "nf_tables": probe.ModuleOnDisk,
			"vxlan": probe.ModuleLoaded, "ip_vs": probe.ModuleMissing},
		Binaries: []string{"/usr/bin/kubelet"}, Managed: true, Nameservers: []string{"127.0.0.53"},
		Services: f.Services, UFW: true, SELinux: probe.SELinuxEnforcing, ContainerSELinux: true, PackageManager: "dnf",
		Systemd: true, Root: true, DefaultRoute: "eth0",
		Interfaces: []probe.Interface{{Name: "eth0", MTU: 1500, Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24")}}},
	}
	want.Kubernetes = f.Kubernetes // the table has one answer for find
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got  %+v\nwant %+v", f, want)
	}
	if !f.Services["firewalld"] || f.Services["kubelet"] {
		t.Errorf("services: %v", f.Services)
	}
}

// A kernel that shows its configuration says what is part of it.
func TestGather_readsTheKernelsConfiguration(t *testing.T) {
	var config bytes.Buffer
	z := gzip.NewWriter(&config)
	_, err := z.Write([]byte("# Linux\nCONFIG_OVERLAY_FS=y\nCONFIG_VXLAN=m\n# CONFIG_IP_VS is not set\nCONFIG_NF_TABLES=y\nCONFIG_NF_TABLES_INET=y\n"))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	m := &machine{commands: map[string]string{"uname": "6.1 x86_64\n", "cat": config.String(), "find": "/lib/modules/6.1/kernel/net/vxlan.ko\n"}}
	f, err := probe.Gather(t.Context(), m, clock())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]probe.Module{"overlay": probe.ModuleLoaded, "br_netfilter": probe.ModuleMissing, "nf_tables": probe.ModuleLoaded, "vxlan": probe.ModuleOnDisk, "ip_vs": probe.ModuleMissing}
	if !reflect.DeepEqual(f.Modules, want) {
		t.Errorf("%v, want %v", f.Modules, want)
	}
}

func TestGather_knowsTheDiskOfEveryPath(t *testing.T) {
	m := &machine{commands: map[string]string{
		"df": "Filesystem 1-blocks Used Available Capacity Mounted on\n/dev/sda1 100 60 40 60% /\n/dev/sdb 900 100 800 12% /var/lib\n",
	}}
	f, err := probe.Gather(t.Context(), m, clock())
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/usr/bin": "/", "/var/log": "/", "/var/lib/containerd/x": "/var/lib", "/var/library": "/",
	} {
		if d, ok := f.Disk(path); !ok || d.Mount != want {
			t.Errorf("%s is on %q, want %s", path, d.Mount, want)
		}
	}
}

func TestGather_bareHostLeavesFactsUnknown(t *testing.T) {
	f, err := probe.Gather(t.Context(), &machine{}, clock())
	if err != nil {
		t.Fatal(err)
	}
	if f.Clock.Known || f.Root || f.Arch != "" || len(f.Interfaces) != 0 || !f.Has(netip.MustParseAddr("10.0.0.1")) {
		t.Errorf("%+v", f)
	}
}

func TestGather_lostConnectionIsAnError(t *testing.T) {
	if _, err := probe.Gather(t.Context(), &machine{lost: true}, clock()); err == nil || !strings.Contains(err.Error(), "connection lost") {
		t.Errorf("%v", err)
	}
}

func TestGather_theClockIsNeverAnsweredFromMemory(t *testing.T) {
	m := &machine{}
	now := clock()
	for range 2 {
		if _, err := probe.Gather(t.Context(), m, now); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for _, a := range m.asked {
		if strings.HasPrefix(a, "date") && seen[a] {
			t.Errorf("asked twice: %s", a)
		}
		seen[a] = true
	}
}

// here runs on this machine, for the parsers' sake: real programs, real files.
type here struct{ machine }

func (h *here) Query(ctx context.Context, c host.Cmd) (host.Output, error) {
	if err := host.CheckQuery(c); err != nil {
		return host.Output{}, err
	}
	out, err := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...).Output()
	if err != nil {
		return host.Output{Stdout: out}, &host.ExitError{Cmd: c.String(), Code: 1}
	}
	return host.Output{Stdout: out}, nil
}

func (h *here) ReadFile(_ context.Context, path string) ([]byte, error) { return os.ReadFile(path) }

func TestGather_thisMachine(t *testing.T) {
	f, err := probe.Gather(t.Context(), &here{}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", f)
	if f.OS.ID == "" || f.Arch == "" || f.CPUs == 0 || f.Memory == 0 || len(f.Disks) == 0 || !f.Clock.Known || f.Clock.Skew.Abs() > time.Second {
		t.Errorf("%+v", f)
	}
}
