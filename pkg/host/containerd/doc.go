// Package containerd brings images into the containerd of a host. The operator's
// side (Send) says which images there should be; kocli on the host (Import, a
// child of the SSH session) answers with the blobs that are lacking there, and
// is sent those and no others.
//
// What arrives goes straight into containerd's content store, which holds every
// blob against its digest. An image is unpacked as soon as its last blob is
// there, while those of others still come in, several at once. Blobs that
// kocli's own content store holds already are taken from it at the same time.
// Nothing but the pieces under way is kept in memory.
//
// A lease keeps what has arrived from containerd's garbage collector. It is
// given back when all images are there, and ends by itself a day after a run
// that did not come so far: the next run goes on from there.
//
// The package is the only importer of containerd's client, which speaks to
// containerd 1.7 and 2.x.
package containerd
