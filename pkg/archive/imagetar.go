package archive

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// DigestSet is a set of digests, such as those that a host has.
type DigestSet map[string]struct{}

// ParseDigests reads one digest a line, as `ctr -n k8s.io content ls -q`
// prints them. Other lines are ignored.
func ParseDigests(text string) DigestSet {
	s := DigestSet{}
	for line := range strings.Lines(text) {
		if d := strings.TrimSpace(line); ValidDigest(d) {
			s[d] = struct{}{}
		}
	}
	return s
}

// Has reports whether the set holds a digest.
func (s DigestSet) Has(digest string) bool { _, ok := s[digest]; return ok }

// ImageTar prepares the stream for `ctr -n k8s.io images import -` on a host:
// an OCI layout with the manifests and configurations of the images, and those
// of their layers that the host lacks. size is the exact number of bytes that
// write writes. have may be nil: nothing. Nothing is read until write is
// called; write may be called any number of times, concurrently.
//
// It relies on what containerd 2.x does (core/images/archive/importer.go and
// core/transfer/local/import.go): the tar's files go into the content store
// whatever their names are, the index names images by io.containerd.image.name,
// and layers are looked up in the store, not in the tar. A host whose garbage
// collector dropped a layer after it was asked makes the import fail with "not
// found"; send it again with have as nil. Content is not verified here (Verify
// did): containerd hashes what it stores, so damage makes the import fail too.
func (b *Bundle) ImageTar(images []Image, have func(digest string) bool) (size int64, write func(io.Writer) error, err error) {
	idx := ociIndex{SchemaVersion: 2, MediaType: mediaTypeOCIIndex}
	var layers, configs, manifests []entry
	seen := map[string]bool{}
	for _, im := range images {
		idx.Manifests = append(idx.Manifests, imageEntry(&Item{Name: im.Ref, Digest: im.Digest, Arch: im.Arch, Role: im.Role, Blobs: im.Blobs}))
		for i, d := range im.Blobs {
			if bl, ok := b.blobs[d.Digest]; !ok || bl.size != d.Size {
				return 0, nil, fmt.Errorf("image %s: %s is not in the bundle", im.Ref, d.Digest)
			}
			if seen[d.Digest] || (i >= 2 && have != nil && have(d.Digest)) {
				continue
			}
			seen[d.Digest] = true
			e := entry{name: blobPath(d.Digest), digest: d.Digest, size: d.Size}
			switch i {
			case 0:
				manifests = append(manifests, e)
			case 1:
				configs = append(configs, e)
			default:
				layers = append(layers, e)
			}
		}
	}
	index, err := json.Marshal(idx)
	if err != nil {
		return 0, nil, err
	}
	entries := slices.Concat(
		[]entry{{name: layoutPath, size: int64(len(layoutContent)), inline: []byte(layoutContent)}},
		layers, configs, manifests,
		[]entry{{name: indexPath, size: int64(len(index)), inline: index}},
	)
	size = 2 * blockSize
	for _, e := range entries {
		size += blockSize + e.size + padding(e.size)
	}
	return size, func(w io.Writer) error { return b.stream(w, entries) }, nil
}

// stream writes entries as a tar.
func (b *Bundle) stream(w io.Writer, entries []entry) error {
	buf := make([]byte, copySize)
	for _, e := range entries {
		head, err := header(e.name, e.size)
		if err != nil {
			return err
		}
		if _, err := w.Write(head); err != nil {
			return err
		}
		if e.inline != nil {
			if _, err := w.Write(e.inline); err != nil {
				return err
			}
		} else if err := b.copyRange(w, b.blobs[e.digest], buf); err != nil {
			return fmt.Errorf("%s: %w", e.digest, err)
		}
		if _, err := w.Write(make([]byte, padding(e.size))); err != nil {
			return err
		}
	}
	_, err := w.Write(make([]byte, 2*blockSize))
	return err
}

// copyRange copies a blob in large writes, which is what makes a stream over
// SSH fast.
func (b *Bundle) copyRange(w io.Writer, bl blob, buf []byte) error {
	for off := int64(0); off < bl.size; {
		n, err := b.r.ReadAt(buf[:min(int64(len(buf)), bl.size-off)], bl.offset+off)
		if n == 0 && err != nil {
			return fmt.Errorf("read bundle: %w", err)
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}
