package fanout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kocli/kocli/pkg/fault"
)

// standstill is how long nothing may arrive anywhere before links are given up.
// Every link looks after itself; this is for what none of them sees.
const standstill = time.Minute

// stillness is what is known of a push that may stand still.
type stillness struct {
	last  [3]int64  // how far all hosts were when one last got further
	since time.Time // when that was, or when something was done about it
	tried int       // what has been done about it
}

// standstill is how long nothing may arrive.
func (p *push) standstill() time.Duration { return cmp.Or(p.Standstill, standstill) }

// far says how far all hosts are.
func (p *push) far() (out [3]int64) {
	for _, m := range p.members {
		out[0] += m.at
		if m.done {
			out[1]++
		}
		if m.ended {
			out[2]++
		}
	}
	return out
}

// unstick does something about a push that stands still, while SSH sessions live:
// first the links that are stuck are given up and bridged, as those of dead hosts
// are; then all goes through SSH; then the hosts that lack something fail. It
// reports whether there is nothing left to wait for but relays that do not end.
func (p *push) unstick(ctx context.Context, now time.Time) (hung bool) {
	if far := p.far(); far != p.still.last || p.still.since.IsZero() {
		p.still = stillness{last: far, since: now}
		return false
	}
	if now.Sub(p.still.since) < p.standstill() {
		return false
	}
	if p.complete() {
		return true
	}
	p.still.since = now
	p.still.tried++
	why := fmt.Sprintf("nothing has come from there for %s", p.standstill())
	switch p.still.tried {
	case 1:
		for _, m := range p.stuck() {
			m.over = cmp.Or(m.parent, "this machine")
			p.lost(ctx, m, m.parent, why)
		}
	case 2:
		p.topo.star = true
		p.say("nothing has arrived anywhere for %s: all goes through SSH from now on", 2*p.standstill())
		for _, m := range p.lacking() {
			p.lost(ctx, m, m.parent, why)
		}
	default:
		for _, m := range p.lacking() {
			p.fail(ctx, m, fault.New(fault.Failure, "look at the network between them, and at the host (kocli exec "+m.name+" -- uptime); then run the same command again: what has arrived stays",
				p.stillError(m)))
		}
	}
	return false
}

func (p *push) stillError(m *member) error {
	if m.over == "" {
		return errors.New("nothing has arrived for " + (3 * p.standstill()).String() + ", not through SSH either")
	}
	return fmt.Errorf("the link from %s to %s stood still, and what was tried in its place too: nothing has arrived for %s", m.over, m.name, 3*p.standstill())
}

// lacking are the members that wait for something.
func (p *push) lacking() []*member {
	var out []*member
	for _, m := range p.members {
		if !m.done && !m.gone {
			out = append(out, m)
		}
	}
	return out
}

// stuck are the members that wait although who sends to them has what they lack.
// Those after them wait for them.
func (p *push) stuck() []*member {
	var out []*member
	for _, m := range p.lacking() {
		up := p.member(m.parent)
		if up == nil || up.done || up.total-up.at < m.total-m.at {
			out = append(out, m)
		}
	}
	return out
}
