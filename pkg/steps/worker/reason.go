package worker

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadmrun"
)

// How a failed join is looked into.
const (
	lookTimeout = 10 * time.Second // for one look
	maxSkew     = time.Minute      // of clocks, as in preflight
	// shortTry is how long a join may take that has not waited for the API itself.
	shortTry = time.Minute
)

// failure is what is known of a join that has failed.
type failure struct {
	err   error // of kubeadm
	took  time.Duration
	ca    []byte // the CA that it trusts, PEM
	token string
}

// reason is why a join fails.
type reason struct {
	what  string
	hint  string
	final bool // another try meets it again
}

// reasonError is a join that failed, and why.
type reasonError struct {
	reasons []reason
	err     error
}

// Error names the reasons before what kubeadm said of them.
func (e *reasonError) Error() string {
	var what []string
	for _, r := range e.reasons {
		what = append(what, r.what)
	}
	return strings.Join(what, "; ") + ": " + e.err.Error()
}

// Unwrap returns kubeadm's error.
func (e *reasonError) Unwrap() error { return e.err }

// transient reports whether a join may succeed when it is tried again.
func transient(err error) bool {
	var why *reasonError
	if errors.As(err, &why) {
		for _, r := range why.reasons {
			if r.final {
				return false
			}
		}
	}
	var x *host.ExitError
	if errors.As(err, &x) {
		return kube.TransientText(kubeadmrun.Said(err))
	}
	return kube.Transient(err)
}

// lookInto looks for the reason why a join has failed, and changes nothing. What
// it cannot look at gives no reason.
func (o Options) lookInto(ctx context.Context, r host.Reader, c *kube.Client, f failure) error {
	if ctx.Err() != nil {
		return f.err
	}
	looks := []func(context.Context, host.Reader, *kube.Client, failure) *reason{o.skew, o.unreachable, o.expired, o.kubelet}
	found := make([]*reason, len(looks))
	var wg sync.WaitGroup
	for i, look := range looks {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, lookTimeout)
			defer cancel()
			found[i] = look(ctx, r, c, f)
		})
	}
	wg.Wait()
	e := &reasonError{err: f.err}
	for _, x := range found {
		if x != nil {
			e.reasons = append(e.reasons, *x)
		}
	}
	if len(e.reasons) == 0 {
		return f.err
	}
	return e
}

// skew compares the clock of the host with the API server's.
func (o Options) skew(ctx context.Context, r host.Reader, c *kube.Client, _ failure) *reason {
	asked := o.Now()
	out, err := r.Query(ctx, host.Command("date", "+%s"))
	here := asked.Add(o.Now().Sub(asked) / 2)
	seconds, err2 := strconv.ParseInt(out.Text(), 10, 64)
	if errors.Join(err, err2) != nil {
		return nil
	}
	asked = o.Now()
	api, err := c.Clock(ctx)
	if err != nil {
		return nil
	}
	there := asked.Add(o.Now().Sub(asked) / 2)
	d := time.Unix(seconds, 0).Add(time.Second/2).Sub(api) - here.Sub(there)
	if d.Abs() <= maxSkew {
		return nil
	}
	way := "ahead of"
	if d < 0 {
		way = "behind"
	}
	return &reason{
		what:  fmt.Sprintf("the clock of %s is %s %s the API server's", r.Name(), d.Abs().Round(time.Second), way),
		hint:  fmt.Sprintf("set its clock and let a time service keep it: kocli exec %s --root -- timedatectl; then run the same command again", r.Name()),
		final: true,
	}
}

// unreachable opens a connection from the host to the endpoint, and looks whose
// certificate is presented there.
func (o Options) unreachable(ctx context.Context, r host.Reader, _ *kube.Client, f failure) *reason {
	t, ok := r.(host.Tunnel)
	if !ok {
		return nil
	}
	endpoint := o.Inventory.Endpoint()
	conn, err := t.DialContext(ctx, "tcp", endpoint)
	switch {
	case err != nil && strings.Contains(err.Error(), "prohibited"): // sshd forwards nothing: it says nothing of the network
		return nil
	case err != nil && ctx.Err() != nil:
		err = fmt.Errorf("no answer within %s", lookTimeout)
	}
	if err != nil {
		return &reason{
			what:  fmt.Sprintf("%s cannot open a TCP connection to %s (%v)", r.Name(), endpoint, err),
			hint:  "open the way from the hosts to the control plane endpoint: kocli preflight -f cluster.yaml; then run the same command again",
			final: f.took >= shortTry, // it may be a moment; but then kubeadm has waited for it
		}
	}
	defer func() { _ = conn.Close() }()
	return o.stranger(ctx, conn, f.ca)
}

// stranger looks whether the endpoint presents a certificate that the CA has
// signed.
func (o Options) stranger(ctx context.Context, conn net.Conn, ca []byte) *reason {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil
	}
	endpoint := o.Inventory.Endpoint()
	name, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return nil
	}
	client := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true}) // it is verified below; nothing is sent
	if err := client.HandshakeContext(ctx); err != nil {
		return &reason{
			what: fmt.Sprintf("what answers at %s speaks no TLS (%v)", endpoint, err),
			hint: "see what is behind spec.controlPlane.endpoint: kocli status -f cluster.yaml; then run the same command again",
		}
	}
	chain := client.ConnectionState().PeerCertificates
	leaf, between := chain[0], x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	// Its time is looked at by the clocks, not here.
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: leaf.NotBefore.Add(time.Second), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return &reason{
			what: fmt.Sprintf("CA mismatch: the certificate that %s presents (issuer %q, sha256 %s) is not signed by the CA that the join trusts (sha256 %s)",
				endpoint, leaf.Issuer.String(), fingerprint(leaf.Raw), caFingerprint(ca)),
			hint:  "another cluster, or a proxy, answers there: correct spec.controlPlane.endpoint or what is behind it; then run the same command again",
			final: true,
		}
	}
	if err := leaf.VerifyHostname(name); err != nil {
		return &reason{
			what:  fmt.Sprintf("the certificate that %s presents is not valid for that name (%v)", endpoint, err),
			hint:  "another API server than those of spec.hosts answers there: correct spec.controlPlane.endpoint or what is behind it; then run the same command again",
			final: true,
		}
	}
	return nil
}

// fingerprint is the start of a digest, enough to tell certificates apart.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:8])
}

func caFingerprint(ca []byte) string {
	if b, _ := pem.Decode(ca); b != nil {
		return fingerprint(b.Bytes)
	}
	return "unknown"
}

// expired looks whether the cluster knows the token, and for how long.
func (o Options) expired(ctx context.Context, _ host.Reader, c *kube.Client, f failure) *reason {
	id, _, _ := strings.Cut(f.token, ".")
	now, err := c.Clock(ctx) // first: it does not wait for a server that is away
	if err != nil {
		return nil
	}
	at, known, err := c.TokenExpiry(ctx, f.token)
	if err != nil {
		return nil
	}
	const again = "run the same command again: it makes a new token"
	if !known {
		return &reason{what: fmt.Sprintf("the bootstrap token %s is not known to the cluster (any more)", id), hint: again}
	}
	if now.Before(at) {
		return nil
	}
	return &reason{what: fmt.Sprintf("the bootstrap token %s expired %s ago", id, now.Sub(at).Round(time.Second)), hint: again}
}

// kubelet looks whether the kubelet runs, once there is one to run, and what it
// complained of last.
func (o Options) kubelet(ctx context.Context, r host.Reader, _ *kube.Client, f failure) *reason {
	if there, err := exists(ctx, r, "/var/lib/kubelet/config.yaml"); err != nil || !there {
		return nil
	}
	out, err := r.Query(ctx, host.Command("systemctl", "is-active", "kubelet.service"))
	state := out.Text() // also where it is not active, which is an error
	if state == "" {
		return nil
	}
	if err == nil && !strings.Contains(kubeadmrun.Said(f.err), "kubelet") {
		return nil // it runs, and the join failed elsewhere
	}
	what := fmt.Sprintf("the kubelet of %s is %s", r.Name(), state)
	if out, err := r.Query(ctx, host.Command("journalctl", "-u", "kubelet.service", "-n", "300", "--no-pager", "-q", "-o", "cat")); err == nil {
		if line := lastError(string(out.Stdout)); line != "" {
			what += ", and its last error is: " + host.Mask(line, []string{f.token})
		}
	}
	return &reason{
		what:  what,
		hint:  fmt.Sprintf("see why: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager; then run the same command again", r.Name()),
		final: state != "active" && state != "activating",
	}
}

// complaint is a line of the kubelet's that tells of an error: klog's errors and
// fatal ones, or what a command prints that ends at once.
var complaint = regexp.MustCompile(`^[EF]\d{4} \d\d:\d\d:\d\d\S*\s+\d+ \S+\] (.*)$|^(?i:error: |panic: |fatal )(.*)$`)

// lastError returns the last complaint in a log, and not more than is read.
func lastError(log string) string {
	last := ""
	for _, l := range strings.Split(log, "\n") {
		if m := complaint.FindStringSubmatch(strings.TrimSpace(l)); m != nil {
			last = m[1] + m[2]
		}
	}
	if len(last) > 300 {
		last = last[:297] + "..."
	}
	return last
}
