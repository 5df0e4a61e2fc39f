package push_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/archive/push"
	"github.com/kocli/kocli/pkg/fault"
)

func TestPush_mapsRepositories(t *testing.T) {
	for _, x := range []struct {
		name, prefix string
		keep         bool
		want         map[string]string // of sources
		mirrors      map[string]string
	}{
		{"below a prefix", "/kocli", false, map[string]string{
			"registry.k8s.io/pause:3.10.2": "/kocli/pause:3.10.2", "registry.k8s.io/coredns/coredns:v1.14.2": "/kocli/coredns/coredns:v1.14.2",
			"ghcr.io/flannel-io/flannel:v0.26.7": "/kocli/flannel-io/flannel:v0.26.7", "charts.example.com/stable/app:1.2.3": "/kocli/stable/app:1.2.3",
		}, map[string]string{"registry.k8s.io": "/v2/kocli", "ghcr.io": "/v2/kocli", "docker.io": "/v2/kocli"}},
		{"without a prefix", "", false, map[string]string{"registry.k8s.io/pause:3.10.2": "/pause:3.10.2"}, map[string]string{"registry.k8s.io": "", "ghcr.io": "", "docker.io": ""}},
		{"with the registry in front", "/a/b/", true, map[string]string{"registry.k8s.io/pause:3.10.2": "/a/b/registry.k8s.io/pause:3.10.2"},
			map[string]string{"registry.k8s.io": "/v2/a/b/registry.k8s.io", "ghcr.io": "/v2/a/b/ghcr.io", "docker.io": "/v2/a/b/docker.io"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := serve(t, false)
			r, err := push.Push(t.Context(), push.Options{Bundle: bundle(t, nil), Registry: s.URL + x.prefix, PlainHTTP: true, KeepHost: x.keep})
			if err != nil {
				t.Fatal(err)
			}
			host, got := strings.TrimPrefix(s.URL, "http://"), map[string]string{}
			for _, im := range r.Images {
				got[im.Source] = strings.TrimPrefix(im.Target, host)
			}
			for source, want := range x.want {
				if got[source] != want {
					t.Errorf("%s became %q, want %q", source, got[source], want)
				}
			}
			for k, v := range x.mirrors {
				x.mirrors[k] = s.URL + v
			}
			if !maps.Equal(r.Mirrors, x.mirrors) {
				t.Errorf("mirrors are %v, want %v", r.Mirrors, x.mirrors)
			}
		})
	}
}

func TestPush_imagesAskedForByDigest(t *testing.T) {
	s := serve(t, false)
	var digest string
	b := bundle(t, func(m *archive.Manifest, c archivetest.Content) {
		one := c.Image("docker.io/library/busybox:1", archive.RoleAll, []byte("busybox"))
		digest = one.Digest
		one.Name = "docker.io/library/busybox@" + digest
		tagged := c.Image("docker.io/library/alpine:3", archive.RoleAll, []byte("alpine"))
		tagged.Name += "@" + tagged.Digest
		m.Items = append(m.Items, one, tagged)
	})
	r, err := push.Push(t.Context(), options(b, s))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, im := range r.Images {
		if strings.HasPrefix(im.Source, "docker.io/library/") && !strings.Contains(im.Source, "haproxy") {
			got = append(got, im.Target[strings.Index(im.Target, "/"):])
		}
	}
	if want := "/kocli/library/alpine:3 /kocli/library/busybox@" + digest; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestPush_refusesBeforeAnythingIsSent(t *testing.T) {
	collide := func(m *archive.Manifest, c archivetest.Content) {
		m.Items = append(m.Items, c.Image("docker.io/pause:3.10.2", archive.RoleAll, []byte("another")))
	}
	for _, x := range []struct {
		name, registry, hint string
		change               func(*archive.Manifest, archivetest.Content)
		o                    push.Options
	}{
		{"two images for one place", "http://HOST/kocli", "--keep-host", collide, push.Options{PlainHTTP: true}},
		{"plain HTTP", "http://HOST/kocli", "--plain-http", nil, push.Options{}},
		{"another scheme", "ftp://HOST", "https://HOST", nil, push.Options{}},
		{"a login in the URL", "https://me:secret@HOST", "Docker's configuration", nil, push.Options{}},
		{"no host", "https:///x", "https://HOST", nil, push.Options{}},
		{"a prefix that is no path", "https://HOST/UPPER", "https://HOST", nil, push.Options{}},
		{"a CA that is not there", "https://HOST", "--ca-file", nil, push.Options{CAFile: "/nowhere/ca.crt"}},
		{"a CA that is none", "https://HOST", "PEM", nil, push.Options{CAFile: "push_test.go"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := serve(t, false)
			x.o.Bundle, x.o.Registry = bundle(t, x.change), strings.ReplaceAll(x.registry, "HOST", strings.TrimPrefix(s.URL, "http://"))
			_, err := push.Push(t.Context(), x.o)
			if fault.CodeOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), x.hint) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, code %d, hint %q", err, fault.CodeOf(err), fault.HintOf(err))
			}
			if s.asked() > 0 {
				t.Error("the registry was asked")
			}
		})
	}
	s := serve(t, false)
	o := options(bundle(t, collide), s)
	o.KeepHost = true
	if _, err := push.Push(t.Context(), o); err != nil {
		t.Errorf("with --keep-host: %v", err)
	}
}
