package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
)

// store is the mirror's folder:
//
//	blobs/sha256/HEX    layers, configs, manifests
//	files/HOST/PATH     what HTTP serves
//	made/KEY            results already made, by a digest of all that went in
//	index.json          image reference -> digest of its manifest
//	lab-catalogue.json  what each served thing was really built from
type store struct{ root string }

func (s store) blob(h v1.Hash) string { return filepath.Join(s.root, "blobs", h.Algorithm, h.Hex) }
func (s store) file(path string) string {
	return filepath.Join(s.root, "files", filepath.FromSlash(path))
}
func (s store) made(key string) string  { return filepath.Join(s.root, "made", key) }
func (s store) index() string           { return filepath.Join(s.root, "index.json") }
func (s store) catalogue() string       { return filepath.Join(s.root, "lab-catalogue.json") }
func (s store) temp() (*os.File, error) { return os.CreateTemp(s.root, ".tmp-") }

func (s store) init() error {
	for _, d := range []string{"blobs/sha256", "files", "made"} {
		if err := os.MkdirAll(filepath.Join(s.root, d), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// write puts data at path by rename.
func (s store) write(path string, data []byte) error {
	f, err := s.temp()
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return s.commit(f, path, err)
}

// commit closes f and moves it to path, or removes it when err is set.
func (s store) commit(f *os.File, path string, err error) error {
	if err == nil {
		err = f.Chmod(0o644)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

func (s store) writeBlob(data []byte) (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(data))
	if err != nil {
		return h, err
	}
	return h, s.write(s.blob(h), data)
}

// remembered returns the result stored under key, if there is one.
func (s store) remembered(key string, into any) bool {
	data, err := os.ReadFile(s.made(key))
	return err == nil && json.Unmarshal(data, into) == nil
}

func (s store) remember(key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.write(s.made(key), data)
}

// readJSON reads path into v; a missing file leaves v as it is.
func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// entry is one thing in a tar. Source is a file of this machine; Link a symlink's target.
type entry struct {
	Name, Source, Link string
	Mode               fs.FileMode
}

// fingerprint changes when any entry does. A source counts by size and time,
// which is enough: component folders are replaced whole, never edited.
func fingerprint(what string, entries []entry) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, what)
	for _, e := range entries {
		fmt.Fprintf(h, "%q %q %q %o", e.Name, e.Source, e.Link, e.Mode)
		if e.Source != "" {
			fi, err := os.Stat(e.Source)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(h, " %d %d", fi.Size(), fi.ModTime().UnixNano())
		}
		fmt.Fprintln(h)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// treeEntries lists a folder as tar entries, in order of name.
func treeEntries(root string) ([]entry, error) {
	var out []entry
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		e := entry{Name: strings.TrimPrefix(path, root+"/"), Mode: fi.Mode()}
		switch {
		case fi.Mode().IsRegular():
			e.Source = path
		case fi.Mode()&fs.ModeSymlink != 0:
			if e.Link, err = os.Readlink(path); err != nil {
				return err
			}
		case !fi.IsDir():
			return fmt.Errorf("%s: not a file, folder or link", path)
		}
		out = append(out, e)
		return nil
	})
	return out, err
}

// withParents adds the folders that entries stand in, and sorts.
func withParents(entries []entry) []entry {
	have := map[string]bool{}
	for _, e := range entries {
		have[e.Name] = true
	}
	for _, e := range entries {
		for d := filepath.Dir(e.Name); d != "." && !have[d]; d = filepath.Dir(d) {
			have[d] = true
			entries = append(entries, entry{Name: d, Mode: fs.ModeDir | 0o755})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.Name, b.Name) })
	return entries
}

// writeTar writes entries with fixed owners and times: same input, same bytes.
func writeTar(w io.Writer, entries []entry) error {
	tw := tar.NewWriter(w)
	for _, e := range entries {
		hdr := &tar.Header{Name: e.Name, Mode: int64(e.Mode.Perm()), Format: tar.FormatPAX}
		switch {
		case e.Link != "":
			hdr.Typeflag, hdr.Linkname, hdr.Mode = tar.TypeSymlink, e.Link, 0o777
		case e.Mode.IsDir():
			hdr.Typeflag, hdr.Name = tar.TypeDir, e.Name+"/"
		default:
			hdr.Typeflag = tar.TypeReg
		}
		if err := writeEntry(tw, hdr, e.Source); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
	}
	return tw.Close()
}

func writeEntry(tw *tar.Writer, hdr *tar.Header, source string) error {
	if source == "" {
		return tw.WriteHeader(hdr)
	}
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	hdr.Size = fi.Size()
	if err := tw.WriteHeader(hdr); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}

// tarball is a compressed tar that stands in a temporary file.
type tarball struct {
	file         *os.File
	digest, diff v1.Hash
	size         int64
}

func (s store) newTarball(entries []entry) (*tarball, error) {
	f, err := s.temp()
	if err != nil {
		return nil, err
	}
	packed, plain := sha256.New(), sha256.New()
	zw := gzip.NewWriter(io.MultiWriter(f, packed))
	if err = writeTar(io.MultiWriter(zw, plain), entries); err == nil {
		err = zw.Close()
	}
	var fi os.FileInfo
	if err == nil {
		fi, err = f.Stat()
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return nil, err
	}
	sum := func(b []byte) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(b)} }
	return &tarball{file: f, digest: sum(packed.Sum(nil)), diff: sum(plain.Sum(nil)), size: fi.Size()}, nil
}
