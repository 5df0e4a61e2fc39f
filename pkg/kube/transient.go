package kube

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"github.com/kocli/kocli/pkg/fault"
)

// Transient reports whether a request to the API failed for a reason that passes:
// a time-out, a connection that was refused or broke off, 429 or 5xx. A host that
// SSH has lost is none: nothing reaches it.
func Transient(err error) bool {
	if err == nil || fault.CodeOf(err) == fault.Unreachable || errors.Is(err, context.Canceled) {
		return false
	}
	var s apierrors.APIStatus
	if errors.As(err, &s) {
		code := s.Status().Code
		return code == http.StatusTooManyRequests || code >= http.StatusInternalServerError ||
			apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err)
	}
	return errors.Is(err, context.DeadlineExceeded) || utilnet.IsTimeout(err) || utilnet.IsConnectionRefused(err) ||
		utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) || utilnet.IsHTTP2ConnectionLost(err)
}

// TransientText is Transient for what a client of the API has printed, as kubeadm
// prints it in one line.
func TransientText(line string) bool {
	for _, s := range []string{
		"context deadline exceeded", "Client.Timeout", "i/o timeout", "TLS handshake timeout", "request timed out", "connection timed out",
		"connection refused", "connection reset", "unexpected EOF", "http2: client connection lost",
		"too many requests", "Too Many Requests", "try again later", // 429
		"Internal error occurred", "unable to handle the request", "unable to return a response in the time allotted", // 500, 503, 504
		"Service Unavailable", "Bad Gateway", "Gateway Timeout", "etcdserver: leader changed",
	} {
		if strings.Contains(line, s) {
			return true
		}
	}
	return false
}

// Clock returns the time by the API server's clock, to the second: in the middle
// of it.
func (c *Client) Clock(ctx context.Context) (time.Time, error) {
	rc, ok := c.Typed.Discovery().RESTClient().(*rest.RESTClient)
	if !ok {
		return time.Time{}, errors.New("this client has no connection")
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, rc.Get().AbsPath("/readyz").URL().String(), nil)
	if err != nil {
		return time.Time{}, err
	}
	resp, err := rc.Client.Do(q)
	if err != nil {
		return time.Time{}, err
	}
	if err := resp.Body.Close(); err != nil {
		return time.Time{}, err
	}
	at, err := http.ParseTime(resp.Header.Get("Date"))
	return at.Add(time.Second / 2), err
}
