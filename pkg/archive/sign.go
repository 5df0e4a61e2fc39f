package archive

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/kocli/kocli/pkg/fault"
)

// A signed bundle has one more entry at the end of the tar: a list of
// signatures, sorted by key, in JSON without white space. It is outside of the
// bundle's digest. Each signature is ed25519 over two lines, a context and the
// digest, both with a line feed:
//
//	kocli bundle v1
//	sha256:...
//
// OpenSSL verifies it too:
//
//	tar -xOf BUNDLE index.json | sha256sum   # the digest
//	tar -xOf BUNDLE signatures.json          # the signatures, in base64
//	printf 'kocli bundle v1\nsha256:%s\n' DIGEST > message
//	openssl pkeyutl -verify -pubin -inkey NAME.pub -rawin -in message -sigfile signature
const (
	signaturesPath    = "signatures.json"
	signatureContext  = "kocli bundle v1\n"
	maxSignatures     = 64
	maxSignaturesSize = 32 << 10 // bytes of the entry's content
)

// Signature is one signature of a bundle.
type Signature struct {
	KeyID string `json:"keyID"`     // sha256 digest of the public key in DER
	Value []byte `json:"signature"` // ed25519, in base64
}

// signedMessage is what is signed of a bundle with this digest.
func signedMessage(digest string) []byte { return []byte(signatureContext + digest + "\n") }

// Signatures lists the signatures of the bundle. That they are there says
// nothing: see VerifySignature.
func (b *Bundle) Signatures() []Signature { return slices.Clone(b.signatures) }

// VerifySignature checks that the bundle was signed by one of the keys. Errors
// carry fault.Bundle and say what is the matter: no signature, only those of
// other keys, or one that is not over this bundle.
func (b *Bundle) VerifySignature(keys ...PublicKey) error {
	var wanted, bad []string
	for _, k := range keys {
		wanted = append(wanted, k.id)
		i := slices.IndexFunc(b.signatures, func(s Signature) bool { return s.KeyID == k.id })
		if i < 0 {
			continue
		}
		if ed25519.Verify(k.key, signedMessage(b.Digest()), b.signatures[i].Value) {
			return nil
		}
		bad = append(bad, k.id)
	}
	e := &fault.Error{Op: "verify signature", Code: fault.Bundle}
	switch {
	case len(bad) > 0:
		e.Err = fmt.Errorf("the signature of key %s is damaged, or was made for another bundle", strings.Join(bad, ", "))
		e.Hint = "do not use this bundle: get it again from whoever signed it"
	case len(b.signatures) == 0:
		e.Err = errors.New("the bundle is not signed")
		e.Hint = "get the signed bundle, or sign it where it is trusted: kocli bundle sign BUNDLE --key NAME.key"
	default:
		var by []string
		for _, s := range b.signatures {
			by = append(by, s.KeyID)
		}
		e.Err = fmt.Errorf("the bundle is signed by %s, not by %s", strings.Join(by, ", "), strings.Join(wanted, ", "))
		e.Hint = "give the public key of the signer with --key, if you trust it"
	}
	return e
}

// OpenSigned opens a bundle as Open does. Where there are keys, one of them has
// to have signed it.
func OpenSigned(path string, keys []PublicKey) (*Bundle, error) {
	b, err := Open(path)
	if err != nil || len(keys) == 0 {
		return b, err
	}
	if err := b.VerifySignature(keys...); err != nil {
		return nil, errors.Join(&fault.Error{Op: "open bundle " + path, Err: err}, b.Close())
	}
	return b, nil
}

// encodeSignatures returns the tar from the end of the blobs on: the entry with
// the signatures, where there are any, and the end of the tar.
func encodeSignatures(list []Signature) ([]byte, error) {
	if len(list) == 0 {
		return make([]byte, 2*blockSize), nil
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	if _, err := decodeSignatures(raw); err != nil {
		return nil, err
	}
	head, err := header(signaturesPath, int64(len(raw)))
	if err != nil {
		return nil, err
	}
	return slices.Concat(head, raw, make([]byte, padding(int64(len(raw)))+2*blockSize)), nil
}

// decodeSignatures reads the content of the entry. There is one way to write a
// list, and nothing else is read.
func decodeSignatures(raw []byte) ([]Signature, error) {
	if len(raw) > maxSignaturesSize {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", signaturesPath, len(raw), maxSignaturesSize)
	}
	var list []Signature
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&list); err != nil {
		return nil, fmt.Errorf("%s: %w", signaturesPath, err)
	}
	if len(list) == 0 || len(list) > maxSignatures {
		return nil, fmt.Errorf("%s: %d signatures, 1 to %d expected", signaturesPath, len(list), maxSignatures)
	}
	for i, s := range list {
		if !ValidDigest(s.KeyID) || len(s.Value) != ed25519.SignatureSize {
			return nil, fmt.Errorf("%s: signature %d is not valid", signaturesPath, i)
		}
		if i > 0 && list[i-1].KeyID >= s.KeyID {
			return nil, fmt.Errorf("%s: key %s is listed twice or out of order", signaturesPath, s.KeyID)
		}
	}
	if again, err := json.Marshal(list); err != nil || !bytes.Equal(again, raw) {
		return nil, fmt.Errorf("%s is not written as kocli writes it", signaturesPath)
	}
	return list, nil
}

// readEnd reads what follows the blobs: signatures, where there are any, and
// the end of the tar.
func (b *Bundle) readEnd(seen map[string]bool) error {
	s := scanner{r: b.r, size: b.size, off: b.end}
	head, err := s.bytes(b.end, blockSize)
	if err != nil {
		return fmt.Errorf("end of the tar: %w", err)
	}
	hdr, err := tar.NewReader(bytes.NewReader(head)).Next()
	if err != nil || hdr.Name != signaturesPath {
		return b.checkEnd(b.end, seen)
	}
	if hdr.Size > maxSignaturesSize {
		return fmt.Errorf("%s has %d bytes, more than %d", signaturesPath, hdr.Size, maxSignaturesSize)
	}
	_, raw, err := s.small(maxSignaturesSize)
	if err != nil {
		return err
	}
	list, err := decodeSignatures(raw)
	if err != nil {
		return err
	}
	want, err := encodeSignatures(list)
	if err != nil {
		return err
	}
	got, err := s.bytes(b.end, s.off-b.end)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want[:len(got)]) {
		return fmt.Errorf("entry %q has another tar header or padding than kocli writes", signaturesPath)
	}
	b.signatures = list
	seen[signaturesPath] = true
	return b.checkEnd(s.off, seen)
}

// Sign signs the bundle at path, in place: its end is written anew, the rest
// stays. A signature of the same key is replaced, those of others are kept. A
// process that is killed leaves a file that opens as it was before, or is
// refused; signing again repairs it. What the blobs hold is not read: that is
// for Verify, before.
func Sign(path string, key PrivateKey) (digest string, list []Signature, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", nil, &fault.Error{Op: "sign bundle", Code: fault.Bundle, Hint: "give the path of a bundle that may be written", Err: err}
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return "", nil, &fault.Error{Op: "sign bundle", Code: fault.Locked, Hint: "wait until it is done", Err: fmt.Errorf("%s is being signed by another kocli: %w", path, err)}
	}
	st, err := f.Stat()
	if err != nil {
		return "", nil, &fault.Error{Op: "sign bundle", Code: fault.Bundle, Err: err}
	}
	return sign(f, st.Size(), key)
}

// tailFile is a file whose end is written anew.
type tailFile interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Sync() error
}

func sign(f tailFile, size int64, key PrivateKey) (string, []Signature, error) {
	b := newBundle(f, size)
	seen, err := b.readBody()
	if err == nil {
		if err = b.readEnd(seen); err != nil && size-b.end <= maxTail {
			b.signatures, err = b.salvage(), nil
		}
	}
	if err != nil {
		return "", nil, &fault.Error{Op: "sign bundle", Code: fault.Bundle, Hint: hintDamaged, Err: fmt.Errorf("%w: %w", ErrDamaged, err)}
	}
	list := addSignature(b.signatures, Signature{KeyID: key.public.id, Value: ed25519.Sign(key.key, signedMessage(b.Digest()))})
	if err := writeEnd(f, b.end, list); err != nil {
		return "", nil, fmt.Errorf("sign bundle: %w", err)
	}
	return b.Digest(), list, nil
}

// maxTail is how much can follow the blobs of a bundle.
const maxTail = maxSignaturesSize + 4*blockSize

// addSignature adds s to a sorted list, in place of one of the same key.
func addSignature(list []Signature, s Signature) []Signature {
	list = slices.DeleteFunc(slices.Clone(list), func(o Signature) bool { return o.KeyID == s.KeyID })
	list = append(list, s)
	slices.SortFunc(list, func(a, b Signature) int { return cmp.Compare(a.KeyID, b.KeyID) })
	return list
}

// salvage returns the signatures of an entry whose header was not written any
// more, and nothing where they are damaged.
func (b *Bundle) salvage() []Signature {
	s := scanner{r: b.r, size: b.size}
	tail, err := s.bytes(b.end, b.size-b.end)
	if err != nil || len(tail) < blockSize {
		return nil
	}
	list, err := decodeSignatures(bytes.TrimRight(tail[blockSize:], "\x00"))
	if err != nil {
		return nil
	}
	return list
}

// AppendSignatures adds signatures to a bundle of size bytes that has none, as
// Write wrote it, and returns its new size.
func AppendSignatures(f *os.File, size int64, list []Signature) (int64, error) {
	if err := writeEnd(f, size-2*blockSize, list); err != nil {
		return 0, err
	}
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// writeEnd writes the signatures and the end of the tar at byte end. The header
// of the entry comes last, when all that it announces is on the disk.
func writeEnd(f tailFile, end int64, list []Signature) error {
	tail, err := encodeSignatures(list)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(tail[blockSize:], end+blockSize); err != nil {
		return err
	}
	if err := f.Truncate(end + int64(len(tail))); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := f.WriteAt(tail[:blockSize], end); err != nil {
		return err
	}
	return f.Sync()
}
