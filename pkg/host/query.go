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
	dir, program := path.Split(c.Argv[0])
	if c.Stdin != nil || !slices.Contains(folders(), dir) || !looks(program, c.Argv[1:]) {
		return fmt.Errorf("%s: %w", c, ErrNotQuery)
	}
	return nil
}

// folders are where the programs of a system are; "" means by PATH.
func folders() []string {
	return []string{"", "/usr/local/sbin/", "/usr/local/bin/", "/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"}
}

// looks reports whether the program, called with args, only looks. It lists what
// is allowed, option by option where a program can also write: programs take
// abbreviated options and verbs, so that a list of what is refused has holes.
func looks(program string, args []string) bool {
	verb := ""
	if len(args) > 0 {
		verb = args[0] // before any option: "-p show stop" is a stop
	}
	switch program {
	case "cat", "ls", "stat", "uname", "df", "getent", "dpkg-query", "findmnt", "lsmod", "lsblk", "getenforce",
		"readlink", "test", "id", "sha256sum", "true", "printf", "nproc", "apparmor_status", "free", "getconf":
		return true
	case "grep":
		return verb == "-hsF" && len(args) > 2 && args[1] == "--" // the rest is a text and files
	case "hostname":
		return only(args, "-s", "-f", "-i", "-I", "-d", "-A")
	case "date":
		return only(slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "+") }), "-u", "-R", "-Iseconds")
	case "find":
		return !slices.ContainsFunc(args, func(a string) bool {
			return a == "-delete" || strings.HasPrefix(a, "-exec") || strings.HasPrefix(a, "-ok") || strings.HasPrefix(a, "-f")
		})
	case "sysctl":
		return verb == "-n" && !slices.ContainsFunc(args[1:], func(a string) bool { return strings.HasPrefix(a, "-") || strings.Contains(a, "=") })
	case "ss":
		return !slices.ContainsFunc(args, func(a string) bool { // not -K, which kills, nor -D, which writes
			return strings.HasPrefix(a, "-") && strings.Trim(a[1:], "Hltnpuaxoemiw46") != ""
		})
	case "tail": // by lines, and not for ever
		return len(args) == 4 && verb == "-n" && word(args[1]) && args[2] == "--"
	case "iptables-save", "ip6tables-save":
		return len(args) == 0 || len(args) == 2 && verb == "-t" && word(args[1])
	case "systemctl":
		return slices.Contains([]string{"is-active", "is-enabled", "is-system-running", "show", "list-units", "list-unit-files", "cat", "status"}, verb)
	case "timedatectl":
		return verb == "show" || verb == "status"
	case "rpm":
		return slices.Contains([]string{"-q", "-qa", "-ql", "-qf"}, verb) &&
			!slices.ContainsFunc(args[1:], func(a string) bool { return strings.HasPrefix(a, "-") && a != "--qf" })
	case "ip":
		return ipLooks(args)
	case "nft":
		for len(args) > 0 && slices.Contains([]string{"-j", "-a", "-n"}, args[0]) {
			args = args[1:]
		}
		// nft joins its arguments and splits them at semicolons again.
		return len(args) > 0 && args[0] == "list" && !slices.ContainsFunc(args, func(a string) bool { return !word(a) })
	case "ctr":
		return ctrLooks(args)
	case "kubelet", "containerd", "runc":
		return len(args) == 1 && verb == "--version"
	case "kubeadm":
		return verb == "version"
	case "firewall-cmd":
		return len(args) == 1 && verb == "--state"
	case "ufw":
		return len(args) == 1 && verb == "status"
	case "journalctl":
		return !slices.ContainsFunc(args, func(a string) bool {
			return strings.HasPrefix(a, "-") &&
				!slices.Contains([]string{"-u", "-n", "-o", "-b", "-k", "-p", "-q", "-r", "--no-pager", "--since", "--until", "--utc"}, a)
		})
	}
	return false
}

// only reports whether every argument is one of those allowed.
func only(args []string, allowed ...string) bool {
	return !slices.ContainsFunc(args, func(a string) bool { return !slices.Contains(allowed, a) })
}

// word reports whether s means nothing special to a program that parses its
// arguments as a language.
func word(s string) bool {
	return s != "" && s[0] != '-' && strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.", r)
	}) < 0
}

// ipLooks allows the listings of iproute2, by their full names only.
func ipLooks(args []string) bool {
	for len(args) > 0 && slices.Contains([]string{"-j", "-4", "-6", "-o", "-br", "-d", "-s"}, args[0]) {
		args = args[1:]
	}
	if len(args) == 0 || !slices.Contains([]string{"addr", "address", "link", "route", "rule", "neigh"}, args[0]) {
		return false
	}
	return len(args) == 1 || slices.Contains([]string{"show", "list", "get"}, args[1])
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
