package closure

import (
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/manifests"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/steps/addons"
	"github.com/kocli/kocli/templates"
)

// named answers with a name of its own for every image, and remembers it.
type named map[string]bool

func (n named) Image(name string) (string, error) {
	ref := "sentinel.example.com/" + name + ":1"
	n[ref] = true
	return ref, nil
}

var (
	comment  = regexp.MustCompile(`(?m)^\s*#.*$|\s#\s.*$`)
	imageKey = regexp.MustCompile(`(?m)\b(?:image|reference): *\S+`)
	imageRef = regexp.MustCompile(`\b[a-z0-9-]+(?:\.[a-z0-9-]+)+(?::\d+)?/[a-z0-9/._-]+(?::[A-Za-z0-9][\w.-]*|@sha256:[0-9a-f]+)`)
)

// Every manifest is rendered, and every image in it is found: as many keys as
// there are in the text, and every reference that was put in.
func TestManifests_allAreRenderedAndEveryImageIsFound(t *testing.T) {
	c, err := config.Load("../../../examples/cluster-single.yaml")
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.New(c)
	if err != nil {
		t.Fatal(err)
	}
	asked := named{}
	all, err := Input{Inventory: inv}.manifestsOf(asked)
	if err != nil {
		t.Fatal(err)
	}
	helper, err := asked.Image("busybox")
	if err != nil {
		t.Fatal(err)
	}
	proof, err := addons.VolumeCheck("local", helper, "x") // charts asks for it where there is storage
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, manifest{"volumecheck.yaml", proof})
	var rendered []string
	for _, m := range all {
		rendered = append(rendered, m.name)
		text := comment.ReplaceAllString(string(m.data), "")
		refs, err := workloadImages(m.data)
		if err != nil {
			t.Fatal(err)
		}
		if keys := imageKey.FindAllString(text, -1); len(keys) != len(refs) || len(keys) == 0 {
			t.Errorf("%s: %d images were found where the text has %q", m.name, len(refs), keys)
		}
		for _, in := range imageRef.FindAllString(text, -1) {
			if !slices.ContainsFunc(refs, func(r reference) bool { return r.name == in }) {
				t.Errorf("%s: %s was not found", m.name, in)
			}
		}
		for _, r := range refs {
			if !asked[r.name] {
				t.Errorf("%s: %s is written into the manifest; the bundle has to name it", m.name, r.name)
			}
		}
	}
	files, err := fs.Glob(manifests.FS, "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.Contains(rendered, f) {
			t.Errorf("manifests/%s is not part of the closure", f)
		}
	}
}

// Node files name no image: what names one would have to be part of the closure.
func TestTemplates_nameNoImage(t *testing.T) {
	seen := 0
	err := fs.WalkDir(templates.Node, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(templates.Node, p)
		seen++
		for _, ref := range imageRef.FindAllString(comment.ReplaceAllString(string(data), ""), -1) {
			t.Errorf("templates/%s names the image %s", p, ref)
		}
		return err
	})
	if err != nil || seen == 0 {
		t.Fatalf("%d files: %v", seen, err)
	}
}

func TestImagesIn_findsPodsInAnything(t *testing.T) {
	const doc = `
apiVersion: batch/v1
kind: CronJob
metadata: {name: backup, namespace: ops}
spec:
  jobTemplate:
    spec:
      template:
        spec:
          initContainers: [{name: a, image: a.example.com/init:1}]
          containers: [{name: b, image: busybox}, {name: c}]
          ephemeralContainers: [{name: d, image: "localhost/debug@sha256:` + zeros + `"}]
          volumes:
            - {name: v, image: {reference: b.example.com:5000/data:2}}
            - {name: w, emptyDir: {}}
---
apiVersion: example.com/v1
kind: Operator
metadata: {name: x}
spec: {nested: [{podTemplate: {spec: {containers: [{image: c.example.com/op:3}]}}}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: plain}
data: {image: not-a-pod}
`
	refs, err := workloadImages([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range refs {
		got = append(got, r.by+" "+r.name)
	}
	slices.Sort(got)
	want := []string{
		"CronJob ops/backup a.example.com/init:1", "CronJob ops/backup b.example.com:5000/data:2", "CronJob ops/backup docker.io/library/busybox:latest",
		"CronJob ops/backup localhost/debug@sha256:" + zeros, "Operator x c.example.com/op:3",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"
