// Package fetch downloads: over HTTPS and from registries, from upstream or
// from mirrors, with retries and resumption, into a cache that is addressed by
// digest. Nothing leaves the cache that did not match its digest.
package fetch

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/kocli/kocli/pkg/fault"
)

// Direct stands for upstream itself in a list of mirrors.
const Direct = "direct"

// Mirrors say where to look for what upstream serves. Without any, upstream
// itself is asked; with some, only they are, in their order, and upstream only
// where the list says "direct". A mirror is a server, or a folder.
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
		u, err := parseMirror(s)
		if err != nil {
			return nil, fault.New(fault.Usage, "write --mirror http://HOST:PORT or --mirror FOLDER, or --mirror direct for upstream itself", err)
		}
		out = append(out, u)
	}
	return out, nil
}

func parseMirror(s string) (*url.URL, error) {
	if s != "" && !strings.Contains(s, "://") {
		dir, err := filepath.Abs(s)
		if err != nil {
			return nil, err
		}
		s = fileURL(dir)
	}
	u, err := url.Parse(s)
	if err != nil || u.RawQuery != "" {
		return nil, fmt.Errorf("mirror %q is not a URL", s)
	}
	switch {
	case u.Scheme == "file" && u.Host == "":
		if st, err := os.Stat(u.Path); err != nil || !st.IsDir() {
			return nil, errors.Join(fmt.Errorf("mirror %s is not a folder", u.Path), err)
		}
	case (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		return nil, fmt.Errorf("mirror %q is not an http, https or file URL", u.Redacted())
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

func fileURL(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }

// place is one place of a file or registry.
type place struct {
	mirror *url.URL
}

// folder reports whether the place is a folder of this machine.
func (p place) folder() bool { return p.mirror != nil && p.mirror.Scheme == "file" }

// url rewrites the URL of upstream: https://dl.k8s.io/x becomes
// MIRROR/dl.k8s.io/x.
func (p place) url(upstream string) string {
	_, rest, ok := strings.Cut(upstream, "://")
	if p.mirror == nil || !ok || strings.HasPrefix(upstream, "file:") {
		return upstream
	}
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
