package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/kocli/kocli/pkg/fault"
)

// checkTimeout is how long one check may take.
const checkTimeout = 30 * time.Second

// Target is a registry that is looked into from this machine.
type Target struct {
	Name     string // as images carry it
	Address  string // HOST:PORT to connect to; empty means the name
	CA       []byte // in PEM; none means the system's
	Username string
	Password string
	// Repository is where an image may be pushed to; empty where none may be.
	Repository string
}

// String hides the password.
func (t Target) String() string { return t.Name }

// GoString hides the password.
func (t Target) GoString() string { return t.Name }

// Check does what docker login, push and pull do. It returns the stages that went
// well; the error says why the next one does not.
func Check(ctx context.Context, t Target) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var done []string
	c, err := newChecker(t)
	if err != nil {
		return nil, err
	}
	stages := []struct {
		name string
		do   func(context.Context) error
	}{{"connect", c.connect}, {"certificate", c.certificate}, {"login", c.login}}
	if t.Repository != "" {
		stages = append(stages, []struct {
			name string
			do   func(context.Context) error
		}{{"push", c.push}, {"pull", c.pull}}...)
	}
	for _, s := range stages {
		if err := s.do(ctx); err != nil {
			return done, err
		}
		done = append(done, s.name)
	}
	return done, nil
}

type checker struct {
	Target
	registry name.Registry
	roots    *x509.CertPool
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	http     http.RoundTripper // to this registry, and to nobody else
	auth     authn.Authenticator
	pushed   name.Tag
}

func newChecker(t Target) (*checker, error) {
	c := &checker{Target: t, auth: authn.Anonymous}
	var err error
	if c.registry, err = name.NewRegistry(t.Name, name.StrictValidation); err != nil {
		return nil, fault.New(fault.Usage, "name it as images do: HOST or HOST:PORT", err)
	}
	if t.Username != "" {
		c.auth = authn.FromConfig(authn.AuthConfig{Username: t.Username, Password: t.Password})
	}
	if len(t.CA) > 0 {
		if c.roots, err = CheckCA(t.CA); err != nil {
			return nil, fault.New(fault.Usage, "give the file of the CA in the cluster YAML", err)
		}
	}
	address := c.address()
	c.dial = func(ctx context.Context, network, asked string) (net.Conn, error) {
		if asked != withPort(c.registry.RegistryStr()) {
			return nil, fmt.Errorf("%s is not the registry", asked)
		}
		return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, address)
	}
	c.http = &http.Transport{DialContext: c.dial, TLSClientConfig: &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	return c, nil
}

func (c *checker) address() string {
	if c.Address != "" {
		return c.Address
	}
	return withPort(c.registry.RegistryStr())
}

// withPort adds the port of HTTPS where none is named.
func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(host, "443")
}

func (c *checker) connect(ctx context.Context) error {
	conn, err := c.dial(ctx, "tcp", withPort(c.registry.RegistryStr()))
	if err != nil {
		return fault.New(fault.Unreachable, fmt.Sprintf("does the registry run, and may this machine reach %s?", c.address()), fmt.Errorf("%s: %w", c.Name, err))
	}
	return conn.Close()
}

// certificate looks at the certificate with the eyes of a client.
func (c *checker) certificate(ctx context.Context) error {
	conn, err := c.dial(ctx, "tcp", withPort(c.registry.RegistryStr()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only looked at
	host, _, _ := strings.Cut(c.registry.RegistryStr(), ":")
	err = tls.Client(conn, &tls.Config{RootCAs: c.roots, ServerName: host, MinVersion: tls.VersionTLS12}).HandshakeContext(ctx)
	if err == nil {
		return nil
	}
	var name x509.HostnameError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var plain tls.RecordHeaderError
	hint := "look at what stands before the registry"
	switch {
	case errors.As(err, &plain):
		hint = "it speaks plain HTTP there, or it is no registry: give it a certificate, or another port"
	case errors.As(err, &name):
		hint = fmt.Sprintf("give the registry a certificate for %s, or call it by a name that the certificate has", host)
	case errors.As(err, &unknown):
		hint = "name the CA that signed it in the cluster YAML (caFile)"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		hint = "renew the certificate of the registry; are the clocks right?"
	}
	return fault.New(fault.Unreachable, hint, fmt.Errorf("%s: %w", c.Name, err))
}

// login asks as docker login does: where it is sent to for a token, and whether that
// takes the password.
func (c *checker) login(ctx context.Context) error {
	ping, err := transport.Ping(ctx, c.registry, c.http)
	if err != nil {
		return fault.New(fault.Unreachable, "does it answer at /v2/? a proxy in between may change the path", fmt.Errorf("%s: %w", c.Name, err))
	}
	if realm := ping.Parameters["realm"]; ping.Scheme == "bearer" {
		u, err := url.Parse(realm)
		if err != nil || withPort(u.Host) != withPort(c.registry.RegistryStr()) || u.Scheme != "https" {
			return fault.New(fault.Unreachable, fmt.Sprintf("set the registry's external URL (Harbor: externalURL) to https://%s, which is how clients call it", c.Name),
				fmt.Errorf("%s sends logins to %s", c.Name, realm))
		}
	}
	scopes := []string{}
	if c.Repository != "" {
		repo, err := c.repository()
		if err != nil {
			return err
		}
		scopes = append(scopes, repo.Scope(transport.PushScope))
	}
	t, err := transport.NewWithContext(ctx, c.registry, c.auth, c.http, scopes)
	if err != nil {
		return c.refused("log in", err)
	}
	// A registry with passwords alone says what it thinks of one only when it is used.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.registry.RegistryStr()+"/v2/", nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return c.refused("log in", err)
	}
	defer func() { _ = res.Body.Close() }() // not read
	if err := transport.CheckError(res, http.StatusOK); err != nil {
		return c.refused("log in", err)
	}
	return nil
}

func (c *checker) repository() (name.Repository, error) {
	r, err := name.NewRepository(c.registry.RegistryStr()+"/"+c.Repository, name.StrictValidation)
	if err != nil {
		return r, fault.New(fault.Usage, "name a repository such as library/check", err)
	}
	return r, nil
}

func (c *checker) options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithTransport(c.http), remote.WithAuth(c.auth), remote.WithUserAgent("kocli")}
}

// push sends an image of a few bytes.
func (c *checker) push(ctx context.Context) error {
	repo, err := c.repository()
	if err != nil {
		return err
	}
	im, err := random.Image(64, 1)
	if err != nil {
		return err
	}
	c.pushed = repo.Tag("check")
	if err := remote.Write(c.pushed, im, c.options(ctx)...); err != nil {
		return c.refused("push to "+repo.Name(), err)
	}
	return nil
}

// pull reads it back, layers and all, and takes it away again where the registry lets us.
func (c *checker) pull(ctx context.Context) error {
	im, err := remote.Image(c.pushed, c.options(ctx)...)
	if err != nil {
		return c.refused("pull "+c.pushed.Name(), err)
	}
	layers, err := im.Layers()
	if err != nil {
		return c.refused("pull "+c.pushed.Name(), err)
	}
	for _, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			return c.refused("pull "+c.pushed.Name(), err)
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	d, err := im.Digest()
	if err != nil {
		return err
	}
	_ = remote.Delete(c.pushed.Digest(d.String()), c.options(ctx)...) // it is small, and the next check overwrites it
	return nil
}

// refused says what a registry's refusal usually means.
func (c *checker) refused(what string, err error) error {
	var te *transport.Error
	status := 0
	if errors.As(err, &te) {
		status = te.StatusCode
	}
	hint := "look at the log of the registry"
	switch status {
	case http.StatusUnauthorized:
		hint = fmt.Sprintf("it does not take the password of %q", c.Username)
		if c.Username == "" {
			hint = "it wants a login: give username and password in the cluster YAML"
		}
	case http.StatusForbidden:
		hint = fmt.Sprintf("%q may not do that there: give it the right, or name another repository", c.Username)
	case http.StatusNotFound:
		hint = "does the project exist? Harbor wants one before it takes an image"
	case http.StatusRequestEntityTooLarge:
		hint = "a proxy in between limits how large a request may be: raise its limit (nginx: client_max_body_size 0)"
	}
	return fault.New(fault.Unreachable, hint, fmt.Errorf("%s from this machine: %w", what, err))
}
