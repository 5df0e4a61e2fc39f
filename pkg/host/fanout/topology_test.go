package fanout

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func peers(spec ...string) []*peer {
	var out []*peer
	for _, s := range spec {
		name, blobs, _ := strings.Cut(s, ":")
		p := &peer{name: name, wants: map[int]int64{}, lacks: map[int]bool{}}
		for _, b := range blobs {
			id := int(b - '0')
			p.wants[id], p.lacks[id] = 100<<20, true
			p.total += 100 << 20
		}
		out = append(out, p)
	}
	return out
}

func shape(t *topology) string {
	var out []string
	for _, p := range t.peers {
		out = append(out, p.parent+">"+p.name)
	}
	return strings.Join(out, " ")
}

func TestArrange(t *testing.T) {
	for _, c := range []struct {
		name  string
		peers []*peer
		star  bool
		want  string
	}{
		{"a chain", peers("a:0", "b:0", "c:0"), false, ">a a>b b>c"},
		{"a star", peers("a:0", "b:0", "c:0"), true, ">a >b >c"},
		{"workers after control planes", peers("w:0", "x:0", "a:01", "b:01"), false, ">a a>b b>w w>x"},
		{"two architectures, two chains", peers("a:0", "b:1", "c:0", "d:1"), false, ">a >b a>c b>d"},
	} {
		topo := newTopology(c.peers, c.star)
		topo.arrange()
		if got := shape(topo); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestArrange_aHostThatHasAllServesOthers(t *testing.T) {
	ps := peers("a:0", "b:0", "c:0")
	ps[2].done, ps[2].at, ps[2].lacks = true, ps[2].total, nil
	topo := newTopology(ps, false)
	topo.arrange()
	if got := shape(topo); got != ">c c>a a>b" {
		t.Errorf("got %s", got)
	}
}

func TestChoose_neverMakesARing(t *testing.T) {
	topo := newTopology(peers("a:0", "b:0", "c:0", "d:0"), false)
	topo.arrange()
	// b dies: c may get from a, and from nobody after itself.
	topo.find("b").gone = true
	if got := topo.choose(topo.find("c")); got != "a" {
		t.Errorf("c gets from %q", got)
	}
	topo.broken[[2]string{"a", "c"}] = true
	if got := topo.choose(topo.find("c")); got != operator {
		t.Errorf("c gets from %q", got)
	}
	for _, flag := range []func(*peer){func(p *peer) { p.quiet = true }, func(p *peer) { p.leaf = true }, func(p *peer) { p.gone = true }} {
		ps := peers("a:0", "b:0")
		flag(ps[0])
		if got := newTopology(ps, false).choose(ps[1]); got != operator {
			t.Errorf("b gets from %q", got)
		}
	}
	ps := peers("a:0", "b:0")
	ps[1].local = true
	if got := newTopology(ps, false).choose(ps[1]); got != operator {
		t.Errorf("a host that none can connect to gets from %q", got)
	}
}

func TestBrake_findsTheHostThatHoldsOthersUp(t *testing.T) {
	run := func(rates ...int64) string { // MiB a second of a, b, c
		ps := peers("a:01", "b:01", "c:01")
		topo := newTopology(ps, false)
		topo.arrange()
		start := time.Unix(0, 0)
		for s := range 6 {
			for i, r := range rates {
				ps[i].note(start.Add(time.Duration(s)*time.Second), int64(s)*r<<20)
			}
		}
		if p := topo.brake(); p != nil {
			return p.name
		}
		return ""
	}
	for _, c := range []struct {
		rates []int64
		want  string
	}{
		{[]int64{20, 20, 20}, ""},
		{[]int64{20, 5, 5}, "b"},
		{[]int64{20, 18, 18}, ""}, // not by much
		{[]int64{20, 20, 5}, ""},  // the last one holds nobody up
		{[]int64{5, 5, 5}, ""},    // all are slow: the operator's own link is
	} {
		if got := run(c.rates...); got != c.want {
			t.Errorf("%v: got %q, want %q", c.rates, got, c.want)
		}
	}
}

func ExamplePath() {
	fmt.Println(Path("/var/lib/kocli/content", "sha256:00ff"))
	// Output: /var/lib/kocli/content/sha256/00ff
}
