// Package upgrade decides how a cluster gets from the versions that it has to
// another one, and judges whether it may. It is pure: what it looks at was gathered
// by others, and it does no I/O.
package upgrade

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/kocli/kocli/pkg/fault"
)

// Found are the versions that a cluster runs, as found in it: "v1.36.3" by node.
type Found struct {
	APIServers map[string]string // of control planes
	Kubelets   map[string]string // of all nodes
	// Unfinished says that work on some node did not come to its end, whatever the
	// versions are.
	Unfinished bool
}

// Offer is a bundle and the versions of Kubernetes that it holds.
type Offer struct {
	Bundle   string // path
	Versions []string
}

// Hop is one step of the way: all of the cluster comes from one version to another,
// at most one minor further.
type Hop struct {
	From   string `json:"from"` // the oldest that there is
	To     string `json:"to"`
	Bundle string `json:"bundle"`
	// Begun says that parts of the cluster are at To already.
	Begun bool `json:"begun,omitempty"`
}

// Path returns the way of a cluster to a version, in order. It is empty where all of
// the cluster is there. An upgrade that was interrupted is brought to its end first, but
// where a newer release of the same minor takes its place, and no minor is left out, for
// kubelets neither: each is upgraded by a kubeadm of its own. Bundles that are missing
// are named, all of them.
func Path(found Found, target string, offers []Offer) ([]Hop, error) {
	to, err := parse(target)
	if err != nil {
		return nil, fault.New(fault.Usage, "write it as in v1.37.2", err)
	}
	s, err := found.span()
	if err != nil {
		return nil, err
	}
	if err := s.refusal(to); err != nil {
		return nil, err
	}
	var hops []Hop
	var missing []string
	at := s.low
	add := func(next *version.Version, wanted string) {
		h := Hop{From: text(at), To: wanted, Begun: s.has(next) || next != nil && at.LessThan(s.high) && s.high.LessThan(next)}
		if next != nil {
			h.To = text(next)
			h.Bundle = holder(offers, h.To)
		}
		if h.Bundle == "" {
			missing = append(missing, h.To)
		}
		hops = append(hops, h)
	}
	// What was begun comes first: parts of the cluster are at the version of the
	// newest API server already. A release that fails there is not insisted on: a newer
	// one of its minor goes over it.
	over := s.high.LessThan(to) && s.high.Minor() == to.Minor()
	if at.LessThan(s.high) && at.Minor()+1 >= s.high.Minor() && !over {
		add(s.high, "")
		at = s.high
	}
	for at.Minor() < to.Minor() {
		minor := at.Minor() + 1
		next := to
		if minor < to.Minor() {
			next = newest(offers, minor)
		}
		if s.high.Minor() == minor && !over {
			next = s.high // begun
		}
		add(next, fmt.Sprintf("v%d.%d.x", to.Major(), minor))
		if next == nil {
			next = version.MajorMinor(to.Major(), minor)
		}
		at = next
	}
	if at.LessThan(to) || len(hops) == 0 && found.Unfinished {
		add(to, "")
	}
	if len(missing) > 0 {
		return nil, lacking(s, target, missing, offers)
	}
	return hops, nil
}

// span is from the oldest version in a cluster to the newest API server.
type span struct {
	low, high *version.Version
	servers   map[string]*version.Version
	kubelets  map[string]*version.Version
}

func (f Found) span() (span, error) {
	s := span{servers: map[string]*version.Version{}, kubelets: map[string]*version.Version{}}
	for _, part := range []struct {
		what string
		from map[string]string
		into map[string]*version.Version
	}{{"API server", f.APIServers, s.servers}, {"kubelet", f.Kubelets, s.kubelets}} {
		for node, v := range part.from {
			p, err := parse(v)
			if err != nil {
				return s, fmt.Errorf("%s of %s: %w", part.what, node, err)
			}
			part.into[node] = p
			if s.low == nil || p.LessThan(s.low) {
				s.low = p
			}
			if part.what == "API server" && (s.high == nil || s.high.LessThan(p)) {
				s.high = p
			}
		}
	}
	if s.high == nil {
		return s, errors.New("no API server says which version it has")
	}
	return s, nil
}

// has reports whether something of the cluster is at a version.
func (s span) has(v *version.Version) bool {
	for _, m := range []map[string]*version.Version{s.servers, s.kubelets} {
		for _, o := range m {
			if v != nil && o.EqualTo(v) {
				return true
			}
		}
	}
	return false
}

// refusal says why a cluster may not go to a version at all.
func (s span) refusal(to *version.Version) error {
	if to.LessThan(s.high) {
		return fault.New(fault.Usage, fmt.Sprintf("set spec.kubernetes.version to %s or newer", text(s.high)),
			fmt.Errorf("the cluster runs Kubernetes %s, and %s is older: a downgrade is not possible, because older API servers do not read what newer ones store", text(s.high), text(to)))
	}
	if to.Major() != s.low.Major() {
		return fault.New(fault.Usage, "name a version of the same major", fmt.Errorf("there is no way from %s to %s", text(s.low), text(to)))
	}
	for _, node := range names(s.kubelets) {
		if k := s.kubelets[node]; to.LessThan(k) || s.high.LessThan(k) && s.high.Minor() < k.Minor() {
			return fault.New(fault.Preflight, fmt.Sprintf("bring an older kubelet to %s first, or take it out: kocli node remove %s", node, node),
				fmt.Errorf("the kubelet of %s is %s, newer than the API servers (%s): that is not supported", node, text(k), text(s.high)))
		}
	}
	return nil
}

// lacking names the bundles that the way needs.
func lacking(s span, target string, missing []string, offers []Offer) error {
	var have []string
	for _, o := range offers {
		have = append(have, fmt.Sprintf("%s holds %s", o.Bundle, strings.Join(o.Versions, ", ")))
	}
	if len(have) == 0 {
		have = append(have, "no bundle was given")
	}
	return fault.New(fault.Bundle, "one minor at a time: build what is missing with kocli bundle build, and name each with a --bundle of its own",
		fmt.Errorf("from %s to %s a bundle is missing for %s (%s)", text(s.low), target, strings.Join(missing, " and for "), strings.Join(have, "; ")))
}

// newest is the newest offered version of a minor; nil where there is none.
func newest(offers []Offer, minor uint) *version.Version {
	var out *version.Version
	for _, o := range offers {
		for _, v := range o.Versions {
			p, err := parse(v)
			if err == nil && p.Minor() == minor && (out == nil || out.LessThan(p)) {
				out = p
			}
		}
	}
	return out
}

// holder is the first bundle that holds a version; empty where none does.
func holder(offers []Offer, v string) string {
	for _, o := range offers {
		if slices.Contains(o.Versions, v) {
			return o.Bundle
		}
	}
	return ""
}

func parse(v string) (*version.Version, error) {
	if !strings.HasPrefix(v, "v") {
		return nil, fmt.Errorf("%q is no version of Kubernetes", v)
	}
	p, err := version.ParseSemantic(v)
	if err != nil {
		return nil, fmt.Errorf("%q is no version of Kubernetes", v)
	}
	return p, nil
}

func text(v *version.Version) string { return "v" + v.String() }

func names(m map[string]*version.Version) []string {
	var out []string
	for n := range m {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
