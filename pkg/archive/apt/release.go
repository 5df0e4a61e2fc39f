package apt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp/clearsign"

	"github.com/kocli/kocli/pkg/archive/signed"
)

// Release is a suite of an archive: the digests of its indexes.
type Release struct {
	Suite    string
	Codename string
	Date     string
	Files    map[string]ReleaseFile // by path relative to the suite
}

// ReleaseFile is an index that a Release lists.
type ReleaseFile struct {
	SHA256 string // hex
	Size   int64
}

// ErrNotSigned is in the chain of errors about signatures.
var ErrNotSigned = signed.ErrNotTrusted

// ParseInRelease reads an InRelease file. keyring holds OpenPGP keys, binary
// or armored; the file must have a good signature by one of them. A nil
// keyring skips the signature: the caller must have said so.
func ParseInRelease(data, keyring []byte) (*Release, error) {
	block, rest := clearsign.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("InRelease: %w: it is not a signed message", ErrNotSigned)
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("InRelease: %w: something follows the signature", ErrNotSigned)
	}
	if keyring != nil {
		signature, err := io.ReadAll(block.ArmoredSignature.Body)
		if err != nil {
			return nil, fmt.Errorf("InRelease: %w: %w", ErrNotSigned, err)
		}
		if err := signed.Check(block.Bytes, signature, keyring); err != nil {
			return nil, fmt.Errorf("InRelease: %w", err)
		}
	}
	return parseRelease(block.Plaintext)
}

func parseRelease(text []byte) (*Release, error) {
	rel := &Release{Files: map[string]ReleaseFile{}}
	err := stanzaLines(bytes.NewReader(text), func(key, value string) error {
		switch key {
		case "Suite":
			rel.Suite = value
		case "Codename":
			rel.Codename = value
		case "Date":
			rel.Date = value
		case "SHA256":
			for line := range strings.Lines(value) {
				f := strings.Fields(line)
				if len(f) != 3 || len(f[0]) != 64 {
					return fmt.Errorf("line %q of SHA256 is not valid", line)
				}
				size, err := strconv.ParseInt(f[1], 10, 64)
				if err != nil {
					return fmt.Errorf("line %q of SHA256: %w", line, err)
				}
				rel.Files[f[2]] = ReleaseFile{SHA256: strings.ToLower(f[0]), Size: size}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("InRelease: %w", err)
	}
	if len(rel.Files) == 0 {
		return nil, errors.New("InRelease lists no files with SHA256")
	}
	return rel, nil
}
