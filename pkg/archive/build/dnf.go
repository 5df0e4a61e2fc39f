package build

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/archive/dnf"
	"github.com/kocli/kocli/pkg/fault"
)

const (
	maxRepomd    = 1 << 20 // bytes
	maxSignature = 1 << 20 // bytes
)

// rpmArch is an architecture as RPM says it.
func rpmArch(arch string) string {
	return map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch]
}

// rpms resolves the packages of a distribution with dnf.
func (b *builder) rpms(ctx context.Context, d catalogue.Distribution, o archive.OSPackages, arch string, names []string, commands map[string][]string) ([]lockItem, error) {
	keyring, err := b.keyring(d, o)
	if err != nil {
		return nil, err
	}
	var all []dnf.Package
	for _, a := range d.Archives {
		base := strings.TrimSuffix(strings.ReplaceAll(a.URL, "{arch}", rpmArch(arch)), "/")
		list, err := b.repository(ctx, base, keyring, rpmArch(arch))
		if err != nil {
			return nil, fmt.Errorf("repository %s: %w", base, err)
		}
		for i := range list {
			list[i].Base = base
		}
		all = append(all, list...)
	}
	chosen, err := dnf.Closure(all, names, d.Base)
	if err != nil {
		return nil, fault.New(fault.Usage, "check spec.osPackages", err)
	}
	var out []lockItem
	for _, c := range chosen {
		pkg := &archive.Package{
			Distribution: d.ID, Release: d.Version, Name: c.Name, Architecture: c.Arch,
			Commands: commands[c.Name], Requested: c.Requested, RequiredBy: c.RequiredBy,
		}
		out = append(out, lockItem{
			Item: fmt.Sprintf("%s %s %s %s", d.ID, d.Version, c.Name, arch), Version: c.EVR.String(),
			URL: c.Base + "/" + c.Href, Digest: c.Digest, Size: c.Size, Package: pkg,
		})
	}
	return out, nil
}

// repository reads the package list of a repository, as signed by its keys.
func (b *builder) repository(ctx context.Context, base string, keyring []byte, arch string) (list []dnf.Package, err error) {
	repomd, err := b.client.Small(ctx, base+"/repodata/repomd.xml", maxRepomd)
	if err != nil {
		return nil, err
	}
	var signature []byte
	if keyring != nil {
		if signature, err = b.client.Small(ctx, base+"/repodata/repomd.xml.asc", maxSignature); err != nil {
			return nil, fmt.Errorf("its list of packages has to be signed (repomd.xml.asc): %w", err)
		}
	}
	l, err := dnf.ParseRepomd(repomd, signature, keyring)
	if err != nil {
		return nil, &fault.Error{Op: "check signature", Code: fault.Bundle, Err: err, Hint: "set spec.osPackages[].keyring to the keys that sign this repository"}
	}
	if err := b.client.Blob(ctx, base+"/"+l.Href, l.Digest, l.Size, nil); err != nil {
		return nil, err
	}
	f, err := b.client.Cache.Open(l.Digest)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r, err := decompressed(f, l.Href)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return dnf.ParsePrimary(&budget{r: r, left: maxIndex}, arch)
}

// decompressed reads a file as its name says.
func decompressed(r io.Reader, name string) (io.ReadCloser, error) {
	switch path.Ext(name) {
	case ".gz":
		return gzip.NewReader(r)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(maxIndex))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case ".xml":
		return io.NopCloser(r), nil
	}
	return nil, fmt.Errorf("%s: how it is compressed is not known: gz and zst are", name)
}
