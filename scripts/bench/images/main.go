// Command images is for the benchmarks of bringing images into containerd.
//
// "images make BUNDLE DIR" makes twenty images out of the programs of a bundle:
// DIR/a.tar, a bundle of them; DIR/b.tar, in which two have changed; and in DIR/a
// and DIR/b each image as a tar of its own, for `ctr images import`.
//
// "images send BUNDLE PROGRAM..." brings all images of a bundle into containerd
// through a program that speaks as `kocli node images` does. It runs on the host
// itself.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/containerd"
)

// What the images are like: those of Kubernetes are a small base and one large
// program.
const (
	count     = 20
	baseSize  = 4 << 20
	layerSize = 32 << 20
)

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 3 && args[0] == "make":
		err = makeAll(args[1], args[2])
	case len(args) >= 3 && args[0] == "send":
		err = send(context.Background(), args[1], args[2:])
	default:
		err = errors.New("usage: images make BUNDLE DIR, or images send BUNDLE PROGRAM [ARGUMENT]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// content holds blobs by digest.
type content map[string][]byte

func (c content) put(mediaType string, data []byte) archive.Descriptor {
	sum := sha256.Sum256(data)
	d := "sha256:" + hex.EncodeToString(sum[:])
	c[d] = data
	return archive.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (c content) open(d string) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(c[d])), nil
}

// layer is a packed layer with one file, and its digest when unpacked.
func (c content) layer(name string, data []byte) (archive.Descriptor, string, error) {
	var plain, packed bytes.Buffer
	t := tar.NewWriter(&plain)
	err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o755})
	if err == nil {
		_, err = t.Write(data)
	}
	sum := sha256.New()
	z := gzip.NewWriter(&packed)
	if err = errors.Join(err, t.Close()); err == nil {
		_, err = plain.WriteTo(io.MultiWriter(z, sum))
	}
	if err = errors.Join(err, z.Close()); err != nil {
		return archive.Descriptor{}, "", err
	}
	return c.put("application/vnd.oci.image.layer.v1.tar+gzip", packed.Bytes()), "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// image is an image of a base and a program.
func (c content) image(ref string, base, program []byte) (archive.Item, error) {
	l1, d1, err := c.layer("base", base)
	if err != nil {
		return archive.Item{}, err
	}
	l2, d2, err := c.layer("program", program)
	if err != nil {
		return archive.Item{}, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "author": ref, "config": map[string]any{}, "rootfs": map[string]any{"type": "layers", "diff_ids": []string{d1, d2}},
	})
	if err != nil {
		return archive.Item{}, err
	}
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	cd := c.put("application/vnd.oci.image.config.v1+json", config)
	man, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": cd, "layers": []archive.Descriptor{l1, l2}})
	if err != nil {
		return archive.Item{}, err
	}
	blobs := []archive.Descriptor{c.put(manifestType, man), cd, l1, l2}
	return archive.Item{Kind: archive.KindImage, Name: ref, Arch: "amd64", Role: archive.RoleAll, Digest: blobs[0].Digest, Size: archive.ImageSize(blobs), Blobs: blobs}, nil
}

func makeAll(bundle, dir string) error {
	programs, err := read(bundle)
	if err != nil {
		return err
	}
	c := content{}
	var items []archive.Item
	part := func(i, shift int) []byte {
		at := (i*layerSize/2 + shift) % (len(programs) - layerSize)
		return programs[at : at+layerSize]
	}
	for i := range count {
		it, err := c.image(name(i), programs[:baseSize], part(i, baseSize))
		if err != nil {
			return err
		}
		items = append(items, it)
	}
	if err := write(filepath.Join(dir, "a"), c, items); err != nil {
		return err
	}
	for _, i := range []int{3, 14} {
		if items[i], err = c.image(name(i), programs[:baseSize], part(i, 2*baseSize)); err != nil {
			return err
		}
	}
	return write(filepath.Join(dir, "b"), c, items)
}

func name(i int) string { return fmt.Sprintf("bench.kocli.io/image%02d:1", i) }

// read returns the programs of a bundle one after another: enough for all images.
func read(bundle string) ([]byte, error) {
	b, err := archive.Open(bundle)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, it := range b.Items(archive.Filter{}) {
		if it.Kind != archive.KindBinary || out.Len() > (count+4)*layerSize/2 {
			continue
		}
		r, err := b.OpenBlob(it.Digest)
		if err == nil {
			_, err = out.ReadFrom(r)
			err = errors.Join(err, r.Close())
		}
		if err != nil {
			return nil, err
		}
	}
	if out.Len() < 3*layerSize {
		return nil, fmt.Errorf("%s has %d bytes of programs, too few", bundle, out.Len())
	}
	return out.Bytes(), b.Close()
}

// write makes DIR.tar of all images, and DIR with a tar of each.
func write(dir string, c content, items []archive.Item) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	m := archive.Manifest{
		Name: "images", BuiltBy: "v0.0.0", Architectures: []string{"amd64"},
		Kubernetes: []archive.Release{{Version: "v1.36.3", Components: map[string]string{}}}, Items: append([]archive.Item(nil), items...),
	}
	f, err := os.Create(dir + ".tar")
	if err != nil {
		return err
	}
	_, _, err = archive.Write(f, &m, c.open)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	b, err := archive.Open(dir + ".tar")
	if err != nil {
		return err
	}
	for i, im := range b.Images(archive.Filter{}) {
		_, one, err := b.ImageTar([]archive.Image{im}, nil)
		if err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%02d.tar", i)))
		if err != nil {
			return err
		}
		if err := errors.Join(one(f), f.Close()); err != nil {
			return err
		}
	}
	return b.Close()
}

// here runs commands on this machine.
type here []string

// Run runs the program in place of the one that is asked for.
func (h here) Run(ctx context.Context, c host.Cmd) (host.Output, error) {
	cmd := exec.CommandContext(ctx, h[0], h[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, os.Stderr
	return host.Output{}, cmd.Run()
}

func send(ctx context.Context, bundle string, program []string) error {
	b, err := archive.Open(bundle)
	if err != nil {
		return err
	}
	q := containerd.Request{Labels: map[string]string{"io.cri-containerd.pinned": "pinned"}, Open: b.Section}
	for _, im := range b.Images(archive.Filter{}) {
		out := containerd.Image{Ref: im.Ref}
		for _, d := range im.Blobs {
			out.Blobs = append(out.Blobs, containerd.Blob{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
		}
		q.Images = append(q.Images, out)
	}
	return errors.Join(containerd.Send(ctx, here(program), "kocli", q), b.Close())
}
