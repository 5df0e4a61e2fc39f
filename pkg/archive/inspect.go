package archive

// Inspection is what `kocli bundle inspect` shows. Its JSON is stable.
type Inspection struct {
	Name          string          `json:"name"`
	Digest        string          `json:"digest"`
	Format        int             `json:"format"`
	BuiltBy       string          `json:"builtBy"`
	Size          int64           `json:"size"`        // bytes of the file
	Blobs         int             `json:"blobs"`       // number of different blobs
	SharedBytes   int64           `json:"sharedBytes"` // bytes saved because items share blobs
	Kubernetes    []Release       `json:"kubernetes"`
	Architectures []string        `json:"architectures"`
	CNI           []string        `json:"cni"`
	Distributions []Distribution  `json:"distributions"`
	SignedBy      []string        `json:"signedBy"` // key IDs; see VerifySignature
	Items         []InspectedItem `json:"items"`
}

// InspectedItem is one item of an Inspection.
type InspectedItem struct {
	Kind       Kind     `json:"kind"`
	Name       string   `json:"name"`
	Version    string   `json:"version,omitempty"`
	Arch       string   `json:"arch"`
	Role       Role     `json:"role"`
	Kubernetes []string `json:"kubernetes,omitempty"`
	CNI        string   `json:"cni,omitempty"`
	Addons     []string `json:"addons,omitempty"`
	Licence    string   `json:"licence,omitempty"`
	Source     string   `json:"source,omitempty"`
	Digest     string   `json:"digest"`
	Size       int64    `json:"size"`
	Stored     int64    `json:"storedBytes"`           // bytes in the bundle: less where a file is compressed
	Shared     int64    `json:"sharedBytes,omitempty"` // bytes that earlier items brought already
}

// Inspect describes the bundle. It reads nothing from the file.
func (b *Bundle) Inspect() Inspection {
	m := &b.manifest
	out := Inspection{
		Name: m.Name, Digest: b.Digest(), Format: m.Format, BuiltBy: m.BuiltBy, Size: b.size, Blobs: len(b.blobs),
		Kubernetes: m.Kubernetes, Architectures: m.Architectures, CNI: nonNil(m.CNI), Distributions: nonNil(m.Distributions),
		SignedBy: []string{}, Items: []InspectedItem{},
	}
	for _, s := range b.signatures {
		out.SignedBy = append(out.SignedBy, s.KeyID)
	}
	seen := map[string]bool{}
	for i := range m.Items {
		it := &m.Items[i]
		line := InspectedItem{
			Kind: it.Kind, Name: it.Name, Version: it.Version, Arch: it.Arch, Role: it.Role, Kubernetes: it.Kubernetes,
			CNI: it.CNI, Addons: it.Addons, Licence: it.Licence, Source: it.Source, Digest: it.Digest, Size: it.Size,
		}
		mine := map[string]bool{}
		for _, d := range it.descriptors() {
			if !mine[d.Digest] {
				line.Stored += d.Size
			}
			if seen[d.Digest] && !mine[d.Digest] {
				line.Shared += d.Size
			}
			seen[d.Digest], mine[d.Digest] = true, true
		}
		out.SharedBytes += line.Shared
		out.Items = append(out.Items, line)
	}
	return out
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
