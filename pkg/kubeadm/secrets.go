package kubeadm

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
)

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
