package build_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// packed is a packed chart.
func packed(chart, version string) string {
	return tarball(map[string]string{
		chart + "/Chart.yaml":            fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\ndescription: a chart\n", chart, version),
		chart + "/charts/sub/Chart.yaml": "name: sub\nversion: 0.0.1\n",
		chart + "/templates/x.yaml":      "{}",
	})
}

// helm serves a Helm repository and a chart in a registry.
func (u *upstream) helm() {
	u.put("/charts.example.test/stable/app-1.2.3+b.tgz", packed("app", "1.2.3+b"))
	u.put("/cdn.example.test/plain-0.1.0.tgz", packed("plain", "0.1.0"))
	u.put("/charts.example.test/stable/liar-1.0.0.tgz", packed("other", "1.0.0"))
	u.put("/charts.example.test/stable/index.yaml", fmt.Sprintf(`apiVersion: v1
entries:
  app:
  - {name: app, version: 2.0.0, urls: [app-2.0.0.tgz], digest: %[1]s}
  - {name: app, version: 1.2.3+b, urls: [app-1.2.3+b.tgz], digest: %[1]s}
  plain:
  - {name: plain, version: 0.1.0, urls: ["https://cdn.example.test/plain-0.1.0.tgz"]}
  liar:
  - {name: liar, version: 1.0.0, urls: [liar-1.0.0.tgz]}
  plainhttp:
  - {name: plainhttp, version: 1.0.0, urls: ["http://cdn.example.test/x.tgz"]}
  nourl:
  - {name: nourl, version: 1.0.0}
  baddigest:
  - {name: baddigest, version: 1.0.0, urls: [x.tgz], digest: md5}
`, hexSum(u.files["/charts.example.test/stable/app-1.2.3+b.tgz"])))
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), archive.TypeChartConfig)
	img = must(mutate.AppendLayers(img, static.NewLayer([]byte(packed("reg", "3.0.0")), archive.TypeChartContent)))
	if err := remote.Write(must(name.ParseReference(strings.TrimPrefix(u.url, "http://")+"/ghcr.io/example/charts/reg:3.0.0", name.Insecure)), img); err != nil {
		u.t.Fatal(err)
	}
}

func charts(list ...archive.ExtraChart) func(*archive.Spec) {
	return func(s *archive.Spec) { s.Spec.ExtraCharts = list }
}

func contentOf(t *testing.T, b *archive.Bundle, digest string) []byte {
	t.Helper()
	r, err := b.OpenBlob(digest)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestBuild_bringsChartsAsHelmKeepsThemInRegistries(t *testing.T) {
	u := newUpstream(t)
	u.helm()
	if err := os.WriteFile(filepath.Join(u.dir, "mine.tgz"), []byte(packed("mine", "v4.0.0")), 0o600); err != nil {
		t.Fatal(err)
	}
	o := u.options(charts(
		archive.ExtraChart{Repo: "https://charts.example.test/stable/", Name: "app", Version: "1.2.3+b"},
		archive.ExtraChart{Repo: "https://charts.example.test/stable", Name: "plain", Version: "0.1.0"},
		archive.ExtraChart{Ref: "oci://ghcr.io/example/charts/reg", Version: "3.0.0"},
		archive.ExtraChart{Path: "mine.tgz"},
	))
	_, b, err := u.build(o)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]archive.Item{}
	for _, it := range b.Items(archive.Filter{Arch: "amd64", Role: archive.RoleWorker}) {
		if it.Kind == archive.KindChart {
			got[it.Name] = it
		}
	}
	want := map[string]string{
		"charts.example.test/stable/app:1.2.3_b": packed("app", "1.2.3+b"),
		"charts.example.test/stable/plain:0.1.0": packed("plain", "0.1.0"),
		"ghcr.io/example/charts/reg:3.0.0":       packed("reg", "3.0.0"),
		"kocli.io/chart/mine:v4.0.0":             packed("mine", "v4.0.0"),
	}
	for ref, tgz := range want {
		it, ok := got[ref]
		if !ok {
			t.Fatalf("no %s among %d", ref, len(got))
		}
		if it.Blobs[1].MediaType != archive.TypeChartConfig || it.Blobs[2].MediaType != archive.TypeChartContent {
			t.Errorf("%s: %+v", ref, it.Blobs)
		}
		if c := contentOf(t, b, it.Blobs[2].Digest); string(c) != tgz {
			t.Errorf("%s: %d bytes of a chart of %d", ref, len(c), len(tgz))
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d charts", len(got))
	}
	app := got["charts.example.test/stable/app:1.2.3_b"]
	var meta map[string]any
	if err := json.Unmarshal(contentOf(t, b, app.Blobs[1].Digest), &meta); err != nil || meta["version"] != "1.2.3+b" || meta["description"] != "a chart" {
		t.Errorf("configuration %v, %v", meta, err)
	}
	if !strings.HasPrefix(app.Source, "https://charts.example.test/stable/app-1.2.3") {
		t.Errorf("source %q", app.Source)
	}
	if !bytes.Contains(contentOf(t, b, app.Digest), []byte(archive.TypeChartConfig)) {
		t.Error("the manifest does not name the configuration of a chart")
	}

	before := must(os.ReadFile(o.Output))
	u.put("/charts.example.test/stable/index.yaml", "entries: {}") // the lock has what is needed
	o.CacheDir, o.Locked = filepath.Join(u.dir, "fresh"), true
	if _, _, err := u.build(o); err != nil || !bytes.Equal(before, must(os.ReadFile(o.Output))) {
		t.Fatalf("from the lock and an empty cache: %v", err)
	}
	u.put("/cdn.example.test/plain-0.1.0.tgz", packed("plain", "0.1.0")+"changed")
	o.CacheDir = filepath.Join(u.dir, "again")
	if _, _, err := u.build(o); fault.CodeOf(err) != fault.Bundle {
		t.Fatalf("a chart that changed: %v", err)
	}
}

func TestBuild_refusesChartsThatAreNotWhatTheySay(t *testing.T) {
	repo := "https://charts.example.test/stable"
	for _, c := range []struct {
		chart archive.ExtraChart
		file  string // content of bad.tgz
		code  fault.Code
		want  string
	}{
		{archive.ExtraChart{Repo: repo, Name: "app", Version: "9.9.9"}, "", fault.Usage, "no chart app 9.9.9"},
		{archive.ExtraChart{Repo: repo, Name: "none", Version: "1.0.0"}, "", fault.Usage, "no chart none"},
		{archive.ExtraChart{Repo: repo, Name: "app", Version: "2.0.0"}, "", fault.Failure, "404"},
		{archive.ExtraChart{Repo: repo, Name: "liar", Version: "1.0.0"}, "", fault.Bundle, "the chart is other 1.0.0"},
		{archive.ExtraChart{Repo: repo, Name: "plainhttp", Version: "1.0.0"}, "", fault.Failure, "not an https URL"},
		{archive.ExtraChart{Repo: repo, Name: "nourl", Version: "1.0.0"}, "", fault.Failure, "no URL"},
		{archive.ExtraChart{Repo: repo, Name: "baddigest", Version: "1.0.0"}, "", fault.Failure, "not sha256"},
		{archive.ExtraChart{Repo: "https://none.example.test", Name: "app", Version: "1.0.0"}, "", fault.Failure, "404"},
		{archive.ExtraChart{Ref: "oci://docker.io/library/single", Version: "1.0.0"}, "", fault.Failure, "docker.io/library/single:1.0.0"},
		{archive.ExtraChart{Path: "none.tgz"}, "", fault.Usage, "none.tgz"},
		{archive.ExtraChart{Path: "bad.tgz"}, "text", fault.Failure, "not a packed chart"},
		{archive.ExtraChart{Path: "bad.tgz"}, tarball(map[string]string{"a/b/Chart.yaml": "name: x"}), fault.Failure, "no Chart.yaml"},
		{archive.ExtraChart{Path: "bad.tgz"}, tarball(map[string]string{"a/Chart.yaml": "name: x"}), fault.Failure, "version is missing"},
		{archive.ExtraChart{Path: "bad.tgz"}, tarball(map[string]string{"a/Chart.yaml": "\tname"}), fault.Failure, "Chart.yaml"},
	} {
		u := newUpstream(t)
		u.helm()
		u.image("docker.io/library/single:1.0.0", "amd64")
		if err := os.WriteFile(filepath.Join(u.dir, "bad.tgz"), []byte(c.file), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.want == "docker.io/library/single:1.0.0" {
			c.code = fault.Usage
		}
		_, _, err := u.build(u.options(charts(c.chart)))
		if err == nil || fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v (exit %d)", c.chart, err, fault.CodeOf(err))
		}
	}
}

func TestBuild_bringsFilesOfTheUser(t *testing.T) {
	u := newUpstream(t)
	tool := strings.Repeat("a tool ", 5000)
	u.put("/files.example.test/tool", tool)
	if err := os.WriteFile(filepath.Join(u.dir, "local.conf"), []byte("local"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := func(list ...archive.ExtraFile) func(*archive.Spec) {
		return func(s *archive.Spec) {
			s.Spec.ExtraFiles = list
			s.Spec.Architectures = []string{"amd64", "arm64"}
		}
	}
	o := u.options(files(
		archive.ExtraFile{URL: "https://files.example.test/tool", SHA256: hexSum([]byte(tool)), Name: "tool.bin", Role: archive.RoleWorker, Arch: "arm64"},
		archive.ExtraFile{Path: "local.conf", Name: "local.conf", Role: archive.RoleAll},
	))
	_, b, err := u.build(o)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, it := range b.Items(archive.Filter{}) {
		if it.Kind == archive.KindFile {
			got = append(got, fmt.Sprint(it.Name, " ", it.Arch, " ", it.Role, " ", string(contentOf(t, b, it.Digest))[:5], " ", it.Stored != nil))
		}
	}
	if want := []string{"local.conf amd64 all local false", "local.conf arm64 all local false", "tool.bin arm64 worker a too true"}; !slices.Equal(got, want) {
		t.Fatalf("%q", got)
	}
	if err := os.WriteFile(filepath.Join(u.dir, "local.conf"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := u.build(o); fault.CodeOf(err) != fault.Bundle || !strings.Contains(err.Error(), "local.conf") {
		t.Errorf("a local file that is not as locked: %v", err)
	}
	o.LockPath = ""
	for want, f := range map[string]archive.ExtraFile{
		"none.conf":     {Path: "none.conf", Name: "x", Role: archive.RoleAll},
		"should be sha": {Path: "local.conf", SHA256: strings.Repeat("0", 64), Name: "x", Role: archive.RoleAll},
		"has digest":    {URL: "https://files.example.test/tool", SHA256: strings.Repeat("0", 64), Name: "x", Role: archive.RoleAll},
	} {
		files(f)(o.Spec)
		if _, _, err := u.build(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

func TestBuild_fromAFolder(t *testing.T) {
	u := newUpstream(t)
	_, b, err := u.build(u.options(func(s *archive.Spec) { s.Spec.CNI = nil }))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for path, data := range u.files {
		file := filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, ref := range []string{"registry.k8s.io/kube-apiserver:v1.36.3", "registry.k8s.io/pause:3.10"} {
		saveLayout(t, u, dir, ref)
	}
	o := u.options(func(s *archive.Spec) { s.Spec.CNI = nil })
	o.Mirrors, o.CacheDir, o.Locked = []string{dir}, filepath.Join(u.dir, "fresh"), true
	o.Transport = refusing{t}
	_, again, err := u.build(o)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest() != b.Digest() {
		t.Fatal("another bundle")
	}
}

// refusing is a network that is not there.
type refusing struct{ t *testing.T }

func (r refusing) RoundTrip(req *http.Request) (*http.Response, error) {
	r.t.Errorf("asked %s", req.URL)
	return nil, http.ErrServerClosed
}

// saveLayout copies an image into an OCI layout in a folder, as skopeo does.
func saveLayout(t *testing.T, u *upstream, dir, ref string) {
	t.Helper()
	repo, tag, _ := strings.Cut(ref, ":")
	idx := must(remote.Index(must(name.ParseReference(strings.TrimPrefix(u.url, "http://")+"/"+ref, name.Insecure))))
	l := must(layout.Write(filepath.Join(dir, repo), empty.Index))
	if err := l.AppendIndex(idx, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})); err != nil {
		t.Fatal(err)
	}
}
