package kubeadm

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
)

// tokenAlphabet has 32 letters, so that five bits of randomness give each
// with the same probability. Bootstrap tokens allow a to z and 0 to 9.
const tokenAlphabet = "abcdefghijklmnopqrstuvwxyz234567"

// NewToken returns a random bootstrap token, "abcdef.0123456789abcdef".
func NewToken() string {
	b := random(6 + 16)
	for i := range b {
		b[i] = tokenAlphabet[b[i]%32]
	}
	return string(b[:6]) + "." + string(b[6:])
}

// NewCertificateKey returns a random key for the certificates that kubeadm
// uploads: 32 bytes in hexadecimal.
func NewCertificateKey() string { return hex.EncodeToString(random(32)) }

// NewEncryptionKey returns a random key for EncryptionConfig: 32 bytes in base64.
func NewEncryptionKey() string { return base64.StdEncoding.EncodeToString(random(32)) }

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return b
}
