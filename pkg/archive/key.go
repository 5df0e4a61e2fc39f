package archive

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kocli/kocli/pkg/fault"
)

// Types of PEM blocks, as OpenSSL writes them.
const (
	pemPrivate   = "PRIVATE KEY"
	pemPublic    = "PUBLIC KEY"
	pemEncrypted = "ENCRYPTED PRIVATE KEY"

	maxKeyFile = 16 << 10 // bytes
)

// PublicKey verifies signatures.
type PublicKey struct {
	id  string
	key ed25519.PublicKey
}

// ID is the sha256 digest of the key in DER:
//
//	openssl pkey -pubin -in NAME.pub -outform DER | sha256sum
func (k PublicKey) ID() string { return k.id }

// PrivateKey signs bundles.
type PrivateKey struct {
	public PublicKey
	key    ed25519.PrivateKey
}

// Public returns the key that verifies what this one signs.
func (k PrivateKey) Public() PublicKey { return k.public }

// Paths of the two files of a key.
func privateKeyPath(name string) string { return name + ".key" }
func publicKeyPath(name string) string  { return name + ".pub" }

// GenerateKey makes an ed25519 key and writes NAME.key (PKCS#8 in PEM, 0600)
// and NAME.pub (PKIX in PEM). A file that exists is never overwritten.
func GenerateKey(name string) (private, public string, k PublicKey, err error) {
	private, public = privateKeyPath(name), publicKeyPath(name)
	fail := func(err error) (string, string, PublicKey, error) {
		e := &fault.Error{Op: "make key", Code: fault.Usage, Err: err}
		if errors.Is(err, os.ErrExist) {
			e.Hint = "keys are never overwritten: choose another name with --out; to get the public file of a private key: openssl pkey -in NAME.key -pubout -out NAME.pub"
		}
		return "", "", PublicKey{}, e
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fail(err)
	}
	privDER, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return fail(err)
	}
	pubDER, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return fail(err)
	}
	if err := createFile(private, 0o600, pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: privDER})); err != nil {
		return fail(err)
	}
	if err := createFile(public, 0o644, pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: pubDER})); err != nil {
		return fail(errors.Join(err, os.Remove(private))) // made a moment ago, and used by nobody
	}
	return private, public, PublicKey{id: digestOf(pubDER), key: pub}, nil
}

// createFile writes a file that must not exist yet.
func createFile(path string, mode os.FileMode, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// ReadPublicKey reads an ed25519 public key: PKIX in PEM.
func ReadPublicKey(path string) (PublicKey, error) {
	k, err := readPublicKey(path)
	if err != nil {
		return PublicKey{}, &fault.Error{Op: "read key " + path, Code: fault.Usage, Hint: hintKey, Err: err}
	}
	return k, nil
}

const hintKey = "make a key with: kocli bundle keygen; NAME.key signs, NAME.pub verifies"

func readPublicKey(path string) (PublicKey, error) {
	block, _, err := readPEM(path)
	if err != nil {
		return PublicKey{}, err
	}
	switch {
	case strings.HasSuffix(block.Type, pemPrivate):
		return PublicKey{}, fmt.Errorf("it is a private key, which signs: verify with its public one, %s", publicKeyPath(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))))
	case block.Type != pemPublic:
		return PublicKey{}, fmt.Errorf("it holds %q, not %q", block.Type, pemPublic)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return PublicKey{}, err
	}
	pub, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return PublicKey{}, fmt.Errorf("it is a key of another kind (%T), not ed25519", parsed)
	}
	return newPublicKey(pub)
}

func newPublicKey(pub ed25519.PublicKey) (PublicKey, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return PublicKey{}, err
	}
	return PublicKey{id: digestOf(der), key: pub}, nil
}

// ReadPrivateKey reads an ed25519 private key: PKCS#8 in PEM, without a
// password. As ssh does, it refuses a file that others may read.
func ReadPrivateKey(path string) (PrivateKey, error) {
	k, err := readPrivateKey(path)
	if err != nil {
		var e *fault.Error
		if errors.As(err, &e) {
			e.Op, e.Code = "read key "+path, fault.Usage
			return PrivateKey{}, err
		}
		return PrivateKey{}, &fault.Error{Op: "read key " + path, Code: fault.Usage, Hint: hintKey, Err: err}
	}
	return k, nil
}

func readPrivateKey(path string) (PrivateKey, error) {
	block, mode, err := readPEM(path)
	if err != nil {
		return PrivateKey{}, err
	}
	switch {
	case block.Type == pemEncrypted || block.Headers["DEK-Info"] != "":
		return PrivateKey{}, &fault.Error{
			Hint: "take the password off into a file that only you can read: (umask 077; openssl pkey -in " + path + " -out NAME.key)",
			Err:  errors.New("it is encrypted with a password, which kocli cannot ask for"),
		}
	case block.Type == pemPublic:
		return PrivateKey{}, errors.New("it is a public key, which verifies: sign with the private one")
	case block.Type != pemPrivate && strings.HasSuffix(block.Type, pemPrivate):
		return PrivateKey{}, fmt.Errorf("it holds %q, a key of another kind or format: an ed25519 key in PKCS#8 is needed", block.Type)
	case block.Type != pemPrivate:
		return PrivateKey{}, fmt.Errorf("it holds %q, not %q", block.Type, pemPrivate)
	case mode&0o077 != 0:
		return PrivateKey{}, &fault.Error{
			Hint: "if nobody else has read it: chmod 600 " + path + "; otherwise make a new key with: kocli bundle keygen",
			Err:  fmt.Errorf("others may read this private key (mode %04o)", mode),
		}
	}
	return privateKey(block.Bytes)
}

// ParsePrivateKey reads what a private key's file holds.
func ParsePrivateKey(data []byte) (PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemPrivate {
		return PrivateKey{}, errors.New("no private key in PEM is in it")
	}
	return privateKey(block.Bytes)
}

func privateKey(der []byte) (PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return PrivateKey{}, err
	}
	priv, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return PrivateKey{}, fmt.Errorf("it is a key of another kind (%T), not ed25519", parsed)
	}
	pub, ok := priv.Public().(ed25519.PublicKey)
	if !ok {
		return PrivateKey{}, errors.New("its public key is not ed25519")
	}
	k, err := newPublicKey(pub)
	return PrivateKey{public: k, key: priv}, err
}

// readPEM reads a file with one PEM block.
func readPEM(path string) (*pem.Block, os.FileMode, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	st, serr := f.Stat()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err := errors.Join(serr, err, f.Close()); err != nil {
		return nil, 0, err
	}
	if len(data) > maxKeyFile {
		return nil, 0, errors.New("the file is too large for a key")
	}
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, 0, errors.New("no key in PEM is in it")
	}
	if strings.TrimSpace(string(rest)) != "" {
		return nil, 0, errors.New("there is more in it than one key")
	}
	return block, st.Mode().Perm(), nil
}
