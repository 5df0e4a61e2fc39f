// Package signed checks OpenPGP signatures of package archives. It does no I/O.
package signed

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
)

// ErrNotTrusted is in the chain of errors about signatures.
var ErrNotTrusted = errors.New("signature cannot be trusted")

// Check checks a detached signature of message by one of the keys in keyring.
// Signature and keys are binary or armored.
func Check(message, signature, keyring []byte) error {
	keys, err := readKeys(keyring)
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	if armored(signature) {
		block, err := armor.Decode(bytes.NewReader(signature))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotTrusted, err)
		}
		if signature, err = io.ReadAll(block.Body); err != nil {
			return fmt.Errorf("%w: %w", ErrNotTrusted, err)
		}
	}
	if _, err := openpgp.CheckDetachedSignature(keys, bytes.NewReader(message), bytes.NewReader(signature), nil); err != nil {
		return fmt.Errorf("%w: %w", ErrNotTrusted, err)
	}
	return nil
}

func readKeys(keyring []byte) (openpgp.EntityList, error) {
	if armored(keyring) {
		return openpgp.ReadArmoredKeyRing(bytes.NewReader(keyring))
	}
	return openpgp.ReadKeyRing(bytes.NewReader(keyring))
}

func armored(data []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN")) }
