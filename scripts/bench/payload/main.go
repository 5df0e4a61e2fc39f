// Command payload lays out what a bundle holds for hosts of one role as plain
// files: bin/, debs/ and images.tar. The benchmark's baseline copies them by
// hand.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/kocli/kocli/pkg/archive"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: payload BUNDLE ROLE DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1], archive.Role(os.Args[2]), os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(bundle string, role archive.Role, dir string) error {
	b, err := archive.Open(bundle)
	if err != nil {
		return err
	}
	f := archive.Filter{Role: role, Arch: "amd64"}
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
