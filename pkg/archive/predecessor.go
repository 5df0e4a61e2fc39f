package archive

import (
	"maps"
	"slices"
)

// Has reports whether a blob is in the bundle.
func (b *Bundle) Has(digest string) bool {
	_, ok := b.blobs[digest]
	return ok
}

// ManifestDigest is the digest of the blob that holds the bundle manifest.
func (b *Bundle) ManifestDigest() string { return b.order[1] }

// DecodeManifest reads a bundle manifest strictly.
func DecodeManifest(raw []byte) (Manifest, error) { return decodeManifest(raw) }

// Contents lists the blobs that the items of a bundle consist of, each once:
// those that Write asks for.
func (m *Manifest) Contents() []Descriptor {
	seen := map[string]bool{}
	var out []Descriptor
	for i := range m.Items {
		for _, d := range m.Items[i].descriptors() {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				out = append(out, d)
			}
		}
	}
	return out
}

// Holds reports whether the item consists of a blob, among others.
func (it Item) Holds(digest string) bool {
	return slices.ContainsFunc(it.descriptors(), func(d Descriptor) bool { return d.Digest == digest })
}

// Digests are those of the blobs that the item consists of.
func (it Item) Digests() []string {
	var out []string
	for _, d := range it.descriptors() {
		out = append(out, d.Digest)
	}
	return out
}

// Predecessors finds, for the blobs of to that from has not, the blob of from
// that is probably most alike: the same file of another version, or the layer
// in the same place of the same image.
func Predecessors(from, to *Bundle) map[string]string {
	older := map[string]*Item{} // the last of each line
	for i := range from.manifest.Items {
		it := &from.manifest.Items[i]
		older[it.key()] = it
	}
	out := map[string]string{}
	for _, p := range MatchItems(&from.manifest, &to.manifest) {
		if p.To == nil {
			continue
		}
		if p.From == nil {
			p.From = older[p.To.key()]
		}
		if p.From != nil {
			maps.Copy(out, alike(p.From, p.To))
		}
	}
	for d := range out {
		if from.Has(d) {
			delete(out, d)
		}
	}
	return out
}

// alike pairs the blobs of two items: by their place where both have the same
// number, otherwise each with the one of the nearest size.
func alike(from, to *Item) map[string]string {
	f, t := from.descriptors(), to.descriptors()
	out := map[string]string{}
	for i, d := range t {
		switch {
		case len(f) == len(t) || i < 2 && len(f) > i: // manifest and configuration always have their place
			out[d.Digest] = f[i].Digest
		case len(f) > 2:
			best := f[2]
			for _, c := range f[2:] {
				if distance(c.Size, d.Size) < distance(best.Size, d.Size) {
					best = c
				}
			}
			out[d.Digest] = best.Digest
		}
	}
	return out
}

func distance(a, b int64) int64 { return max(a-b, b-a) }
