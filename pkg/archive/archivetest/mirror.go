package archivetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/catalogue"
)

// Mirror writes a folder that serves, to --mirror, what the catalogue names for
// a version of Kubernetes on amd64. The contents are not programs.
func Mirror(dir, kubernetes string) error {
	cat, err := catalogue.Embedded()
	if err != nil {
		return err
	}
	release, err := cat.Release(kubernetes, nil)
	if err != nil {
		return err
	}
	for _, f := range cat.Files {
		version := release.Components[f.Component]
		url := catalogue.Expand(f.URL, version, Arch)
		data := []byte(strings.Repeat(f.Name+" "+version+" ", 5000))
		if f.Kind == archive.KindArchive {
			data = Tarball("bin/"+f.Name, data)
		}
		sum := sha256.Sum256(data)
		line := hex.EncodeToString(sum[:]) + "  " + path.Base(url) + "\n"
		err = errors.Join(err, mirrored(dir, url, data), mirrored(dir, catalogue.Expand(f.Checksum, version, Arch), []byte(line)))
	}
	for _, im := range cat.Images {
		err = errors.Join(err, mirrorImage(dir, catalogue.Expand(im.Ref, release.Components[im.Component], Arch)))
	}
	return err
}

func mirrored(dir, url string, data []byte) error {
	file := filepath.Join(dir, filepath.FromSlash(strings.TrimPrefix(url, "https://")))
	return errors.Join(os.MkdirAll(filepath.Dir(file), 0o750), os.WriteFile(file, data, 0o600))
}

// mirrorImage writes an image of one layer into an OCI layout.
func mirrorImage(dir, ref string) error {
	repo, tag, _ := strings.Cut(ref, ":")
	img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	img, err := mutate.AppendLayers(img, static.NewLayer(Tarball("app", []byte(repo)), types.OCILayer))
	if err != nil {
		return err
	}
	l, err := layout.Write(filepath.Join(dir, filepath.FromSlash(repo)), empty.Index)
	if err != nil {
		return err
	}
	return l.AppendImage(img, layout.WithPlatform(v1.Platform{OS: "linux", Architecture: Arch}),
		layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag}))
}

// Tarball is a gzipped tar with one executable file.
func Tarball(name string, data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(data)
	}
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		panic(err) // into memory
	}
	return b.Bytes()
}
