package archive

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/kocli/kocli/pkg/fault"
)

// A delta is a tar under the same rules as a bundle: its entries follow, byte
// for byte, from a JSON document in it. It holds what one bundle has and another
// has not, in forms that pkg/archive/delta makes and reads.
const (
	typeDelta    = "application/vnd.kocli.delta.v1"
	typeDeltaCfg = "application/vnd.kocli.delta.config.v1+json"
	deltaRef     = "kocli.io/delta"

	deltaFormat = 2 // 1 had no BaseContent
)

// Limits of a delta, which bound the memory of applying it.
const (
	MaxDeltaFrame = 16 << 20 // bytes of content in a frame
	MaxDeltaDict  = 32 << 20 // bytes of the base that a frame refers to
)

// ErrDelta is in the chain of the error when a delta is opened as a bundle.
var ErrDelta = errors.New("this is a delta, not a bundle")

// hintDelta is the command that makes a bundle of a delta.
const hintDelta = "make the bundle first: kocli bundle apply --base OLD.tar DELTA.tar --to NEW.tar"

// DeltaManifest is the document that a delta follows from.
type DeltaManifest struct {
	Format     int         `json:"format"`
	BuiltBy    string      `json:"builtBy"` // version of the kocli that made it
	Base       Side        `json:"base"`
	Target     Side        `json:"target"`
	Manifest   string      `json:"manifest"`             // digest of the target's bundle manifest
	Signatures []Signature `json:"signatures,omitempty"` // of the target
	Blobs      []DeltaBlob `json:"blobs"`                // of the target, those that come from the delta
}

// DeltaBlob is a blob of the target, and how to make it.
type DeltaBlob struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	// Stored is what the delta holds for it: itself, where there are no Frames.
	Stored Descriptor `json:"stored"`
	// Base is the blob of the base bundle that the frames refer to, in the form
	// BaseForm; empty where they refer to none.
	Base     string `json:"base,omitempty"`
	BaseForm string `json:"baseForm,omitempty"`
	// BaseContent is what Base unpacks to, where that is a file of the base bundle:
	// where it is installed, the file is as good as the blob.
	BaseContent string       `json:"baseContent,omitempty"`
	Frames      []DeltaFrame `json:"frames,omitempty"`
	// Recipe packs the content of the frames, so that the blob comes out.
	Recipe *Recipe `json:"recipe,omitempty"`
}

// DeltaFrame is a piece of content: Bytes of it, from Size bytes of what is
// stored and, where Dict is not zero, a slice of the base.
type DeltaFrame struct {
	Size  int64 `json:"size"`
	Bytes int64 `json:"bytes"`
	From  int64 `json:"from,omitempty"` // offset in the content of the base
	Dict  int64 `json:"dict,omitempty"` // bytes of it
}

// Recipe says which compressor makes a blob of its content, byte for byte.
type Recipe struct {
	Form    string `json:"form"` // "gzip", "zstd"
	Library string `json:"library"`
	Level   int    `json:"level"`
	// The header of gzip.
	Name    string `json:"name,omitempty"`
	Comment string `json:"comment,omitempty"`
	Extra   []byte `json:"extra,omitempty"`
	Time    int64  `json:"time,omitempty"` // Unix seconds
	OS      byte   `json:"os"`
}

// validate refuses a document that WriteDelta would not have been given.
func (m *DeltaManifest) validate() error {
	if m.Format < 1 {
		return fmt.Errorf("format %d is not known", m.Format)
	}
	for _, d := range []string{m.Base.Digest, m.Target.Digest, m.Manifest} {
		if !ValidDigest(d) {
			return fmt.Errorf("digest %q is not sha256", d)
		}
	}
	if m.Target.Size <= 0 || m.Target.Size > maxTotalSize || len(m.Blobs) > maxEntries {
		return errors.New("sizes are out of range")
	}
	if _, err := encodeSignatures(m.Signatures); err != nil {
		return err
	}
	stored := map[string]int64{}
	for i, b := range m.Blobs {
		if err := b.Validate(); err != nil {
			return fmt.Errorf("blob %s: %w", b.Digest, err)
		}
		if i > 0 && m.Blobs[i-1].Digest >= b.Digest {
			return fmt.Errorf("blob %s is listed twice or out of order", b.Digest)
		}
		if have, ok := stored[b.Stored.Digest]; ok && have != b.Stored.Size {
			return fmt.Errorf("blob %s: what is stored has two sizes", b.Digest)
		}
		stored[b.Stored.Digest] = b.Stored.Size
	}
	return nil
}

// Validate refuses a blob that WriteDelta would not have been given.
func (b *DeltaBlob) Validate() error {
	for _, d := range []Descriptor{{Digest: b.Digest, Size: b.Size}, b.Stored} {
		if !ValidDigest(d.Digest) || d.Size < 0 || d.Size > MaxBlobSize {
			return fmt.Errorf("digest %q or size %d is not valid", d.Digest, d.Size)
		}
	}
	if len(b.Frames) == 0 {
		if b.Stored.Digest != b.Digest || b.Stored.Size != b.Size || b.Base != "" || b.Recipe != nil {
			return errors.New("it has no frames, and is not stored as it is")
		}
		return nil
	}
	if b.Base != "" && !ValidDigest(b.Base) || b.BaseContent != "" && (!ValidDigest(b.BaseContent) || b.BaseForm == "") {
		return fmt.Errorf("base %q or its content %q is not sha256", b.Base, b.BaseContent)
	}
	var size, content int64
	for _, f := range b.Frames {
		switch {
		case f.Size < 0 || f.Size > MaxBlobSize || f.Bytes <= 0 || f.Bytes > MaxDeltaFrame:
			return fmt.Errorf("frame of %d bytes in %d", f.Bytes, f.Size)
		case f.From < 0 || f.From > MaxBlobSize || f.Dict < 0 || f.Dict > MaxDeltaDict || f.Dict > 0 && b.Base == "":
			return fmt.Errorf("frame on %d bytes at %d of the base", f.Dict, f.From)
		}
		if size, content = size+f.Size, content+f.Bytes; size > b.Stored.Size || content > MaxBlobSize {
			return errors.New("its frames are larger than what is stored")
		}
	}
	if size != b.Stored.Size || b.Recipe == nil && content != b.Size {
		return errors.New("its frames do not add up")
	}
	return nil
}

// holds returns the sizes of what a delta stores, by digest.
func (m *DeltaManifest) holds() map[string]int64 {
	out := map[string]int64{}
	for _, b := range m.Blobs {
		out[b.Stored.Digest] = b.Stored.Size
	}
	return out
}

// deltaLayout derives the tar of a delta from its document.
func deltaLayout(m *DeltaManifest, raw []byte) (layout, error) {
	if err := m.validate(); err != nil {
		return layout{}, err
	}
	artifact, err := json.Marshal(ociManifest{
		SchemaVersion: 2, MediaType: mediaTypeOCIManifest, ArtifactType: typeDelta,
		Config: ociDescriptor{MediaType: typeDeltaCfg, Digest: digestOf(raw), Size: int64(len(raw))},
		Layers: []ociDescriptor{},
	})
	if err != nil {
		return layout{}, err
	}
	var l layout
	l.index, err = json.Marshal(ociIndex{SchemaVersion: 2, MediaType: mediaTypeOCIIndex, Manifests: []ociDescriptor{{
		MediaType: mediaTypeOCIManifest, Digest: digestOf(artifact), Size: int64(len(artifact)), ArtifactType: typeDelta,
		Annotations: map[string]string{annotationRefName: deltaRef},
	}}})
	if err != nil {
		return layout{}, err
	}
	l.entries = []entry{
		{name: layoutPath, size: int64(len(layoutContent)), inline: []byte(layoutContent)},
		{name: indexPath, size: int64(len(l.index)), inline: l.index},
		{name: blobPath(digestOf(artifact)), digest: digestOf(artifact), size: int64(len(artifact)), inline: artifact},
		{name: blobPath(digestOf(raw)), digest: digestOf(raw), size: int64(len(raw)), inline: raw},
	}
	first := len(l.entries)
	for d, size := range m.holds() {
		l.entries = append(l.entries, entry{name: blobPath(d), digest: d, size: size})
	}
	slices.SortFunc(l.entries[first:], func(a, b entry) int { return cmp.Compare(a.digest, b.digest) })
	return l, nil
}

// WriteDelta writes a delta with this document to w, as Write does a bundle.
func WriteDelta(w io.Writer, m *DeltaManifest, open func(digest string) (io.ReadCloser, error)) (size int64, err error) {
	m.Format = deltaFormat
	slices.SortFunc(m.Blobs, func(a, b DeltaBlob) int { return cmp.Compare(a.Digest, b.Digest) })
	raw, err := json.Marshal(m)
	if err != nil {
		return 0, err
	}
	if len(raw) > MaxManifestSize {
		return 0, fmt.Errorf("document of %d bytes is too large", len(raw))
	}
	l, err := deltaLayout(m, raw)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, copySize)
	for _, e := range l.entries {
		n, err := writeEntry(w, e, open, buf)
		if err != nil {
			return 0, err
		}
		size += n
	}
	_, err = w.Write(make([]byte, 2*blockSize))
	return size + 2*blockSize, err
}

// Delta is an open delta.
type Delta struct {
	b        *Bundle // where the blobs are
	manifest DeltaManifest
}

// OpenDelta opens a delta and checks everything but the content of its blobs,
// as Open does with a bundle. The caller closes it.
func OpenDelta(path string) (*Delta, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &fault.Error{Op: "open delta", Code: fault.Bundle, Hint: "give the path of a delta; `kocli bundle delta` makes one", Err: err}
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(DamagedDelta("open delta "+path, err), f.Close())
	}
	d, err := NewDeltaReader(f, st.Size())
	if err != nil {
		var e *fault.Error
		if errors.As(err, &e) {
			e.Op = "open delta " + path
		}
		return nil, errors.Join(err, f.Close())
	}
	d.b.close = f.Close
	return d, nil
}

// DamagedDelta is an error, an ErrDamaged, about a delta that cannot be relied on.
func DamagedDelta(op string, err error) error {
	return &fault.Error{
		Op: op, Code: fault.Bundle, Err: &damagedDelta{err},
		Hint: "copy the delta again and compare its sha256sum with the original, or make it again with `kocli bundle delta`",
	}
}

type damagedDelta struct{ err error }

func (e *damagedDelta) Error() string { return "delta is damaged: " + e.err.Error() }

// Unwrap makes it an ErrDamaged.
func (e *damagedDelta) Unwrap() []error { return []error{ErrDamaged, e.err} }

// NewDeltaReader opens a delta of size bytes that is read through r, as OpenDelta
// does.
func NewDeltaReader(r io.ReaderAt, size int64) (*Delta, error) {
	d := &Delta{b: newBundle(r, size)}
	if err := d.read(); err != nil {
		return nil, DamagedDelta("open delta", err)
	}
	return d, nil
}

func (d *Delta) read() error {
	s := scanner{r: d.b.r, size: d.b.size}
	raw, index, err := s.readManifest(typeDelta)
	if err != nil {
		return err
	}
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return fmt.Errorf("document of the delta: %w", err)
	}
	if head.Format > deltaFormat {
		return fmt.Errorf("format %d is newer than this kocli, which reads up to %d", head.Format, deltaFormat)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d.manifest); err != nil {
		return fmt.Errorf("document of the delta: %w", err)
	}
	if again, err := json.Marshal(d.manifest); err != nil || !bytes.Equal(again, raw) {
		return errors.New("document of the delta is not written as kocli writes it")
	}
	want, err := deltaLayout(&d.manifest, raw)
	if err != nil {
		return fmt.Errorf("document of the delta: %w", err)
	}
	if !bytes.Equal(index, want.index) {
		return errors.New("index.json is not the one that belongs to the delta")
	}
	seen := map[string]bool{}
	if err := d.b.scan(want, seen); err != nil {
		return err
	}
	return d.b.checkEnd(d.b.end, seen)
}

// Check opens a bundle or a delta of size bytes and checks all but the content
// of its blobs.
func Check(r io.ReaderAt, size int64) error {
	b, err := NewReader(r, size)
	if err == nil {
		return b.Close()
	}
	if !errors.Is(err, ErrDelta) {
		return err
	}
	d, err := NewDeltaReader(r, size)
	if err != nil {
		return err
	}
	return d.Close()
}

// Close closes the file.
func (d *Delta) Close() error { return d.b.close() }

// Size is the size of the file in bytes.
func (d *Delta) Size() int64 { return d.b.size }

// Manifest returns the document. The caller must not change it.
func (d *Delta) Manifest() DeltaManifest { return d.manifest }

// OpenBlob opens what is stored, by its digest, as Bundle.OpenBlob does.
func (d *Delta) OpenBlob(digest string) (io.ReadCloser, error) { return d.b.OpenBlob(digest) }
