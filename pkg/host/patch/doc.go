// Package patch makes blobs on a host: of what a delta stores, which was brought
// into the content store before, and of base blobs that the host holds. kocli on
// the host (Apply, a child of the SSH session) is told by the operator's side
// (Send) which ones. A base is taken from kocli's content store, from
// containerd's, or, as a file that was installed from it, from where that is.
//
// Nothing that is read is trusted: bases and patches are held against their
// digests, and a blob gets its name in the content store only when its own
// digest is right. A process that is killed leaves whole blobs and a file that
// the next one writes over; the patches go once their blobs are there.
//
// Memory stays below 200 MB, however large the blobs are.
package patch
