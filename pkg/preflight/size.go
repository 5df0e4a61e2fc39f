package preflight

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/probe"
)

// The least that runs. kubeadm's own limits for a control plane are 2
// processors and 1700 MB.
const (
	mib                = int64(1) << 20
	minCPUs            = 2
	minControlPlaneMem = 1700 * mib
	minWorkerMem       = 700 * mib
	goodMem            = 2000 * mib // 2 GiB less what the kernel keeps
	// diskReserve stays free beside what is written: etcd needs room to grow.
	diskReserve = 2 << 30
	// evictBelow are the percents of a disk with images that the kubelet keeps free:
	// below, it deletes images and evicts pods (evictionHard, imagefs.available).
	evictBelow = 15
)

// imagesPath is below where containerd keeps images.
const imagesPath = "/var/lib/containerd"

func versionInBundle(in Input) []Finding {
	v := in.Inventory.Version()
	if len(in.Bundle.Versions) == 0 || slices.Contains(in.Bundle.Versions, v) {
		return nil
	}
	has := strings.Join(in.Bundle.Versions, ", ")
	return []Finding{refuse("set spec.kubernetes.version to one of "+has+", or give a bundle with "+v,
		"Kubernetes %s is not in the bundle, which holds %s", v, has)}
}

func archInBundle(in Input, _ inventory.Node, f probe.Facts) []Finding {
	if f.Arch == "" || len(in.Bundle.Arches) == 0 || slices.Contains(in.Bundle.Arches, f.Arch) {
		return nil
	}
	return []Finding{refuse("give a bundle that was built for "+f.Arch,
		"the host is %s, and the bundle holds %s", f.Arch, strings.Join(in.Bundle.Arches, ", "))}
}

func cpuCount(_ Input, n inventory.Node, f probe.Facts) []Finding {
	if f.CPUs == 0 || f.CPUs >= minCPUs {
		return nil
	}
	const fix = "give the host at least 2 processors"
	if n.ControlPlane {
		return []Finding{refuse(fix, "%d processor, and a control plane needs %d", f.CPUs, minCPUs)}
	}
	return []Finding{warn(fix, "%d processor leaves little for pods", f.CPUs)}
}

func memory(_ Input, n inventory.Node, f probe.Facts) []Finding {
	if f.Memory == 0 {
		return nil
	}
	least, what := minWorkerMem, "worker"
	if n.ControlPlane {
		least, what = minControlPlaneMem, "control plane"
	}
	const fix = "give the host more memory, 2 GiB or better 4"
	switch {
	case f.Memory < least:
		return []Finding{refuse(fix, "%s of memory, and a %s needs %s", size(f.Memory), what, size(least))}
	case f.Memory < goodMem:
		return []Finding{warn(fix, "%s of memory leaves little for pods", size(f.Memory))}
	}
	return nil
}

// diskSpace adds up what goes to one file system, however many paths lead there.
func diskSpace(in Input, n inventory.Node, f probe.Facts) []Finding {
	need := map[string]int64{}
	disks := map[string]probe.Disk{}
	paths := map[string][]string{}
	for _, s := range in.Need[n.Name] {
		d, ok := f.Disk(s.Path)
		if !ok {
			continue
		}
		key := d.Mount
		if strings.HasPrefix(d.Device, "/dev/") {
			key = d.Device // mounted more than once, it is still one disk
		}
		need[key] += s.Bytes
		disks[key] = d
		if !slices.Contains(paths[key], s.Path) {
			paths[key] = append(paths[key], s.Path)
		}
	}
	var all []Finding
	_, limits := kubeletField(in, n, "evictionHard")
	for _, key := range slices.Sorted(maps.Keys(need)) {
		d, bytes, where := disks[key], need[key], strings.Join(paths[key], ", ")
		keeps := d.Size / 100 * evictBelow
		fix := fmt.Sprintf("free %s on %s, or mount a larger disk there", size(max(bytes+diskReserve-d.Free, mib)), d.Mount)
		switch {
		case d.Free < bytes:
			all = append(all, refuse(fix, "%s are free on %s, and %s will be written to %s", size(d.Free), d.Mount, size(bytes), where))
		case d.Free-bytes < keeps && !limits && slices.ContainsFunc(paths[key], func(p string) bool { return strings.HasPrefix(p, imagesPath) }):
			all = append(all, refuse(fmt.Sprintf("free %s on %s, or set evictionHard in spec.kubernetes.overrides.kubelet (imagefs.available, nodefs.available, memory.available)", size(max(keeps+bytes-d.Free, mib)), d.Mount),
				"%s of %s are free on %s; after %s are written there, the kubelet evicts pods, which it does below %d %% (%s)", size(d.Free), size(d.Size), d.Mount, size(bytes), evictBelow, size(keeps)))
		case d.Free < bytes+diskReserve:
			all = append(all, warn(fix, "%s are free on %s; after %s are written to %s little is left to run with", size(d.Free), d.Mount, size(bytes), where))
		}
	}
	return all
}

// swapOn says what will happen: kocli turns swap off, the kubelet is told to
// live with it, or it is refused.
func swapOn(in Input, n inventory.Node, f probe.Facts) []Finding {
	if len(f.Swap) == 0 {
		return nil
	}
	if fail, set := kubeletField(in, n, "failSwapOn"); set && fail == false {
		return nil
	}
	var names []string
	for _, s := range f.Swap {
		names = append(names, s.Name)
	}
	list := strings.Join(names, ", ")
	if m := in.Inventory.Spec.OS.ManageSwap; m == nil || *m {
		return []Finding{warn("", "swap is on (%s): kocli will turn it off, now and in /etc/fstab", list)}
	}
	return []Finding{refuse("swapoff -a and remove it from /etc/fstab, or set spec.os.manageSwap to true, or failSwapOn: false in spec.kubernetes.overrides.kubelet",
		"swap is on (%s), kocli may not turn it off, and the kubelet would not start", list)}
}

// size prints bytes for people.
func size(b int64) string {
	switch {
	case b >= 10<<30:
		return fmt.Sprintf("%d GiB", b>>30)
	case b >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(b)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", b>>20)
}
