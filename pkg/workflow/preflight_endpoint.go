package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/probe"
)

// reachEndpoint tries the external endpoint from every host that kocli has not
// worked on before.
func (s *Session) reachEndpoint(ctx context.Context, facts map[string]probe.Facts) ([]preflight.Reach, error) {
	if s.inv.Spec.ControlPlane.Endpoint.Mode != v1alpha1.EndpointExternal {
		return nil, nil
	}
	addr := s.inv.Endpoint()
	return through(ctx, s, s.inv.Nodes, func(n inventory.Node) bool { return facts[n.Name].Managed },
		func(n inventory.Node, _ host.Reader, t host.Tunnel) (preflight.Reach, error) {
			return preflight.Reach{From: n.Name, Address: addr, Err: tryConnect(ctx, t, addr)}, nil
		})
}

// reachEtcd asks every member of an external etcd how it is, from every control
// plane, with the certificate that the API servers get.
func (s *Session) reachEtcd(ctx context.Context) ([]preflight.Reach, error) {
	x := s.inv.ExternalEtcd()
	if x == nil {
		return nil, nil
	}
	c, err := readCredentials(x)
	if err != nil {
		return nil, err
	}
	all, err := through(ctx, s, s.inv.ControlPlanes(), func(inventory.Node) bool { return false },
		func(n inventory.Node, r host.Reader, _ host.Tunnel) ([]preflight.Reach, error) {
			v, err := etcd.Outside(r, c)
			if err != nil {
				return nil, err
			}
			out := make([]preflight.Reach, len(x.Endpoints))
			var wg sync.WaitGroup
			for i, e := range x.Endpoints {
				out[i] = preflight.Reach{From: n.Name, Address: e}
				wg.Go(func() {
					if err := v.Ask(ctx, e); err != nil {
						out[i].Err = err.Error()
					}
				})
			}
			wg.Wait()
			return out, nil
		})
	return slices.Concat(all...), err
}

// etcdObjects counts what an external etcd holds of a cluster, where no control
// plane has been begun that it could be of.
func (s *Session) etcdObjects(ctx context.Context, facts map[string]probe.Facts, reached []preflight.Reach) (int64, error) {
	for _, n := range s.inv.ControlPlanes() {
		if slices.Contains(facts[n.Name].Kubernetes, kubeadm.CACertPath) {
			return 0, nil
		}
	}
	at := slices.IndexFunc(reached, func(r preflight.Reach) bool { return r.Err == "" })
	if at < 0 {
		return 0, nil // refused for that
	}
	c, err := readCredentials(s.inv.ExternalEtcd())
	if err != nil {
		return 0, err
	}
	r, err := s.hosts.Look(ctx, reached[at].From)
	if err != nil {
		return 0, err
	}
	v, err := etcd.Outside(r, c)
	if err != nil {
		return 0, err
	}
	return v.Objects(ctx, reached[at].Address)
}

// neighbours asks the network of every control plane who has the virtual IP, unless
// that is this cluster's already.
func (s *Session) neighbours(ctx context.Context, facts map[string]probe.Facts) ([]preflight.Neighbour, error) {
	vip, err := netip.ParseAddr(s.inv.Spec.ControlPlane.Endpoint.Address)
	if err != nil || s.inv.Spec.ControlPlane.Endpoint.Mode != v1alpha1.EndpointVIP {
		return nil, nil //nolint:nilerr // validation has refused it
	}
	for _, n := range s.inv.ControlPlanes() {
		f := facts[n.Name]
		if _, holds := probe.InterfaceOf(f.Interfaces, vip); holds || slices.Contains(f.Kubernetes, kubeadm.KeepalivedManifestPath) {
			return nil, nil
		}
	}
	return through(ctx, s, s.inv.ControlPlanes(), func(inventory.Node) bool { return false },
		func(n inventory.Node, r host.Reader, t host.Tunnel) (preflight.Neighbour, error) {
			return neighbour(ctx, n.Name, r, t, s.inv.Endpoint(), vip)
		})
}

// through calls f for each node that is not passed over, all at once, with a reader
// that can open connections.
func through[T any](ctx context.Context, s *Session, nodes []inventory.Node, pass func(inventory.Node) bool, f func(inventory.Node, host.Reader, host.Tunnel) (T, error)) ([]T, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var out []T
	var errs []error
	slots := make(chan struct{}, 64)
	for _, n := range nodes {
		if pass(n) {
			continue
		}
		r, err := s.hosts.Look(ctx, n.Name)
		if err != nil {
			return nil, err
		}
		t, ok := r.(host.Tunnel)
		if !ok {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			one, err := f(n, r, t)
			mu.Lock()
			defer mu.Unlock()
			if errs = append(errs, err); err == nil {
				out = append(out, one)
			}
		})
	}
	wg.Wait()
	return out, errors.Join(append(errs, ctx.Err())...)
}

// The time in which a machine that has an address answers for it, and that the
// kernel takes to give up one that it remembers from before.
const (
	answerTime = 1200 * time.Millisecond
	forgetTime = 9 * time.Second
)

// neighbour has the host's kernel look for an address by connecting to it, and
// looks at what it found. An address that nobody has costs answerTime.
func neighbour(ctx context.Context, node string, r host.Reader, t host.Tunnel, endpoint string, vip netip.Addr) (preflight.Neighbour, error) {
	out := preflight.Neighbour{Node: node}
	ctx, cancel := context.WithTimeout(ctx, forgetTime)
	defer cancel()
	tried := make(chan string, 1)
	go func() { tried <- tryConnect(ctx, t, endpoint) }()
	after := time.After(answerTime)
	for _, argv := range [][]string{{"ip", "-j", "neigh", "show"}, {"ip", "-4", "-j", "neigh", "show"}} { // two, for what was answered is remembered
		select {
		case failed := <-tried:
			out.Answers = failed == ""
			after = nil
		case <-after:
		}
		a, err := r.Query(ctx, host.Command(append(argv, vip.String())...))
		var x *host.ExitError
		if err != nil && !errors.As(err, &x) {
			return out, err
		}
		state := ""
		if state, out.MAC = parseNeighbour(string(a.Stdout)); state == "REACHABLE" || out.Answers {
			out.Answers = true
			return out, nil
		}
		if after == nil || !slices.Contains([]string{"STALE", "DELAY", "PROBE"}, state) {
			return out, nil
		}
		after = nil // remembered, and perhaps gone: wait until the kernel knows
	}
	return out, nil
}

// parseNeighbour reads ip -j neigh show of one address.
func parseNeighbour(s string) (state, mac string) {
	var all []struct {
		MAC   string   `json:"lladdr"`
		State []string `json:"state"`
	}
	if json.Unmarshal([]byte(s), &all) != nil {
		return "", ""
	}
	for _, e := range all {
		if e.MAC != "" {
			return strings.Join(e.State, " "), e.MAC
		}
	}
	return "", ""
}
