package fanout

import (
	"cmp"
	"slices"
	"time"
)

// operator is the name of the operator's machine among the parents.
const operator = ""

// peer is what the choice of a parent depends on.
type peer struct {
	name   string
	parent string
	wants  map[int]int64 // blobs that it has or will have, with their sizes
	lacks  map[int]bool  // those that it did not have at the start
	total  int64         // bytes of wants
	at     int64         // bytes that are there
	done   bool          // all is there
	gone   bool          // it failed
	quiet  bool          // no sign of life lately
	local  bool          // others cannot connect to it
	leaf   bool          // it hands on nothing: it is slow, or what it sends is wrong
	track  []sample
}

type sample struct {
	when time.Time
	at   int64
}

// topology is who sends to whom. It knows no connections.
type topology struct {
	peers  []*peer
	broken map[[2]string]bool // parent and child between which no link holds
	star   bool               // the operator sends to all
}

func newTopology(peers []*peer, star bool) *topology {
	return &topology{peers: peers, broken: map[[2]string]bool{}, star: star}
}

func (t *topology) find(name string) *peer {
	for _, p := range t.peers {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (t *topology) children(name string) []*peer {
	var out []*peer
	for _, p := range t.peers {
		if p.parent == name && !p.gone && !p.done {
			out = append(out, p)
		}
	}
	return out
}

// arrange gives every peer that lacks something its first parent: a chain, those
// first that others can have everything from.
func (t *topology) arrange() {
	slices.SortStableFunc(t.peers, func(a, b *peer) int {
		return cmp.Or(cmp.Compare(b.total, a.total), cmp.Compare(b.at, a.at))
	})
	placed := topology{broken: t.broken, star: t.star}
	for _, p := range t.peers {
		if !p.done {
			p.parent = placed.choose(p)
		}
		placed.peers = append(placed.peers, p)
	}
}

// choose finds the parent of a peer: the one that hands on to the fewest, and of
// those the one that has most; the operator where there is none.
func (t *topology) choose(c *peer) string {
	if t.star {
		return operator
	}
	var best *peer
	load := func(p *peer) int { return len(t.children(p.name)) }
	for _, p := range t.peers {
		if !t.fit(p, c) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(load(best), load(p)), cmp.Compare(p.at-p.total, best.at-best.total)) > 0 {
			best = p
		}
	}
	if best == nil {
		return operator
	}
	return best.name
}

// fit reports whether a peer can send to another.
func (t *topology) fit(p, c *peer) bool {
	if p == c || p.gone || p.quiet || p.leaf || c.local || t.broken[[2]string{p.name, c.name}] || t.above(c, p) {
		return false
	}
	for id := range c.lacks {
		if _, ok := p.wants[id]; !ok {
			return false
		}
	}
	return true
}

// above reports whether a gets what b hands on, directly or not.
func (t *topology) above(b, a *peer) bool {
	for range t.peers {
		if a.parent == operator {
			return false
		}
		if a = t.find(a.parent); a == nil || a.done {
			return false
		}
		if a == b {
			return true
		}
	}
	return true
}

// rate is the bytes a second of late; zero while too little is known.
func (p *peer) rate() float64 {
	if len(p.track) < 2 {
		return 0
	}
	a, b := p.track[0], p.track[len(p.track)-1]
	if d := b.when.Sub(a.when); d > time.Second {
		return float64(b.at-a.at) / d.Seconds()
	}
	return 0
}

// note records how far a peer is.
func (p *peer) note(now time.Time, at int64) {
	p.at, p.quiet = at, false
	p.track = append(p.track, sample{now, at})
	for len(p.track) > 2 && now.Sub(p.track[0].when) > window {
		p.track = p.track[1:]
	}
}

const (
	window = 4 * time.Second // over which rates are measured
	behind = 16 << 20        // bytes that a slow peer has to be behind its parent
)

// brake finds a peer that holds up those after it: it is behind its parent and
// falls back, and has children that get no more than it has itself.
func (t *topology) brake() *peer {
	for _, p := range t.peers {
		up := t.find(p.parent)
		if up == nil || up.done || p.done || p.gone || p.leaf || len(t.children(p.name)) == 0 {
			continue
		}
		if r := p.rate(); (p.total-p.at)-(up.total-up.at) > behind && r > 0 && r < 0.7*up.rate() {
			return p
		}
	}
	return nil
}

// last follows the chain from a peer to its end.
func (t *topology) last(p *peer) *peer {
	for range t.peers {
		next := t.children(p.name)
		if len(next) == 0 {
			break
		}
		p = next[0]
	}
	return p
}
