// Package archivetest makes small bundles for tests: every kind of item, with
// contents of a few kilobytes. Only tests import it.
package archivetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/frames"
)

// The versions of the sample.
const (
	Kubernetes = "v1.36.3"
	Arch       = "amd64"
)

// Content holds blobs by digest.
type Content map[string][]byte

// Put stores data and returns its descriptor.
func (c Content) Put(mediaType string, data []byte) archive.Descriptor {
	sum := sha256.Sum256(data)
	d := "sha256:" + hex.EncodeToString(sum[:])
	c[d] = data
	return archive.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// Open is what archive.Write asks for.
func (c Content) Open(digest string) (io.ReadCloser, error) {
	data, ok := c[digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", digest, os.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Image stores an image with the given layers and returns its item.
func (c Content) Image(ref string, role archive.Role, layers ...[]byte) archive.Item {
	return c.image(Arch, ref, role, layers...)
}

func (c Content) image(arch, ref string, role archive.Role, layers ...[]byte) archive.Item {
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	config := c.Put("application/vnd.oci.image.config.v1+json",
		[]byte(fmt.Sprintf(`{"architecture":%q,"os":"linux","author":%q,"rootfs":{"type":"layers","diff_ids":[]}}`, arch, ref)))
	blobs := []archive.Descriptor{config}
	for _, l := range layers {
		blobs = append(blobs, c.Put("application/vnd.oci.image.layer.v1.tar+gzip", l))
	}
	raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": blobs[1:]})
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	blobs = append([]archive.Descriptor{c.Put(manifestType, raw)}, blobs...)
	return archive.Item{
		Kind: archive.KindImage, Name: ref, Arch: arch, Role: role, Digest: blobs[0].Digest, Size: archive.ImageSize(blobs),
		Blobs: blobs, Licence: "Apache-2.0", Source: ref,
	}
}

// File stores a file and returns its item.
func (c Content) File(kind archive.Kind, name, version, file string, role archive.Role, data []byte) archive.Item {
	d := c.Put("", data)
	return archive.Item{
		Kind: kind, Name: name, Version: version, Arch: Arch, Role: role, File: file, Digest: d.Digest, Size: d.Size,
		Licence: "Apache-2.0", Source: "https://example.test/" + file,
	}
}

// Compress stores a file in its compressed form instead.
func (c Content) Compress(it *archive.Item) {
	z, err := frames.New()
	if err != nil {
		panic(err) // its settings are constants
	}
	var b bytes.Buffer
	if err := z.Write(context.Background(), &b, bytes.NewReader(c[it.Digest])); err != nil {
		panic(err) // from memory to memory
	}
	d := c.Put("", b.Bytes())
	it.Compress(d.Digest, d.Size)
	delete(c, it.Digest)
}

// Sample returns the manifest and content of a small bundle that has what a
// cluster of Kubernetes v1.36.3 with flannel needs, by name: the contents are
// not programs. Two of the files are stored compressed.
func Sample() (*archive.Manifest, Content) { return Release(Kubernetes) }

// Release is Sample for another version of Kubernetes: its programs and images
// differ, all others are the same.
func Release(version string) (*archive.Manifest, Content) {
	c := Content{}
	base := bytes.Repeat([]byte("base layer "), 300)
	layer := func(name string) []byte { return bytes.Repeat([]byte("layer of "+name+" "), 200) }
	var items []archive.Item
	for _, x := range []struct {
		ref  string
		role archive.Role
	}{
		{"registry.k8s.io/kube-apiserver:" + version, archive.RoleControlPlane},
		{"registry.k8s.io/kube-controller-manager:" + version, archive.RoleControlPlane},
		{"registry.k8s.io/kube-scheduler:" + version, archive.RoleControlPlane},
		{"registry.k8s.io/kube-proxy:" + version, archive.RoleAll},
		{"registry.k8s.io/etcd:3.6.8-0", archive.RoleControlPlane},
		{"registry.k8s.io/coredns/coredns:v1.14.2", archive.RoleAll},
		{"registry.k8s.io/pause:3.10.2", archive.RoleAll},
		{"ghcr.io/flannel-io/flannel:v0.26.7", archive.RoleAll},
		{"ghcr.io/flannel-io/flannel-cni-plugin:v1.6.2-flannel1", archive.RoleAll},
		{"docker.io/library/haproxy:2.8.10", archive.RoleAll},
		{"docker.io/osixia/keepalived:2.0.20", archive.RoleControlPlane},
	} {
		it := c.Image(x.ref, x.role, base, layer(x.ref))
		switch {
		case strings.Contains(x.ref, "haproxy"):
			it.Endpoint = map[string]archive.Role{"vip": archive.RoleControlPlane, "local": archive.RoleAll}
		case strings.Contains(x.ref, "keepalived"):
			it.Endpoint = map[string]archive.Role{"vip": archive.RoleControlPlane}
		}
		items = append(items, it)
	}
	for _, x := range []struct {
		kind                           archive.Kind
		name, component, version, file string
		role                           archive.Role
	}{
		{archive.KindBinary, "kubeadm", "kubernetes", version, "kubeadm", archive.RoleAll},
		{archive.KindBinary, "kubelet", "kubernetes", version, "kubelet", archive.RoleAll},
		{archive.KindBinary, "kubectl", "kubernetes", version, "kubectl", archive.RoleControlPlane},
		{archive.KindBinary, "runc", "runc", "1.4.3", "runc.amd64", archive.RoleAll},
		{archive.KindBinary, "containerd", "containerd", "2.2.9", "containerd", archive.RoleAll},
		{archive.KindBinary, "containerd-shim-runc-v2", "containerd", "2.2.9", "containerd-shim-runc-v2", archive.RoleAll},
		{archive.KindBinary, "ctr", "containerd", "2.2.9", "ctr", archive.RoleAll},
		{archive.KindBinary, "bridge", "cni-plugins", "1.9.1", "bridge", archive.RoleAll},
		{archive.KindBinary, "host-local", "cni-plugins", "1.9.1", "host-local", archive.RoleAll},
		{archive.KindBinary, "loopback", "cni-plugins", "1.9.1", "loopback", archive.RoleAll},
		{archive.KindBinary, "portmap", "cni-plugins", "1.9.1", "portmap", archive.RoleAll},
		{archive.KindBinary, "registry", "registry", "3.1.2", "registry", archive.RoleRegistry},
		{archive.KindKocli, "kocli", "kocli", "v0.0.0-test", "kocli", archive.RoleAll},
	} {
		content := x.file
		if x.version == version && version != Kubernetes {
			content += " " + version
		}
		it := c.File(x.kind, x.name, x.version, x.file, x.role, layer(content))
		it.Component = x.component
		if x.name == "kubelet" || x.name == "kocli" {
			c.Compress(&it)
		}
		items = append(items, it)
	}
	for _, name := range []string{"conntrack", "socat", "ethtool", "iptables", "nftables", "ebtables", "libmnl0"} {
		it := c.File(archive.KindPackage, name, "1.0-1", name+"_1.0-1_amd64.deb", archive.RoleAll, layer(name))
		it.Package = &archive.Package{Distribution: "debian", Release: "12", Name: name, Architecture: Arch}
		if name == "libmnl0" {
			it.Package.RequiredBy = []string{"conntrack"}
		} else {
			it.Package.Requested, it.Package.Commands = true, []string{name}
		}
		items = append(items, it)
	}
	return &archive.Manifest{
		Name: "sample", BuiltBy: "v0.0.0-test",
		Kubernetes: []archive.Release{{Version: version, Components: map[string]string{
			"containerd": "2.2.9", "runc": "1.4.3", "cni-plugins": "1.9.1", "etcd": "3.6.8-0", "coredns": "v1.14.2", "pause": "3.10.2",
			"flannel": "v0.26.7", "flannel-cni-plugin": "v1.6.2-flannel1", "haproxy": "2.8.10", "keepalived": "2.0.20",
		}}},
		Architectures: []string{Arch}, CNI: []string{"flannel"},
		Distributions: []archive.Distribution{{ID: "debian", Version: "12"}},
		Items:         items,
	}, c
}

// AddArch gives a manifest another architecture: everything that it has of Arch,
// with contents of its own, none of them compressed.
func AddArch(m *archive.Manifest, c Content, arch string) {
	m.Architectures = append(m.Architectures, arch)
	for _, it := range slices.Clone(m.Items) {
		if it.Arch != Arch {
			continue
		}
		data := []byte(it.Name + " " + it.Version + " for " + arch)
		if it.Kind == archive.KindImage {
			it = c.image(arch, it.Name, it.Role, c[it.Blobs[2].Digest], data)
		} else {
			d := c.Put("", data)
			it.Arch, it.Digest, it.Size, it.Stored = arch, d.Digest, d.Size, nil
		}
		m.Items = append(m.Items, it)
	}
}

// Write writes the sample into a folder of the test and returns its path.
func Write(t testing.TB) string {
	t.Helper()
	return WriteRelease(t, Kubernetes)
}

// WriteRelease is Write for another version of Kubernetes.
func WriteRelease(t testing.TB, version string) string {
	t.Helper()
	m, c := Release(version)
	var b bytes.Buffer
	if _, _, err := archive.Write(&b, m, c.Open); err != nil {
		t.Fatalf("write sample bundle: %v", err)
	}
	path := filepath.Join(t.TempDir(), "sample.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
