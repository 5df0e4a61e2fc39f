package sshhost

import "golang.org/x/crypto/ssh"

// AcceptBy makes a KnownHosts.Accept of a function that is asked about a first
// contact in words: the kind of the key, and its SHA-256 fingerprint.
func AcceptBy(ask func(host, kind, fingerprint string) bool) func(host string, key ssh.PublicKey) bool {
	return func(host string, key ssh.PublicKey) bool {
		return ask(host, key.Type(), ssh.FingerprintSHA256(key))
	}
}
