package worker_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/internal/admission"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/steps/worker"
)

// authority is a CA that signs for the endpoint of the tests.
type authority struct {
	pem  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), cert, key}
}

// serve answers connections with a certificate for an address.
func (a authority) serve(t *testing.T, address string) func(context.Context, string, string) (net.Conn, error) {
	t.Helper()
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(address)},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: a.key}}}
	return func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			_ = tls.Server(there, config).Handshake() // the other side says what it thinks of it
			_ = there.Close()
		}()
		return here, nil
	}
}

func failsTo(text string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) { return nil, errors.New(text) }
}

// kubeadmFails has kubeadm say something and end, as often as said; negative
// means always. It returns how often it was called.
func kubeadmFails(m *hosttest.Machine, times int, says string, meanwhile func()) *int {
	calls := 0
	m.Handle(func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		if !slices.Contains(argv, "/usr/bin/kubeadm") {
			return "", 0, false
		}
		if calls++; times >= 0 && calls > times {
			return "", 0, false
		}
		if meanwhile != nil {
			meanwhile()
		}
		return says, 1, true
	})
	return &calls
}

// program answers one command.
func program(m *hosttest.Machine, name, out string, code int) {
	m.Handle(func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		return out, code, argv[0] == name
	})
}

func TestJoin_aFailureNamesItsReason(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	clock := func(d time.Duration) func(*hosttest.Machine, *kubetest.Cluster) {
		return func(m *hosttest.Machine, _ *kubetest.Cluster) {
			program(m, "date", fmt.Sprint(time.Now().Add(d).Unix()), 0)
		}
	}
	dial := func(f func(context.Context, string, string) (net.Conn, error)) func(*hosttest.Machine, *kubetest.Cluster) {
		return func(m *hosttest.Machine, _ *kubetest.Cluster) { m.OnDial(f) }
	}
	token := func(change func(c *kubetest.Cluster, name string, o kubetest.Object)) func(*hosttest.Machine, *kubetest.Cluster) {
		return func(_ *hosttest.Machine, c *kubetest.Cluster) {
			for _, o := range c.List("secrets", "kube-system") {
				change(c, o["metadata"].(kubetest.Object)["name"].(string), o)
			}
		}
	}
	kubelet := func(state, journal string) func(*hosttest.Machine, *kubetest.Cluster) {
		return func(m *hosttest.Machine, _ *kubetest.Cluster) {
			m.Write("/var/lib/kubelet/config.yaml", 0o644, "x")
			m.Handle(func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
				switch {
				case argv[0] == "journalctl":
					return journal, 0, true
				case argv[0] == "systemctl" && argv[1] == "is-active":
					return state, 0, true
				}
				return "", 0, false
			})
		}
	}
	const discovery = "error execution phase preflight: couldn't validate the identity of the API server: context deadline exceeded"
	const bootstrap = "error execution phase kubelet-wait-bootstrap: failed while waiting for TLS bootstrap: timed out waiting for the condition"
	const noHint = "kocli exec worker-1 --root -- journalctl -u kubelet"
	for _, x := range []struct {
		name    string
		kubeadm string
		wrong   func(*hosttest.Machine, *kubetest.Cluster) // as kubeadm runs
		says    string                                     // the start of the error
		hint    string
		once    bool // another try is in vain
	}{
		{"nothing can be found", bootstrap, nil, "kubeadm join: error execution phase", noHint, true},
		{"a clock that is behind", discovery, clock(-2*time.Hour - 10*time.Second), "the clock of worker-1 is 2h0m", "kocli exec worker-1 --root -- timedatectl", true},
		{"a clock that is ahead", discovery, clock(26*time.Hour + 10*time.Second), "the clock of worker-1 is 26h0m", "timedatectl", true},
		{"a clock that is a little off", bootstrap, clock(30 * time.Second), "kubeadm join: ", noHint, true},
		{"a port that is closed", bootstrap, dial(failsTo("connect failed (Connection refused)")), "worker-1 cannot open a TCP connection to 10.0.0.100:6443 (connect failed (Connection refused)): ", "kocli preflight", true},
		{"a host that forwards nothing", bootstrap, dial(failsTo("administratively prohibited (open failed)")), "kubeadm join: ", noHint, true},
		{"another CA", discovery, dial(other.serve(t, "10.0.0.100")), `CA mismatch: the certificate that 10.0.0.100:6443 presents (issuer "CN=kubernetes", sha256 `, "correct spec.controlPlane.endpoint", true},
		{"another API server", discovery, dial(ca.serve(t, "10.9.9.9")), "the certificate that 10.0.0.100:6443 presents is not valid for that name (", "correct spec.controlPlane.endpoint", true},
		{"a token that is gone", bootstrap, token(func(c *kubetest.Cluster, name string, _ kubetest.Object) { c.Drop("secrets", "kube-system", name) }), "the bootstrap token ", "a new token", true},
		{"a token that expired", bootstrap, token(func(c *kubetest.Cluster, name string, o kubetest.Object) {
			o["data"].(kubetest.Object)["expiration"] = base64.StdEncoding.EncodeToString([]byte(time.Now().Add(-5 * time.Minute).UTC().Format(time.RFC3339)))
			c.Put("secrets", "kube-system", name, o)
		}), "the bootstrap token ", "a new token", true},
		{"a kubelet that has failed", bootstrap, kubelet("failed\n", "I1125 16:07:14.1 1 server.go:1] fine\nE1125 16:07:14.123456    1234 run.go:72] \"command failed\" err=\"swap is on\"\nI1125 16:07:14.2 1 x.go:1] more\n"),
			`the kubelet of worker-1 is failed, and its last error is: "command failed" err="swap is on": `, noHint, true},
		{"a kubelet that runs and has no credentials", bootstrap, kubelet("active\n", "error: bad flag\nE1125 16:07:14.123456 1 certificate_manager.go:1] x509: not yet valid\n"),
			"the kubelet of worker-1 is active, and its last error is: x509: not yet valid: ", noHint, true},
		{"a kubelet that runs while the join fails elsewhere", "error execution phase preflight: nodes \"x\" is forbidden", kubelet("active\n", "E1125 16:07:14.123456 1 x.go:1] noise\n"), "kubeadm join: ", noHint, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			m, c, api := world()
			defer c.Close()
			o := options(t, api, "")
			o.Now, o.Window = time.Now, admission.New()
			o.CA = func(context.Context) ([]byte, error) { return ca.pem, nil }
			m.OnDial(ca.serve(t, "10.0.0.100"))
			program(m, "date", fmt.Sprint(time.Now().Unix()), 0)
			calls := kubeadmFails(m, -1, x.kubeadm+"\n", func() {
				if x.wrong != nil {
					x.wrong(m, c)
				}
			})
			err := worker.Join(o).Apply(t.Context(), ledger.Wrap(m))
			if err == nil || !strings.HasPrefix(err.Error(), x.says) || !strings.Contains(err.Error(), x.kubeadm) {
				t.Errorf("got  %v\nwant %s", err, x.says)
			}
			if hint := fault.HintOf(err); !strings.Contains(hint, x.hint) {
				t.Errorf("the hint is %q", hint)
			}
			if x.once != (*calls == 1) {
				t.Errorf("kubeadm was called %d times", *calls)
			}
			if left := c.List("secrets", "kube-system"); len(left) > 0 {
				t.Error("the token is still valid")
			}
		})
	}
}

func TestJoin_anEndpointThatDoesNotAnswer(t *testing.T) {
	m := hosttest.New("worker-1")
	m.OnDial(func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() })
	_, c, api := world()
	defer c.Close()
	o := options(t, api, "")
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		got := worker.Unreachable(t.Context(), o, m)
		if want := "worker-1 cannot open a TCP connection to 10.0.0.100:6443 (no answer within 10s)"; got != want || time.Since(start) != 10*time.Second {
			t.Errorf("%q after %s", got, time.Since(start))
		}
	})
}

// What passes is tried again, with a token of its own; what does not, is not.
func TestJoin_triesAgainWhatPasses(t *testing.T) {
	m, c, api := world()
	defer c.Close()
	o := options(t, api, "")
	o.Window = admission.New()
	m.OnDial(failsTo("administratively prohibited"))
	calls := kubeadmFails(m, 1, "error: error execution phase kubelet-start: cannot get Node \"worker-1\": net/http: TLS handshake timeout\n", nil)
	s := worker.Join(o)
	if err := s.Apply(t.Context(), ledger.Wrap(m)); err != nil {
		t.Fatal(err)
	}
	if changes, err := s.Check(t.Context(), m); err != nil || len(changes) > 0 || *calls != 2 {
		t.Errorf("after %d calls: %v, %v", *calls, changes, err)
	}
	if o.Window.Limit() != admission.Start/2 {
		t.Errorf("a window of %d", o.Window.Limit())
	}
	if left := c.List("secrets", "kube-system"); len(left) > 0 {
		t.Errorf("a token is still valid: %v", left)
	}
}
