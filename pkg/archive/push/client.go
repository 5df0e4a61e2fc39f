package push

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/kocli/kocli/pkg/fault"
)

// tries is how often a request is made before it is given up.
const tries = 5

// client speaks to one registry.
type client struct {
	registry registry
	pusher   *remote.Pusher
	puller   *remote.Puller
}

func newClient(o Options, reg registry) (*client, error) {
	g, err := newGuard(o, reg)
	if err != nil {
		return nil, err
	}
	pause := o.Pause
	if pause == 0 {
		pause = time.Second
	}
	opts := []remote.Option{
		remote.WithTransport(g), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("kocli"),
		remote.WithRetryBackoff(remote.Backoff{Duration: pause, Factor: 2, Jitter: 0.1, Steps: tries}), remote.WithRetryPredicate(mayPass),
	}
	c := &client{registry: reg}
	if c.pusher, err = remote.NewPusher(opts...); err != nil {
		return nil, err
	}
	c.puller, err = remote.NewPuller(opts...)
	return c, err
}

var (
	errForeign = errors.New("is not the registry")
	errScheme  = errors.New("the scheme is not the one that was asked for")
	errStalled = errors.New("nothing moved for too long")
)

// mayPass reports whether asking again may help.
func mayPass(err error) bool {
	var te *transport.Error
	if errors.As(err, &te) {
		return te.Temporary()
	}
	if errors.Is(err, errForeign) || errors.Is(err, errScheme) || errors.Is(err, context.Canceled) && !errors.Is(err, errStalled) {
		return false
	}
	var op *net.OpError
	return errors.As(err, &op) || slices.ContainsFunc([]error{errStalled, io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET, net.ErrClosed},
		func(e error) bool { return errors.Is(err, e) })
}

// explain gives an error what the operator needs.
func (c *client) explain(ctx context.Context, t target, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("push %s: %w", t.source, context.Cause(ctx))
	}
	out := &fault.Error{Op: "push " + t.source, Code: fault.Failure, Err: err, Hint: "type the command again: what has arrived is not sent again"}
	var te *transport.Error
	var op *net.OpError
	var cert *tls.CertificateVerificationError
	status := 0
	if errors.As(err, &te) {
		status = te.StatusCode
	}
	switch {
	case fault.CodeOf(err) == fault.Bundle:
		out.Code, out.Hint = fault.Bundle, fault.HintOf(err)
	case status == http.StatusUnauthorized:
		out.Code, out.Hint = fault.Unreachable, fmt.Sprintf("log in with: docker login %s, or write the login into ~/.docker/config.json ($DOCKER_CONFIG), which kocli reads", c.registry.host)
	case status == http.StatusForbidden:
		out.Code, out.Hint = fault.Unreachable, fmt.Sprintf("log in with an account that may push to %s: docker login %s", t.ref.Context().Name(), c.registry.host)
	case status == http.StatusNotFound:
		out.Hint = "does the registry want a project? create it there, and give it as the prefix: --registry https://HOST/PROJECT"
	case errors.Is(err, http.ErrSchemeMismatch):
		out.Code, out.Hint = fault.Unreachable, "the registry speaks plain HTTP; add --plain-http if nobody else can reach the network in between"
	case errors.As(err, &cert):
		out.Code, out.Hint = fault.Unreachable, "name the file with the CA of the registry: --ca-file ca.crt"
	case errors.Is(err, errLies):
		out.Hint = "look at the registry, or at what stands in between; nothing more was sent"
	case errors.As(err, &op):
		out.Code, out.Hint = fault.Unreachable, "is the address right, and does the registry run? what has arrived is not sent again"
	case errors.Is(err, errForeign):
		out.Hint = "if that host belongs to the registry, allow it with --allow-host"
	}
	return out
}

// guard is the transport of every request. It speaks to the registry alone, over
// the one scheme, and ends a request in which nothing moves.
type guard struct {
	next  http.RoundTripper
	hosts []string
	plain bool
	stall time.Duration
}

func newGuard(o Options, reg registry) (*guard, error) {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck // documented type
	t.Proxy = nil                                        // a proxy is another host
	t.DialContext = (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	t.TLSHandshakeTimeout = 15 * time.Second
	t.MaxIdleConnsPerHost = 2 * jobs
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fault.New(fault.Usage, "name a readable file with --ca-file", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fault.New(fault.Usage, "the file has to hold certificates in PEM", fmt.Errorf("%s: no certificate in it", o.CAFile))
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	g := &guard{next: t, hosts: append([]string{reg.host}, o.AlsoHosts...), plain: reg.plain, stall: o.Stall}
	if g.stall == 0 {
		g.stall = 2 * time.Minute
	}
	return g, nil
}

// RoundTrip sends one request, or refuses it.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	scheme := "https"
	if g.plain {
		scheme = "http"
	}
	if !slices.Contains(g.hosts, req.URL.Host) {
		return nil, fmt.Errorf("the registry sends us to %s, which %w", req.URL.Host, errForeign)
	}
	if req.URL.Scheme != scheme {
		return nil, fmt.Errorf("%s: %w", req.URL.Redacted(), errScheme)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(g.stall, func() { cancel(fmt.Errorf("%s %s: %w (%s)", req.Method, req.URL.Host, errStalled, g.stall)) })
	moved := func(int64) { timer.Reset(g.stall) }
	stop := func() { timer.Stop(); cancel(nil) }
	out := req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		out.Body = &counted{req.Body, moved}
	}
	res, err := g.next.RoundTrip(out)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		stop()
		return nil, err
	}
	res.Body = &ending{&counted{res.Body, moved}, stop}
	return res, nil
}

// ending calls stop when it is closed.
type ending struct {
	io.ReadCloser
	stop func()
}

// Close ends the request.
func (e *ending) Close() error {
	err := e.ReadCloser.Close()
	e.stop()
	return err
}
