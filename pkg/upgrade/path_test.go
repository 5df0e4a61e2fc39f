package upgrade_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/upgrade"
)

func TestPath(t *testing.T) {
	offers := func(list ...string) []upgrade.Offer {
		var out []upgrade.Offer
		for _, o := range list {
			name, versions, _ := strings.Cut(o, "=")
			out = append(out, upgrade.Offer{Bundle: name, Versions: strings.Split(versions, ",")})
		}
		return out
	}
	all := func(v string) upgrade.Found {
		return upgrade.Found{APIServers: map[string]string{"cp-1": v, "cp-2": v}, Kubelets: map[string]string{"cp-1": v, "cp-2": v, "w": v}}
	}
	for name, c := range map[string]struct {
		found  upgrade.Found
		target string
		offers []upgrade.Offer
		want   string // hops, or part of the error
		code   fault.Code
	}{
		"one minor":                           {all("v1.36.3"), "v1.37.2", offers("b=v1.37.2"), "v1.36.3>v1.37.2:b", fault.OK},
		"nothing to do":                       {all("v1.37.2"), "v1.37.2", nil, "", fault.OK},
		"a patch release":                     {all("v1.36.1"), "v1.36.3", offers("b=v1.36.3"), "v1.36.1>v1.36.3:b", fault.OK},
		"three minors from three bundles":     {all("v1.34.4"), "v1.37.2", offers("c=v1.37.2", "a=v1.35.4", "b=v1.36.3"), "v1.34.4>v1.35.4:a v1.35.4>v1.36.3:b v1.36.3>v1.37.2:c", fault.OK},
		"three minors from one bundle":        {all("v1.34.4"), "v1.37.2", offers("x=v1.35.4,v1.36.3,v1.37.2"), "v1.34.4>v1.35.4:x v1.35.4>v1.36.3:x v1.36.3>v1.37.2:x", fault.OK},
		"the newest patch on the way":         {all("v1.35.4"), "v1.37.2", offers("x=v1.36.1,v1.36.3", "y=v1.37.2"), "v1.35.4>v1.36.3:x v1.36.3>v1.37.2:y", fault.OK},
		"a newer patch of the target is left": {all("v1.36.3"), "v1.37.0", offers("x=v1.37.0,v1.37.2"), "v1.36.3>v1.37.0:x", fault.OK},
		"minors that are missing are named":   {all("v1.34.4"), "v1.37.2", offers("c=v1.37.2"), "v1.34.4 to v1.37.2 a bundle is missing for v1.35.x and for v1.36.x (c holds v1.37.2)", fault.Bundle},
		"the target is missing":               {all("v1.36.3"), "v1.37.2", offers("c=v1.37.1"), "missing for v1.37.2 (c holds v1.37.1)", fault.Bundle},
		"without a bundle":                    {all("v1.36.3"), "v1.37.2", nil, "no bundle was given", fault.Bundle},
		"a downgrade of a minor":              {all("v1.37.2"), "v1.36.3", offers("b=v1.36.3"), "v1.37.2, and v1.36.3 is older: a downgrade is not possible", fault.Usage},
		"a downgrade of a patch":              {all("v1.36.3"), "v1.36.1", offers("b=v1.36.1"), "a downgrade is not possible", fault.Usage},
		"no version":                          {all("v1.36.3"), "1.37", offers("b=v1.37.2"), `"1.37" is no version`, fault.Usage},
		"interrupted between control planes": {
			upgrade.Found{APIServers: map[string]string{"cp-1": "v1.37.2", "cp-2": "v1.36.3"}, Kubelets: map[string]string{"cp-1": "v1.36.3", "w": "v1.36.3"}},
			"v1.37.2", offers("b=v1.37.2"), "v1.36.3>v1.37.2:b+", fault.OK,
		},
		"interrupted between workers": {
			upgrade.Found{APIServers: map[string]string{"cp-1": "v1.37.2"}, Kubelets: map[string]string{"cp-1": "v1.37.2", "w-1": "v1.37.2", "w-2": "v1.36.3"}},
			"v1.37.2", offers("b=v1.37.2"), "v1.36.3>v1.37.2:b+", fault.OK,
		},
		"interrupted in an earlier hop": {
			upgrade.Found{APIServers: map[string]string{"cp-1": "v1.35.4"}, Kubelets: map[string]string{"cp-1": "v1.34.4", "w": "v1.34.4"}},
			"v1.37.2", offers("a=v1.35.4,v1.35.5", "b=v1.36.3", "c=v1.37.2"), "v1.34.4>v1.35.4:a+ v1.35.4>v1.36.3:b v1.36.3>v1.37.2:c", fault.OK,
		},
		"interrupted, and its bundle is not given": {
			upgrade.Found{APIServers: map[string]string{"cp-1": "v1.36.3"}, Kubelets: map[string]string{"cp-1": "v1.35.4"}},
			"v1.37.2", offers("c=v1.37.2"), "missing for v1.36.3", fault.Bundle,
		},
		"a stop half-way at an older target is refused": {
			upgrade.Found{APIServers: map[string]string{"cp-1": "v1.37.2", "cp-2": "v1.36.3"}, Kubelets: map[string]string{"cp-1": "v1.36.3"}},
			"v1.36.3", offers("a=v1.36.3"), "a downgrade is not possible", fault.Usage,
		},
		"kubelets two minors behind go through the one between": {
			upgrade.Found{APIServers: map[string]string{"cp-1": "v1.37.2"}, Kubelets: map[string]string{"cp-1": "v1.37.2", "w": "v1.35.4"}},
			"v1.37.2", offers("b=v1.36.3", "c=v1.37.2"), "v1.35.4>v1.36.3:b v1.36.3>v1.37.2:c+", fault.OK,
		},
		"a kubelet newer than the API servers": {
			upgrade.Found{APIServers: map[string]string{"cp-1": "v1.36.3"}, Kubelets: map[string]string{"cp-1": "v1.36.3", "w": "v1.37.2"}},
			"v1.37.2", offers("c=v1.37.2"), "the kubelet of w is v1.37.2, newer than the API servers (v1.36.3)", fault.Preflight,
		},
		"all is there, and the last node was left in the middle": {
			func() upgrade.Found { f := all("v1.37.2"); f.Unfinished = true; return f }(),
			"v1.37.2", offers("b=v1.37.2"), "v1.37.2>v1.37.2:b+", fault.OK,
		},
		"the same without its bundle": {
			func() upgrade.Found { f := all("v1.37.2"); f.Unfinished = true; return f }(),
			"v1.37.2", nil, "missing for v1.37.2", fault.Bundle,
		},
		"a release that failed on the second control plane gives way to a newer one": {
			upgrade.Found{APIServers: map[string]string{"cp-1": "v1.37.1", "cp-2": "v1.36.3"}, Kubelets: map[string]string{"cp-1": "v1.36.3", "w": "v1.36.3"}},
			"v1.37.2", offers("c=v1.37.2"), "v1.36.3>v1.37.2:c+", fault.OK,
		},
		"a patch release that was begun gives way to a newer one": {
			upgrade.Found{APIServers: map[string]string{"cp-1": "v1.36.2", "cp-2": "v1.36.1"}, Kubelets: map[string]string{"cp-1": "v1.36.1"}},
			"v1.36.3", offers("c=v1.36.3"), "v1.36.1>v1.36.3:c+", fault.OK,
		},
		"no API server answers": {upgrade.Found{}, "v1.37.2", nil, "no API server says", fault.Failure},
	} {
		t.Run(name, func(t *testing.T) {
			hops, err := upgrade.Path(c.found, c.target, c.offers)
			if c.code != fault.OK {
				if fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) || c.code != fault.Failure && fault.HintOf(err) == "" {
					t.Errorf("%v, code %d, hint %q", err, fault.CodeOf(err), fault.HintOf(err))
				}
				return
			}
			var got []string
			for _, h := range hops {
				begun := ""
				if h.Begun {
					begun = "+"
				}
				got = append(got, fmt.Sprintf("%s>%s:%s%s", h.From, h.To, h.Bundle, begun))
			}
			if err != nil || strings.Join(got, " ") != c.want {
				t.Errorf("%s, %v", strings.Join(got, " "), err)
			}
		})
	}
}
