//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// bucket is a server that speaks S3 over TLS on this machine: versitygw, in front of a
// folder, with a certificate of its own CA.
type bucket struct {
	dir     string // with its keys, certificate and data
	address string
	process *exec.Cmd
}

// newBucket starts a server with an empty bucket, "kocli".
func newBucket(t *testing.T) *bucket {
	t.Helper()
	b := &bucket{dir: filepath.Join(env(t, "KOCLI_E2E_WORK"), "s3")}
	if err := errors.Join(os.RemoveAll(b.dir), os.MkdirAll(b.data(), 0o700), os.MkdirAll(b.file("meta"), 0o700)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.address = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b.certify(t)
	for name, text := range map[string]string{"access": "kocli-e2e", "secret": rand.Text(), "wrong": rand.Text()} {
		if err := os.WriteFile(b.file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(b.kill)
	b.start(t)
	return b
}

func (b *bucket) file(name string) string { return filepath.Join(b.dir, name) }
func (b *bucket) data() string            { return b.file("root/kocli") }

// certify makes a certificate for the loopback, which is its own CA.
func (b *bucket) certify(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "s3 of the journeys"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err1 := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	pkcs, err2 := x509.MarshalPKCS8PrivateKey(key)
	if err := errors.Join(err1, err2,
		os.WriteFile(b.file("tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(b.file("tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs}), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// start starts the server and waits until it answers.
func (b *bucket) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(b.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }() // the process has its own
	read := func(name string) string {
		data, err := os.ReadFile(b.file(name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	c := exec.Command(env(t, "KOCLI_E2E_S3"), "--port", b.address, "--cert", b.file("tls.crt"), "--key", b.file("tls.key"), "--region", "us-east-1",
		"posix", "--sidecar", b.file("meta"), b.file("root"))
	c.Stdout, c.Stderr = log, log
	c.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+read("access"), "ROOT_SECRET_ACCESS_KEY="+read("secret"))
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	b.process = c
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		conn, err := tls.Dial("tcp", b.address, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // only whether it answers
		if err == nil {
			_ = conn.Close() // only looked at
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the server for S3 does not answer: %v\n%s", err, read("log"))
		}
	}
}

// kill ends the server as a power loss does.
func (b *bucket) kill() {
	if b.process == nil {
		return
	}
	_ = b.process.Process.Kill() // it may have ended
	_ = b.process.Wait()         // its exit code says that it was killed
	b.process = nil
}

// cutAfter returns an address that leads to the server, which is killed once so many
// bytes have been sent to it.
func (b *bucket) cutAfter(t *testing.T, bytes int64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	server := b.process.Process
	var sent atomic.Int64
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", b.address)
			if err != nil {
				_ = from.Close() // as a server that is down
				continue
			}
			go func() { _, _ = io.Copy(from, to); _ = from.Close() }() // both end with the server
			go func() {
				_, _ = io.Copy(to, io.TeeReader(from, counted(func(n int) {
					if sent.Add(int64(n)) > bytes {
						_ = server.Kill() // once is enough
					}
				})))
				_ = to.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// counted is told how much is written to it.
type counted func(int)

func (c counted) Write(p []byte) (int, error) { c(len(p)); return len(p), nil }

// objects lists what is in the bucket, past the server; not what it keeps aside.
func (b *bucket) objects(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(b.data(), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(b.data(), p)
		if err == nil && d.Type().IsRegular() && !strings.HasPrefix(rel, ".sgwtmp") {
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}
