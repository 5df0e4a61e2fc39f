// Package registry makes what the built-in registry and its clients need:
// certificates, the file of its password, its configuration, and the logins that
// kubelets pull with. It is pure but for chance and the clock that it is given.
package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// How long certificates last that kocli signs, and how long before its end one is
// replaced.
const (
	caLife     = 10 * 365 * 24 * time.Hour
	serverLife = 2 * 365 * 24 * time.Hour
	renewAt    = 60 * 24 * time.Hour
)

// Pair is a certificate and its key, in PEM.
type Pair struct{ Cert, Key []byte }

// String hides the key.
func (p Pair) String() string { return "***" }

// GoString hides the key.
func (p Pair) GoString() string { return "***" }

// NewCA makes a CA for the registry of a cluster.
func NewCA(cluster string, now time.Time) (Pair, error) {
	return issue(nil, &x509.Certificate{
		Subject:   pkix.Name{CommonName: "kocli registry CA of " + cluster},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	})
}

// Sign makes a certificate of a server for names and addresses.
func (p Pair) Sign(names []string, now time.Time) (Pair, error) {
	t := &x509.Certificate{
		Subject:   pkix.Name{CommonName: names[0]},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(serverLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	return issue(&p, t)
}

// issue signs a template with a CA; without one, with its own key.
func issue(ca *Pair, t *x509.Certificate) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return Pair{}, err
	}
	parent, signer := t, any(key)
	if ca != nil {
		certs, err := cert.ParseCertsPEM(ca.Cert)
		if err != nil {
			return Pair{}, err
		}
		parent = certs[0]
		if signer, err = keyutil.ParsePrivateKeyPEM(ca.Key); err != nil {
			return Pair{}, err
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
	if err != nil {
		return Pair{}, err
	}
	raw, err := keyutil.MarshalPrivateKeyToPEM(key)
	return Pair{Cert: pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: der}), Key: raw}, err
}

// Serves returns nil when a pair can serve names for clients that trust ca, and will
// not end soon.
func (p Pair) Serves(ca []byte, names []string, now time.Time) error {
	chain, err := cert.ParseCertsPEM(p.Cert)
	if err != nil {
		return fmt.Errorf("the certificate cannot be read: %w", err)
	}
	if _, err := tls.X509KeyPair(p.Cert, p.Key); err != nil {
		return errors.New("the key cannot be read, or is not that of the certificate")
	}
	roots, err := CheckCA(ca)
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	for _, n := range names {
		if _, err := chain[0].Verify(x509.VerifyOptions{DNSName: n, Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			return err
		}
	}
	return nil
}

// Ending reports whether a pair of kocli's is to be replaced.
func (p Pair) Ending(now time.Time) bool {
	chain, err := cert.ParseCertsPEM(p.Cert)
	return err != nil || now.Add(renewAt).After(chain[0].NotAfter)
}

// CheckCA returns the CAs of a file. An error where one is none: a server's own
// certificate in its place is the usual mistake.
func CheckCA(pemData []byte) (*x509.CertPool, error) {
	certs, err := cert.ParseCertsPEM(pemData)
	if err != nil {
		return nil, fmt.Errorf("the CA cannot be read: %w", err)
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		if !c.IsCA {
			return nil, fmt.Errorf("%q is not a CA but the certificate of a server: give the one that signed it, %q", c.Subject.CommonName, c.Issuer.CommonName)
		}
		pool.AddCert(c)
	}
	return pool, nil
}

// NewPassword makes a password.
func NewPassword() string { return rand.Text() }

// Htpasswd is the file that the registry knows its user by. bcrypt has chance in it:
// an old file that still fits stays.
func Htpasswd(old []byte, user, password string) ([]byte, error) {
	if name, hash, ok := strings.Cut(strings.TrimSpace(string(old)), ":"); ok && name == user && bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil {
		return old, nil
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return nil, fmt.Errorf("the password of the registry: %w", err)
	}
	return fmt.Appendf(nil, "%s:%s\n", user, hash), nil
}

// Login is a user of a registry.
type Login struct{ Registry, Username, Password string }

// String hides the password.
func (l Login) String() string { return l.Username + "@" + l.Registry }

// GoString hides the password.
func (l Login) GoString() string { return l.String() }

// WrittenBy marks a file of logins that may be removed.
const WrittenBy = "kocli"

// DockerConfig is a config.json of Docker's with logins: what the kubelet reads beside
// its own configuration, for every pull on its node.
func DockerConfig(logins []Login) ([]byte, error) {
	type entry struct {
		Auth string `json:"auth"`
	}
	auths := map[string]entry{}
	for _, l := range logins {
		auths[l.Registry] = entry{base64.StdEncoding.EncodeToString([]byte(l.Username + ":" + l.Password))}
	}
	out, err := json.MarshalIndent(map[string]any{"auths": auths, "x-written-by": WrittenBy}, "", "  ")
	return append(out, '\n'), err
}
