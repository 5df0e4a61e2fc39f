package registry_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/kocli/kocli/pkg/registry"
)

var now = time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)

func signed(t *testing.T, names ...string) (ca, server registry.Pair) {
	t.Helper()
	ca, err := registry.NewCA("prod", now)
	if err != nil {
		t.Fatal(err)
	}
	server, err = ca.Sign(names, now)
	if err != nil {
		t.Fatal(err)
	}
	return ca, server
}

// What kocli signs is what Go's own client accepts, by name and by address, and by no
// other.
func TestSign_isAcceptedForItsNamesAlone(t *testing.T) {
	ca, server := signed(t, "registry.kocli.internal", "127.0.0.1")
	pair, err := tls.X509KeyPair(server.Cert, server.Key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = c.(*tls.Conn).Handshake(); _ = c.Close() }()
		}
	}()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Cert)
	for name, fits := range map[string]bool{"registry.kocli.internal": true, "127.0.0.1": true, "other.kocli.internal": false, "127.0.0.2": false} {
		d := &net.Dialer{Timeout: 5 * time.Second}
		c, err := tls.DialWithDialer(d, "tcp", l.Addr().String(), &tls.Config{RootCAs: roots, ServerName: name, Time: func() time.Time { return now }})
		if (err == nil) != fits {
			t.Errorf("%s: %v", name, err)
		}
		if c != nil {
			_ = c.Close()
		}
	}
}

func TestServes(t *testing.T) {
	ca, server := signed(t, "registry.example.com")
	otherCA, other := signed(t, "registry.example.com")
	for name, tt := range map[string]struct {
		pair registry.Pair
		ca   []byte
		host string
		when time.Time
		says string // of the refusal; empty where there is none
	}{
		"fits":                {server, ca.Cert, "registry.example.com", now, ""},
		"another name":        {server, ca.Cert, "hub.example.com", now, "hub.example.com"},
		"another CA":          {server, otherCA.Cert, "registry.example.com", now, "unknown authority"},
		"another key":         {registry.Pair{Cert: server.Cert, Key: other.Key}, ca.Cert, "registry.example.com", now, "is not that of the certificate"},
		"a leaf as CA":        {server, server.Cert, "registry.example.com", now, "is not a CA but the certificate of a server"},
		"ended":               {server, ca.Cert, "registry.example.com", now.AddDate(3, 0, 0), "expired"},
		"no certificate":      {registry.Pair{Cert: []byte("x"), Key: server.Key}, ca.Cert, "registry.example.com", now, "cannot be read"},
		"no key":              {registry.Pair{Cert: server.Cert, Key: []byte("x")}, ca.Cert, "registry.example.com", now, "the key cannot be read"},
		"a CA that is no PEM": {server, []byte("x"), "registry.example.com", now, "CA cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.pair.Serves(tt.ca, []string{tt.host}, tt.when)
			if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("%v, wanted %q", err, tt.says)
			}
		})
	}
	if server.Ending(now) || !server.Ending(now.AddDate(2, 0, -30)) {
		t.Error("a certificate is replaced too early, or too late")
	}
}

func TestHtpasswd_staysWhileItFits(t *testing.T) {
	first, err := registry.Htpasswd(nil, "kocli", "one")
	if err != nil {
		t.Fatal(err)
	}
	user, hash, _ := strings.Cut(strings.TrimSpace(string(first)), ":")
	if user != "kocli" || bcrypt.CompareHashAndPassword([]byte(hash), []byte("one")) != nil || strings.Contains(string(first), "one") {
		t.Errorf("the file: %s", first)
	}
	for name, tt := range map[string]struct {
		user, password string
		same           bool
	}{"the same": {"kocli", "one", true}, "another password": {"kocli", "two", false}, "another user": {"ko", "one", false}} {
		got, err := registry.Htpasswd(first, tt.user, tt.password)
		if err != nil || bytes.Equal(got, first) != tt.same {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	if _, err := registry.Htpasswd(nil, "kocli", strings.Repeat("x", 73)); err == nil {
		t.Error("a password of which bcrypt would not look at all is taken")
	}
}

func TestDockerConfig(t *testing.T) {
	raw, err := registry.DockerConfig([]registry.Login{{Registry: "r.example.com:5000", Username: "u", Password: "p:w"}})
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Auths map[string]struct{ Auth string }
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	if got, err := base64.StdEncoding.DecodeString(c.Auths["r.example.com:5000"].Auth); err != nil || string(got) != "u:p:w" {
		t.Errorf("%s: %q, %v", raw, got, err)
	}
}
