package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// RotationDir holds on a control plane what a rotation of CAs needs: it is there from
// the first thing that is done until the last. It becomes RotationDone in one rename
// before it is removed.
const (
	RotationDir  = Dir + "/rotation"
	RotationDone = Dir + "/rotation.done"
)

// Rotation puts a new CA in the place of an old one.
type Rotation struct {
	CA       CA
	Old, New *x509.Certificate
	Key      []byte // of New, in PEM
}

// Main reports whether it is the CA of Kubernetes itself, which nodes and clients trust.
func (r Rotation) Main() bool { return r.CA.Name == "ca" }

// OldPath is the copy of the old CA.
func (r Rotation) OldPath() string { return RotationDir + "/" + r.CA.Name + ".old.crt" }

// OldKeyPath is the copy of its key: the controller manager signs with it until the
// new CA does.
func (r Rotation) OldKeyPath() string { return RotationDir + "/" + r.CA.Name + ".old.key" }

// NewPath is the new CA.
func (r Rotation) NewPath() string { return RotationDir + "/" + r.CA.Name + ".crt" }

// NewKeyPath is its key.
func (r Rotation) NewKeyPath() string { return RotationDir + "/" + r.CA.Name + ".key" }

// BundlePath has both of them.
func (r Rotation) BundlePath() string { return RotationDir + "/" + r.CA.Name + ".bundle.crt" }

// Stage is how far a file of CAs has come. It only grows.
type Stage int

// The stages of a file.
const (
	Before  Stage = iota // the old CA alone
	Trusted              // both are trusted, and the old one signs: it is the first
	Signing              // both are trusted, and the new one signs
	After                // the new CA alone
)

// String says what is in the file.
func (s Stage) String() string {
	return [...]string{"the old CA", "the old CA and the new one", "the new CA and the old one", "the new CA"}[s]
}

// ErrForeign says that CAs are trusted which are not part of the rotation.
var ErrForeign = errors.New("it holds other CAs than the old one and the new one")

// Stage returns the stage of a file, which may be a bundle. ErrForeign where it holds
// anything else.
func (r Rotation) Stage(text []byte) (Stage, error) {
	all, err := All(text)
	if err != nil {
		return Before, err
	}
	for s := Before; s <= After; s++ {
		if sameCerts(all, r.of(s)) {
			return s, nil
		}
	}
	return Before, ErrForeign
}

func sameCerts(a, b []*x509.Certificate) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}

func (r Rotation) of(s Stage) []*x509.Certificate {
	return [...][]*x509.Certificate{{r.Old}, {r.Old, r.New}, {r.New, r.Old}, {r.New}}[s]
}

// Bundle is the content of a file at a stage, in PEM.
func (r Rotation) Bundle(s Stage) []byte { return Encode(r.of(s)...) }

// Signed reports whether the new CA has signed a certificate.
func (r Rotation) Signed(c *x509.Certificate) bool { return c.CheckSignatureFrom(r.New) == nil }

// Rotating returns the rotation of the CA that signs a certificate of kubeadm's.
func (m Managed) Rotating(all []Rotation) (Rotation, bool) {
	for _, r := range all {
		if r.CA.Name == m.CA.Name {
			return r, true
		}
	}
	return Rotation{}, false
}

// Authorities lists the CAs of kubeadm's.
func Authorities() []CA {
	var out []CA
	seen := map[string]bool{}
	for _, m := range AllManaged() {
		if !seen[m.CA.Name] {
			seen[m.CA.Name] = true
			out = append(out, m.CA)
		}
	}
	return out
}

// Encode writes certificates as PEM.
func Encode(all ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range all {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return out.Bytes()
}

// Backdate allows for clocks that are behind, as kubeadm does: a CA is good from that
// long before it was made.
const Backdate = 5 * time.Minute

// Successor makes a CA in the form of another one: its name, its kind of key and its
// time, from now on. The two are told apart by the identifiers of their keys.
func Successor(old *x509.Certificate, now time.Time) (Rotation, error) {
	signer, err := newKey(old.PublicKey)
	if err != nil {
		return Rotation{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 63))
	if err != nil {
		return Rotation{}, err
	}
	form := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: old.Subject, DNSNames: old.DNSNames,
		NotBefore: now.Add(-Backdate).UTC(), NotAfter: now.Add(old.NotAfter.Sub(old.NotBefore)).UTC(),
		KeyUsage: x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, signer.Public(), signer)
	if err != nil {
		return Rotation{}, err
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		return Rotation{}, err
	}
	pkcs, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return Rotation{}, err
	}
	return Rotation{Old: old, New: made, Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs})}, nil
}

// newKey makes a key of the kind of another one.
func newKey(like any) (crypto.Signer, error) {
	switch k := like.(type) {
	case *rsa.PublicKey:
		return rsa.GenerateKey(rand.Reader, max(k.N.BitLen(), 2048))
	case *ecdsa.PublicKey:
		return ecdsa.GenerateKey(k.Curve, rand.Reader)
	case ed25519.PublicKey:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("the CA has a key of a kind that is not known: %T", like)
}

// Pair reports whether a CA and a key, both in PEM, belong together.
func Pair(cert, key []byte) bool {
	_, err := tls.X509KeyPair(cert, key)
	return err == nil
}
