package build_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/archive/build"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
)

const testAddons = `apiVersion: kocli.io/v1alpha1
kind: Addons
addons:
  - name: one
    description: from a repository
    namespace: one
    licence: MIT
    chart: {repo: https://charts.example.test/stable, name: plain}
    versions: [{version: 0.1.0, app: v1, kubernetes: {from: v1.30.0, below: v1.99.0}, images: [docker.io/example/one:1, docker.io/example/both:1]}]
    schema: {type: object}
  - name: two
    description: from a source archive
    namespace: two
    licence: MIT
    chart: {archive: "https://github.com/example/two/archive/refs/tags/v{version}.tar.gz", path: deploy/chart/two}
    versions:
      - {version: 3.0.0, app: v3, kubernetes: {from: v9.0.0, below: v9.9.9}, images: [docker.io/example/two:3]}
      - {version: 2.0.0, app: v2, kubernetes: {from: v1.30.0, below: v1.99.0}, images: [docker.io/example/two:2, docker.io/example/both:1]}
    schema: {type: object}
`

// addons has an upstream with two add-ons, and a spec that asks for some.
func addons(u *upstream, list ...archive.SpecAddon) build.Options {
	u.helm()
	for _, ref := range []string{"docker.io/example/one:1", "docker.io/example/two:2", "docker.io/example/both:1"} {
		u.image(ref, "amd64", "arm64")
	}
	u.put("/github.com/example/two/archive/refs/tags/v2.0.0.tar.gz", tarball(map[string]string{
		"two-2.0.0/main.go":                           "package main",
		"two-2.0.0/deploy/chart/two/Chart.yaml":       "apiVersion: v2\nname: two\nversion: 2.0.0\n",
		"two-2.0.0/deploy/chart/two/templates/a.yaml": "{}",
		"two-2.0.0/deploy/chart/twofold/Chart.yaml":   "name: twofold\nversion: 1.0.0\n",
	}))
	o := u.options(func(s *archive.Spec) { s.Spec.Addons = list })
	o.Addons = must(catalogue.DecodeAddons([]byte(testAddons)))
	return o
}

func TestBuild_bringsAddonsWithTheirChartsAndImages(t *testing.T) {
	u := newUpstream(t)
	_, b, err := u.build(addons(u, archive.SpecAddon{Name: "one"}, archive.SpecAddon{Name: "two"}))
	if err != nil {
		t.Fatal(err)
	}
	names := func(f archive.Filter) string {
		f.Arch = "amd64"
		var out []string
		for _, it := range b.Items(f) {
			if len(it.Addons) > 0 {
				out = append(out, it.Name+" for "+strings.Join(it.Addons, "+"))
			}
		}
		slices.Sort(out)
		return strings.Join(out, "\n")
	}
	const both = "docker.io/example/both:1 for one+two"
	for filter, want := range map[string]string{
		"":               "charts.example.test/stable/plain:0.1.0 for one\n" + both + "\ndocker.io/example/one:1 for one\ndocker.io/example/two:2 for two\ngithub.com/example/two/two:2.0.0 for two",
		archive.NoAddons: "",
		"two":            both + "\ndocker.io/example/two:2 for two\ngithub.com/example/two/two:2.0.0 for two",
		"other one":      "charts.example.test/stable/plain:0.1.0 for one\n" + both + "\ndocker.io/example/one:1 for one",
	} {
		if got := names(archive.Filter{Addons: filter}); got != want {
			t.Errorf("%q:\n%s\nwant\n%s", filter, got, want)
		}
	}
	for _, it := range b.Items(archive.Filter{}) {
		if it.Name != "github.com/example/two/two:2.0.0" {
			continue
		}
		want := archivetest.Pack(map[string]string{"two/Chart.yaml": "apiVersion: v2\nname: two\nversion: 2.0.0\n", "two/templates/a.yaml": "{}"})
		if got := contentOf(t, b, it.Blobs[2].Digest); tarNames(t, got) != tarNames(t, want) || it.Component != "two" || it.Licence != "MIT" {
			t.Errorf("%+v holds %s", it, tarNames(t, got))
		}
		if it.Source != "https://github.com/example/two/archive/refs/tags/v2.0.0.tar.gz" || it.SourceDigest == "" {
			t.Errorf("source %s %s", it.Source, it.SourceDigest)
		}
	}
}

// The same bundle again, and nothing else once the lock knows it.
func TestBuild_chartsOfSourceArchivesAreLocked(t *testing.T) {
	u := newUpstream(t)
	o := addons(u, archive.SpecAddon{Name: "two", Version: "2.0.0"})
	if _, _, err := u.build(o); err != nil {
		t.Fatal(err)
	}
	first := must(os.ReadFile(o.Output))
	if _, _, err := u.build(o); err != nil {
		t.Fatal(err)
	}
	if string(must(os.ReadFile(o.Output))) != string(first) {
		t.Error("the same input gave another bundle")
	}
	u.put("/github.com/example/two/archive/refs/tags/v2.0.0.tar.gz", tarball(map[string]string{"two-2.0.0/deploy/chart/two/Chart.yaml": "name: two\nversion: 2.0.0\n"}))
	o.CacheDir += "-fresh"
	if _, _, err := u.build(o); fault.CodeOf(err) != fault.Bundle {
		t.Errorf("another archive than the lock has: %v", err)
	}
}

func TestBuild_refusesAddonsThatDoNotFit(t *testing.T) {
	for name, x := range map[string]struct {
		addon archive.SpecAddon
		want  string
	}{
		"unknown":         {archive.SpecAddon{Name: "three"}, `there is no add-on "three"`},
		"unknown version": {archive.SpecAddon{Name: "one", Version: "9.0.0"}, "one has no version 9.0.0"},
		"unfit version":   {archive.SpecAddon{Name: "two", Version: "3.0.0"}, "two 3.0.0 does not fit Kubernetes"},
	} {
		u := newUpstream(t)
		if _, _, err := u.build(addons(u, x.addon)); fault.CodeOf(err) != fault.Usage || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	u := newUpstream(t)
	o := addons(u, archive.SpecAddon{Name: "two"})
	u.put("/github.com/example/two/archive/refs/tags/v2.0.0.tar.gz", tarball(map[string]string{"two-2.0.0/main.go": "x"}))
	if _, _, err := u.build(o); err == nil || !strings.Contains(err.Error(), "no folder deploy/chart/two") {
		t.Errorf("an archive without the chart: %v", err)
	}
}

// tarNames lists the files of a packed chart with their sizes.
func tarNames(t *testing.T, packed []byte) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return strings.Join(out, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s:%d", h.Name, h.Size))
	}
}
