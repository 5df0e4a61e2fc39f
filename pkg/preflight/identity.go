package preflight

import (
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/probe"
)

// The difference of clocks that is worth a word, and that is refused.
const (
	skewWarning = 2 * time.Second
	skewError   = time.Minute
)

// foreignKubelet refuses a host that belongs to somebody else's cluster. What
// kocli put there is told by its ledger.
func foreignKubelet(_ Input, _ inventory.Node, f probe.Facts) []Finding {
	if f.Managed {
		return nil
	}
	var found []string
	for _, b := range f.Binaries {
		if slices.Contains([]string{"kubelet", "k3s", "rke2", "k0s"}, path.Base(b)) {
			found = append(found, b)
		}
	}
	if f.Services["kubelet"] {
		found = append(found, "kubelet.service (running)")
	}
	if n := len(f.Kubernetes); n > 0 {
		found = append(found, f.Kubernetes[:min(n, 3)]...)
	}
	if len(found) == 0 {
		return nil
	}
	return []Finding{refuse("use another host, or remove it with the tool that installed it (kubeadm reset) if it is not needed",
		"the host has a Kubernetes that kocli did not install: %s", strings.Join(found, ", "))}
}

func foreignRuntime(_ Input, _ inventory.Node, f probe.Facts) []Finding {
	if f.Managed {
		return nil
	}
	var found []string
	for _, s := range []string{"docker", "containerd", "crio"} {
		if f.Services[s] {
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return []Finding{warn("move its containers elsewhere, or be sure that they may share the host",
		"%s is running already; its containers are left alone, and containerd's configuration will be kocli's until reset", strings.Join(found, " and "))}
}

// duplicates reports every node whose value another node before it has.
func duplicates(in Input, value func(probe.Facts) string, finding func(v, other string) Finding) []Finding {
	first := map[string]string{}
	var all []Finding
	for _, n := range in.Inventory.Nodes {
		f, ok := in.Facts[n.Name]
		v := value(f)
		if !ok || v == "" {
			continue
		}
		if other, seen := first[v]; seen {
			one := finding(v, other)
			one.Node = n.Name
			all = append(all, one)
			continue
		}
		first[v] = n.Name
	}
	return all
}

func machineIDDuplicate(in Input) []Finding {
	return duplicates(in, func(f probe.Facts) string { return f.MachineID }, func(v, other string) Finding {
		return refuse("on the clone: rm -f /etc/machine-id /var/lib/dbus/machine-id && systemd-machine-id-setup && reboot",
			"machine-id %s is also that of %s", v, other)
	})
}

func productUUIDDuplicate(in Input) []Finding {
	return duplicates(in, func(f probe.Facts) string { return f.ProductUUID }, func(v, other string) Finding {
		return warn("give the virtual machine an UUID of its own if a cloud or storage driver will be used",
			"product_uuid %s is also that of %s", v, other)
	})
}

func hostnameDuplicate(in Input) []Finding {
	if in.Inventory.Spec.OS.SetHostname {
		return nil // each will have its own
	}
	return duplicates(in, func(f probe.Facts) string { return f.Hostname }, func(v, other string) Finding {
		return refuse("hostnamectl set-hostname, or set spec.os.setHostname to true", "hostname %s is also that of %s", v, other)
	})
}

// clockSkew compares the hosts with each other: by the median of their
// differences to the operator's clock. When they agree and the operator's
// clock is off, that is said once.
func clockSkew(in Input) []Finding {
	type one struct {
		node  string
		clock probe.Clock
	}
	var clocks []one
	for _, n := range in.Inventory.Nodes {
		if c := in.Facts[n.Name].Clock; c.Known {
			clocks = append(clocks, one{n.Name, c})
		}
	}
	if len(clocks) == 0 {
		return nil
	}
	sorted := make([]time.Duration, len(clocks))
	for i, c := range clocks {
		sorted[i] = c.clock.Skew
	}
	slices.Sort(sorted)
	median := sorted[(len(sorted)-1)/2]
	var all []Finding
	// Of two hosts nobody knows which is right: both are measured against the
	// operator's clock. So is a single one.
	const quorum = 3
	if len(clocks) < quorum {
		median = 0
	}
	for _, c := range clocks {
		if f, ok := skew(c.clock.Skew-median, c.clock.Error, "the clock is %s", "set the clock, and let a time service keep it: timedatectl set-ntp true"); ok {
			f.Node = c.node
			all = append(all, f)
		}
	}
	if f, ok := skew(-median, 0, "the clock of the machine that kocli runs on is %s", "set the clock of the machine that kocli runs on"); ok {
		all = append(all, f)
	}
	return all
}

func skew(d, uncertain time.Duration, format, fix string) (Finding, bool) {
	by := d.Abs() - uncertain
	if by <= skewWarning {
		return Finding{}, false
	}
	way := "ahead"
	if d < 0 {
		way = "behind"
	}
	f := warn(fix, format+" %s", d.Abs().Round(time.Second/10), way)
	if by > skewError {
		f.Level = Error
	}
	return f, true
}

func timeSync(_ Input, _ inventory.Node, f probe.Facts) []Finding {
	if len(f.Services) == 0 || f.TimeSynced || f.Container {
		return nil // a container has its machine's clock
	}
	for _, s := range []string{"chronyd", "chrony", "ntpd", "ntp", "ntpsec", "systemd-timesyncd"} {
		if f.Services[s] {
			return nil
		}
	}
	return []Finding{warn("install chrony, or enable systemd-timesyncd: systemctl enable --now systemd-timesyncd", "no time service is running")}
}
