// Command payload lays out what a bundle holds for hosts of one role, in a cluster
// with one mode of endpoint, as plain files: bin/, debs/ and images.tar. The
// benchmark's baseline copies them by hand.
//
// "payload new BASE BUNDLE DIR" lays out what BUNDLE holds and BASE has not:
// programs and layers as they are when unpacked, which is what a delta is
// measured against.
package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/kocli/kocli/pkg/archive"
)

func main() {
	if len(os.Args) == 5 && os.Args[1] == "new" {
		if err := fresh(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: payload BUNDLE ROLE DIR ENDPOINT-MODE, or: payload new BASE BUNDLE DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1], archive.Role(os.Args[2]), os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(bundle string, role archive.Role, dir, endpoint string) error {
	b, err := archive.Open(bundle)
	if err != nil {
		return err
	}
	f := archive.Filter{Role: role, Arch: "amd64", Endpoint: endpoint}
	for _, it := range b.Items(f) {
		dst := filepath.Join(dir, "bin", it.Name)
		switch it.Kind {
		case archive.KindImage, archive.KindKocli:
			continue
		case archive.KindPackage:
			dst = filepath.Join(dir, "debs", filepath.Base(it.File))
		}
		if err := write(b, it.Digest, dst); err != nil {
			return err
		}
	}
	_, images, err := b.ImageTar(b.Images(f), nil)
	if err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(dir, "images.tar"))
	if err != nil {
		return err
	}
	return errors.Join(images(out), out.Close(), b.Close())
}

// fresh writes every blob of a bundle that another lacks, unpacked.
func fresh(base, bundle, dir string) error {
	old, err := archive.Open(base)
	if err != nil {
		return err
	}
	b, err := archive.Open(bundle)
	if err != nil {
		return err
	}
	m := b.Manifest()
	for _, d := range m.Contents() {
		if old.Has(d.Digest) {
			continue
		}
		if err := unpacked(b, d.Digest, filepath.Join(dir, strings.TrimPrefix(d.Digest, "sha256:"))); err != nil {
			return fmt.Errorf("%s: %w", d.Digest, err)
		}
	}
	return errors.Join(old.Close(), b.Close())
}

func unpacked(b *archive.Bundle, digest, dst string) error {
	r, err := b.OpenBlob(digest)
	if err != nil {
		return err
	}
	in := bufio.NewReaderSize(r, 1<<20)
	var plain io.Reader = in
	switch head, _ := in.Peek(4); { // a blob that is shorter is neither
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(in)
		if err != nil {
			return err
		}
		plain = z
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(in)
		if err != nil {
			return err
		}
		defer z.Close()
		plain = z
	}
	w, err := os.Create(dst)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, plain)
	return errors.Join(err, w.Close(), r.Close())
}

func write(b *archive.Bundle, digest, dst string) error {
	r, err := b.OpenBlob(digest)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(dst), 0o755)
	}
	if err != nil {
		return err
	}
	w, err := os.OpenFile(dst, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close(), r.Close())
}
