package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"time"
)

// NewTransport returns a transport with time-outs for everything but the body.
func NewTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck // documented type
	t.DialContext = (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	t.TLSHandshakeTimeout = 15 * time.Second
	t.ResponseHeaderTimeout = time.Minute
	t.MaxIdleConnsPerHost = 8
	return t
}

// guard is the transport of every request, those to registries included. It
// refuses redirects that weaken the connection, ends a body that stalls, and
// serves file URLs of mirrors that are folders.
type guard struct {
	next  http.RoundTripper
	stall time.Duration
}

// guarded returns the transport of the client.
func (c *Client) guarded() http.RoundTripper {
	g := guard{next: c.HTTP, stall: c.Stall}
	if g.next == nil {
		g.next = http.DefaultTransport
	}
	if g.stall == 0 {
		g.stall = time.Minute
	}
	return g
}

// RoundTrip sends one request. Authentication is added nearer to the caller,
// per host, so that it does not follow a redirect.
func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := checkRedirect(req); err != nil {
		return nil, permanent(err)
	}
	if req.URL.Scheme == "file" {
		return http.NewFileTransport(filesOnly{http.Dir("/")}).RoundTrip(req)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(g.stall, func() {
		cancel(fmt.Errorf("%s: nothing came for %s", req.URL.Redacted(), g.stall))
	})
	stop := func() { timer.Stop(); cancel(nil) }
	res, err := g.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		stop()
		return nil, err
	}
	res.Body = &stallReader{ReadCloser: res.Body, ctx: ctx, timer: timer, stall: g.stall, stop: stop}
	return res, nil
}

// checkRedirect lets a redirect go to https anywhere, as upstreams send to
// their CDNs; to http only where the same server was asked over http before;
// and to nothing else.
func checkRedirect(req *http.Request) error {
	if req.Response == nil || req.Response.Request == nil || req.URL.Scheme == "https" {
		return nil
	}
	from := req.Response.Request.URL
	if req.URL.Scheme == "http" && from.Scheme == "http" && from.Host == req.URL.Host {
		return nil
	}
	return fmt.Errorf("redirect from %s to %s is refused: only https may be redirected to", from.Redacted(), req.URL.Redacted())
}

// stallReader is a body whose reads fail when nothing comes for too long.
type stallReader struct {
	io.ReadCloser
	ctx   context.Context
	timer *time.Timer
	stall time.Duration
	stop  func()
}

func (r *stallReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if n > 0 {
		r.timer.Reset(r.stall)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(r.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (r *stallReader) Close() error {
	err := r.ReadCloser.Close()
	r.stop()
	return err
}

// filesOnly is a file system without listings of folders.
type filesOnly struct{ http.FileSystem }

// Open opens a regular file.
func (f filesOnly) Open(name string) (http.File, error) {
	file, err := f.FileSystem.Open(name)
	if err != nil {
		return nil, err
	}
	if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(&fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}, err, file.Close())
	}
	return file, nil
}

// redacted is a URL for people: without the password that it may have.
func redacted(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "a URL that is not valid"
	}
	return u.Redacted()
}
