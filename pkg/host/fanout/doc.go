// Package fanout brings blobs to many hosts at once. Each host runs a relay
// (`kocli node relay`, a child of the SSH session, gone with it) that keeps what
// arrives in a content store and hands it on to the next host while it comes in.
// The operator's machine feeds the first relay and, through the SSH connection,
// every relay that no other host can reach.
//
// All that flows is decided by the receiving side: it says which bytes of each
// blob it has, and is sent the others. A new link, a bridge over a host that
// died, and a run that goes on after a kill are therefore the same thing.
//
// Bytes between relays are sealed with AES-256-GCM under a key of this run
// alone, which reached the hosts through SSH. What a relay hands on is not
// trusted: every receiver holds each blob against its digest.
package fanout
