package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/kocli/kocli/pkg/fault"
)

// Client downloads. It is safe for concurrent use.
type Client struct {
	Mirrors Mirrors
	Cache   *Cache
	// HTTP is the transport to use; nil means one with sensible time-outs.
	HTTP http.RoundTripper
	// Pause is the first pause before a retry; it doubles. Zero means one second.
	Pause time.Duration
	// Tries is how often one place is asked. Zero means five.
	Tries uint
	// Stall is how long a server may send nothing. Zero means a minute.
	Stall time.Duration
}

// StatusError is an answer that is not a success.
type StatusError struct {
	URL    string
	Status int
}

// Error names the URL and the status.
func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: HTTP status %d %s", e.URL, e.Status, http.StatusText(e.Status))
}

// temporary reports whether asking again may help.
func (e *StatusError) temporary() bool {
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout
}

// NewTransport returns a transport with time-outs for everything but the body.
func NewTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck // documented type
	t.DialContext = (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	t.TLSHandshakeTimeout = 15 * time.Second
	t.ResponseHeaderTimeout = time.Minute
	t.MaxIdleConnsPerHost = 8
	return t
}

// client returns a client that never goes from https to http.
func (c *Client) client(rt http.RoundTripper) *http.Client {
	if rt == nil {
		rt = c.HTTP
	}
	return &http.Client{Transport: rt, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errors.New("more than 10 redirects")
		}
		if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
			return fmt.Errorf("redirect from https to %s is refused", req.URL.Redacted())
		}
		return nil
	}}
}

// everywhere asks each place in turn, with retries, until one succeeds. What
// the places said is joined.
func (c *Client) everywhere(ctx context.Context, what string, ask func(ctx context.Context, p place) error) error {
	var all error
	for _, m := range c.Mirrors {
		err := c.retry(ctx, func() error { return ask(ctx, place{m}) })
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("fetch %s: %w", what, context.Cause(ctx))
		}
		all = errors.Join(all, err)
	}
	hint := fault.HintOf(all)
	if hint == "" {
		hint = "check the network, or give a mirror with --mirror URL; what is complete is cached, typing the command again goes on"
	}
	return &fault.Error{Op: "fetch " + what, Code: fault.CodeOf(all), Err: all, Hint: hint}
}

// permanent marks an error that asking again does not cure.
func permanent(err error) error { return backoff.Permanent(err) }

func (c *Client) retry(ctx context.Context, op func() error) error {
	b := backoff.NewExponentialBackOff()
	if b.InitialInterval = c.Pause; c.Pause == 0 {
		b.InitialInterval = time.Second
	}
	b.Multiplier = 2
	tries := c.Tries
	if tries == 0 {
		tries = 5
	}
	_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, op() },
		backoff.WithBackOff(b), backoff.WithMaxTries(tries), backoff.WithMaxElapsedTime(0))
	var p *backoff.PermanentError
	if errors.As(err, &p) {
		return p.Unwrap()
	}
	return err
}

// get asks for a URL, from a byte on. The body fails when the server stalls.
func (c *Client) get(ctx context.Context, rt http.RoundTripper, url string, from int64) (*http.Response, error) {
	stall := c.Stall
	if stall == 0 {
		stall = time.Minute
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(stall, func() { cancel(fmt.Errorf("%s: nothing came for %s", url, stall)) })
	stop := func() { timer.Stop(); cancel(nil) }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		stop()
		return nil, permanent(err)
	}
	req.Header.Set("Accept-Encoding", "identity") // digests are of the bytes as they are
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	res, err := c.client(rt).Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		stop()
		return nil, err
	}
	res.Body = &stallReader{ReadCloser: res.Body, ctx: ctx, timer: timer, stall: stall, stop: stop}
	switch res.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return res, nil
	}
	e := &StatusError{URL: url, Status: res.StatusCode}
	if cerr := res.Body.Close(); cerr != nil || e.temporary() {
		return nil, errors.Join(e, cerr)
	}
	return nil, permanent(e)
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

// Small returns a small file, such as a checksum or a signed index.
func (c *Client) Small(ctx context.Context, url string, limit int64) ([]byte, error) {
	var data []byte
	err := c.everywhere(ctx, url, func(ctx context.Context, p place) error {
		res, err := c.get(ctx, nil, p.url(url), 0)
		if err != nil {
			return err
		}
		data, err = io.ReadAll(io.LimitReader(res.Body, limit+1))
		if err = errors.Join(err, res.Body.Close()); err != nil {
			return err
		}
		if int64(len(data)) > limit {
			return permanent(fmt.Errorf("%s: more than %d bytes", p.url(url), limit))
		}
		return nil
	})
	return data, err
}

const maxChecksums = 1 << 20 // bytes of a checksum file

// Checksum returns the digest that upstream publishes for a file: url holds
// either the hex digest alone, or lines of "HEX  NAME".
func (c *Client) Checksum(ctx context.Context, url, name string) (string, error) {
	data, err := c.Small(ctx, url, maxChecksums)
	if err != nil {
		return "", err
	}
	d, err := parseChecksum(string(data), name)
	if err != nil {
		return "", fmt.Errorf("checksum file %s: %w", url, err)
	}
	return d, nil
}

func parseChecksum(text, name string) (string, error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) == 1 && len(strings.Fields(text)) == 1 && isHex(f[0]):
			return "sha256:" + strings.ToLower(f[0]), nil
		case len(f) == 2 && isHex(f[0]) && strings.TrimPrefix(strings.TrimPrefix(f[1], "*"), "./") == name:
			return "sha256:" + strings.ToLower(f[0]), nil
		}
	}
	return "", fmt.Errorf("no sha256 of %s in it", name)
}

func isHex(s string) bool {
	return len(s) == 64 && strings.Trim(strings.ToLower(s), "0123456789abcdef") == ""
}
