package hosttest

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// OS puts what a Debian host has on the machine: files of /proc, systemd, dpkg
// and the programs that set the kernel up.
func OS(m *Machine) *Machine {
	m.Write("/proc/sys/kernel/hostname", 0o644, "localhost\n")
	m.Write("/etc/hostname", 0o644, "localhost\n")
	m.Write("/etc/hosts", 0o644, "127.0.0.1 localhost\n")
	m.Write("/etc/fstab", 0o644, "UUID=1 / ext4 defaults 0 1\n/dev/sda2 none swap sw 0 0\n")
	m.Write("/proc/swaps", 0o444, swapsHeader+"/dev/sda2 partition 1000 0 -2\n")
	m.Write("/proc/filesystems", 0o444, "nodev\tproc\n\text4\n")
	m.Write("/proc/sys/net/ipv4/ip_forward", 0o644, "0\n")
	m.Write("/etc/resolv.conf", 0o644, "nameserver 192.0.2.53\n")
	m.Install(Systemd(), Dpkg(), Kernel())
	return m
}

const swapsHeader = "Filename Type Size Used Priority\n"

// Kernel is hostname, swapoff, modprobe and sysctl.
func Kernel() Program {
	return func(_ context.Context, m *Machine, argv []string, _ []byte) (Reply, bool) {
		switch {
		case argv[0] == "hostname" && len(argv) == 2:
			m.Write("/proc/sys/kernel/hostname", 0o644, argv[1]+"\n")
		case slices.Equal(argv, []string{"swapoff", "-a"}):
			m.Write("/proc/swaps", 0o444, swapsHeader)
		case argv[0] == "swapon" && len(argv) == 2:
			table, _ := m.Read("/proc/swaps")
			if strings.Contains(table, "\n"+argv[1]+" ") {
				return Reply{Stderr: "swapon: " + argv[1] + ": swapon failed: Device or resource busy\n", Code: 255}, true
			}
			m.Write("/proc/swaps", 0o444, table+argv[1]+" partition 1000 0 -2\n")
		case argv[0] == "modprobe" && argv[1] == "-a":
			return modprobe(m, argv[2:]), true
		case argv[0] == "sysctl" && slices.Contains(argv, "-w"):
			return sysctl(m, argv[1:]), true
		default:
			return Reply{}, false
		}
		return Reply{}, true
	}
}

func modprobe(m *Machine, names []string) Reply {
	for _, n := range names {
		switch n {
		case "overlay":
			fs, _ := m.Read("/proc/filesystems")
			m.Write("/proc/filesystems", 0o444, fs+"nodev\toverlay\n")
		case "br_netfilter":
			for _, f := range []string{"iptables", "ip6tables"} {
				m.Write("/proc/sys/net/bridge/bridge-nf-call-"+f, 0o644, "0\n")
			}
		default:
			return Reply{Stderr: "modprobe: FATAL: Module " + n + " not found\n", Code: 1}
		}
	}
	return Reply{}
}

func sysctl(m *Machine, args []string) Reply {
	for _, a := range args {
		name, value, ok := strings.Cut(a, "=")
		if !ok {
			continue
		}
		p := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
		if _, ok := m.Read(p); !ok {
			return Reply{Stderr: "sysctl: cannot stat " + p + ": No such file or directory\n", Code: 1}
		}
		m.Write(p, 0o644, value+"\n")
	}
	return Reply{}
}

// Dpkg installs packages, and knows which are. The machine's own state shows
// them as /var/lib/dpkg/info/NAME.list.
func Dpkg() Program {
	return func(_ context.Context, m *Machine, argv []string, _ []byte) (Reply, bool) {
		if argv[0] == "dpkg-query" && len(argv) > 4 && argv[1] == "-W" {
			var r Reply
			for _, name := range argv[4:] {
				if _, ok := m.Read("/var/lib/dpkg/info/" + name + ".list"); ok {
					r.Stdout += name + " installed\n"
				} else {
					r.Stderr += "dpkg-query: no packages found matching " + name + "\n"
					r.Code = 1
				}
			}
			return r, true
		}
		i := slices.Index(argv, "dpkg")
		if i >= 0 && slices.Contains(argv, "--purge") {
			for _, name := range argv[i+2:] {
				m.Delete("/var/lib/dpkg/info/" + name + ".list")
			}
			return Reply{}, true
		}
		if i < 0 || argv[0] != "env" || !slices.Contains(argv, "--install") {
			return Reply{}, false
		}
		for _, a := range argv[i+1:] {
			if strings.HasPrefix(a, "-") {
				continue
			}
			if _, ok := m.Read(a); !ok {
				return Reply{Stderr: "dpkg: error: cannot access archive '" + a + "': No such file or directory\n", Code: 2}, true
			}
			name, _, _ := strings.Cut(path.Base(a), "_")
			m.Write("/var/lib/dpkg/info/"+name+".list", 0o644, "")
		}
		return Reply{}, true
	}
}

// unit is what systemd has in memory of a unit.
type unit struct {
	loaded string // text of the files when they were read
	pid    int    // of the running process; 0 when there is none
}

// Systemd knows units by their files under /etc/systemd/system. A process that
// it starts shows its environment in /proc; an enabled unit shows as a link in
// multi-user.target.wants. A restart uses the files as they were at the last
// daemon-reload, as the real one does.
func Systemd() Program {
	var mu sync.Mutex
	units := map[string]*unit{}
	next := 1000
	return func(ctx context.Context, m *Machine, argv []string, _ []byte) (Reply, bool) {
		if argv[0] == "systemd-run" {
			return transient(ctx, m, argv)
		}
		if argv[0] != "systemctl" || len(argv) < 2 {
			return Reply{}, false
		}
		mu.Lock()
		defer mu.Unlock()
		if argv[1] == "daemon-reload" {
			for name, u := range units {
				u.loaded, _ = unitText(m, name)
			}
			return Reply{}, true
		}
		var names []string
		for i := 2; i < len(argv); i++ {
			if argv[i] == "-p" {
				i++
			} else if !strings.HasPrefix(argv[i], "-") {
				names = append(names, argv[i])
			}
		}
		var r Reply
		for _, name := range names {
			if !strings.Contains(name, ".") {
				name += ".service"
			}
			text, exists := unitText(m, name)
			u := units[name]
			if u == nil {
				u = &unit{loaded: text} // first use loads it
				if exists {
					units[name] = u
				}
			}
			r.add(systemctl(m, argv[1], name, exists, text, u, &next))
		}
		return r, true
	}
}

// transient is systemd-run with the script of package kubeadmrun: what it runs has ended
// when systemd-run has. A machine that is lost meanwhile has lost its power, and the
// status is not written.
func transient(ctx context.Context, m *Machine, argv []string) (Reply, bool) {
	i := slices.Index(argv, "kocli-kubeadm")
	if i < 0 || len(argv) < i+4 {
		return Reply{}, false
	}
	dir, job := argv[i+1], argv[i+2]
	m.Delete(dir)
	m.Write(dir+"/job", 0o600, job+"\n")
	r, ok := m.program(ctx, argv[i+3:], nil)
	if !ok {
		return Reply{}, false
	}
	m.Write(dir+"/log", 0o600, r.Stdout+r.Stderr)
	if !m.Lost() {
		m.Write(dir+"/status", 0o600, strconv.Itoa(r.Code)+"\n")
	}
	return Reply{}, true
}

func (r *Reply) add(other Reply) {
	r.Stdout += other.Stdout
	r.Stderr += other.Stderr
	r.Code = max(r.Code, other.Code)
}

// unitText joins a unit's file and its drop-ins.
func unitText(m *Machine, name string) (string, bool) {
	text, ok := m.Read("/etc/systemd/system/" + name)
	for _, f := range m.Files() {
		if path.Dir(f) == "/etc/systemd/system/"+name+".d" {
			more, _ := m.Read(f)
			text += "\n" + more
		}
	}
	return text, ok
}

func wants(name string) string { return "/etc/systemd/system/multi-user.target.wants/" + name }

func systemctl(m *Machine, verb, name string, exists bool, text string, u *unit, next *int) Reply {
	stop := func() {
		if u.pid > 0 {
			m.Delete("/proc/" + strconv.Itoa(u.pid))
			u.pid = 0
		}
	}
	_, enabled := m.Read(wants(name))
	switch verb {
	case "show":
		state := map[bool]string{true: "enabled", false: "disabled"}[enabled]
		if !exists {
			state = ""
		}
		active, sub := "inactive", "dead"
		if u.pid > 0 {
			active, sub = "active", "running"
		}
		reload := "no"
		if u.loaded != text {
			reload = "yes"
		}
		return Reply{Stdout: fmt.Sprintf("ActiveState=%s\nSubState=%s\nUnitFileState=%s\nMainPID=%d\nNeedDaemonReload=%s\nResult=success\n", active, sub, state, u.pid, reload)}
	case "is-active":
		if u.pid > 0 {
			return Reply{Stdout: "active\n"}
		}
		return Reply{Stdout: "inactive\n", Code: 3}
	}
	if !exists {
		return Reply{Stderr: "Failed to " + verb + " unit: Unit file " + name + " does not exist.\n", Code: 5}
	}
	switch verb {
	case "is-enabled":
		if !enabled {
			return Reply{Stdout: "disabled\n", Code: 1}
		}
		return Reply{Stdout: "enabled\n"}
	case "enable":
		m.Link(wants(name), "/etc/systemd/system/"+name)
		u.loaded = text // it reloads, too
	case "disable":
		m.Delete(wants(name))
		stop() // kocli always says --now
	case "stop":
		stop()
	case "restart", "start":
		if verb == "start" && u.pid > 0 {
			break
		}
		stop()
		if u.loaded == "" {
			u.loaded = text
		}
		*next++
		u.pid = *next
		var env []string
		for _, l := range strings.Split(u.loaded, "\n") {
			if v, ok := strings.CutPrefix(l, "Environment="); ok {
				env = append(env, strings.Trim(v, `"`))
			}
		}
		m.Write("/proc/"+strconv.Itoa(u.pid)+"/environ", 0o400, strings.Join(env, "\x00")+"\x00")
	default:
		return Reply{Stderr: "Unknown command verb " + verb, Code: 1}
	}
	return Reply{}
}
