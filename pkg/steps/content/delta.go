package content

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/host/patch"
	"github.com/kocli/kocli/pkg/plan"
)

// Delta is what a delta says that stands for a bundle.
type Delta struct {
	// Patched returns how a blob is made, of what the delta stores and a host has.
	Patched func(digest string) (archive.DeltaBlob, bool)
	// Blobs are all blobs of the bundle that the delta leads to, by digest.
	Blobs map[string]Blob
	// Patches are what the delta stores that is no blob of that bundle, and leaves a
	// host once it has served.
	Patches []string
	Base    string   // name of the bundle that the delta was made from
	BuiltBy string   // version of the kocli that made it
	Apply   []string // command that makes blobs on a host, see package patch
	Hint    string   // what to do where something is nowhere
}

// Blob is a blob of a bundle.
type Blob struct {
	Size  int64    // bytes
	Items []string // labels of the items that need it
}

// Nowhere is a blob that a host needs, and that comes from nowhere.
type Nowhere struct {
	Digest  string
	Items   []string // that need it
	Missing string   // what it would take
}

// NowhereError lists what comes from nowhere on a host.
type NowhereError struct{ Blobs []Nowhere }

// Error names each blob on a line of its own, with who needs it and what it takes.
func (e *NowhereError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d blobs are neither in the delta nor made of what the host has:", len(e.Blobs))
	for _, n := range e.Blobs {
		fmt.Fprintf(&b, "\n%s of %s: %s", n.Digest, strings.Join(n.Items, ", "), n.Missing)
	}
	return b.String()
}

// Refusal asks every node what it lacks, and refuses a delta that does not lead
// there. It changes nothing.
func Refusal(ctx context.Context, o Options) error {
	_, _, err := (&push{Options: o}).lacking(ctx, nil)
	return err
}

// refusal lists what is nowhere. Hosts that lack the same are named together.
func (p *push) refusal(lacking []lack) error {
	var order []string
	same := map[string]*fault.Error{}
	for i, l := range lacking {
		if len(l.nowhere) == 0 {
			continue
		}
		err := &NowhereError{l.nowhere}
		if first, ok := same[err.Error()]; ok {
			first.Node += "," + p.Nodes[i].Name
			continue
		}
		order = append(order, err.Error())
		same[err.Error()] = &fault.Error{Op: "content", Node: p.Nodes[i].Name, Code: fault.Bundle, Hint: p.Delta.Hint, Err: err}
	}
	var errs []error
	for _, text := range order {
		errs = append(errs, same[text])
	}
	return errors.Join(errs...)
}

// made finds out how a node comes by blobs that the delta does not hold as they
// are.
func (p *push) made(ctx context.Context, r host.Reader, digests []string, have map[string]int64, out *lack) error {
	var patched []archive.DeltaBlob
	files := map[string]bool{}
	for _, d := range digests {
		whole, ours := p.Delta.Blobs[d]
		if size, there := have[d]; !ours || there && size == whole.Size {
			continue // it was rendered, or is there
		}
		b, ok := p.Delta.Patched(d)
		if !ok {
			out.nowhere = append(out.nowhere, Nowhere{d, whole.Items, fmt.Sprintf("it is as in %s, and the host has not got it", p.Delta.Base)})
			continue
		}
		patched = append(patched, b)
		if _, there := have[b.Base]; b.Base != "" && !there {
			files[installed(b)] = true
		}
	}
	if len(files) > 0 {
		var err error
		if out.files, err = ledger.Installed(ctx, r, files); err != nil {
			return err
		}
	}
	used := map[string]bool{}
	for _, b := range patched {
		if _, there := have[b.Base]; b.Base != "" && !there && out.files[installed(b)] == "" {
			out.nowhere = append(out.nowhere, Nowhere{b.Digest, p.Delta.Blobs[b.Digest].Items, "the delta has changes to " + b.Base + ", and the host has not got that"})
			continue
		}
		out.make = append(out.make, b)
		if size, there := have[b.Stored.Digest]; !used[b.Stored.Digest] && (!there || size != b.Stored.Size) {
			it, ok := p.Item(b.Stored.Digest)
			if !ok {
				return fmt.Errorf("%s is not in the delta", b.Stored.Digest)
			}
			out.items = append(out.items, it)
		}
		used[b.Stored.Digest] = true
	}
	for _, d := range p.Delta.Patches {
		if _, there := have[d]; there && !used[d] {
			out.rests = append(out.rests, d)
		}
	}
	return nil
}

// installed is the digest of the file that the base of a blob is, where it is
// installed.
func installed(b archive.DeltaBlob) string {
	if b.BaseForm == "" {
		return b.Base
	}
	return b.BaseContent
}

// first refuses what comes before anything can be made on a host.
func (p *push) first(changes []plan.Change, out *lack) {
	for _, c := range changes {
		for _, d := range c.Content {
			whole, ours := p.Delta.Blobs[d]
			if _, ok := p.Item(d); ours && !ok {
				out.nowhere = append(out.nowhere, Nowhere{d, whole.Items, "it makes the others on the host, and would have to be whole in the delta"})
			}
		}
	}
}

// makeAll has all nodes make what they can, all at once.
func (p *push) makeAll(ctx context.Context, lacking []lack) error {
	errs := make([]error, len(p.Nodes))
	bytes := &tally{report: func(done, total int64) { plan.Transfer(ctx, "patches", done, total) }}
	var wg sync.WaitGroup
	var blobs int
	for i, n := range p.Nodes {
		l := lacking[i]
		if len(l.make)+len(l.rests) == 0 {
			continue
		}
		each := bytes.part(l.make)
		blobs += len(l.make)
		wg.Go(func() {
			h, err := p.Dialer.Dial(ctx, n.Name)
			if err == nil {
				err = patch.Send(ctx, h, p.Delta.Apply, patch.Order{Blobs: l.make, Files: l.files, Drop: l.rests, BuiltBy: p.Delta.BuiltBy}, each)
			}
			if fault.CodeOf(err) == fault.Bundle {
				err = fault.New(fault.Bundle, p.Delta.Hint, err)
			}
			if err != nil {
				errs[i] = &fault.Error{Op: "apply the delta", Node: n.Name, Err: err}
			}
		})
	}
	wg.Wait()
	if p.Made != nil && blobs > 0 {
		p.Made(blobs, bytes.done)
	}
	return errors.Join(errs...)
}

// tally adds up how far several hosts are.
type tally struct {
	mu          sync.Mutex
	done, total int64
	report      func(done, total int64)
}

// part is one host's share.
func (t *tally) part(blobs []archive.DeltaBlob) func(done, total int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range blobs {
		t.total += b.Size
	}
	var before int64
	return func(done, _ int64) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.done, before = t.done+done-before, done
		t.report(t.done, t.total)
	}
}

// Of describes the delta that stands for a bundle; nil where that is whole. apply
// is the command that makes blobs on a host, hint what to do where something is
// nowhere.
func Of(b *archive.Bundle, apply []string, hint string) *Delta {
	doc, ok := b.Delta()
	if !ok {
		return nil
	}
	d := &Delta{Patched: b.Patched, Blobs: map[string]Blob{}, Base: doc.Base.Name, BuiltBy: doc.BuiltBy, Apply: apply, Hint: hint}
	m := b.Manifest()
	for _, x := range m.Contents() {
		d.Blobs[x.Digest] = Blob{Size: x.Size}
	}
	for _, it := range m.Items {
		seen := map[string]bool{}
		for _, digest := range it.Digests() {
			if !seen[digest] {
				x := d.Blobs[digest]
				x.Items = append(x.Items, it.Label())
				d.Blobs[digest] = x
			}
			seen[digest] = true
		}
	}
	for _, x := range doc.Blobs {
		if _, blob := d.Blobs[x.Stored.Digest]; len(x.Frames) > 0 && !blob {
			d.Patches = append(d.Patches, x.Stored.Digest)
		}
	}
	return d
}
