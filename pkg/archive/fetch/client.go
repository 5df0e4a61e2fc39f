package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
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
	// Tries is how often one place may fail in a row without anything new having
	// come from it. Zero means five.
	Tries uint
	// Stall is how long a server may send nothing. Zero means a minute.
	Stall time.Duration

	sessions sync.Map // http.RoundTripper by repository: a token is asked for once
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

// grown is an error after which more is there than before: a download that
// was cut, and goes on from there.
type grown struct {
	n   int64 // bytes that are there now
	err error
}

func (g *grown) Error() string { return g.err.Error() }
func (g *grown) Unwrap() error { return g.err }

// retry runs op until it succeeds, fails for good, or failed Tries times in a
// row without bringing a download further than it ever was.
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
	var failed uint
	var best int64
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := op()
		var g *grown
		if errors.As(err, &g) && g.n > best {
			best, failed = g.n, 0
			b.Reset()
		}
		if failed++; err != nil && failed >= tries {
			err = permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(b), backoff.WithMaxElapsedTime(0))
	return err
}

// get asks for a URL, from a byte on.
func (c *Client) get(ctx context.Context, rt http.RoundTripper, url string, from int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, permanent(err)
	}
	req.Header.Set("Accept-Encoding", "identity") // digests are of the bytes as they are
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	if rt == nil {
		rt = c.guarded()
	}
	res, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		return nil, err
	}
	switch res.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return res, nil
	}
	e := &StatusError{URL: redacted(url), Status: res.StatusCode}
	err = errors.Join(e, retryAfter(res), res.Body.Close())
	if !e.temporary() {
		return nil, permanent(err)
	}
	return nil, err
}

// maxPause bounds the pause that a server asks for, in seconds.
const maxPause = 120

// retryAfter is the pause that a server asks for, as an error for the retry.
func retryAfter(res *http.Response) error {
	n, err := strconv.Atoi(res.Header.Get("Retry-After"))
	if err != nil || n <= 0 {
		return nil
	}
	return backoff.RetryAfter(min(n, maxPause))
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
			return permanent(fmt.Errorf("%s: more than %d bytes", redacted(p.url(url)), limit))
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
