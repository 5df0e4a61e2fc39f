package probe

import (
	"bufio"
	"compress/gzip"
	"context"
	"io"
	"path"
	"strings"
)

// maxKernelConfig bounds what a compressed kernel configuration may unfold to.
const maxKernelConfig = 4 << 20

// kernelOption returns the build option of a module.
func kernelOption(module string) string {
	return map[string]string{
		"overlay": "CONFIG_OVERLAY_FS", "br_netfilter": "CONFIG_BRIDGE_NETFILTER", "nf_tables": "CONFIG_NF_TABLES",
		"vxlan": "CONFIG_VXLAN", "ip_vs": "CONFIG_IP_VS",
	}[module]
}

// findModules is the command that lists the needed modules on disk.
func findModules() []string {
	argv := []string{"find", "/lib/modules", "("}
	for i, m := range NeededModules() {
		if i > 0 {
			argv = append(argv, "-o")
		}
		argv = append(argv, "-name", m+".ko*")
	}
	return append(argv, ")", "-type", "f")
}

// modules decides the state of every needed module, and asks once more only
// where it could be built into a kernel that does not show its configuration.
func (g gatherer) modules(ctx context.Context, lsmod string, built map[string]bool, onDisk string) error {
	loaded := map[string]bool{}
	for _, f := range lines(lsmod) {
		loaded[f[0]] = true
	}
	dir := path.Join("/lib/modules", g.f.Kernel)
	found := map[string]bool{}
	for _, f := range lines(onDisk) {
		if within(f[0], dir) {
			name, _, _ := strings.Cut(path.Base(f[0]), ".ko")
			found[name] = true
		}
	}
	open := false
	for _, m := range NeededModules() {
		switch {
		case loaded[m], built[m]:
			g.f.Modules[m] = ModuleLoaded
		case found[m]:
			g.f.Modules[m] = ModuleOnDisk
		case built != nil:
			g.f.Modules[m] = ModuleMissing
		default:
			open = true
		}
	}
	if !open || g.f.Kernel == "" {
		return nil
	}
	data, err := g.reader.ReadFile(ctx, path.Join(dir, "modules.builtin"))
	return take(string(data), err, func(s string) {
		for _, m := range NeededModules() {
			if g.f.Modules[m] != ModuleUnknown || s == "" {
				continue
			}
			g.f.Modules[m] = ModuleMissing
			if strings.Contains(s, "/"+m+".ko") {
				g.f.Modules[m] = ModuleLoaded
			}
		}
	})
}

// builtIn reads a compressed kernel configuration: the needed modules that are
// part of the kernel. It is nil where there is no configuration.
func builtIn(compressed string) map[string]bool {
	z, err := gzip.NewReader(strings.NewReader(compressed))
	if err != nil {
		return nil
	}
	modules := map[string]string{}
	for _, m := range NeededModules() {
		modules[kernelOption(m)+"=y"] = m
	}
	out := map[string]bool{}
	lines := bufio.NewScanner(io.LimitReader(z, maxKernelConfig))
	for lines.Scan() {
		if m, ok := modules[string(lines.Bytes())]; ok {
			out[m] = true
		}
	}
	if lines.Err() != nil {
		return nil
	}
	return out
}
