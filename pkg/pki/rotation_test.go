package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/pki"
)

func parsed(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	c, err := pki.First([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rotation(t *testing.T) pki.Rotation {
	t.Helper()
	cert, _ := kubetest.Issue("ca", time.Now().AddDate(0, 9, 0))
	r, err := pki.Successor(parsed(t, cert), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSuccessor_hasTheFormOfTheOldOne(t *testing.T) {
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for name, key := range map[string]any{"ECDSA-P256": curve, "RSA-3072": long} {
		t.Run(name, func(t *testing.T) {
			form := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, DNSNames: []string{"kubernetes"}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(4, 0, 0), IsCA: true, BasicConstraintsValid: true}
			public := any(&long.PublicKey)
			if name == "ECDSA-P256" {
				public = &curve.PublicKey
			}
			der, err := x509.CreateCertificate(rand.Reader, form, form, public, key)
			if err != nil {
				t.Fatal(err)
			}
			old, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			r, err := pki.Successor(old, now)
			if err != nil {
				t.Fatal(err)
			}
			if r.New.Subject.String() != "CN=kubernetes" || !slices.Equal(r.New.DNSNames, old.DNSNames) || !r.New.IsCA || r.New.KeyUsage&x509.KeyUsageCertSign == 0 || r.New.PublicKeyAlgorithm != old.PublicKeyAlgorithm {
				t.Errorf("%+v", pki.FactsOf(r.New))
			}
			if left := r.New.NotAfter.Sub(now.AddDate(5, 0, 0)); left < -48*time.Hour || left > 48*time.Hour || !r.New.NotBefore.Before(now) {
				t.Errorf("from %s until %s", r.New.NotBefore, r.New.NotAfter)
			}
			if len(r.New.SubjectKeyId) == 0 || slices.Equal(r.New.SubjectKeyId, old.SubjectKeyId) || r.New.Equal(old) {
				t.Error("the two cannot be told apart")
			}
			if !pki.Pair(pki.Encode(r.New), r.Key) || pki.Pair(pki.Encode(old), r.Key) {
				t.Error("the key is not that of the new one")
			}
		})
	}
}

func TestSuccessor_anUnknownKindOfKey(t *testing.T) {
	if _, err := pki.Successor(&x509.Certificate{PublicKey: "x"}, time.Now()); err == nil || !strings.Contains(err.Error(), "kind that is not known") {
		t.Errorf("got %v", err)
	}
}

func TestRotation_stages(t *testing.T) {
	r, other := rotation(t), rotation(t)
	for s := pki.Before; s <= pki.After; s++ {
		if got, err := r.Stage(r.Bundle(s)); err != nil || got != s {
			t.Errorf("%s: %s, %v", s, got, err)
		}
	}
	for name, text := range map[string][]byte{
		"another CA": other.Bundle(pki.Before), "a third CA beside them": append(r.Bundle(pki.Trusted), other.Bundle(pki.Before)...),
	} {
		if _, err := r.Stage(text); !errors.Is(err, pki.ErrForeign) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.Stage(nil); err == nil {
		t.Error("an empty file has no stage")
	}
}

// Whoever trusts both accepts what either of them signed, though they share a name.
func TestRotation_bothAreTrustedAndToldApart(t *testing.T) {
	oldCert, oldKey := kubetest.Issue("ca", time.Now().AddDate(0, 9, 0))
	r, err := pki.Successor(parsed(t, oldCert), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	first, _ := kubetest.Sign(oldCert, oldKey, "apiserver", time.Now().AddDate(0, 9, 0))
	second, _ := kubetest.Sign(string(pki.Encode(r.New)), string(r.Key), "apiserver", time.Now().AddDate(0, 9, 0))
	if r.Signed(parsed(t, first)) || !r.Signed(parsed(t, second)) {
		t.Error("the signer is not recognised")
	}
	for s, want := range map[pki.Stage][2]bool{pki.Before: {true, false}, pki.Trusted: {true, true}, pki.Signing: {true, true}, pki.After: {false, true}} {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(r.Bundle(s))
		for i, text := range []string{first, second} {
			_, err := parsed(t, text).Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			if (err == nil) != want[i] {
				t.Errorf("%s, certificate %d: %v", s, i, err)
			}
		}
	}
}

func TestAuthorities(t *testing.T) {
	var names []string
	for _, a := range pki.Authorities() {
		names = append(names, a.Name)
	}
	if strings.Join(names, " ") != "ca etcd-ca front-proxy-ca" {
		t.Errorf("%v", names)
	}
}
