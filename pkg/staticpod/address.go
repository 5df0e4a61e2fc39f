package staticpod

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/probe"
)

// VirtualIP is what a host knows of the virtual IP that it may hold.
type VirtualIP struct {
	Address   netip.Prefix // the zero value where there is none
	Interface string       // that it is put on
	Pod       bool         // there is a static pod that may hold it
	Held      bool         // it is on the interface
}

// configured finds the address in keepalived's configuration.
var configured = regexp.MustCompile(`(?m)^\s*([0-9.]+/[0-9]+) dev (\S+)$`)

// LookVirtualIP looks at the configuration on a host, not at what a cluster YAML
// says now: what was put there has to be given back.
func LookVirtualIP(ctx context.Context, r host.Reader) (VirtualIP, error) {
	type file struct {
		data []byte
		err  error
	}
	config := make(chan file, 1)
	go func() {
		data, err := r.ReadFile(ctx, kubeadm.KeepalivedConfigPath)
		config <- file{data, err}
	}()
	_, podErr := r.Stat(ctx, kubeadm.KeepalivedManifestPath)
	c := <-config
	v := VirtualIP{Pod: podErr == nil}
	if podErr != nil && !errors.Is(podErr, fs.ErrNotExist) {
		return v, podErr
	}
	if errors.Is(c.err, fs.ErrNotExist) {
		return v, nil
	}
	if c.err != nil {
		return v, c.err
	}
	m := configured.FindSubmatch(c.data)
	if m == nil {
		return v, nil
	}
	var err error
	if v.Address, err = netip.ParsePrefix(string(m[1])); err != nil {
		return v, nil //nolint:nilerr // keepalived would not have taken it either
	}
	v.Interface = string(m[2])
	links, err := r.Query(ctx, probe.InterfacesCommand())
	if err != nil {
		return v, err
	}
	for _, i := range probe.ParseInterfaces(string(links.Stdout)) {
		v.Held = v.Held || i.Name == v.Interface && slices.Contains(i.Addresses, v.Address)
	}
	return v, nil
}

// releaseTime is how long keepalived is given to end by itself. It needs less than
// a second.
const (
	releaseTime = 10 * time.Second
	releasePoll = 100 * time.Millisecond
)

// Release ends keepalived and has the virtual IP go from the host. It is asked to
// end rather than killed, so that it gives the address up itself and the next
// control plane takes it at once; what it leaves behind is removed.
func Release(ctx context.Context, h host.Host) error {
	v, err := LookVirtualIP(ctx, h)
	if err != nil {
		return err
	}
	if v.Pod {
		if err := h.Remove(ctx, kubeadm.KeepalivedManifestPath); err != nil {
			return err
		}
	}
	if !v.Held {
		return nil
	}
	n, err := Signal(ctx, h, kubeadm.KeepalivedPod, "SIGTERM")
	if err != nil {
		return err
	}
	for range releaseTime / releasePoll {
		if n == 0 {
			break
		}
		if v, err = LookVirtualIP(ctx, h); err != nil || !v.Held {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(releasePoll):
		}
	}
	_, err = h.Run(ctx, host.Command("ip", "addr", "del", v.Address.String(), "dev", v.Interface))
	var x *host.ExitError
	if errors.As(err, &x) {
		if v, err := LookVirtualIP(ctx, h); err != nil || !v.Held {
			return err // it went in between
		}
	}
	return err
}
