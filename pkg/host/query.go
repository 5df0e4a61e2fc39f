package host

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// ErrNotQuery is returned by Query for a command that could change a machine,
// or that kocli does not know to be harmless.
var ErrNotQuery = errors.New("not on the list of commands that only look")

// CheckQuery returns nil when c is on the list of commands that only look. Every
// Reader calls it before a command leaves the operator's machine, so a dry run
// cannot change anything by mistake.
func CheckQuery(c Cmd) error {
	if len(c.Argv) == 0 {
		return fmt.Errorf("empty command: %w", ErrNotQuery)
	}
	if c.Stdin != nil || !looks(path.Base(c.Argv[0]), c.Argv[1:]) {
		return fmt.Errorf("%s: %w", c, ErrNotQuery)
	}
	return nil
}

// looks reports whether the program, called with args, only looks.
func looks(program string, args []string) bool {
	sub := ""
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			sub = a
			break
		}
	}
	switch program {
	case "cat", "ls", "stat", "uname", "df", "getent", "dpkg-query", "findmnt", "ss", "lsmod", "lsblk", "getenforce",
		"readlink", "test", "id", "sha256sum", "true", "printf", "nproc", "iptables-save", "ip6tables-save",
		"apparmor_status", "free", "getconf":
		return true
	case "hostname":
		return sub == ""
	case "date":
		return !slices.ContainsFunc(args, func(a string) bool {
			return a == "-s" || strings.HasPrefix(a, "--set") || a != "" && a[0] != '+' && a[0] != '-'
		})
	case "find":
		return !slices.ContainsFunc(args, func(a string) bool {
			return a == "-delete" || strings.HasPrefix(a, "-exec") || strings.HasPrefix(a, "-ok") || strings.HasPrefix(a, "-f")
		})
	case "sysctl":
		return slices.Contains(args, "-n") &&
			!slices.ContainsFunc(args, func(a string) bool { return a == "-w" || a == "-p" || strings.Contains(a, "=") })
	case "systemctl":
		return slices.Contains([]string{"is-active", "is-enabled", "is-system-running", "show", "list-units", "list-unit-files", "cat", "status"}, sub)
	case "timedatectl":
		return sub == "show" || sub == "status"
	case "rpm":
		return len(args) > 0 && strings.HasPrefix(args[0], "-q")
	case "ip":
		return !slices.ContainsFunc(args, func(a string) bool {
			return slices.Contains([]string{"add", "del", "delete", "set", "flush", "replace", "change", "append", "exec", "-b", "-batch"}, a)
		})
	case "nft":
		return sub == "list"
	case "ctr":
		return ctrLooks(args)
	case "kubelet", "containerd", "runc":
		return len(args) == 1 && args[0] == "--version"
	case "kubeadm":
		return sub == "version"
	case "firewall-cmd":
		return len(args) == 1 && args[0] == "--state"
	case "ufw":
		return len(args) == 1 && args[0] == "status"
	case "journalctl":
		return !slices.ContainsFunc(args, func(a string) bool {
			return strings.HasPrefix(a, "--vacuum") || a == "--rotate" || a == "--flush" || a == "--sync"
		})
	}
	return false
}

// ctrLooks allows the listings of containerd's own client.
func ctrLooks(args []string) bool {
	words := make([]string, 0, len(args))
	for i := 0; i < len(args); i++ {
		if args[i] == "-n" || args[i] == "-a" {
			i++
			continue
		}
		words = append(words, args[i])
	}
	if len(words) < 2 {
		return len(words) == 1 && words[0] == "version"
	}
	return slices.Contains([]string{"images", "content", "containers", "tasks", "namespaces", "snapshots", "leases"}, words[0]) &&
		words[1] == "ls"
}
