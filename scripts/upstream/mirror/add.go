package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// spec is what build.sh asks for.
type spec struct {
	Images []imageSpec
	Files  []fileSpec
	Trees  []treeSpec
}

type imageSpec struct {
	Ref        string // registry.k8s.io/pause:3.10.2
	Origin     []string
	Layers     []layerSpec
	Entrypoint []string
	User       string
}

// layerSpec is a folder taken whole, or single files (path in image -> source) and links.
type layerSpec struct {
	Tree  string
	Files map[string]string
	Links map[string]string
}

// fileSpec is a file as it is, or a .tar.gz of files (name in tar -> source).
type fileSpec struct {
	Path, Source string
	Tar          map[string]string
	Origin       []string
	Checksum     struct {
		Path string
		Bare bool // the digest alone, as dl.k8s.io has it, instead of "DIGEST  NAME"
	}
}

// treeSpec is a folder served as it is.
type treeSpec struct {
	Path, Source string
	Origin       []string
}

// catalogued says what a served thing was really built from.
type catalogued struct {
	BuiltFrom []string `json:"builtFrom"`
	Digest    string   `json:"digest,omitempty"`
}

type catalogue struct {
	Note   string                `json:"note"`
	Images map[string]catalogued `json:"images"`
	Files  map[string]catalogued `json:"files"`
}

func runAdd(args []string) error {
	flags := flag.NewFlagSet("add", flag.ContinueOnError)
	root := flags.String("root", "", "the mirror's `folder`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *root == "" || flags.NArg() != 1 {
		return errors.New("usage: mirror add -root DIR SPEC.json")
	}
	var sp spec
	data, err := os.ReadFile(flags.Arg(0))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &sp); err != nil {
		return fmt.Errorf("%s: %w", flags.Arg(0), err)
	}
	s := store{root: *root}
	if err := s.init(); err != nil {
		return err
	}
	release, err := s.lock()
	if err != nil {
		return err
	}
	defer release()
	return s.add(sp)
}

// lock keeps a second "add" waiting until this one is done.
func (s store) lock() (func(), error) {
	f, err := os.OpenFile(filepath.Join(s.root, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

func (s store) add(sp spec) error {
	refs := map[string]v1.Descriptor{}
	cat := catalogue{Images: map[string]catalogued{}, Files: map[string]catalogued{}}
	if err := errors.Join(readJSON(s.index(), &refs), readJSON(s.catalogue(), &cat)); err != nil {
		return err
	}
	cat.Note = "A lab's mirror: built on this machine from the sources named here, not the releases of upstream. Names and tags are upstream's so that the same installer code runs."
	for _, i := range sp.Images {
		d, err := s.image(i)
		if err != nil {
			return fmt.Errorf("image %s: %w", i.Ref, err)
		}
		refs[i.Ref] = d
		cat.Images[i.Ref] = catalogued{BuiltFrom: i.Origin, Digest: d.Digest.String()}
	}
	for _, f := range sp.Files {
		digest, err := s.addFile(f)
		if err != nil {
			return fmt.Errorf("file %s: %w", f.Path, err)
		}
		cat.Files[f.Path] = catalogued{BuiltFrom: f.Origin, Digest: "sha256:" + digest}
	}
	for _, t := range sp.Trees {
		if err := s.addTree(t); err != nil {
			return fmt.Errorf("tree %s: %w", t.Path, err)
		}
		cat.Files[t.Path+"/"] = catalogued{BuiltFrom: t.Origin}
	}
	index, err := json.MarshalIndent(refs, "", "  ")
	if err != nil {
		return err
	}
	page, err := json.MarshalIndent(cat, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(s.write(s.catalogue(), append(page, '\n')), s.write(s.index(), append(index, '\n')))
}

// image makes the blobs of one image and returns its index' descriptor:
// upstream's tags name an index of platforms, so these do too.
func (s store) image(i imageSpec) (v1.Descriptor, error) {
	platform := v1.Platform{OS: "linux", Architecture: "amd64"}
	config := v1.ConfigFile{
		Architecture: platform.Architecture, OS: platform.OS,
		Config: v1.Config{
			Entrypoint: i.Entrypoint, User: i.User,
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		},
		RootFS: v1.RootFS{Type: "layers"},
	}
	manifest := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	for _, l := range i.Layers {
		m, err := s.layer(l)
		if err != nil {
			return v1.Descriptor{}, err
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, m.DiffID)
		manifest.Layers = append(manifest.Layers, v1.Descriptor{MediaType: types.OCILayer, Digest: m.Digest, Size: m.Size})
	}
	var err error
	if manifest.Config, err = s.object(types.OCIConfigJSON, config); err != nil {
		return v1.Descriptor{}, err
	}
	d, err := s.object(types.OCIManifestSchema1, manifest)
	if err != nil {
		return d, err
	}
	d.Platform = &platform
	return s.object(types.OCIImageIndex, v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{d},
	})
}

func (s store) object(t types.MediaType, v any) (v1.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	h, err := s.writeBlob(data)
	return v1.Descriptor{MediaType: t, Digest: h, Size: int64(len(data))}, err
}

type layerMade struct {
	Digest, DiffID v1.Hash
	Size           int64
}

func (s store) layer(l layerSpec) (layerMade, error) {
	var entries []entry
	if l.Tree != "" {
		tree, err := treeEntries(l.Tree)
		if err != nil {
			return layerMade{}, err
		}
		entries = tree
	}
	for name, source := range l.Files {
		entries = append(entries, entry{Name: strings.TrimPrefix(name, "/"), Source: source, Mode: 0o755})
	}
	for name, target := range l.Links {
		entries = append(entries, entry{Name: strings.TrimPrefix(name, "/"), Link: target})
	}
	entries = withParents(entries)
	var m layerMade
	key, err := fingerprint("layer", entries)
	if err != nil {
		return m, err
	}
	if s.remembered(key, &m) {
		if _, err := os.Stat(s.blob(m.Digest)); err == nil {
			return m, nil
		}
	}
	t, err := s.newTarball(entries)
	if err != nil {
		return m, err
	}
	m = layerMade{Digest: t.digest, DiffID: t.diff, Size: t.size}
	if err := s.commit(t.file, s.blob(t.digest), nil); err != nil {
		return m, err
	}
	return m, s.remember(key, m)
}

// addFile puts a file and its checksum in place and returns its digest.
func (s store) addFile(f fileSpec) (string, error) {
	var entries []entry
	for name, source := range f.Tar {
		entries = append(entries, entry{Name: name, Source: source, Mode: 0o755})
	}
	if f.Source != "" {
		entries = []entry{{Name: f.Path, Source: f.Source}}
	} else {
		entries = withParents(entries)
	}
	key, err := fingerprint("file "+f.Path, entries)
	if err != nil {
		return "", err
	}
	var digest string
	target := s.file(f.Path)
	if s.remembered(key, &digest) {
		if _, err := os.Stat(target); err == nil {
			return digest, s.checksum(f, digest)
		}
	}
	if f.Source != "" {
		digest, err = s.link(f.Source, target)
	} else {
		var t *tarball
		if t, err = s.newTarball(entries); err == nil {
			digest = t.digest.Hex
			err = s.commit(t.file, target, nil)
		}
	}
	if err != nil {
		return "", err
	}
	return digest, errors.Join(s.checksum(f, digest), s.remember(key, digest))
}

func (s store) checksum(f fileSpec, digest string) error {
	line := digest
	if !f.Checksum.Bare {
		line += "  " + path.Base(f.Path) + "\n"
	}
	return s.write(s.file(f.Checksum.Path), []byte(line))
}

// link makes target a copy of source, without a second copy of the bytes where
// the file system can, and returns the digest.
func (s store) link(source, target string) (string, error) {
	f, err := os.Open(source)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h, _, err := v1.SHA256(f)
	if err != nil {
		return "", err
	}
	tmp := filepath.Join(s.root, ".tmp-"+h.Hex)
	_ = os.Remove(tmp)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return "", err
	}
	if os.Link(source, tmp) == nil {
		// Renaming one hard link of a file onto another does nothing, not even
		// remove the first.
		_ = os.Remove(target)
		return h.Hex, os.Rename(tmp, target)
	}
	out, err := s.temp()
	if err != nil {
		return "", err
	}
	if _, err = f.Seek(0, io.SeekStart); err == nil {
		_, err = io.Copy(out, f)
	}
	return h.Hex, s.commit(out, target, err)
}

func (s store) addTree(t treeSpec) error {
	target := s.file(t.Path)
	if now, err := os.Readlink(target); err == nil && now == t.Source {
		return nil
	}
	tmp := filepath.Join(s.root, ".tmp-tree")
	_ = os.Remove(tmp)
	return errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.Symlink(t.Source, tmp), os.Rename(tmp, target))
}
