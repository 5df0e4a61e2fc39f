package build

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/apt"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/fault"
)

const (
	maxInRelease = 16 << 20 // bytes
	maxIndex     = 1 << 30  // bytes of a package index, not compressed
)

// packages are the OS packages of the spec, one part per distribution and
// architecture.
func (b *builder) packages() ([]resolver, error) {
	var out []resolver
	for _, o := range b.opts.Spec.Spec.OSPackages {
		d, err := b.opts.Catalogue.Distribution(o.Distribution, o.Version)
		if err != nil {
			return nil, err
		}
		for _, arch := range b.archs {
			label := fmt.Sprintf("packages of %s %s (%s)", o.Distribution, o.Version, arch)
			out = append(out, resolver{label, func(ctx context.Context) (*part, error) { return b.distribution(ctx, d, o, arch) }})
		}
	}
	return out, nil
}

// distribution resolves the packages of one distribution and architecture: from
// the lock when it was asked for the same before, else from the archive.
func (b *builder) distribution(ctx context.Context, d catalogue.Distribution, o archive.OSPackages, arch string) (*part, error) {
	names := slices.Clone(o.Extra)
	commands := map[string][]string{}
	for _, p := range d.Packages {
		names = append(names, p.Name)
		commands[p.Name] = p.Commands
	}
	slices.Sort(names)
	names = slices.Compact(names)
	p := &part{request: fmt.Sprintf("%s %s %s: %s", d.ID, d.Version, arch, strings.Join(names, " "))}
	if b.old != nil && !b.opts.UpdateLock {
		p.locked = b.old.packages(p.request)
	}
	if p.locked == nil {
		find := b.debs
		if d.Manager == catalogue.ManagerDNF {
			find = b.rpms
		}
		var err error
		if p.locked, err = find(ctx, d, o, arch, names, commands); err != nil {
			return nil, err
		}
	}
	for _, l := range p.locked {
		if l.Package == nil {
			return nil, fault.New(fault.Bundle, "remove the lock and build again", fmt.Errorf("lock: %s has no package fields", l.Item))
		}
		p.items = append(p.items, archive.Item{
			Kind: archive.KindPackage, Name: l.Package.Name, Component: "packages", Version: l.Version, Arch: arch, Role: archive.RoleAll,
			Licence: d.Licence, Source: l.URL, File: path.Base(l.URL), Digest: l.Digest, Size: l.Size, Package: l.Package,
		})
		p.jobs = append(p.jobs, job{digest: l.Digest, size: l.Size, fetch: func(ctx context.Context, got func(int64)) error {
			return b.client.Blob(ctx, l.URL, l.Digest, l.Size, got)
		}})
	}
	return p, nil
}

// debs resolves the packages of a distribution with apt.
func (b *builder) debs(ctx context.Context, d catalogue.Distribution, o archive.OSPackages, arch string, names []string, commands map[string][]string) ([]lockItem, error) {
	all, err := b.index(ctx, d, o, arch)
	if err != nil {
		return nil, err
	}
	chosen, err := apt.Closure(all, names)
	if err != nil {
		return nil, fault.New(fault.Usage, "check spec.osPackages", err)
	}
	var out []lockItem
	for _, c := range chosen {
		out = append(out, newPackageLine(d, arch, c, commands[c.Name]))
	}
	return out, nil
}

func newPackageLine(d catalogue.Distribution, arch string, c apt.Chosen, commands []string) lockItem {
	pkg := &archive.Package{
		Distribution: d.ID, Release: d.Version, Name: c.Name, Architecture: c.Architecture,
		Commands: commands, Requested: c.Requested, RequiredBy: c.RequiredBy,
	}
	for _, v := range c.Provides {
		pkg.Provides = append(pkg.Provides, v.String())
	}
	return lockItem{
		Item: fmt.Sprintf("%s %s %s %s", d.ID, d.Version, c.Name, arch), Version: c.Version,
		URL: strings.TrimSuffix(c.Base, "/") + "/" + c.Filename, Digest: "sha256:" + c.SHA256, Size: c.Size, Package: pkg,
	}
}

// index reads the package indexes of a distribution, as signed by its keys.
func (b *builder) index(ctx context.Context, d catalogue.Distribution, o archive.OSPackages, arch string) ([]apt.Package, error) {
	keyring, err := b.keyring(d, o)
	if err != nil {
		return nil, err
	}
	var all []apt.Package
	for _, a := range d.Archives {
		base := strings.TrimSuffix(a.URL, "/")
		suite := base + "/dists/" + a.Suite
		signed, err := b.client.Small(ctx, suite+"/InRelease", maxInRelease)
		if err != nil {
			return nil, err
		}
		rel, err := apt.ParseInRelease(signed, keyring)
		if err != nil {
			return nil, &fault.Error{Op: "check " + suite, Code: fault.Bundle, Err: err, Hint: "set spec.osPackages[].keyring to the keys that sign this archive"}
		}
		if rel.Suite != a.Suite && rel.Codename != a.Suite {
			return nil, fault.New(fault.Bundle, "check the mirror", fmt.Errorf("%s is signed as suite %q, codename %q", suite, rel.Suite, rel.Codename))
		}
		for _, comp := range a.Components {
			list, err := b.component(ctx, suite, rel, comp, arch)
			if err != nil {
				return nil, err
			}
			for i := range list {
				list[i].Base = base
			}
			all = append(all, list...)
		}
	}
	return all, nil
}

// component reads the index of one component and architecture.
func (b *builder) component(ctx context.Context, suite string, rel *apt.Release, comp, arch string) ([]apt.Package, error) {
	plain := fmt.Sprintf("%s/binary-%s/Packages", comp, arch)
	var tried error
	for _, name := range []string{plain + ".gz", plain} {
		f, ok := rel.Files[name]
		if !ok {
			continue
		}
		digest := "sha256:" + f.SHA256
		if err := b.client.Blob(ctx, suite+"/"+name, digest, f.Size, nil); err != nil {
			if tried = errors.Join(tried, err); ctx.Err() != nil {
				return nil, tried
			}
			continue
		}
		return b.parseIndex(digest, name != plain)
	}
	if tried == nil {
		tried = fmt.Errorf("%s lists no index of %s for %s", suite, comp, arch)
	}
	return nil, tried
}

func (b *builder) parseIndex(digest string, zipped bool) (list []apt.Package, err error) {
	f, err := b.client.Cache.Open(digest)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var r io.Reader = f
	if zipped {
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, err
		}
		r = z
	}
	return apt.ParseIndex(io.LimitReader(r, maxIndex))
}

// keyring returns the keys that have to sign the archive, and nil only when the
// spec says that no signature is wanted.
func (b *builder) keyring(d catalogue.Distribution, o archive.OSPackages) ([]byte, error) {
	if o.InsecureSkipSignature {
		return nil, nil
	}
	file := d.Keyring
	if o.Keyring != "" {
		file = o.Keyring
		if !filepath.IsAbs(file) {
			file = filepath.Join(b.opts.SpecDir, file)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		hint := "set spec.osPackages[].keyring to a file with the keys that sign the archive"
		if errors.Is(err, fs.ErrNotExist) && d.ID == "debian" {
			hint += "; Debian's are in its package debian-archive-keyring"
		}
		return nil, fault.New(fault.Usage, hint, fmt.Errorf("keys of %s %s: %w", d.ID, d.Version, err))
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, fault.New(fault.Usage, "set spec.osPackages[].keyring to a file with keys", fmt.Errorf("keyring %s is empty", file))
	}
	return data, nil
}
