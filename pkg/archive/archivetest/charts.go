package archivetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"maps"
	"slices"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
)

// Pack packs files as a chart: paths start at the chart's folder.
func Pack(files map[string]string) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	t := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(files[name])), Mode: 0o644}); err != nil {
			panic(err) // into memory
		}
		if _, err := t.Write([]byte(files[name])); err != nil {
			panic(err)
		}
	}
	if err := t.Close(); err != nil {
		panic(err)
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// Deployment is a chart with one Deployment, whose image and replicas are values.
func Deployment(name, version, image string) []byte {
	return Pack(map[string]string{
		name + "/Chart.yaml":  "apiVersion: v2\nname: " + name + "\nversion: " + version + "\n",
		name + "/values.yaml": "picture: " + image + "\nreplicas: 1\nargs: []\n",
		name + "/templates/deployment.yaml": `apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
  namespace: {{ .Release.Namespace }}
  labels: {app: {{ .Release.Name }}, version: "{{ .Chart.Version }}"}
spec:
  replicas: {{ .Values.replicas }}
  selector:
    matchLabels: {app: {{ .Release.Name }}}
  template:
    metadata:
      labels: {app: {{ .Release.Name }}, app.kubernetes.io/instance: {{ .Release.Name }}}
    spec:
      containers:
        - name: main
          image: {{ .Values.picture }}
          args: {{ toJson .Values.args }}
`,
	})
}

// Chart stores a packed chart of an add-on and returns its item.
func (c Content) Chart(addon, version string, packed []byte) archive.Item {
	config := []byte(`{"name":"` + addon + `"}`)
	content := c.Put(archive.TypeChartContent, packed)
	raw, err := archive.ChartArtifact(addon, version, config, content)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	blobs := []archive.Descriptor{c.Put("application/vnd.oci.image.manifest.v1+json", raw), c.Put(archive.TypeChartConfig, config), content}
	return archive.Item{
		Kind: archive.KindChart, Name: "charts.example.test/" + addon + ":" + archive.ChartTag(version), Component: addon, Version: version,
		Arch: archive.ArchAll, Role: archive.RoleAll, Addons: []string{addon}, Digest: blobs[0].Digest, Blobs: blobs, Size: archive.ImageSize(blobs), Licence: "Apache-2.0",
	}
}

// AddAddons gives a sample small charts that have the names of add-ons, with the
// images that the real ones have.
func AddAddons(m *archive.Manifest, c Content) {
	for _, x := range []struct{ name, version, image string }{
		{"metrics-server", "3.13.1", "registry.k8s.io/metrics-server/metrics-server:v0.9.0"},
		{"local-path-provisioner", "0.0.30", "docker.io/rancher/local-path-provisioner:v0.0.30"},
	} {
		m.Items = append(m.Items, c.Chart(x.name, x.version, Deployment(x.name, x.version, x.image)))
		it := c.Image(x.image, archive.RoleAll, []byte("layer of "+x.name))
		it.Addons = []string{x.name}
		m.Items = append(m.Items, it)
	}
	it := c.Image("docker.io/library/busybox:1.37", archive.RoleAll, []byte("layer of busybox"))
	it.Addons = []string{"local-path-provisioner"}
	m.Items = append(m.Items, it)
}

// WithAddons is the sample with add-ons, in memory.
func WithAddons(t testing.TB) *archive.Bundle {
	t.Helper()
	m, c := Sample()
	AddAddons(m, c)
	var buf bytes.Buffer
	if _, _, err := archive.Write(&buf, m, c.Open); err != nil {
		t.Fatalf("write sample bundle: %v", err)
	}
	b, err := archive.NewReader(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
