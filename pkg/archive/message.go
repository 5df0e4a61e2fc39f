package archive

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
)

// SignMessage signs the digest ("sha256:...") of something that is no bundle. The
// context is a line that says what it is, so that a signature of one kind is none
// of another.
func (k PrivateKey) SignMessage(context, digest string) Signature {
	return Signature{KeyID: k.public.id, Value: ed25519.Sign(k.key, message(context, digest))}
}

// VerifyMessage reports whether this key made the signature.
func (k PublicKey) VerifyMessage(context, digest string, s Signature) bool {
	return s.KeyID == k.id && len(k.key) == ed25519.PublicKeySize && ed25519.Verify(k.key, message(context, digest), s.Value)
}

func message(context, digest string) []byte { return []byte(context + "\n" + digest + "\n") }

// PEM is the key as its file has it.
func (k PublicKey) PEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der}), nil
}

// ParsePublicKey reads what PEM returns.
func ParsePublicKey(data []byte) (PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemPublic {
		return PublicKey{}, errors.New("no public key in PEM is in it")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return PublicKey{}, err
	}
	pub, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return PublicKey{}, errors.New("it is not an ed25519 key")
	}
	return newPublicKey(pub)
}
