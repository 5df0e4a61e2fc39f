// Package split cuts a bundle or a delta into parts for media that are smaller,
// and joins them again. It must not import anything that stands above pkg/archive.
package split

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/fault"
)

const (
	formatVersion = 1
	maxParts      = 999
	maxPartsFile  = 1 << 20     // bytes of the parts file
	maxSize       = int64(1e15) // bytes of a bundle
	partsSuffix   = ".parts.json"
)

// Parts is the parts file: what a bundle was cut into.
type Parts struct {
	Format   int    `json:"format"`
	Name     string `json:"name"`     // file name of the bundle
	Size     int64  `json:"size"`     // bytes of the bundle
	Digest   string `json:"digest"`   // of the bundle's file
	PartSize int64  `json:"partSize"` // bytes of every part but the last
	Parts    []Part `json:"parts"`
}

// Part is one part. All lie beside the parts file.
type Part struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	Digest string `json:"digest"`
}

// Names of the files that a bundle is cut into.
func partName(name string, i int) string { return fmt.Sprintf("%s.%03d", name, i+1) }
func partsFileName(name string) string   { return name + partsSuffix }

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}$`)

// validate refuses what Split would not have written: among it every name with
// a slash, and parts that do not lie end to end.
func (p *Parts) validate() error {
	switch {
	case p.Format > formatVersion:
		return fmt.Errorf("format %d is newer than this kocli, which reads up to %d", p.Format, formatVersion)
	case p.Format != formatVersion:
		return fmt.Errorf("format %d is not known", p.Format)
	case !nameForm.MatchString(p.Name):
		return fmt.Errorf("name %q is not valid", p.Name)
	case p.Size <= 0 || p.Size > maxSize || p.PartSize <= 0 || p.PartSize > maxSize:
		return fmt.Errorf("size %d in parts of %d is out of range", p.Size, p.PartSize)
	case !archive.ValidDigest(p.Digest):
		return fmt.Errorf("digest %q is not sha256", p.Digest)
	}
	n := (p.Size + p.PartSize - 1) / p.PartSize
	if n > maxParts || int64(len(p.Parts)) != n {
		return fmt.Errorf("%d parts are listed, %d make the whole, %d are allowed", len(p.Parts), n, maxParts)
	}
	for i, part := range p.Parts {
		size := min(p.PartSize, p.Size-int64(i)*p.PartSize)
		if part.Name != partName(p.Name, i) || part.Size != size || !archive.ValidDigest(part.Digest) {
			return fmt.Errorf("part %d (%q, %d bytes) is not valid", i+1, part.Name, part.Size)
		}
	}
	return nil
}

// decode reads a parts file strictly.
func decode(raw []byte) (*Parts, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var p Parts
	if err := dec.Decode(&p); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the document")
	}
	return &p, p.validate()
}

// read finds and reads the parts file: path itself, or the only one in the
// folder that path is. dir is the folder of the parts.
func read(path string) (p *Parts, dir string, err error) {
	hint := "give the " + partsSuffix + " file, or a folder with all parts and one such file"
	fail := func(err error) (*Parts, string, error) {
		return nil, "", &fault.Error{Op: "read parts file", Code: fault.Bundle, Hint: hint, Err: err}
	}
	st, err := os.Stat(path)
	if err != nil {
		return fail(err)
	}
	if st.IsDir() {
		found, err := os.ReadDir(path)
		if err != nil {
			return fail(err)
		}
		var files []string
		for _, f := range found {
			if n := f.Name(); len(n) > len(partsSuffix) && n[len(n)-len(partsSuffix):] == partsSuffix {
				files = append(files, n)
			}
		}
		if len(files) != 1 {
			return fail(fmt.Errorf("%d files *%s are in %s", len(files), partsSuffix, path))
		}
		path = filepath.Join(path, files[0])
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxPartsFile+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return fail(err)
	}
	if len(raw) > maxPartsFile {
		return fail(fmt.Errorf("%s is larger than %d bytes", path, maxPartsFile))
	}
	if p, err = decode(raw); err != nil {
		return fail(fmt.Errorf("%s: %w", path, err))
	}
	return p, filepath.Dir(path), nil
}
