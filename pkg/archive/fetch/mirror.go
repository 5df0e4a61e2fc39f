// Package fetch downloads: over HTTPS and from registries, from upstream or
// from mirrors, with retries and resumption, into a cache that is addressed by
// digest. Nothing leaves the cache that did not match its digest.
package fetch

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/kocli/kocli/pkg/fault"
)

// Direct stands for upstream itself in a list of mirrors.
const Direct = "direct"

// Mirrors say where to look for what upstream serves. Without any, upstream
// itself is asked; with some, only they are, in their order, and upstream only
// where the list says "direct".
type Mirrors []*url.URL // nil stands for upstream

// NewMirrors parses the values of --mirror. Errors carry fault.Usage.
func NewMirrors(list []string) (Mirrors, error) {
	if len(list) == 0 {
		return Mirrors{nil}, nil
	}
	out := make(Mirrors, 0, len(list))
	for _, s := range list {
		if s == Direct {
			out = append(out, nil)
			continue
		}
		u, err := url.Parse(s)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" {
			return nil, fault.New(fault.Usage, "write --mirror http://HOST:PORT, or --mirror direct for upstream itself",
				fmt.Errorf("mirror %q is not an http or https URL", s))
		}
		u.Path = strings.TrimSuffix(u.Path, "/")
		out = append(out, u)
	}
	return out, nil
}

// place is one place of a file or registry.
type place struct {
	mirror *url.URL
}

// url rewrites the URL of upstream: https://dl.k8s.io/x becomes
// MIRROR/dl.k8s.io/x.
func (p place) url(upstream string) string {
	if p.mirror == nil {
		return upstream
	}
	_, rest, _ := strings.Cut(upstream, "://")
	return p.mirror.String() + "/" + rest
}

// reference rewrites an image reference in the same way; plain is whether the
// registry speaks http.
func (p place) reference(ref string) (out string, plain bool) {
	if p.mirror == nil {
		return ref, false
	}
	return p.mirror.Host + p.mirror.Path + "/" + ref, p.mirror.Scheme == "http"
}
