// Package osprep prepares the operating system of a host: name, /etc/hosts,
// swap, kernel modules, sysctls and packages. Firewall and SELinux are left as
// they are: preflight says what has to be open.
package osprep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/plan"
)

// Hostname sets the host's name to the node's.
func Hostname(n inventory.Node) plan.Step {
	file := host.Bytes("/etc/hostname", 0o644, []byte(n.Name+"\n"))
	return converge.Func{
		Name: "osprep/hostname",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			now, err := r.ReadFile(ctx, "/proc/sys/kernel/hostname")
			if err != nil {
				return nil, err
			}
			changes, err := converge.Differences(ctx, r, []host.File{file})
			if have := strings.TrimSpace(string(now)); have != n.Name {
				changes = append(changes, plan.Change{Object: "hostname", From: have, To: n.Name})
			}
			return changes, err
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			now, err := h.ReadFile(ctx, "/proc/sys/kernel/hostname")
			if err != nil {
				return err
			}
			have := strings.TrimSpace(string(now))
			if have != n.Name {
				if err := ledger.Append(ctx, h, ledger.Entry{Kind: ledger.Hostname, Name: "hostname", Value: have}); err != nil {
					return err
				}
			}
			if _, err := h.Put(ctx, file); err != nil {
				return err
			}
			if have == n.Name {
				return nil
			}
			_, err = h.Run(ctx, host.Command("hostname", n.Name))
			return err
		},
	}
}

// The marks around kocli's block in /etc/hosts.
const (
	hostsBegin = "# kocli: nodes of the cluster, begin"
	hostsEnd   = "# kocli: nodes of the cluster, end"
)

// Hosts keeps a block in /etc/hosts that names the node itself and the control
// planes, and the built-in registry. Others are not in it: a worker that joins must not change every host.
func Hosts(inv *inventory.Inventory, self inventory.Node) plan.Step {
	named := inv.ControlPlanes()
	if !self.ControlPlane {
		named = append(named, self)
	}
	if b := inv.Spec.Registry.Builtin; b != nil {
		for _, n := range inv.RegistryHosts() {
			named = append(named, inventory.Node{IP: n.IP, Name: b.Name})
		}
	}
	return converge.Files{
		Name: "osprep/hosts",
		List: func(ctx context.Context, r host.Reader) ([]host.File, error) {
			data, err := r.ReadFile(ctx, "/etc/hosts")
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			return []host.File{host.Bytes("/etc/hosts", 0o644, hostsFile(data, named))}, nil
		},
	}
}

// hostsFile replaces kocli's block in the content of /etc/hosts. Everything
// else stays as it is. A block whose end somebody removed ends where lines begin
// that are not ours.
func hostsFile(old []byte, nodes []inventory.Node) []byte {
	block := []string{hostsBegin}
	for _, n := range nodes {
		block = append(block, n.IP+" "+n.Name)
	}
	block = append(block, hostsEnd)
	var out bytes.Buffer
	keep := func(lines ...string) {
		for _, l := range lines {
			if l != "" || out.Len() > 0 {
				out.WriteString(l + "\n")
			}
		}
	}
	var inside []string // lines of a block that has begun
	for _, l := range strings.Split(strings.TrimRight(string(old), "\n"), "\n") {
		switch {
		case l == hostsBegin || inside != nil && l != hostsEnd:
			inside = append(inside, l)
		case l == hostsEnd:
			inside = nil
		default:
			keep(l)
		}
	}
	keep(slices.DeleteFunc(inside, func(l string) bool { return slices.Contains(block, l) })...)
	keep(block...)
	return out.Bytes()
}

// Swap turns swap off, now and at the next boot.
func Swap() plan.Step {
	return converge.Func{Name: "osprep/swap", CheckFn: checkSwap, ApplyFn: func(ctx context.Context, h host.Host) error {
		devices, fstab, err := swapState(ctx, h)
		if err != nil {
			return err
		}
		var entries []ledger.Entry
		for _, d := range devices {
			entries = append(entries, ledger.Entry{Kind: ledger.Swap, Name: d})
		}
		if err := ledger.Append(ctx, h, entries...); err != nil {
			return err
		}
		if len(devices) > 0 {
			if _, err := h.Run(ctx, host.Command("swapoff", "-a")); err != nil {
				return err
			}
		}
		if without := withoutSwap(fstab); !bytes.Equal(without, fstab) {
			_, err = h.Put(ctx, host.Bytes("/etc/fstab", 0o644, without))
		}
		return err
	}}
}

func checkSwap(ctx context.Context, r host.Reader) ([]plan.Change, error) {
	devices, fstab, err := swapState(ctx, r)
	if err != nil {
		return nil, err
	}
	var out []plan.Change
	for _, d := range devices {
		out = append(out, plan.Change{Object: "swap " + d, From: "on", To: "off"})
	}
	if !bytes.Equal(withoutSwap(fstab), fstab) {
		out = append(out, plan.Change{Object: "file /etc/fstab", To: "comment out swap"})
	}
	return out, nil
}

// swapState lists the devices in use, and returns /etc/fstab.
func swapState(ctx context.Context, r host.Reader) (devices []string, fstab []byte, err error) {
	table, err := r.ReadFile(ctx, "/proc/swaps")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for i, l := range strings.Split(strings.TrimSpace(string(table)), "\n") {
		if f := strings.Fields(l); i > 0 && len(f) > 0 {
			devices = append(devices, f[0])
		}
	}
	fstab, err = r.ReadFile(ctx, "/etc/fstab")
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return devices, fstab, err
}

// withoutSwap comments out the swap lines of an fstab.
func withoutSwap(fstab []byte) []byte {
	lines := strings.Split(string(fstab), "\n")
	for i, l := range lines {
		f := strings.Fields(l)
		if len(f) >= 3 && !strings.HasPrefix(f[0], "#") && f[2] == "swap" {
			lines[i] = "# kocli: " + l
		}
	}
	return []byte(strings.Join(lines, "\n"))
}

// Modules loads the kernel modules that pods and services need, now and at
// every boot. A feature that is built into the kernel needs no module.
func Modules() plan.Step {
	file := host.Bytes("/etc/modules-load.d/kocli.conf", 0o644, []byte("# written by kocli\noverlay\nbr_netfilter\n"))
	missing := func(ctx context.Context, r host.Reader) ([]string, error) {
		var out []string
		fss, err := r.ReadFile(ctx, "/proc/filesystems")
		if err != nil {
			return nil, err
		}
		if !slices.Contains(strings.Fields(string(fss)), "overlay") {
			out = append(out, "overlay")
		}
		_, err = r.Stat(ctx, "/proc/sys/net/bridge/bridge-nf-call-iptables")
		if errors.Is(err, fs.ErrNotExist) {
			return append(out, "br_netfilter"), nil
		}
		return out, err
	}
	return converge.Func{
		Name: "osprep/modules",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			out, err := converge.Differences(ctx, r, []host.File{file})
			if err != nil {
				return nil, err
			}
			mods, err := missing(ctx, r)
			for _, m := range mods {
				out = append(out, plan.Change{Object: "kernel module " + m, To: "load"})
			}
			return out, err
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			if _, err := h.Put(ctx, file); err != nil {
				return err
			}
			mods, err := missing(ctx, h)
			if err != nil || len(mods) == 0 {
				return err
			}
			_, err = h.Run(ctx, host.Command(append([]string{"modprobe", "-a"}, mods...)...))
			return err
		},
	}
}

// settings are the sysctls that Kubernetes needs before the kubelet runs, which
// sets the others (kernel.panic, vm.overcommit_memory) itself.
func settings() [][2]string {
	return [][2]string{
		{"net.ipv4.ip_forward", "1"},                 // pods reach other nodes
		{"net.bridge.bridge-nf-call-iptables", "1"},  // services work for pods of the same node
		{"net.bridge.bridge-nf-call-ip6tables", "1"}, // the same for IPv6
	}
}

// Sysctls sets kernel parameters, now and at every boot.
func Sysctls() plan.Step {
	var content bytes.Buffer
	content.WriteString("# written by kocli: what Kubernetes needs\n")
	for _, s := range settings() {
		fmt.Fprintf(&content, "%s = %s\n", s[0], s[1])
	}
	file := host.Bytes("/etc/sysctl.d/90-kocli.conf", 0o644, content.Bytes())
	return converge.Func{
		Name: "osprep/sysctl",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			out, err := converge.Differences(ctx, r, []host.File{file})
			if err != nil {
				return nil, err
			}
			diffs, err := wrongSysctls(ctx, r)
			for _, d := range diffs {
				out = append(out, plan.Change{Object: "sysctl " + d.name, From: d.have, To: d.want})
			}
			return out, err
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			diffs, err := wrongSysctls(ctx, h)
			if err != nil {
				return err
			}
			var entries []ledger.Entry
			argv := []string{"sysctl", "-q", "-w"}
			for _, d := range diffs {
				if d.have != "" {
					entries = append(entries, ledger.Entry{Kind: ledger.Sysctl, Name: d.name, Value: d.have})
				}
				argv = append(argv, d.name+"="+d.want)
			}
			if err := ledger.Append(ctx, h, entries...); err != nil {
				return err
			}
			if _, err := h.Put(ctx, file); err != nil {
				return err
			}
			if len(diffs) == 0 {
				return nil
			}
			_, err = h.Run(ctx, host.Command(argv...))
			return err
		},
	}
}

// sysctl is a kernel parameter that is not as it should be.
type sysctl struct{ name, have, want string }

func wrongSysctls(ctx context.Context, r host.Reader) ([]sysctl, error) {
	var cmds []host.Cmd
	for _, s := range settings() {
		cmds = append(cmds, host.Command("cat", "--", "/proc/sys/"+strings.ReplaceAll(s[0], ".", "/")))
	}
	outs, errs, err := converge.Asked(ctx, r, cmds...)
	if err != nil {
		return nil, err
	}
	var out []sysctl
	for i, s := range settings() {
		have := outs[i].Text()
		if errs[i] != nil {
			have = "" // appears with its module
		}
		if have != s[1] {
			out = append(out, sysctl{s[0], have, s[1]})
		}
	}
	return out, nil
}
