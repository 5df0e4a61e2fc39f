package kube_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/kube"
)

func TestTransient(t *testing.T) {
	r := schema.GroupResource{Resource: "nodes"}
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"nothing", nil, false},
		{"too many requests", apierrors.NewTooManyRequests("slow down", 1), true},
		{"a server that is away", apierrors.NewServiceUnavailable("x"), true},
		{"an internal error", apierrors.NewInternalError(errors.New("etcd")), true},
		{"a time-out of the server", apierrors.NewServerTimeout(r, "get", 1), true},
		{"a time-out of the request", fmt.Errorf("get node: %w", apierrors.NewTimeoutError("x", 1)), true},
		{"a time-out of the client", &url.Error{Op: "Get", Err: os.ErrDeadlineExceeded}, true},
		{"a deadline", fmt.Errorf("x: %w", context.DeadlineExceeded), true},
		{"a refused connection", &url.Error{Op: "Get", Err: syscall.ECONNREFUSED}, true},
		{"a reset connection", syscall.ECONNRESET, true},
		{"a connection that ends early", &url.Error{Op: "Get", Err: io.EOF}, true},
		{"forbidden", apierrors.NewForbidden(r, "n", errors.New("no")), false},
		{"not found", apierrors.NewNotFound(r, "n"), false},
		{"an interruption", fmt.Errorf("x: %w", context.Canceled), false},
		{"a host that SSH has lost", fault.New(fault.Unreachable, "", context.DeadlineExceeded), false},
		{"anything else", errors.New("x509: certificate signed by unknown authority"), false},
	} {
		if got := kube.Transient(c.err); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func TestTransientText(t *testing.T) {
	for line, want := range map[string]bool{
		`error execution phase kubelet-start: cannot get Node "n": Get "https://10.0.0.1:6443/api/v1/nodes/n": net/http: TLS handshake timeout`:                   true,
		`error execution phase preflight: couldn't validate the identity of the API server: Get "https://x": dial tcp 10.0.0.1:6443: connect: connection refused`: true,
		`error execution phase preflight: unable to fetch the kubeadm-config ConfigMap: etcdserver: request timed out`:                                            true,
		`error execution phase preflight: the server has received too many requests and has asked us to try again later`:                                          true,
		`error execution phase kubelet-start: the server is currently unable to handle the request (get nodes)`:                                                   true,
		`error execution phase kubelet-wait-bootstrap: failed while waiting for TLS bootstrap: timed out waiting for the condition`:                               false,
		`error execution phase preflight: x509: certificate signed by unknown authority`:                                                                          false,
		`error execution phase preflight: nodes "n" is forbidden`:                                                                                                 false,
		``: false,
	} {
		if got := kube.TransientText(line); got != want {
			t.Errorf("%s: %t", line, got)
		}
	}
}

func TestClient_clockAndTokens(t *testing.T) {
	_, c, look, dial := cluster(t)
	at, err := look.Clock(t.Context())
	if d := time.Since(at).Abs(); err != nil || d > 2*time.Second {
		t.Errorf("a difference of %s, %v", d, err)
	}
	now := time.Unix(1_700_000_000, 0)
	token, err := dial.CreateToken(t.Context(), now, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if at, known, err := look.TokenExpiry(t.Context(), token); err != nil || !known || !at.Equal(now.Add(time.Minute)) {
		t.Errorf("%s, %t, %v", at, known, err)
	}
	if _, known, err := look.TokenExpiry(t.Context(), kube.NewToken()); err != nil || known {
		t.Errorf("a token that nobody made: %t, %v", known, err)
	}
	c.Silence(true)
	if _, err := look.Clock(t.Context()); err == nil {
		t.Error("a server that does not answer has a clock")
	}
}
