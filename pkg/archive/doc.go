// Package archive is the offline bundle: one tar that is an OCI image layout.
//
// The tar is canonical. Its first entries are oci-layout, index.json, the
// bundle's artifact manifest and the bundle manifest (a JSON document that
// lists every item); after them come the small JSON blobs and then the large
// ones, each sorted by digest. Everything but the content of the blobs follows
// from the bundle manifest, so Open derives the whole expected tar from it and
// refuses a file that differs in a single header byte. What Open does not read
// (the blobs) is covered by their digests: see Bundle.Verify.
//
// A signed bundle ends with one more entry, signatures.json, which nothing else
// covers: see Sign.
//
// A delta is such a tar too, and holds what one bundle has and another has not:
// see pkg/archive/delta. Open refuses it with the command that applies it.
//
// Images are in it exactly as upstream published them: the manifest of one
// platform, byte for byte, with its configuration and layers. Binaries and OS
// packages are OCI artifacts with media types of ours, one per component and
// architecture.
//
// The package must not import anything that knows hosts, plans or Kubernetes.
// It and its sub-packages are the only importers of the OCI libraries.
package archive
