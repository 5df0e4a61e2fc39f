package probe

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/host"
)

// lines returns the lines of s as fields, without empty ones.
func lines(s string) [][]string {
	var out [][]string
	for l := range strings.Lines(s) {
		if f := strings.Fields(l); len(f) > 0 {
			out = append(out, f)
		}
	}
	return out
}

func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(path.Clean(dir), "/")+"/")
}

// parseOSRelease reads os-release(5).
func parseOSRelease(s string) OS {
	v := map[string]string{}
	for l := range strings.Lines(s) {
		key, value, ok := strings.Cut(strings.TrimSpace(l), "=")
		if ok && !strings.HasPrefix(key, "#") {
			v[key] = strings.Trim(value, `"'`)
		}
	}
	return OS{
		ID: strings.ToLower(v["ID"]), Like: strings.Fields(strings.ToLower(v["ID_LIKE"])),
		Version: v["VERSION_ID"], Name: v["PRETTY_NAME"],
	}
}

// parseUname reads uname -rm.
func parseUname(s string) (kernel, machine, arch string) {
	f := strings.Fields(s)
	if len(f) != 2 {
		return "", "", ""
	}
	return f[0], f[1], Arch(f[1])
}

// Arch is Go's name of an architecture that uname -m names.
func Arch(machine string) string {
	names := map[string]string{"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "loongarch64": "loong64"}
	if arch := names[machine]; arch != "" {
		return arch
	}
	return machine
}

// parseMemory reads /proc/meminfo.
func parseMemory(s string) int64 {
	for _, f := range lines(s) {
		if f[0] == "MemTotal:" && len(f) > 1 {
			kib, _ := strconv.ParseInt(f[1], 10, 64) // zero is unknown
			return kib << 10
		}
	}
	return 0
}

// parseSwaps reads /proc/swaps.
func parseSwaps(s string) []Swap {
	var out []Swap
	for _, f := range lines(s) {
		if len(f) < 3 || f[0] == "Filename" {
			continue
		}
		kib, _ := strconv.ParseInt(f[2], 10, 64) // zero is unknown
		out = append(out, Swap{Name: f[0], Size: kib << 10})
	}
	return out
}

// parseDF reads df -P -B1 of ProbedPaths. df leaves out paths that do not
// exist, so the path of a line is told by its mount: each probed path belongs
// to the longest mount that it lies in.
func parseDF(s string) []Disk {
	mounts := map[string]Disk{}
	for _, f := range lines(s) {
		if len(f) < 6 || f[0] == "Filesystem" {
			continue
		}
		size, err1 := strconv.ParseInt(f[1], 10, 64)
		free, err2 := strconv.ParseInt(f[3], 10, 64)
		if err1 == nil && err2 == nil {
			m := strings.Join(f[5:], " ")
			mounts[m] = Disk{Device: f[0], Mount: m, Size: size, Free: free}
		}
	}
	var out []Disk
	for _, p := range ProbedPaths() {
		var best Disk
		for m, d := range mounts {
			if within(p, m) && len(m) > len(best.Mount) {
				best = d
			}
		}
		if best.Mount != "" {
			best.Path = p
			out = append(out, best)
		}
	}
	return out
}

// parseGetent reads getent ahostsv4: each address once.
func parseGetent(s string) []netip.Addr {
	var out []netip.Addr
	for _, f := range lines(s) {
		if a, err := netip.ParseAddr(f[0]); err == nil && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// compareClocks takes the host's "seconds.nanoseconds asked-at" apart. Without
// nanoseconds (a date that does not know %N) the error is half a second more.
func compareClocks(s string, before, after time.Time) Clock {
	f := strings.Fields(s)
	if len(f) == 0 {
		return Clock{}
	}
	sec, frac, _ := strings.Cut(f[0], ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return Clock{}
	}
	half := after.Sub(before) / 2
	nanos, err := strconv.ParseInt(frac, 10, 64)
	if err != nil {
		nanos, half = int64(time.Second/2), half+time.Second/2
	}
	c := Clock{Known: true, Error: half, Skew: time.Unix(n, nanos).Sub(before.Add(after.Sub(before) / 2))}
	if c.Skew.Abs() <= half {
		c.Skew = 0
	}
	return c
}

// listening is the state of a listener in /proc/net/tcp.
const listening = "0A"

// parseListeners reads /proc/net/tcp and tcp6, with the names of programs from
// ss -Hltnp where it is there.
func parseListeners(proc, ss string) []Listener {
	names := map[int]string{}
	user := regexp.MustCompile(`users:\(\("([^"]+)"`)
	for _, f := range lines(ss) {
		if len(f) < 5 {
			continue
		}
		port, err := strconv.Atoi(f[3][strings.LastIndex(f[3], ":")+1:])
		if m := user.FindStringSubmatch(strings.Join(f[4:], " ")); err == nil && m != nil {
			names[port] = m[1]
		}
	}
	seen := map[int]bool{}
	var out []Listener
	for _, f := range lines(proc) {
		if len(f) < 4 || f[3] != listening {
			continue
		}
		_, hexPort, _ := strings.Cut(f[1], ":")
		port, err := strconv.ParseUint(hexPort, 16, 16)
		if err != nil || seen[int(port)] {
			continue
		}
		seen[int(port)] = true
		out = append(out, Listener{Port: int(port), Process: names[int(port)]})
	}
	slices.SortFunc(out, func(a, b Listener) int { return cmp.Compare(a.Port, b.Port) })
	return out
}

// parseResolvConf reads the servers of resolv.conf(5).
func parseResolvConf(s string) []string {
	var out []string
	for _, f := range lines(s) {
		if f[0] == "nameserver" && len(f) > 1 {
			out = append(out, f[1])
		}
	}
	return out
}

// parseServices reads systemctl is-active, one line a unit in the order asked.
func parseServices(s string, into map[string]bool) {
	states := strings.Fields(s)
	if len(states) != len(watchedServices()) {
		return // no systemd
	}
	for i, name := range watchedServices() {
		into[name] = states[i] == "active"
	}
}

// parseUFW reads ufw.conf. Its unit is active also where ufw is off.
func parseUFW(s string) bool {
	for _, f := range lines(s) {
		if strings.EqualFold(f[0], "ENABLED=yes") {
			return true
		}
	}
	return false
}

func parseSELinux(s string) SELinux {
	switch strings.TrimSpace(s) {
	case "1":
		return SELinuxEnforcing
	case "0":
		return SELinuxPermissive
	}
	return SELinuxUnknown
}

// parseRoute reads the interface of the default route from /proc/net/route,
// whose addresses are little endian.
func parseRoute(s string) string {
	for _, f := range lines(s) {
		if len(f) < 8 {
			continue
		}
		dst, err1 := hex.DecodeString(f[1])
		mask, err2 := hex.DecodeString(f[7])
		if err1 == nil && err2 == nil && len(dst) == 4 && len(mask) == 4 &&
			binary.LittleEndian.Uint32(dst) == 0 && binary.LittleEndian.Uint32(mask) == 0 {
			return f[0]
		}
	}
	return ""
}

// InterfacesCommand asks for what ParseInterfaces reads.
func InterfacesCommand() host.Cmd { return host.Command("ip", "-j", "addr", "show") }

// ParseInterfaces reads the answer to InterfacesCommand; none where it is no such
// answer.
func ParseInterfaces(s string) []Interface {
	var links []struct {
		Name  string   `json:"ifname"`
		MTU   int      `json:"mtu"`
		MAC   string   `json:"address"`
		Flags []string `json:"flags"`
		Addrs []struct {
			Local string `json:"local"`
			Bits  int    `json:"prefixlen"`
		} `json:"addr_info"`
	}
	if json.Unmarshal([]byte(s), &links) != nil {
		return nil
	}
	var out []Interface
	for _, l := range links {
		i := Interface{Name: l.Name, MTU: l.MTU, MAC: l.MAC, Up: slices.Contains(l.Flags, "UP")}
		for _, a := range l.Addrs {
			if addr, err := netip.ParseAddr(a.Local); err == nil {
				i.Addresses = append(i.Addresses, netip.PrefixFrom(addr, a.Bits))
			}
		}
		out = append(out, i)
	}
	return out
}
