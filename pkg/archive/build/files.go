package build

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

// extraFiles are the files of the spec, for each architecture that they are for.
func (b *builder) extraFiles() []resolver {
	var out []resolver
	for _, f := range b.opts.Spec.Spec.ExtraFiles {
		for _, arch := range b.archs {
			if f.Arch == "" || f.Arch == arch {
				out = append(out, resolver{fmt.Sprintf("file %s (%s)", f.Name, arch), func(context.Context) (*part, error) { return b.extraFile(f, arch) }})
			}
		}
	}
	return out
}

func (b *builder) extraFile(f archive.ExtraFile, arch string) (*part, error) {
	it := archive.Item{
		Kind: archive.KindFile, Name: f.Name, Component: "extra", Arch: arch, Role: f.Role, File: f.Name, Source: f.URL,
		Digest: "sha256:" + f.SHA256, Size: -1,
	}
	line := lockItem{Item: fmt.Sprintf("file %s %s", f.Name, arch), URL: f.URL, Digest: it.Digest}
	p := &part{}
	if f.URL != "" {
		p.jobs = []job{{digest: it.Digest, size: -1, fetch: func(ctx context.Context, got func(int64)) error {
			return b.client.Blob(ctx, f.URL, it.Digest, -1, got)
		}}}
	} else {
		digest, size, err := b.localFile(f.Path, f.SHA256)
		if err != nil {
			return nil, err
		}
		p.local = b.path(f.Path)
		it.Digest, it.Size, line.URL, line.Digest = digest, size, f.Path, digest
	}
	p.items, p.locked = []archive.Item{it}, []lockItem{line}
	return p, nil
}

// path is a path of the spec.
func (b *builder) path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(b.opts.SpecDir, p)
}

// localFile digests a file beside the spec; want, where it is not "", is what it
// has to be, in hex.
func (b *builder) localFile(path, want string) (digest string, size int64, err error) {
	digest, size, err = digestFile(b.path(path))
	if err != nil {
		return "", 0, fault.New(fault.Usage, "paths start at the folder of the bundle YAML", err)
	}
	if want != "" && digest != "sha256:"+want {
		return "", 0, fault.New(fault.Bundle, "restore the file, or correct its sha256 in the bundle YAML",
			fmt.Errorf("%s has digest %s, should be sha256:%s", path, digest, want))
	}
	return digest, size, nil
}
