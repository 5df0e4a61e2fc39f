package catalogue_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/templates"
)

func TestEmbedded_loads(t *testing.T) {
	c, err := catalogue.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Release("v1.36.3", map[string]string{"runc": "1.4.2"})
	if err != nil || r.Components["kubernetes"] != "v1.36.3" || r.Components["runc"] != "1.4.2" || r.Components["etcd"] != "3.6.8-0" {
		t.Fatalf("%v %v", r, err)
	}
	if _, err := c.Release("v1.0.0", nil); fault.CodeOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "v1.37.2") {
		t.Fatalf("unknown version: %v, hint %q", err, fault.HintOf(err))
	}
	if _, err := c.Release("v1.36.3", map[string]string{"vim": "9"}); fault.CodeOf(err) != fault.Usage {
		t.Fatalf("unknown component: %v", err)
	}
	if _, err := c.Distribution("debian", "12"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Distribution("debian", "1"); fault.CodeOf(err) != fault.Usage {
		t.Fatalf("unknown distribution: %v", err)
	}
}

func TestExpand_fillsTemplates(t *testing.T) {
	got := catalogue.Expand("https://x/v{version}/a-{arch}-{version}", "1.2", "arm64")
	if got != "https://x/v1.2/a-arm64-1.2" {
		t.Fatal(got)
	}
}

func TestDecode_refusesWhatIsNotKnown(t *testing.T) {
	c, err := os.ReadFile("../../../bundle/catalogue.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(c)
	for name, bad := range map[string]string{
		"unknown field":       strings.Replace(text, "licence:", "license:", 1),
		"plain http":          strings.Replace(text, "url: https://dl", "url: http://dl", 1),
		"no checksum":         strings.Replace(text, "    checksum: https://dl.k8s.io/{version}/bin/linux/{arch}/kubeadm.sha256\n", "", 1),
		"version is missing":  strings.Replace(text, "      runc: 1.4.3\n", "", 1),
		"component is unused": strings.Replace(text, "      runc: 1.4.3\n", "      runc: 1.4.3\n      vim: 9\n", 1),
		"another kind":        strings.Replace(text, "kind: Catalogue", "kind: Bundle", 1),
	} {
		if bad == text {
			t.Fatalf("%s: nothing was replaced", name)
		}
		if _, err := catalogue.Decode([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Every example loads and asks only for what the catalogue has.
func TestExamples_fitTheCatalogue(t *testing.T) {
	c, err := catalogue.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../../examples/bundle-*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		s, err := archive.DecodeSpec(data)
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		for _, v := range s.Spec.Kubernetes {
			if _, err := c.Release(v, s.Spec.Components); err != nil {
				t.Errorf("%s: %v", f, err)
			}
		}
		for _, o := range s.Spec.OSPackages {
			if _, err := c.Distribution(o.Distribution, o.Version); err != nil {
				t.Errorf("%s: %v", f, err)
			}
		}
	}
}

// What bundle init prints is the example of that version, and what it leaves
// commented out is right too.
func TestTemplate_isTheExampleAndAllOfItIsRight(t *testing.T) {
	c, err := catalogue.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range c.Versions() {
		text := templates.Bundle(v)
		example, err := os.ReadFile("../../../examples/bundle-" + v + "-amd64.yaml")
		if err != nil || string(example) != text {
			t.Errorf("examples/bundle-%s-amd64.yaml is not what bundle init prints (%v)", v, err)
		}
		s, err := archive.DecodeSpec([]byte(text))
		if err != nil || s.Spec.Kubernetes[0] != v || s.Metadata.Name != "kocli-"+v+"-amd64" {
			t.Errorf("%+v, %v", s, err)
		}
		all, err := archive.DecodeSpec([]byte(regexp.MustCompile(`(?m)^( *)#([^ \n]|  )`).ReplaceAllString(text[strings.Index(text, "apiVersion:"):], "$1$2")))
		if err != nil {
			t.Fatalf("uncommented: %v", err)
		}
		x := all.Spec
		if len(x.Components) != 1 || len(x.ExtraImages) != 1 || len(x.ExtraFiles) != 2 || len(x.ExtraCharts) != 3 || len(x.OSPackages[0].Extra) != 1 || x.OSPackages[0].Keyring == "" || x.ImageLayers != archive.LayersZstd {
			t.Errorf("uncommented: %+v", x)
		}
		if _, err := c.Release(v, x.Components); err != nil {
			t.Error(err)
		}
	}
}

func TestOverview_hasEveryVersionAndSource(t *testing.T) {
	c, err := catalogue.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	o := c.Overview()
	if c.Newest() != "v1.37.2" || len(o.Kubernetes) != len(c.Releases) || len(o.Distributions) != len(c.Distributions) || len(o.Conflicts) != len(c.Conflicts) {
		t.Fatalf("%s %+v", c.Newest(), o)
	}
	for _, l := range o.Components {
		if l.From == "" || len(l.Versions) != len(o.Kubernetes) {
			t.Errorf("%+v", l)
		}
		if l.Name == "kubernetes" && l.From != "dl.k8s.io, registry.k8s.io" {
			t.Errorf("kubernetes is from %s", l.From)
		}
	}
	if o.Conflicts[1] != "kubernetes v1.37.0 and newer with etcd older than 3.5.24: kubeadm of Kubernetes v1.37 asks for etcd 3.5.24 or newer" {
		t.Errorf("%q", o.Conflicts)
	}
}
