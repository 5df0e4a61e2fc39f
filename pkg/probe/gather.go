package probe

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
)

// Gather reads the facts of a host. now is the operator's clock. The error is
// one of the connection or the login; everything else leaves facts unknown.
func Gather(ctx context.Context, r host.Reader, now func() time.Time) (Facts, error) {
	f := Facts{Node: r.Name(), Sysctls: map[string]string{}, Modules: map[string]Module{}, Services: map[string]bool{}}
	g := gatherer{reader: r, now: now, f: &f}
	if err := g.all(ctx); err != nil {
		return f, err
	}
	return f, nil
}

// Identify asks only for the system and the architecture of a host.
func Identify(ctx context.Context, r host.Reader) (Facts, error) {
	f := Facts{Node: r.Name()}
	asking, ctx := errgroup.WithContext(ctx)
	asking.Go(func() error {
		data, err := r.ReadFile(ctx, "/etc/os-release")
		f.OS = parseOSRelease(string(data))
		return err
	})
	asking.Go(func() error {
		out, err := r.Query(ctx, host.Command("uname", "-rm"))
		f.Kernel, f.Machine, f.Arch = parseUname(string(out.Stdout))
		return err
	})
	return f, asking.Wait()
}

// gatherer asks. Each question writes fields of its own, so that no lock is
// needed.
type gatherer struct {
	reader host.Reader
	now    func() time.Time
	f      *Facts
}

func (g gatherer) all(ctx context.Context) error {
	f := g.f
	sysctls := make([]string, len(sysctlNames()))
	var tcp, sockets, lsmod, onDisk string
	var built map[string]bool
	group, asking := errgroup.WithContext(ctx)
	file := func(path string, use func(string)) {
		group.Go(func() error {
			data, err := g.reader.ReadFile(asking, path)
			return take(string(data), err, use)
		})
	}
	command := func(use func(string), argv ...string) {
		group.Go(func() error {
			out, err := g.reader.Query(asking, host.Command(argv...))
			return take(string(out.Stdout), err, use)
		})
	}
	to := func(s *string) func(string) { return func(v string) { *s = v } }

	group.Go(func() error { return g.clock(asking) })
	command(func(s string) { f.Root = strings.TrimSpace(s) == "0" }, "id", "-u")
	file("/etc/os-release", func(s string) { f.OS = parseOSRelease(s) })
	command(func(s string) { f.Kernel, f.Machine, f.Arch = parseUname(s) }, "uname", "-rm")
	command(func(s string) { f.CPUs, _ = strconv.Atoi(strings.TrimSpace(s)) }, "nproc") // zero is unknown
	file("/proc/meminfo", func(s string) { f.Memory = parseMemory(s) })
	file("/proc/swaps", func(s string) { f.Swap = parseSwaps(s) })
	command(func(s string) { f.Disks = parseDF(s) }, append([]string{"df", "-P", "-B1", "--"}, ProbedPaths()...)...)
	file("/proc/sys/kernel/hostname", func(s string) { f.Hostname = strings.TrimSpace(s) })
	file("/etc/machine-id", func(s string) { f.MachineID = strings.TrimSpace(s) })
	file("/sys/class/dmi/id/product_uuid", func(s string) { f.ProductUUID = strings.ToLower(strings.TrimSpace(s)) })
	command(func(s string) { f.Resolved = parseGetent(s) }, "getent", "ahostsv4", g.reader.Name())
	command(to(&tcp), "grep", "-hsF", "--", " "+listening+" ", "/proc/net/tcp", "/proc/net/tcp6") // a busy host has connections by the ten thousand
	command(to(&sockets), "ss", "-Hltnp")
	for i, name := range sysctlNames() {
		file("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), func(s string) { sysctls[i] = strings.TrimSpace(s) })
	}
	file("/proc/modules", to(&lsmod))
	group.Go(func() error {
		c := host.Command("cat", "--", "/proc/config.gz")
		c.Once = true // it is the largest answer of all
		out, err := g.reader.Query(asking, c)
		return take(string(out.Stdout), err, func(s string) { built = builtIn(s) })
	})
	command(to(&onDisk), findModules()...)
	command(func(s string) { g.present(strings.Fields(s)) }, append([]string{"stat", "-L", "-c", "%n", "--"}, lookedFor()...)...)
	command(func(s string) { f.Kubernetes = strings.Fields(s) },
		"find", "/etc/kubernetes", "/var/lib/etcd/member", "/var/lib/kubelet/config.yaml", "-maxdepth", "2", "-type", "f", "-not", "-path", "*/kocli/*")
	file("/etc/resolv.conf", func(s string) { f.Nameservers = parseResolvConf(s) })
	file("/run/systemd/resolve/resolv.conf", func(s string) { f.RealNameservers = parseResolvConf(s) })
	command(func(s string) { parseServices(s, f.Services) }, append([]string{"systemctl", "is-active"}, watchedServices()...)...)
	file("/etc/ufw/ufw.conf", func(s string) { f.UFW = parseUFW(s) })
	file("/sys/fs/selinux/enforce", func(s string) { f.SELinux = parseSELinux(s) })
	command(func(s string) { f.ContainerSELinux = strings.HasPrefix(s, "container-selinux-") }, "rpm", "-q", "container-selinux")
	file("/proc/1/comm", func(s string) { f.Systemd = strings.TrimSpace(s) == "systemd" })
	file("/proc/net/route", func(s string) { f.DefaultRoute = parseRoute(s) })
	command(func(s string) { f.Interfaces = ParseInterfaces(s) }, InterfacesCommand().Argv...)
	if err := group.Wait(); err != nil {
		return err
	}
	for i, name := range sysctlNames() {
		if sysctls[i] != "" {
			f.Sysctls[name] = sysctls[i]
		}
	}
	f.Listening = parseListeners(tcp, sockets)
	return g.modules(ctx, lsmod, built, onDisk)
}

// take passes what was printed on, also from a command that failed in part,
// and keeps the errors that are not about one fact.
func take(out string, err error, use func(string)) error {
	var exit *host.ExitError
	if err == nil || errors.As(err, &exit) {
		use(out)
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// clock compares the clocks. The question carries the time it was asked at, so
// that no wrapper answers it from memory.
func (g gatherer) clock(ctx context.Context) error {
	before := g.now()
	ask := "+%s.%N " + strconv.FormatInt(before.UnixNano(), 10)
	out, err := g.reader.Query(ctx, host.Command("date", ask))
	after := g.now()
	return take(out.Text(), err, func(s string) { g.f.Clock = compareClocks(s, before, after) })
}

// present sorts the paths that exist.
func (g gatherer) present(paths []string) {
	for _, p := range paths {
		switch p {
		case ledger.Path():
			g.f.Managed = true
		case "/sys/fs/cgroup/cgroup.controllers":
			g.f.CgroupVersion = 2
		case "/sys/fs/cgroup/memory":
			g.f.CgroupVersion = max(g.f.CgroupVersion, 1)
		case "/run/systemd/container", "/.dockerenv":
			g.f.Container = true
		case "/run/systemd/timesync/synchronized":
			g.f.TimeSynced = true
		case "/usr/bin/apt-get":
			g.f.PackageManager = "apt"
		case "/usr/bin/dnf":
			g.f.PackageManager = "dnf"
		case "/usr/bin/yum":
			if g.f.PackageManager == "" {
				g.f.PackageManager = "yum"
			}
		case "/usr/bin/zypper":
			g.f.PackageManager = "zypper"
		default:
			g.f.Binaries = append(g.f.Binaries, p)
		}
	}
}

// lookedFor lists the paths that present understands.
func lookedFor() []string {
	paths := []string{
		ledger.Path(),
		"/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/memory",
		"/run/systemd/container", "/.dockerenv", "/run/systemd/timesync/synchronized",
		"/usr/bin/apt-get", "/usr/bin/dnf", "/usr/bin/yum", "/usr/bin/zypper",
	}
	for _, dir := range []string{"/usr/bin/", "/usr/local/bin/"} {
		for _, name := range []string{"kubelet", "kubeadm", "kubectl", "containerd", "dockerd", "crio", "k3s", "rke2", "k0s"} {
			paths = append(paths, dir+name)
		}
	}
	return paths
}

// watchedServices lists the units whose state is a fact.
func watchedServices() []string {
	return []string{
		"kubelet", "containerd", "docker", "crio", "firewalld", "ufw", "systemd-resolved",
		"chronyd", "chrony", "ntpd", "ntp", "ntpsec", "systemd-timesyncd",
	}
}

func sysctlNames() []string {
	return []string{"net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables", "fs.inotify.max_user_instances", "vm.overcommit_memory"}
}
