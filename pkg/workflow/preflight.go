package workflow

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/probe"
)

// Preflight judges the facts, and the connections between hosts that kocli has
// not worked on before. It changes nothing.
func (s *Session) Preflight(ctx context.Context, facts map[string]probe.Facts) ([]preflight.Finding, error) {
	in := preflight.Input{Inventory: s.inv, Facts: facts, Ignore: s.o.Ignore, Need: map[string][]preflight.Space{}}
	if s.bundle != nil {
		m := s.bundle.Manifest()
		in.Bundle.Arches = m.Architectures
		for _, r := range m.Kubernetes {
			in.Bundle.Versions = append(in.Bundle.Versions, r.Version)
		}
		for _, n := range s.inv.Nodes {
			if f := facts[n.Name]; !f.Managed || s.replaces {
				in.Need[n.Name] = append(spaceFor(s.payload(n, f)), s.copies[n.Name]...)
			}
		}
	}
	asked := make(chan error, 1)
	go func() {
		var err error
		in.Neighbours, err = s.neighbours(ctx, facts)
		asked <- err
	}()
	var err error
	if in.Reach, err = s.reach(ctx, facts); err == nil {
		in.Endpoint, err = s.reachEndpoint(ctx, facts)
	}
	if err == nil {
		in.Etcd, err = s.reachEtcd(ctx)
	}
	if err == nil {
		in.EtcdObjects, err = s.etcdObjects(ctx, facts, in.Etcd)
	}
	err = errors.Join(err, <-asked)
	return preflight.Run(in), err
}

// payload returns the bundle as a node sees it.
func (s *Session) payload(n inventory.Node, f probe.Facts) payload.Payload {
	return payload.For(s.bundle, s.payloadTarget(n, f))
}

// payloadTarget says what a node is, as far as a bundle cares.
func (s *Session) payloadTarget(n inventory.Node, f probe.Facts) payload.Target {
	return payload.Target{
		Kubernetes: s.inv.Version(), Arch: f.Arch, ControlPlane: n.ControlPlane,
		CNI: string(s.inv.Spec.Network.CNI.Name), Endpoint: string(s.inv.Spec.ControlPlane.Endpoint.Mode), ExternalEtcd: s.inv.ExternalEtcd() != nil,
		Registry: s.inv.RegistryOn(n), Addons: s.addons, Distribution: f.OS.ID, Release: f.OS.Version,
	}
}

// spaceFor is what an install writes. Images are counted three times: as they
// are stored, and unpacked at about twice their size.
func spaceFor(p payload.Payload) []preflight.Space {
	var images int64
	for _, im := range p.Images() {
		images += 3 * im.Size
	}
	return []preflight.Space{
		{Path: "/var/lib/containerd", Bytes: images},
		{Path: "/usr", Bytes: p.BinaryBytes()},
		{Path: "/var/lib/kocli", Bytes: 256 << 20},
	}
}

// reachTimeout is how long a connection between two hosts may take.
const reachTimeout = 5 * time.Second

// reach tries to connect from host to host, through each host's own sshd. A
// refusal proves as much as an answer: nothing in between drops packets. Pairs
// of hosts that kocli has worked on already are passed over.
func (s *Session) reach(ctx context.Context, facts map[string]probe.Facts) ([]preflight.Reach, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var out []preflight.Reach
	slots := make(chan struct{}, 64)
	for i, from := range s.inv.Nodes {
		for _, to := range s.peers(i) {
			if facts[from.Name].Managed && facts[to.Name].Managed {
				continue
			}
			r, err := s.hosts.Look(ctx, from.Name)
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
				addr := net.JoinHostPort(to.IP, strconv.Itoa(to.SSH.Port))
				res := preflight.Reach{From: from.Name, To: to.Name, Address: addr, Err: tryConnect(ctx, t, addr)}
				mu.Lock()
				defer mu.Unlock()
				out = append(out, res)
			})
		}
	}
	wg.Wait()
	return out, ctx.Err()
}

// peers are the nodes that node i tries: all in a small cluster; in a large one
// the control planes and the next two in the list.
func (s *Session) peers(i int) []inventory.Node {
	var out []inventory.Node
	n := len(s.inv.Nodes)
	for j, to := range s.inv.Nodes {
		near := (j-i+n)%n <= 2
		if j != i && (n <= 10 || to.ControlPlane || near) {
			out = append(out, to)
		}
	}
	return out
}

func tryConnect(ctx context.Context, t host.Tunnel, addr string) string {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	c, err := t.DialContext(ctx, "tcp", addr)
	if err == nil {
		_ = c.Close()
		return ""
	}
	if strings.Contains(strings.ToLower(err.Error()), "refused") {
		return ""
	}
	return err.Error()
}
