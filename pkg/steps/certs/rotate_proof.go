package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
)

// proofTime is how long a node is given to serve what its files have: a kubelet whose
// serving certificate has to be approved takes longest.
const proofTime = 3 * time.Minute

// Proof returns the step after which nothing on a node is of the old CAs: neither in
// files and kubeconfigs, nor served. It changes nothing, and waits.
func Proof(o RotateOptions) plan.Step {
	return converge.Func{
		Name: "certs/proof",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			bad, err := o.ofOldCA(ctx, r)
			if err != nil || len(bad) == 0 {
				return nil, err
			}
			return []plan.Change{{Object: "certificates in files and as they are served", From: fmt.Sprintf("%d not seen to be of the new CAs, such as %s", len(bad), bad[0]), To: "none is: waited for"}}, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			wait, cancel := context.WithTimeout(ctx, proofTime)
			defer cancel()
			var left []string
			err := kube.Poll(wait, 2*time.Second, func(ctx context.Context) error {
				var err error
				if left, err = o.ofOldCA(ctx, h); err == nil && len(left) > 0 {
					err = fmt.Errorf("not seen to be of the new CA: %v", left)
				}
				return err
			})
			if err != nil {
				return &fault.Error{Node: h.Name(), Code: fault.Unhealthy, Hint: "the old CA stays trusted until then; kocli certs list --wide shows all, kubectl get csr what waits for approval; then run the same command again: it goes on from here", Err: err}
			}
			return nil
		},
	}
}

// shown is a certificate of a node and the CA that has to have signed it.
type shown struct {
	name string
	by   pki.Rotation
	read func(context.Context, host.Reader) (*x509.Certificate, error) // nil where there is none
	own  bool                                                          // it may be one that the component made for itself
	// served says that it is asked for over the network. What is lost with the
	// connection to the host is an error of what stands in files too.
	served bool
}

// ofOldCA names the certificates of a node that the new CAs have not signed, and those
// that nobody shows yet.
func (o RotateOptions) ofOldCA(ctx context.Context, r host.Reader) ([]string, error) {
	want := o.shown()
	bad, errs := make([]string, len(want)), make([]error, len(want))
	var wg sync.WaitGroup
	for i, w := range want {
		wg.Go(func() {
			c, err := w.read(ctx, r)
			switch {
			case err != nil && w.served && ctx.Err() == nil:
				bad[i] = fmt.Sprintf("%s (%v)", w.name, err) // what was just started listens to nobody yet
			case err != nil:
				errs[i] = fmt.Errorf("%s on %s: %w", w.name, r.Name(), err)
			case c == nil || w.by.Signed(c), w.own && c.CheckSignatureFrom(w.by.Old) != nil:
			default:
				bad[i] = w.name
			}
		})
	}
	wg.Wait()
	return slices.DeleteFunc(bad, func(s string) bool { return s == "" }), errors.Join(errs...)
}

func (o RotateOptions) shown() []shown {
	var out []shown
	for _, m := range pki.AllManaged() {
		x, ok := m.Rotating(o.Rotations)
		if !ok || !o.Node.ControlPlane {
			continue
		}
		out = append(out, shown{"certificate " + m.Name, x, func(ctx context.Context, r host.Reader) (*x509.Certificate, error) { return readCert(ctx, r, m) }, false, false})
		if at := m.Address(o.Node); at != "" {
			out = append(out, shown{m.Name + " as it is served at " + at, x, served(at), false, true})
		}
	}
	x, ok := o.main()
	if !ok {
		return out
	}
	out = append(out, shown{"client certificate of the kubelet", x, kubeletClient, false, false}, shown{"what the kubelet serves", x, served("127.0.0.1:10250"), true, true})
	if !o.Node.ControlPlane { // a balancer need not lead a control plane to itself
		out = append(out, shown{"what is served at the endpoint", x, served(o.Inventory.Endpoint()), false, true})
	}
	return out
}

func served(address string) func(context.Context, host.Reader) (*x509.Certificate, error) {
	return func(ctx context.Context, r host.Reader) (*x509.Certificate, error) {
		return pki.Served(ctx, r, address)
	}
}

// kubeletClient is the certificate that a kubelet uses: inside its kubeconfig, or in the
// file that it names.
func kubeletClient(ctx context.Context, r host.Reader) (*x509.Certificate, error) {
	conf, err := r.ReadFile(ctx, pki.KubeletConfPath)
	if err != nil {
		return nil, err
	}
	data, file, err := kubeadm.ClientCertificateOf(conf)
	if err == nil && file != "" {
		data, err = r.ReadFile(ctx, file)
	}
	if err != nil {
		return nil, err
	}
	return pki.First(data)
}
