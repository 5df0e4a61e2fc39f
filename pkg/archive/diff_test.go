package archive_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
)

// changedSample is the sample after change.
func changedSample(t testing.TB, change func(m *archive.Manifest, c archivetest.Content)) *archive.Bundle {
	t.Helper()
	m, c := archivetest.Sample()
	change(m, c)
	var b bytes.Buffer
	if _, _, err := archive.Write(&b, m, c.Open); err != nil {
		t.Fatal(err)
	}
	return mustRead(t, b.Bytes())
}

func TestDiff_namesWhatWasAddedRemovedAndChanged(t *testing.T) {
	from := mustRead(t, sample(t))
	base := bytes.Repeat([]byte("base layer "), 300)
	to := changedSample(t, func(m *archive.Manifest, c archivetest.Content) {
		m.Kubernetes[0].Version = "v1.37.2"
		m.Kubernetes[0].Components["runc"] = "1.5.0"
		m.Items = slices.DeleteFunc(m.Items, func(it archive.Item) bool { return it.Name == "socat" })
		for i, it := range m.Items {
			switch {
			case strings.HasPrefix(it.Name, "registry.k8s.io/kube-proxy:"):
				m.Items[i] = c.Image("registry.k8s.io/kube-proxy:v1.37.2", it.Role, base, []byte("new layer"))
			case it.Name == "runc":
				m.Items[i] = c.File(it.Kind, "runc", "1.5.0", it.File, it.Role, []byte("new runc"))
			case it.Name == "kubectl": // another file under the same version
				m.Items[i] = c.File(it.Kind, it.Name, it.Version, it.File, it.Role, []byte("rebuilt"))
			}
		}
		m.Items = append(m.Items, c.Image("localhost:5000/extra", archive.RoleAll, base, []byte("extra layer")))
	})
	d := archive.Diff(from, to)
	var got []string
	var fresh int64
	for _, c := range d.Items {
		got = append(got, fmt.Sprintf("%s %s %s %s>%s", c.Change, c.Kind, c.Name, c.FromVersion, c.ToVersion))
		fresh += c.NewBytes
		if (c.Change == archive.Added) != (c.FromDigest == "") || (c.Change == archive.Removed) != (c.ToDigest == "") {
			t.Errorf("%+v", c)
		}
	}
	want := []string{
		"changed binary kubectl v1.36.3>v1.36.3",
		"changed binary runc 1.4.3>1.5.0",
		"added image localhost:5000/extra >",
		"changed image registry.k8s.io/kube-proxy v1.36.3>v1.37.2",
		"removed package socat 1.0-1>",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(d.Components) != 2 || d.Components[0].Name != "kubernetes" || d.Components[1].To[0] != "1.5.0" {
		t.Errorf("components %+v", d.Components)
	}
	if d.Unchanged != len(from.Manifest().Items)-4 {
		t.Errorf("%d of %d are unchanged", d.Unchanged, len(from.Manifest().Items))
	}
	// New bytes are those of the items and of the manifests that kocli generates.
	if d.Bytes.New <= fresh || d.Bytes.Shared < int64(len(base)) || d.Bytes.Gone == 0 {
		t.Errorf("bytes %+v, items have %d new ones", d.Bytes, fresh)
	}
	back := archive.Diff(to, from)
	if back.Bytes.New != d.Bytes.Gone || back.Bytes.Gone != d.Bytes.New || back.Bytes.Shared != d.Bytes.Shared {
		t.Errorf("back %+v, there %+v", back.Bytes, d.Bytes)
	}
}

func TestDiff_ofABundleWithItselfIsEmpty(t *testing.T) {
	b := mustRead(t, sample(t))
	d := archive.Diff(b, b)
	if len(d.Items)+len(d.Components) != 0 || d.Bytes.New+d.Bytes.Gone != 0 || d.Unchanged != len(b.Manifest().Items) {
		t.Fatalf("%+v", d)
	}
	raw, err := json.Marshal(d)
	if err != nil || !bytes.Contains(raw, []byte(`"components":[],"items":[]`)) {
		t.Fatalf("%s %v", raw, err)
	}
}

func TestMatchItems_pairsLinesOfSeveralVersions(t *testing.T) {
	items := func(versions ...string) *archive.Manifest {
		c := archivetest.Content{}
		var m archive.Manifest
		for _, v := range versions {
			m.Items = append(m.Items, c.File(archive.KindBinary, "kubelet", v, "kubelet", archive.RoleAll, []byte(v)))
		}
		return &m
	}
	for _, x := range []struct {
		name     string
		from, to []string
		want     string
	}{
		{"the same", []string{"v1.35.1", "v1.36.3"}, []string{"v1.35.1", "v1.36.3"}, "v1.35.1>v1.35.1 v1.36.3>v1.36.3"},
		{"one more", []string{"v1.36.3"}, []string{"v1.36.3", "v1.37.2"}, "v1.36.3>v1.36.3 ->v1.37.2"},
		{"newest with newest", []string{"v1.35.1", "v1.36.3"}, []string{"v1.37.2"}, "v1.35.1>- v1.36.3>v1.37.2"},
		{"both move on", []string{"v1.35.1", "v1.36.3"}, []string{"v1.36.3", "v1.37.2"}, "v1.36.3>v1.36.3 v1.35.1>v1.37.2"},
		{"none before", nil, []string{"v1.37.2"}, "->v1.37.2"},
	} {
		var got []string
		for _, p := range archive.MatchItems(items(x.from...), items(x.to...)) {
			f, to := "-", "-"
			if p.From != nil {
				f = p.From.Version
			}
			if p.To != nil {
				to = p.To.Version
			}
			got = append(got, f+">"+to)
		}
		if strings.Join(got, " ") != x.want {
			t.Errorf("%s: got %v, want %s", x.name, got, x.want)
		}
	}
}

func TestReference_takesAnImageApart(t *testing.T) {
	for ref, want := range map[string][2]string{
		"registry.k8s.io/pause:3.10":                     {"registry.k8s.io/pause", "3.10"},
		"localhost:5000/a/b":                             {"localhost:5000/a/b", ""},
		"localhost:5000/a:1":                             {"localhost:5000/a", "1"},
		"quay.io/x@sha256:00":                            {"quay.io/x", ""},
		"quay.io/x:v1@sha256:" + strings.Repeat("0", 64): {"quay.io/x", "v1"},
	} {
		repository, tag := archive.Item{Name: ref}.Reference()
		if repository != want[0] || tag != want[1] {
			t.Errorf("%s: %q %q", ref, repository, tag)
		}
	}
}
