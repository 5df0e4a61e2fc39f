package workflow

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/probe"
	"github.com/kocli/kocli/pkg/steps/osprep"
	ctrd "github.com/kocli/kocli/pkg/steps/runtime"
)

// allThere reports whether every host has this kocli, and in its stores all that an
// install could take from the bundle: then there is nothing to push, whatever else the
// hosts are. One round trip a host finds that out. What it cannot find out is left to
// the long way: a delta, a host that does not answer, a bundle that lacks something.
func (s *Session) allThere(ctx context.Context) bool {
	if _, delta := s.bundle.Delta(); delta {
		return false
	}
	k := sync.OnceValues(s.kocli)
	go func() { _, _ = k() }() // it is long, and wanted once the hosts have answered
	facts := make([]probe.Facts, len(s.inv.Nodes))
	var missing atomic.Bool
	var wg sync.WaitGroup
	for i, n := range s.inv.Nodes {
		wg.Go(func() {
			f, ok := s.hasAll(ctx, n, k)
			facts[i] = f
			if !ok {
				missing.Store(true)
			}
		})
	}
	wg.Wait()
	if missing.Load() {
		return false
	}
	c := &Cluster{Facts: map[string]probe.Facts{}}
	for i, n := range s.inv.Nodes {
		c.Facts[n.Name] = facts[i]
	}
	var err error
	if c.Kocli, err = k(); err != nil {
		return false
	}
	return s.closed(c) == nil
}

// hasAll asks one host. All questions go at the same time.
func (s *Session) hasAll(ctx context.Context, n inventory.Node, k func() (KocliBinary, error)) (f probe.Facts, ok bool) {
	r, err := s.hosts.Look(ctx, n.Name)
	if err != nil {
		return f, false
	}
	var errs [4]error
	var have map[string]int64
	var wg sync.WaitGroup
	wg.Go(func() { f, errs[0] = probe.Identify(ctx, r) })
	wg.Go(func() { have, errs[1] = fanout.Stored(ctx, r, ctrd.ContentDir()) })
	// Readers remember: these are asked for again below, once it is known what for.
	wg.Go(func() { _, errs[2] = r.Stat(ctx, kocliPath()) })
	wg.Go(func() { _, errs[3] = ledger.Read(ctx, r) })
	packages := map[system][]plan.Change{}
	var mu sync.Mutex
	for _, t := range s.releases(n) {
		wg.Go(func() {
			lacking, err := osprep.Packages(payload.For(s.bundle, t).Packages()).Check(ctx, r)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				packages[systemOf(t)] = lacking
			}
		})
	}
	wg.Wait()
	if errors.Join(errs[:]...) != nil {
		return f, false
	}
	binary, err := k()
	if err != nil {
		return f, false
	}
	p := s.payload(n, f)
	c := &Cluster{Kocli: binary, Facts: map[string]probe.Facts{n.Name: f}, Payload: func(inventory.Node) payload.Payload { return p }}
	file, err := c.kocli(n)
	if err != nil {
		return f, false
	}
	if diff, err := ledger.Differs(ctx, r, file); err != nil || diff != "" {
		return f, false
	}
	want := p.Content()
	if target := s.payloadTarget(n, f); len(p.Packages()) > 0 {
		lacking, asked := packages[systemOf(target)]
		if !asked {
			return f, false
		}
		for _, l := range lacking {
			want = append(want, l.Content...)
		}
	}
	return f, !slices.ContainsFunc(want, func(d string) bool {
		b, ours := s.bundle.Section(d)
		return ours && have[d] != b.Size() || !ours
	})
}

// system is what the packages of a node go by.
type system struct{ arch, distribution, release string }

func systemOf(t payload.Target) system { return system{t.Arch, t.Distribution, t.Release} }

// releases are what a node may be, as far as the packages of the bundle go.
func (s *Session) releases(n inventory.Node) []payload.Target {
	var out []payload.Target
	for _, it := range s.bundle.Manifest().Items {
		if it.Kind != archive.KindPackage {
			continue
		}
		for _, arch := range s.bundle.Manifest().Architectures {
			t := s.payloadTarget(n, probe.Facts{Arch: arch, OS: probe.OS{ID: it.Package.Distribution, Version: it.Package.Release}})
			if !slices.ContainsFunc(out, func(x payload.Target) bool { return systemOf(x) == systemOf(t) }) {
				out = append(out, t)
			}
		}
	}
	return out
}
