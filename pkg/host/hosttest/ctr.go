package hosttest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// The folders in which a machine in memory shows what containerd holds: that of
// Kubernetes, and below NamespacesDir what others have, in a folder each with
// "images" and "containers".
const (
	ContentDir    = "/var/lib/containerd/content"
	ImagesDir     = "/var/lib/containerd/images"
	ContainersDir = "/var/lib/containerd/containers"
	NamespacesDir = "/var/lib/containerd/namespaces"
)

// Ctr is containerd's own client, which answers only where it is installed and
// containerd runs. It imports OCI layouts the way containerd does: files go into
// the content store, the index names images, and an image whose blobs are not
// all there is refused.
func Ctr() Program {
	return func(ctx context.Context, m *Machine, argv []string, stdin []byte) (Reply, bool) {
		if path.Base(argv[0]) != "ctr" {
			return Reply{}, false
		}
		if _, ok := m.Read(argv[0]); !ok {
			return Reply{Stderr: "sh: 1: exec: " + argv[0] + ": not found\n", Code: 127}, true
		}
		if r, ok := m.program(ctx, []string{"systemctl", "is-active", "containerd.service"}, nil); !ok || r.Code != 0 {
			return Reply{Stderr: "ctr: cannot access socket /run/containerd/containerd.sock: no such file or directory\n", Code: 1}, true
		}
		args, ns := argv[1:], "default"
		if len(args) > 1 && args[0] == "-n" {
			args, ns = args[2:], args[1]
		}
		switch {
		case slices.Equal(args, []string{"namespaces", "ls", "-q"}):
			return Reply{Stdout: "k8s.io\n" + names(m, NamespacesDir)}, true
		case len(args) == 3 && (args[0] == "images" || args[0] == "containers") && args[1] == "ls" && args[2] == "-q":
			dir := path.Join(NamespacesDir, ns, args[0])
			if ns == "k8s.io" {
				dir = path.Join(path.Dir(ImagesDir), args[0])
			}
			return Reply{Stdout: strings.ReplaceAll(names(m, dir), "|", "/")}, true
		case slices.Equal(args, []string{"images", "ls"}):
			return Reply{Stdout: imageList(m)}, true
		case slices.Equal(args, []string{"content", "ls", "-q"}):
			var out strings.Builder
			for _, f := range m.Files() {
				if path.Dir(f) == ContentDir {
					out.WriteString("sha256:" + path.Base(f) + "\n")
				}
			}
			return Reply{Stdout: out.String()}, true
		case slices.Equal(args, []string{"images", "import", "-"}):
			if err := importImages(m, stdin); err != nil {
				return Reply{Stderr: "ctr: " + err.Error() + "\n", Code: 1}, true
			}
			return Reply{}, true
		case len(args) == 4 && args[0] == "images" && args[1] == "label":
			return label(m, args[2], args[3]), true
		}
		return Reply{}, false
	}
}

// names lists what is in a folder, if there is one.
func names(m *Machine, dir string) string {
	out, code, _ := m.list(dir)
	if code != 0 {
		return ""
	}
	return out
}

// imageFile is where the machine keeps a reference: its digest, a space, labels.
func imageFile(ref string) string { return path.Join(ImagesDir, strings.ReplaceAll(ref, "/", "|")) }

func imageList(m *Machine) string {
	var out strings.Builder
	out.WriteString("REF TYPE DIGEST SIZE PLATFORMS LABELS\n")
	for _, f := range m.Files() {
		if path.Dir(f) != ImagesDir {
			continue
		}
		data, _ := m.Read(f)
		digest, labels, _ := strings.Cut(data, " ")
		if labels == "" {
			labels = "-"
		}
		fmt.Fprintf(&out, "%s application/vnd.oci.image.manifest.v1+json %s 1.0 MiB linux/amd64 %s\n", strings.ReplaceAll(path.Base(f), "|", "/"), digest, labels)
	}
	return out.String()
}

func label(m *Machine, ref, l string) Reply {
	data, ok := m.Read(imageFile(ref))
	if !ok {
		return Reply{Stderr: "ctr: image \"" + ref + "\": not found\n", Code: 1}
	}
	digest, labels, _ := strings.Cut(data, " ")
	set := strings.Split(labels, ",")
	if !slices.Contains(set, l) {
		set = append(set, l)
	}
	m.Write(imageFile(ref), 0o600, digest+" "+strings.Trim(strings.Join(set, ","), ","))
	return Reply{}
}

func importImages(m *Machine, stream []byte) error {
	type descriptor struct {
		Digest      string            `json:"digest"`
		Annotations map[string]string `json:"annotations"`
	}
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	r := tar.NewReader(bytes.NewReader(stream))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("untar: %w", err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("untar: %w", err)
		}
		switch {
		case h.Name == "index.json":
			if err := json.Unmarshal(data, &index); err != nil {
				return err
			}
		case strings.HasPrefix(h.Name, "blobs/sha256/"):
			sum := sha256.Sum256(data)
			if hex.EncodeToString(sum[:]) != path.Base(h.Name) {
				return fmt.Errorf("unexpected commit digest of %s: failed precondition", h.Name)
			}
			m.Write(path.Join(ContentDir, path.Base(h.Name)), 0o600, string(data))
		}
	}
	if len(index.Manifests) == 0 {
		return errors.New("unrecognized image format")
	}
	for _, d := range index.Manifests {
		raw, ok := m.Read(path.Join(ContentDir, strings.TrimPrefix(d.Digest, "sha256:")))
		if !ok {
			return fmt.Errorf("content digest %s: not found", d.Digest)
		}
		var manifest struct {
			Config descriptor   `json:"config"`
			Layers []descriptor `json:"layers"`
		}
		if err := json.Unmarshal([]byte(raw), &manifest); err != nil {
			return err
		}
		for _, b := range append(manifest.Layers, manifest.Config) {
			if _, ok := m.Read(path.Join(ContentDir, strings.TrimPrefix(b.Digest, "sha256:"))); !ok {
				return fmt.Errorf("content digest %s: not found", b.Digest)
			}
		}
		ref := d.Annotations["io.containerd.image.name"]
		if ref == "" {
			return errors.New("image without a name")
		}
		m.Write(imageFile(ref), 0o600, d.Digest+" ")
	}
	return nil
}
