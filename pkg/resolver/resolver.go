// Package resolver decides which resolv.conf the pods of a host get. CoreDNS
// asks the servers named there: a loopback stub would make it ask itself.
package resolver

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/kocli/kocli/pkg/host"
)

// ManagedPath is the resolver configuration that the kubelet hands to pods
// with the host's DNS policy on hosts whose own leads nowhere from a pod.
const ManagedPath = "/etc/kubernetes/kocli/resolv.conf"

// Usable reports whether a resolv.conf leads somewhere from inside a
// pod: at least one server, and none on a loopback address, where CoreDNS would
// ask itself.
func Usable(resolvConf string) bool {
	n := 0
	for _, l := range strings.Split(resolvConf, "\n") {
		f := strings.Fields(l)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(f[1])
		if err != nil || a.IsLoopback() || a.IsUnspecified() {
			return false
		}
		n++
	}
	return n > 0
}

// KubeletPath returns what the kubelet's resolvConf should be on a host: "" for
// its default, systemd-resolved's list of real servers, or kocli's own file.
func KubeletPath(ctx context.Context, r host.Reader) (string, error) {
	for _, p := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		data, err := r.ReadFile(ctx, p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if Usable(string(data)) {
			if p == "/etc/resolv.conf" {
				return "", nil
			}
			return p, nil
		}
	}
	return ManagedPath, nil
}
