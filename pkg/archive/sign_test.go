package archive_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/fault"
)

// newKey makes a key in the folder of the test.
func newKey(t testing.TB, name string) (archive.PrivateKey, string) {
	t.Helper()
	stem := filepath.Join(t.TempDir(), name)
	file, _, _, err := archive.GenerateKey(stem)
	if err != nil {
		t.Fatal(err)
	}
	k, err := archive.ReadPrivateKey(file)
	if err != nil {
		t.Fatal(err)
	}
	return k, stem
}

func signedSample(t testing.TB, keys ...archive.PrivateKey) (string, []byte) {
	t.Helper()
	path := archivetest.Write(t)
	for _, k := range keys {
		if _, _, err := archive.Sign(path, k); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, data
}

func TestSign_addsAnEntryAndNothingElse(t *testing.T) {
	alice, _ := newKey(t, "alice")
	bob, _ := newKey(t, "bob")
	eve, _ := newKey(t, "eve")
	plain := sample(t)
	digest := mustRead(t, plain).Digest()
	path, data := signedSample(t, alice, bob, alice)
	if !bytes.HasPrefix(data, plain[:len(plain)-1024]) {
		t.Fatal("signing changed what was there")
	}
	b := mustRead(t, data)
	if b.Digest() != digest || b.Size() != int64(len(data)) {
		t.Fatalf("digest %s, was %s; size %d of %d", b.Digest(), digest, b.Size(), len(data))
	}
	if err := b.Verify(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	got := b.Signatures()
	ids := []string{alice.Public().ID(), bob.Public().ID()}
	slices.Sort(ids)
	if len(got) != 2 || got[0].KeyID != ids[0] || got[1].KeyID != ids[1] {
		t.Fatalf("signatures %v, want %v", got, ids)
	}
	for _, k := range [][]archive.PublicKey{{alice.Public()}, {bob.Public()}, {eve.Public(), bob.Public()}} {
		if err := b.VerifySignature(k...); err != nil {
			t.Error(err)
		}
	}
	if _, again, err := archive.Sign(path, alice); err != nil || len(again) != 2 {
		t.Fatalf("signing again: %v", err)
	}
	if same, err := os.ReadFile(path); err != nil || !bytes.Equal(same, data) {
		t.Fatal("signing again changed the file")
	}
	if in := b.Inspect(); !slices.Equal(in.SignedBy, ids) {
		t.Fatalf("inspect says %v", in.SignedBy)
	}
}

func TestVerifySignature_saysWhatIsTheMatter(t *testing.T) {
	alice, _ := newKey(t, "alice")
	eve, _ := newKey(t, "eve")
	_, data := signedSample(t, alice)
	value := bytes.LastIndex(data, []byte(`"signature":"`)) + 20
	damaged := slices.Clone(data)
	if damaged[value]++; damaged[value] == '[' || damaged[value] == '{' || damaged[value] == ':' || damaged[value] == ',' || damaged[value] == '0'-1 {
		damaged[value] = 'A'
	}
	// The signature of another bundle: its bytes are right, its message is not.
	m, c := archivetest.Sample()
	m.Name = "other"
	var other bytes.Buffer
	if _, _, err := archive.Write(&other, m, c.Open); err != nil {
		t.Fatal(err)
	}
	moved := slices.Concat(other.Bytes()[:other.Len()-1024], data[len(sample(t))-1024:])

	for _, x := range []struct {
		name string
		data []byte
		keys []archive.PublicKey
		want []string
	}{
		{"unsigned", sample(t), []archive.PublicKey{alice.Public()}, []string{"not signed"}},
		{"signed by another", data, []archive.PublicKey{eve.Public()}, []string{"signed by " + alice.Public().ID(), "not by " + eve.Public().ID()}},
		{"no key given", data, nil, []string{"signed by " + alice.Public().ID()}},
		{"damaged", damaged, []archive.PublicKey{alice.Public()}, []string{alice.Public().ID() + " is damaged"}},
		{"of another bundle", moved, []archive.PublicKey{eve.Public(), alice.Public()}, []string{"made for another bundle"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			err := mustRead(t, x.data).VerifySignature(x.keys...)
			if fault.CodeOf(err) != fault.Bundle || fault.HintOf(err) == "" {
				t.Fatalf("got %v", err)
			}
			for _, w := range x.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v does not say %q", err, w)
				}
			}
		})
	}
}

func TestOpen_refusesForeignSignatureEntries(t *testing.T) {
	alice, _ := newKey(t, "alice")
	_, data := signedSample(t, alice)
	start := len(sample(t)) - 1024
	entry, end := data[start:len(data)-1024], make([]byte, 1024)
	for name, bad := range map[string][]byte{
		"two entries":          slices.Concat(data[:start], entry, entry, end),
		"in front":             slices.Concat(entry, data[:start], end),
		"in the middle":        slices.Concat(data[:cuts(t, data)[5]], entry, data[cuts(t, data)[5]:start], end),
		"cut in the header":    data[:start+100],
		"cut in the content":   data[:start+600],
		"no end":               data[:len(data)-1024],
		"half an end":          data[:len(data)-512],
		"more after the end":   slices.Concat(data, make([]byte, 512)),
		"another entry behind": slices.Concat(data[:len(data)-1024], data[cuts(t, data)[5]:cuts(t, data)[6]], end),
		"header of old tar":    slices.Concat(data[:start], bytes.Replace(entry, []byte("ustar\x0000"), []byte("ustar  \x00"), 1), end),
	} {
		if _, err := read(bad); !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGenerateKey_neverOverwrites(t *testing.T) {
	for _, file := range []string{"k.key", "k.pub"} {
		t.Run(file, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, file), []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, _, _, err := archive.GenerateKey(filepath.Join(dir, "k"))
			if !errors.Is(err, os.ErrExist) || fault.CodeOf(err) != fault.Usage || fault.HintOf(err) == "" {
				t.Fatalf("got %v", err)
			}
			names, err := os.ReadDir(dir)
			if err != nil || len(names) != 1 {
				t.Fatalf("%v left behind, %v", names, err)
			}
			if data, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(data) != "mine" {
				t.Fatal("overwritten")
			}
		})
	}
}

func TestReadKey_refuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode, data []byte) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	block := func(kind string, der []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	_, stem := newKey(t, "alice")
	private, err := os.ReadFile(stem + ".key")
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaPrivate, err1 := x509.MarshalPKCS8PrivateKey(rsaKey)
	rsaPublic, err2 := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	ecPublic, err3 := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	for _, x := range []struct {
		name    string
		private bool
		path    string
		want    string
	}{
		{"missing", true, filepath.Join(dir, "none"), "no such file"},
		{"missing", false, filepath.Join(dir, "none"), "no such file"},
		{"empty", true, write("empty", 0o600, nil), "no key in PEM"},
		{"a folder", false, dir, "is a directory"},
		{"huge", false, write("huge", 0o600, make([]byte, 1<<20)), "too large"},
		{"RSA private key", true, write("rsa", 0o600, block("PRIVATE KEY", rsaPrivate, err1)), "*rsa.PrivateKey"},
		{"RSA private key in PKCS#1", true, write("rsa1", 0o600, block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey), nil)), "RSA PRIVATE KEY"},
		{"key of OpenSSH", true, write("ssh", 0o600, block("OPENSSH PRIVATE KEY", []byte("x"), nil)), "OPENSSH PRIVATE KEY"},
		{"RSA public key", false, write("rsa.pub", 0o600, block("PUBLIC KEY", rsaPublic, err2)), "*rsa.PublicKey"},
		{"EC public key", false, write("ec.pub", 0o600, block("PUBLIC KEY", ecPublic, err3)), "*ecdsa.PublicKey"},
		{"encrypted PKCS#8", true, write("enc", 0o600, block("ENCRYPTED PRIVATE KEY", []byte("x"), nil)), "encrypted with a password"},
		{"encrypted the old way", true, write("enc1", 0o600, []byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n")), "encrypted with a password"},
		{"others may read it", true, write("open", 0o644, private), "mode 0644"},
		{"the group may read it", true, write("group", 0o640, private), "mode 0640"},
		{"private key to verify", false, stem + ".key", "alice.pub"},
		{"public key to sign", true, stem + ".pub", "is a public key"},
		{"two keys", true, write("two", 0o600, slices.Concat(private, private)), "more in it"},
		{"no DER", false, write("der", 0o600, block("PUBLIC KEY", []byte("x"), nil)), "asn1"},
	} {
		t.Run(x.name, func(t *testing.T) {
			var err error
			if x.private {
				_, err = archive.ReadPrivateKey(x.path)
			} else {
				_, err = archive.ReadPublicKey(x.path)
			}
			if fault.CodeOf(err) != fault.Usage || fault.HintOf(err) == "" || !strings.Contains(err.Error(), x.want) {
				t.Fatalf("got %v, want %q", err, x.want)
			}
		})
	}
}

// OpenSSL reads the keys and verifies a signature; kocli reads its keys.
func TestSign_opensslAgrees(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("openssl is not installed: scripts/lab/deps.sh build")
	}
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "openssl", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	alice, stem := newKey(t, "alice")
	if out := run("pkey", "-in", stem+".key", "-noout", "-text"); !strings.Contains(out, "ED25519 Private-Key") {
		t.Fatal(out)
	}
	run("pkey", "-pubin", "-in", stem+".pub", "-outform", "DER", "-out", "pub.der")
	der, err := os.ReadFile(filepath.Join(dir, "pub.der"))
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(der); alice.Public().ID() != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Fatal("the key's name is not the digest of its DER")
	}
	_, data := signedSample(t, alice)
	b := mustRead(t, data)
	write("message", []byte("kocli bundle v1\n"+b.Digest()+"\n"))
	write("signature", b.Signatures()[0].Value)
	run("pkeyutl", "-verify", "-pubin", "-inkey", stem+".pub", "-rawin", "-in", "message", "-sigfile", "signature")

	run("genpkey", "-algorithm", "ed25519", "-out", "other.key")
	run("pkey", "-in", "other.key", "-pubout", "-out", "other.pub")
	k, err := archive.ReadPrivateKey(filepath.Join(dir, "other.key"))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := archive.ReadPublicKey(filepath.Join(dir, "other.pub"))
	if err != nil || pub.ID() != k.Public().ID() {
		t.Fatalf("%v: %s and %s", err, pub.ID(), k.Public().ID())
	}
}
