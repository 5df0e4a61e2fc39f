package archive

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/kocli/kocli/pkg/archive/frames"
	"github.com/kocli/kocli/pkg/fault"
)

// ErrDamaged is in the chain of every error about a file that is not a whole
// and unchanged bundle.
var ErrDamaged = errors.New("bundle is damaged")

const hintDamaged = "copy the bundle again and compare its sha256sum with the original, or build it again with `kocli bundle build`"

// Bundle is an open bundle. All methods are safe for concurrent use.
type Bundle struct {
	r        io.ReaderAt
	close    func() error
	size     int64
	manifest Manifest
	index    []byte
	blobs    map[string]blob // by digest
	order    []string        // digests in the order of the tar
	stored   map[string]Item // files that are stored compressed, by digest of their content
	codec    func() (*frames.Codec, error)

	end        int64 // where the blobs end
	signatures []Signature

	delta   *DeltaManifest       // that stands for the bundle; nil where it is whole
	patched map[string]DeltaBlob // by digest: blobs that the delta does not hold as they are

	mu     sync.Mutex
	chosen map[Filter][]Item // what Items has returned: hundreds of nodes ask for the same
}

// blob is where the content of a blob stands.
type blob struct {
	offset, size int64
}

// Open opens a bundle and checks everything but the content of the blobs: the
// tar is exactly the one that the bundle manifest describes, no entry missing,
// added, changed in its header or out of place, and every image manifest
// matches its digest. It reads little, however large the bundle is. Errors
// carry fault.Bundle and a hint. The caller closes the bundle.
func Open(path string) (*Bundle, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &fault.Error{Op: "open bundle", Code: fault.Bundle, Hint: "give the path of a bundle with --bundle; `kocli bundle build` makes one", Err: err}
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return nil, errors.Join(&fault.Error{Op: "open bundle", Code: fault.Bundle, Err: err}, f.Close())
	}
	b, err := NewReader(f, st.Size())
	if err != nil {
		var e *fault.Error
		if errors.As(err, &e) {
			e.Op = "open bundle " + path
		}
		return nil, errors.Join(err, f.Close())
	}
	b.close = f.Close
	return b, nil
}

// NewReader opens a bundle of size bytes that is read through r, as Open does.
func NewReader(r io.ReaderAt, size int64) (*Bundle, error) {
	b := newBundle(r, size)
	seen, err := b.readBody()
	if err == nil {
		err = b.readEnd(seen)
	}
	if errors.Is(err, ErrDelta) {
		return nil, &fault.Error{Op: "open bundle", Code: fault.Bundle, Hint: hintDelta, Err: err}
	}
	if err != nil {
		return nil, &fault.Error{Op: "open bundle", Code: fault.Bundle, Hint: hintDamaged, Err: fmt.Errorf("%w: %w", ErrDamaged, err)}
	}
	return b, nil
}

func newBundle(r io.ReaderAt, size int64) *Bundle {
	return &Bundle{r: r, size: size, close: func() error { return nil }, blobs: map[string]blob{}, stored: map[string]Item{}, codec: sync.OnceValues(frames.New)}
}

// Close closes the file. Readers of blobs that are still open fail from then on.
func (b *Bundle) Close() error { return b.close() }

// Manifest returns the bundle manifest. The caller must not change it.
func (b *Bundle) Manifest() Manifest { return b.manifest }

// Digest identifies the bundle: the digest of index.json, which covers every
// other byte but the signatures. It is what they sign.
func (b *Bundle) Digest() string { return digestOf(b.index) }

// Size is the size of the file in bytes.
func (b *Bundle) Size() int64 { return b.size }

// readBody reads all that the digest covers. It returns the names of the
// entries.
func (b *Bundle) readBody() (map[string]bool, error) {
	s := scanner{r: b.r, size: b.size}
	raw, index, err := s.readManifest(typeBundle)
	if err != nil {
		return nil, err
	}
	if b.manifest, err = decodeManifest(raw); err != nil {
		return nil, err
	}
	want, err := newLayout(&b.manifest, raw)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(index, want.index) {
		return nil, errors.New("index.json is not the one that belongs to the bundle manifest")
	}
	b.index = want.index
	for _, it := range b.manifest.Items {
		if it.Stored != nil {
			b.stored[it.Digest] = it
		}
	}
	seen := map[string]bool{}
	if err := b.scan(want, seen); err != nil {
		return nil, err
	}
	return seen, b.checkImages()
}

// scanner walks the headers of a tar.
type scanner struct {
	r         io.ReaderAt
	size, off int64
}

func (s *scanner) bytes(off, n int64) ([]byte, error) {
	if n < 0 || off < 0 || off > s.size-n {
		return nil, fmt.Errorf("truncated: %d bytes, at least %d expected", s.size, off+n)
	}
	buf := make([]byte, n)
	if _, err := s.r.ReadAt(buf, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read at byte %d: %w", off, err)
	}
	return buf, nil
}

// small reads the next file whole and moves past it. limit bounds its size.
func (s *scanner) small(limit int64) (string, []byte, error) {
	head, err := s.bytes(s.off, blockSize)
	if err != nil {
		return "", nil, err
	}
	hdr, err := tar.NewReader(bytes.NewReader(head)).Next()
	if err != nil {
		return "", nil, fmt.Errorf("not a bundle of kocli: tar header at byte %d: %w", s.off, err)
	}
	if hdr.Typeflag != tar.TypeReg || hdr.Size < 0 || hdr.Size > limit {
		return "", nil, fmt.Errorf("not a bundle of kocli: unexpected entry %q of %d bytes", hdr.Name, hdr.Size)
	}
	data, err := s.bytes(s.off+blockSize, hdr.Size)
	if err != nil {
		return "", nil, err
	}
	s.off += blockSize + hdr.Size + padding(hdr.Size)
	return hdr.Name, data, nil
}

// readManifest reads the first four entries. That they are what they should be
// is checked by the scan, which starts from the manifest that they hold.
func (s *scanner) readManifest(kind string) (raw, index []byte, err error) {
	limits := []int64{blockSize, MaxIndexSize, maxOCIManifest, MaxManifestSize}
	var data [4][]byte
	var names [4]string
	for i, limit := range limits {
		if names[i], data[i], err = s.small(limit); err != nil {
			return nil, nil, err
		}
	}
	if names[0] != layoutPath || names[1] != indexPath {
		return nil, nil, fmt.Errorf("not a bundle of kocli: it begins with %q and %q", names[0], names[1])
	}
	var idx ociIndex
	if err := json.Unmarshal(data[1], &idx); err != nil {
		return nil, nil, fmt.Errorf("index.json: %w", err)
	}
	if len(idx.Manifests) > 0 && idx.Manifests[0].ArtifactType == typeDelta && kind == typeBundle {
		return nil, nil, ErrDelta
	}
	if kind == typeDelta && (len(idx.Manifests) == 0 || idx.Manifests[0].ArtifactType != kind) {
		return nil, nil, errors.New("not a delta of kocli")
	}
	if len(idx.Manifests) == 0 || idx.Manifests[0].ArtifactType != kind {
		return nil, nil, errors.New("not a bundle of kocli: index.json does not begin with a bundle manifest")
	}
	if d := digestOf(data[2]); d != idx.Manifests[0].Digest || names[2] != blobPath(d) {
		return nil, nil, fmt.Errorf("manifest of the bundle has digest %s, index.json says %s", d, idx.Manifests[0].Digest)
	}
	if d := digestOf(data[3]); names[3] != blobPath(d) {
		return nil, nil, fmt.Errorf("bundle manifest has digest %s, its name is %q", d, names[3])
	}
	return data[3], data[1], nil
}

// scan compares the tar, header by header, with the one it should be, and
// notes where each blob is, and in seen the names of the entries.
func (b *Bundle) scan(want layout, seen map[string]bool) error {
	var off int64
	for i, e := range want.entries {
		head, err := header(e.name, e.size)
		if err != nil {
			return err
		}
		n := min(blockSize, max(0, b.size-off))
		got := make([]byte, n)
		if _, err := b.r.ReadAt(got, off); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read at byte %d: %w", off, err)
		}
		if !bytes.Equal(got, head) {
			return diagnose(got, off, e, want.entries[i:], seen)
		}
		seen[e.name] = true
		off += blockSize
		if e.size+padding(e.size) > b.size-off {
			return fmt.Errorf("truncated inside %s: %d bytes are missing", e.name, e.size+padding(e.size)-(b.size-off))
		}
		if err := b.checkEntry(e, off); err != nil {
			return err
		}
		if e.digest != "" {
			b.blobs[e.digest] = blob{offset: off, size: e.size}
			b.order = append(b.order, e.digest)
		}
		off += e.size + padding(e.size)
	}
	b.end = off
	return nil
}

// checkEntry checks the padding of an entry, and its content where that follows
// from the manifest.
func (b *Bundle) checkEntry(e entry, off int64) error {
	s := scanner{r: b.r, size: b.size}
	pad, err := s.bytes(off+e.size, padding(e.size))
	if err != nil {
		return err
	}
	if !zero(pad) {
		return fmt.Errorf("padding after %s is not zero", e.name)
	}
	if e.inline == nil {
		return nil
	}
	got, err := s.bytes(off, e.size)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, e.inline) {
		return fmt.Errorf("content of %s is not what it should be", e.name)
	}
	return nil
}

// checkEnd checks that two zero blocks, and nothing else, follow at off.
func (b *Bundle) checkEnd(off int64, seen map[string]bool) error {
	s := scanner{r: b.r, size: b.size}
	end, err := s.bytes(off, 2*blockSize)
	if err != nil {
		return fmt.Errorf("end of the tar: %w", err)
	}
	if !zero(end[:blockSize]) {
		return diagnose(end[:blockSize], off, entry{name: "the end"}, nil, seen)
	}
	if !zero(end) || b.size != off+2*blockSize {
		return fmt.Errorf("unlisted data after the end of the tar, at byte %d", off+blockSize)
	}
	return nil
}

// diagnose says why a header is not the one expected.
func diagnose(head []byte, off int64, want entry, rest []entry, seen map[string]bool) error {
	if len(head) < blockSize {
		return fmt.Errorf("truncated: the file ends at byte %d, before %s", off+int64(len(head)), want.name)
	}
	if zero(head) {
		return fmt.Errorf("missing: the tar ends at byte %d, before %s", off, want.name)
	}
	hdr, err := tar.NewReader(bytes.NewReader(head)).Next()
	if err != nil || hdr == nil {
		return fmt.Errorf("tar header at byte %d, where %s is expected, is not valid", off, want.name)
	}
	switch {
	case hdr.Typeflag != tar.TypeReg:
		return fmt.Errorf("entry %q is not a regular file (type %q)", hdr.Name, string(hdr.Typeflag))
	case path.IsAbs(hdr.Name) || strings.Contains("/"+hdr.Name+"/", "/../"):
		return fmt.Errorf("entry %q points outside of the bundle", hdr.Name)
	case seen[hdr.Name]:
		return fmt.Errorf("entry %q is there twice", hdr.Name)
	case hdr.Name == want.name && hdr.Size != want.size:
		return fmt.Errorf("entry %q has %d bytes, listed with %d", hdr.Name, hdr.Size, want.size)
	case hdr.Name == want.name:
		return fmt.Errorf("entry %q has another tar header than kocli writes: the bundle was packed again or is damaged", hdr.Name)
	}
	for _, e := range rest {
		if e.name == hdr.Name {
			return fmt.Errorf("entry %q is missing, or out of order: %q stands there", want.name, hdr.Name)
		}
	}
	return fmt.Errorf("entry %q is not listed in the bundle manifest", hdr.Name)
}

// checkImages reads the manifests of images and charts and compares each with its digest and
// with what the bundle manifest says of it.
func (b *Bundle) checkImages() error {
	for i := range b.manifest.Items {
		it := &b.manifest.Items[i]
		if !it.hasManifest() {
			continue
		}
		s := scanner{r: b.r, size: b.size}
		raw, err := s.bytes(b.blobs[it.Digest].offset, it.Blobs[0].Size)
		if err != nil {
			return fmt.Errorf("image %s: %w", it.Label(), err)
		}
		if got := digestOf(raw); got != it.Digest {
			return fmt.Errorf("image %s: manifest has digest %s, should be %s", it.Label(), got, it.Digest)
		}
		blobs, err := ImageBlobs(raw, it.Blobs[0].MediaType)
		if err != nil {
			return fmt.Errorf("image %s: %w", it.Label(), err)
		}
		if len(blobs) != len(it.Blobs) {
			return fmt.Errorf("image %s: manifest and bundle manifest differ", it.Label())
		}
		for j := range blobs {
			if blobs[j] != it.Blobs[j] {
				return fmt.Errorf("image %s: manifest and bundle manifest differ at %s", it.Label(), blobs[j].Digest)
			}
		}
	}
	return nil
}

// ImageBlobs reads an image manifest and returns the descriptors of the
// manifest itself, the configuration and the layers.
func ImageBlobs(raw []byte, mediaType string) ([]Descriptor, error) {
	var m ociManifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("image manifest: %w", err)
	}
	if m.Config.Digest == "" {
		return nil, errors.New("image manifest has no configuration")
	}
	blobs := []Descriptor{{MediaType: mediaType, Digest: digestOf(raw), Size: int64(len(raw))}}
	for _, d := range append([]ociDescriptor{m.Config}, m.Layers...) {
		blobs = append(blobs, Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
	}
	return blobs, nil
}

func zero(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}
