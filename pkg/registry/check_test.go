package registry_test

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/registry"
)

// serving is a registry with TLS and a password, for a name; change may change what it
// does.
func serving(t *testing.T, certName string, change func(http.Handler) http.Handler) (address string, ca []byte) {
	t.Helper()
	authority, err := registry.NewCA("x", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	server, err := authority.Sign([]string{certName}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(server.Cert, server.Key)
	if err != nil {
		t.Fatal(err)
	}
	store := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != "kocli" || p != "c0rrect-pw" {
			w.Header().Set("WWW-Authenticate", `Basic realm="kocli"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		store.ServeHTTP(w, r)
	})
	if change != nil {
		h = change(h)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), authority.Cert
}

func TestCheck(t *testing.T) {
	const name = "registry.kocli.internal:5000"
	elsewhere := func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="https://harbor.old.example.com/service/token",service="harbor"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
	}
	denied := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				http.Error(w, `{"errors":[{"code":"DENIED"}]}`, http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	for what, tt := range map[string]struct {
		cert   string
		change func(http.Handler) http.Handler
		target func(*registry.Target)
		done   []string
		hint   string // of the refusal; empty where there is none
	}{
		"all is well":               {done: []string{"connect", "certificate", "login", "push", "pull"}},
		"without a push":            {target: func(t *registry.Target) { t.Repository = "" }, done: []string{"connect", "certificate", "login"}},
		"nobody there":              {target: func(t *registry.Target) { t.Address = "127.0.0.1:1" }, hint: "may this machine reach 127.0.0.1:1"},
		"a certificate of others":   {cert: "hub.example.com", done: []string{"connect"}, hint: "a certificate for registry.kocli.internal"},
		"a CA of others":            {target: func(t *registry.Target) { t.CA = nil }, done: []string{"connect"}, hint: "caFile"},
		"a wrong password":          {target: func(t *registry.Target) { t.Password = "wrong" }, done: []string{"connect", "certificate"}, hint: `does not take the password of "kocli"`},
		"no password":               {target: func(t *registry.Target) { t.Username, t.Password = "", "" }, done: []string{"connect", "certificate"}, hint: "wants a login"},
		"logins are sent elsewhere": {change: elsewhere, done: []string{"connect", "certificate"}, hint: "externalURL"},
		"no right to push":          {change: denied, done: []string{"connect", "certificate", "login"}, hint: "may not do that there"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			if tt.cert == "" {
				tt.cert = "registry.kocli.internal"
			}
			address, ca := serving(t, tt.cert, tt.change)
			target := registry.Target{Name: name, Address: address, CA: ca, Username: "kocli", Password: "c0rrect-pw", Repository: "kocli/check"}
			if tt.target != nil {
				tt.target(&target)
			}
			done, err := registry.Check(t.Context(), target)
			if !slices.Equal(done, tt.done) {
				t.Errorf("went well: %v, wanted %v", done, tt.done)
			}
			if (err == nil) != (tt.hint == "") || err != nil && !strings.Contains(fault.HintOf(err), tt.hint) {
				t.Errorf("%v (%s), wanted %q", err, fault.HintOf(err), tt.hint)
			}
			if err != nil && strings.Contains(err.Error()+fault.HintOf(err), target.Password) && target.Password != "" {
				t.Errorf("the password is shown: %v", err)
			}
		})
	}
}

// What speaks no TLS is named as such.
func TestCheck_plainHTTP(t *testing.T) {
	s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	_, err := registry.Check(t.Context(), registry.Target{Name: "r.example.com", Address: s.Listener.Addr().String()})
	if err == nil || !strings.Contains(fault.HintOf(err), "plain HTTP") {
		t.Errorf("%v (%s)", err, fault.HintOf(err))
	}
}
