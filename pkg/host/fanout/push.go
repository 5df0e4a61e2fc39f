package fanout

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
)

// Mode says how content reaches the hosts.
type Mode string

// The modes of a push.
const (
	Auto  Mode = "auto"  // a chain where it pays
	Chain Mode = "chain" // a chain wherever hosts reach each other
	SSH   Mode = "ssh"   // each host through its own SSH connection, and nothing else
)

// A chain pays from this many hosts and bytes on.
const (
	chainHosts = 3
	chainBytes = 64 << 20
)

// Options are a push.
type Options struct {
	Targets []Target
	Items   []Item
	Mode    Mode
	Now     func() time.Time
	// Progress is told the bytes that are there, of all hosts together, never
	// concurrently. May be nil.
	Progress func(done, total int64)
	// Standstill is how long nothing may arrive anywhere before something is done
	// about it; zero means a minute.
	Standstill time.Duration
	// Say is told what people may want to know, such as a host that was bridged.
	// May be nil.
	Say func(string)

	wanting float64 // in tests: instead of the constant
}

// Report says what a push cost.
type Report struct {
	Sent    int64            `json:"sentBytes"`   // that left the operator's machine
	Direct  int64            `json:"directBytes"` // of these, not through SSH
	Missing map[string]int64 `json:"missing"`     // bytes that each host lacked
	Links   int              `json:"links"`       // between hosts, first and later ones
	Lanes   int              `json:"lanes"`       // further SSH connections, where the round trip is long
	Moved   int              `json:"moved"`       // links that were made anew
}

// push is a push that runs.
type push struct {
	Options
	src     *bundle
	key     []byte
	members []*member
	topo    *topology
	notes   chan note
	sent    atomic.Int64
	direct  atomic.Int64
	lanes   atomic.Int64
	report  Report
	wg      sync.WaitGroup
	running bool // links are made
	still   stillness
}

// maxTries bounds the links of one host: one that fails with everybody has a
// fault of its own.
const maxTries = 8

// Push brings to every target the blobs that it lacks. A host that fails does
// not keep the others from getting theirs; the errors of all are returned, each
// with its host. What has arrived stays where it is: the next push goes on.
func Push(ctx context.Context, o Options) (Report, error) {
	p := &push{Options: o, src: &bundle{o.Items}, key: make([]byte, keySize), notes: make(chan note, 64), report: Report{Missing: map[string]int64{}}}
	if _, err := rand.Read(p.key); err != nil {
		return p.report, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, t := range o.Targets {
		m := newMember(t, p.src, func(n int) { p.sent.Add(int64(n)) }, p.hear)
		p.members = append(p.members, m)
		p.wg.Go(func() { m.run(ctx, p.key, p.hear) })
	}
	err := p.loop(ctx)
	cancel() // what still runs was asked to end, and has ended; or the push failed
	p.drain()
	p.report.Sent, p.report.Direct, p.report.Lanes = p.sent.Load(), p.direct.Load(), int(p.lanes.Load())
	return p.report, err
}

func (p *push) hear(n note) { p.notes <- n }

// drain waits for all goroutines, listening to what they still say.
func (p *push) drain() {
	ended := make(chan struct{})
	go func() { p.wg.Wait(); close(ended) }()
	for {
		select {
		case <-p.notes:
		case <-ended:
			return
		}
	}
}

// loop listens until every relay has ended.
func (p *push) loop(ctx context.Context) error {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case n := <-p.notes:
			p.handle(ctx, n)
		case <-tick.C:
			p.watch(ctx)
			if p.topo != nil && p.unstick(ctx, p.Now()) {
				return p.failures() // their connections are closed
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if p.running && p.complete() {
			for _, m := range p.members {
				m.out.close()
			}
		}
		if !slices.ContainsFunc(p.members, func(m *member) bool { return !m.ended }) {
			return p.failures()
		}
		p.begin(ctx)
	}
}

// complete reports whether nothing is left to wait for.
func (p *push) complete() bool {
	return !slices.ContainsFunc(p.members, func(m *member) bool { return !m.done && !m.gone })
}

func (p *push) failures() error {
	var errs []error
	for _, m := range p.members {
		if m.err != nil {
			errs = append(errs, &fault.Error{Op: "push content", Node: m.name, Err: m.err})
		}
	}
	return errors.Join(errs...)
}

func (p *push) handle(ctx context.Context, n note) {
	m, e := n.from, n.event
	switch {
	case n.what == noteEnded:
		p.end(ctx, m, n.err)
	case n.what == noteFatal:
		p.fail(ctx, m, n.err)
	case n.what == noteFeed:
		p.lost(ctx, m, operator, n.err.Error())
	case n.what == noteSSH:
		if m.parent == operator && !m.done && !m.gone && !m.fed {
			m.feedAgain()
		}
	case n.what == noteTorn:
		if m.fed && !m.done && !m.gone {
			m.feedAgain()
		}
	case n.what == noteKept:
		m.settled = true
		p.report.Missing[m.name] -= n.kept
	case e.Ready != nil:
		p.ready(m, *e.Ready)
	case e.Lacks != nil:
		if m.fed && e.Lacks.Feed == m.feeds {
			m.out.send(m.feeds, e.Lacks.Spans)
			feed := m.feeds
			p.wg.Go(func() { p.widen(ctx, m, feed) })
		}
	case e.At != nil:
		m.note(p.Now(), *e.At)
		p.progress()
	case e.Done:
		m.done = true
		m.starve()
	case e.Lost != nil:
		if c := p.member(e.Lost.Name); c != nil {
			p.lost(ctx, c, m.name, e.Lost.Error)
		}
	case e.Orphan != "":
		if m.parent != operator { // the operator's own feed speaks for itself
			p.lost(ctx, m, m.parent, e.Orphan)
		}
	case e.Bad != "":
		// The first part of a blob may be from somebody else. From now on it is not.
		if m.bad++; m.parent == operator && m.bad > 1 {
			p.fail(ctx, m, fault.New(fault.Bundle, "the bundle changed while it was read; see with: kocli bundle verify BUNDLE", errors.New(e.Bad)))
			return
		}
		if up := p.member(m.parent); up != nil {
			up.leaf = true
		}
		p.lost(ctx, m, m.parent, "wrong bytes: "+e.Bad)
	}
}

func (p *push) member(name string) *member {
	for _, m := range p.members {
		if m.name == name {
			return m
		}
	}
	return nil
}

func (p *push) say(format string, args ...any) {
	if p.Say != nil {
		p.Say(fmt.Sprintf(format, args...))
	}
}

func (p *push) progress() {
	if p.Progress == nil {
		return
	}
	var at, total int64
	for _, m := range p.members {
		if !m.gone {
			at, total = at+m.at, total+m.total
		}
	}
	p.Progress(at, total)
}

// ready notes what a host has, and lets it begin.
func (p *push) ready(m *member, r ready) {
	if m.port != 0 {
		return // said twice
	}
	m.port, m.local = r.Port, r.Local
	missing := m.total
	for _, id := range r.Whole {
		missing -= m.wants[id]
		delete(m.lacks, id)
	}
	m.at, m.done = m.total-missing, len(m.lacks) == 0
	p.report.Missing[m.name] = missing
	m.note(p.Now(), m.at)
	p.wg.Go(func() {
		keeps, kept, err := settle(p.src, r.Parts)
		if err != nil {
			p.hear(note{from: m, what: noteFatal, err: err})
			return
		}
		m.out.put(order{Keep: keeps, Go: true})
		p.hear(note{from: m, what: noteKept, kept: kept})
	})
}

// begin makes the first links once it is settled what every host has.
func (p *push) begin(ctx context.Context) {
	if p.running || slices.ContainsFunc(p.members, func(m *member) bool { return !m.settled && !m.gone }) {
		return
	}
	p.running = true
	var peers []*peer
	lacking, bytes := 0, int64(0)
	for _, m := range p.members {
		if m.gone {
			continue
		}
		peers = append(peers, m.peer)
		if !m.done {
			lacking++
			bytes = max(bytes, p.report.Missing[m.name])
		}
	}
	star := p.Mode == SSH || p.Mode == Auto && (lacking < chainHosts || bytes < chainBytes)
	p.topo = newTopology(peers, star)
	p.topo.arrange()
	for _, m := range p.members {
		if !m.gone && !m.done {
			p.link(ctx, m)
		}
	}
}

// link has the parent of a member send to it.
func (p *push) link(ctx context.Context, m *member) {
	m.tries++
	if m.tries > maxTries {
		p.fail(ctx, m, fmt.Errorf("no connection to it holds: %s", m.why))
		return
	}
	if parent := p.member(m.parent); parent != nil {
		p.report.Links++
		parent.out.put(order{Send: &child{m.name, m.addr()}})
		return
	}
	fctx, cancel := context.WithCancel(ctx)
	m.unfeed = cancel
	tries := m.tries
	p.wg.Go(func() {
		defer cancel()
		pause(fctx, time.Duration(tries-1)*heartbeat)
		err := p.feed(fctx, m)
		switch {
		case err == nil || fctx.Err() != nil:
		case errors.Is(err, errNoLink):
			p.hear(note{from: m, what: noteSSH})
		default:
			p.hear(note{from: m, what: noteFeed, err: err})
		}
	})
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// errNoLink says that a host is reached through SSH only.
var errNoLink = errors.New("no link of its own")

// feed sends from the operator's machine, over a link of its own where a chain
// is wanted and the host can be reached.
func (p *push) feed(ctx context.Context, m *member) error {
	if p.topo.star {
		return errNoLink
	}
	conn, err := m.dial(ctx)
	if err != nil {
		return errNoLink
	}
	defer func() { _ = conn.Close() }() // feed has said all
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	l, err := newLink(conn, p.key, true)
	if err != nil {
		return errNoLink
	}
	return feed(ctx, l, p.src, func(n int) {
		p.sent.Add(int64(n))
		p.direct.Add(int64(n))
	})
}

// lost finds another parent for a member, whose link to this one broke.
func (p *push) lost(ctx context.Context, m *member, parent, why string) {
	if m.done || m.gone || p.topo == nil || m.parent != parent {
		return // an old story
	}
	m.why = why
	if parent != operator {
		p.topo.broken[[2]string{parent, m.name}] = true
	}
	p.relink(ctx, m, p.topo.choose(m.peer))
}

// relink gives a member another parent.
func (p *push) relink(ctx context.Context, m *member, parent string) {
	p.report.Moved++
	if old := p.member(m.parent); old != nil && !old.ended {
		old.out.put(order{Drop: m.name})
	}
	m.starve()
	if m.parent != parent {
		p.say("%s gets its content from %s from now on (%s)", m.name, cmp.Or(parent, "this machine"), m.why)
	}
	m.parent = parent
	p.link(ctx, m)
}

// fail gives a host up.
func (p *push) fail(ctx context.Context, m *member, err error) {
	if m.gone {
		return
	}
	m.gone = true
	m.err = errors.Join(m.err, err)
	m.starve()
	m.out.close()
	p.adopt(ctx, m, "it failed")
}

// end hears that a relay's process has ended.
func (p *push) end(ctx context.Context, m *member, err error) {
	m.ended = true
	if m.done && p.complete() {
		return // as it was told
	}
	if !m.gone && !m.done {
		p.fail(ctx, m, ended(err))
	}
	m.gone = true
	p.adopt(ctx, m, "its relay ended")
}

// ended explains why a relay is no more.
func ended(err error) error {
	var x *host.ExitError
	switch {
	case err == nil:
		return errors.New("kocli on the host ended before all was there")
	case errors.As(err, &x) && x.Code == int(fault.Locked):
		return fault.New(fault.Locked, "wait until the other kocli has ended, then run the same command again", err)
	}
	return err
}

// adopt finds other parents for those that a member sends to.
func (p *push) adopt(ctx context.Context, m *member, why string) {
	if p.topo == nil {
		return
	}
	for _, c := range p.topo.children(m.name) {
		p.lost(ctx, p.member(c.name), m.name, m.name+": "+why)
	}
}

// watch looks for hosts that are silent, and for one that holds others up.
func (p *push) watch(ctx context.Context) {
	if p.topo == nil {
		return
	}
	now := p.Now()
	for _, m := range p.members {
		if !m.gone && !m.ended && !m.quiet && now.Sub(m.track[len(m.track)-1].when) > silence {
			m.quiet = true
			p.adopt(ctx, m, "no sign of life")
		}
	}
	if slow := p.topo.brake(); slow != nil {
		slow.leaf = true
		p.demote(ctx, p.member(slow.name))
	}
}

// silence is how long a relay may say nothing before others stop to rely on it.
const silence = 4 * time.Second

// demote moves a slow host to the end of its chain.
func (p *push) demote(ctx context.Context, m *member) {
	next := p.topo.children(m.name)[0]
	up := m.parent
	tail := p.topo.last(next)
	m.why = "it is slower than the others"
	for _, c := range p.topo.children(m.name) {
		cm := p.member(c.name)
		cm.why = m.name + " is slow"
		p.relink(ctx, cm, up)
	}
	if p.topo.fit(tail, m.peer) {
		p.relink(ctx, m, tail.name)
	}
}
