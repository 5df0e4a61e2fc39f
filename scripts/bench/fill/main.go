// Command fill adds an image of random bytes to a bundle, so that benchmarks of
// transfers have as much to transfer as they want. "fill sha256 FILE" hashes a
// file, which is what verifying is measured against.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"

	"github.com/kocli/kocli/pkg/archive"
)

const layers = 8

func main() {
	if len(os.Args) == 3 && os.Args[1] == "sha256" {
		if err := sum(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: fill BUNDLE MIB OUT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func sum(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	fmt.Printf("%x\n", h.Sum(nil))
	return errors.Join(err, f.Close())
}

// layer is random content that is the same every time.
func layer(i int, size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{byte(i), 'f', 'i', 'l', 'l'}), size)
}

func describe(r io.Reader, mediaType string) (archive.Descriptor, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return archive.Descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(h.Sum(nil)), Size: n}, err
}

func run(bundle, mib, out string) error {
	n, err := strconv.ParseInt(mib, 10, 64)
	if err != nil {
		return err
	}
	b, err := archive.Open(bundle)
	if err != nil {
		return err
	}
	m := b.Manifest()
	small := map[string][]byte{}
	big := map[string]func() io.Reader{}
	add := func(data []byte, mediaType string) archive.Descriptor {
		d, _ := describe(bytes.NewReader(data), mediaType) // memory
		small[d.Digest] = data
		return d
	}
	var parts, ids []string
	var descs []archive.Descriptor
	for i := range layers {
		size := n << 20 / layers
		d, err := describe(layer(i, size), "application/vnd.oci.image.layer.v1.tar")
		if err != nil {
			return err
		}
		big[d.Digest] = func() io.Reader { return layer(i, size) }
		descs = append(descs, d)
		ids = append(ids, d.Digest)
	}
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": ids}, "config": map[string]any{}})
	if err != nil {
		return err
	}
	descs = append([]archive.Descriptor{add(config, "application/vnd.oci.image.config.v1+json")}, descs...)
	for _, d := range descs {
		p, err := json.Marshal(d)
		if err != nil {
			return err
		}
		parts = append(parts, string(p))
	}
	var list bytes.Buffer
	for i, p := range parts[1:] {
		if i > 0 {
			list.WriteByte(',')
		}
		list.WriteString(p)
	}
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	man := add([]byte(`{"schemaVersion":2,"mediaType":"`+manifestType+`","config":`+parts[0]+`,"layers":[`+list.String()+`]}`), manifestType)
	blobs := append([]archive.Descriptor{man}, descs...)
	m.Items = append(m.Items, archive.Item{
		Kind: archive.KindImage, Name: "bench.kocli.io/fill:1", Arch: "amd64", Role: archive.RoleAll,
		Digest: man.Digest, Size: archive.ImageSize(blobs), Blobs: blobs,
	})
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	_, _, err = archive.Write(f, &m, func(d string) (io.ReadCloser, error) {
		switch {
		case small[d] != nil:
			return io.NopCloser(bytes.NewReader(small[d])), nil
		case big[d] != nil:
			return io.NopCloser(big[d]()), nil
		}
		return b.OpenBlob(d)
	})
	return errors.Join(err, f.Close(), b.Close())
}
