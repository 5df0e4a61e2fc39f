package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/kubeedit"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
)

// KubeletOptions are what Kubelet needs.
type KubeletOptions struct {
	Inventory *inventory.Inventory
	Node      inventory.Node
	// Sign makes a kubeconfig with a new client certificate for a kubelet.
	Sign func(ctx context.Context, node string) ([]byte, error)
	Now  func() time.Time
	// Rotation is that of the CA, where it is replaced: certificates of the old one are
	// as good as ended.
	Rotation *pki.Rotation
}

const restartKubelet = kubeedit.Restart("restart-kubelet-certs")

// The certificate that a kubelet makes for itself when it finds none.
const (
	ownCert = pki.KubeletDir + "/kubelet.crt"
	ownKey  = pki.KubeletDir + "/kubelet.key"
)

// givenCert is a link to the certificate that the cluster signed for a kubelet to serve,
// where it asks for one (serverTLSBootstrap).
const givenCert = pki.KubeletDir + "/kubelet-server-current.pem"

// kubelet is what a node's kubelet lacks.
type kubelet struct {
	conf    []byte // its kubeconfig; nil where there is none
	client  string // why it needs a client certificate; "" where it does not
	confBad string // why its kubeconfig does not lead to it
	serving bool   // the certificate that it made for itself has ended
	given   bool   // the certificate that it serves was signed by a CA that goes
}

// Kubelet gives a kubelet that could not renew its client certificate in time another
// one, and restarts it. A kubelet whose certificate is good renews it by itself.
func Kubelet(o KubeletOptions) plan.Step {
	return converge.Func{
		Name: "certs/kubelet",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			type answer struct {
				due []plan.Change
				err error
			}
			restart := make(chan answer, 1)
			go func() {
				due, err := restartKubelet.Due(ctx, r, "an older certificate")
				restart <- answer{due, err}
			}()
			k, err := o.look(ctx, r)
			a := <-restart
			if err := errors.Join(err, a.err); err != nil {
				return nil, err
			}
			var out []plan.Change
			if k.client != "" {
				out = append(out, plan.Change{Object: "client certificate of the kubelet", From: k.client, To: "another one, signed on a control plane"})
			}
			if k.confBad != "" {
				out = append(out, plan.Change{Object: "file " + pki.KubeletConfPath, From: k.confBad, To: "leads to " + pki.KubeletClientPath})
			}
			if k.serving {
				out = append(out, plan.Change{Object: "file " + ownCert, From: "ended", To: "made anew by the kubelet"})
			}
			if k.given {
				out = append(out, plan.Change{Object: "file " + givenCert, From: "signed by the old CA", To: "asked for anew by the kubelet"})
			}
			if len(out) > 0 && len(a.due) == 0 {
				a.due = []plan.Change{{Object: "service kubelet.service", From: "runs with an older certificate", To: "restart"}}
			}
			return append(out, a.due...), nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error { return o.repair(ctx, h) },
	}
}

// look finds out what is wrong. A host without the cluster's CA has not joined: its
// kubelet lacks nothing.
func (o KubeletOptions) look(ctx context.Context, r host.Reader) (kubelet, error) {
	var wg sync.WaitGroup
	paths := []string{kubeadm.CACertPath, pki.KubeletConfPath, pki.KubeletClientPath, ownCert, givenCert}
	texts, errs := make([][]byte, len(paths)), make([]error, len(paths))
	for i, p := range paths {
		wg.Go(func() {
			if texts[i], errs[i] = r.ReadFile(ctx, p); errors.Is(errs[i], fs.ErrNotExist) {
				texts[i], errs[i] = nil, nil
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil || texts[0] == nil {
		return kubelet{}, err
	}
	k := kubelet{conf: texts[1]}
	if c, err := pki.First(texts[3]); err == nil && bytes.Equal(c.RawIssuer, c.RawSubject) || err == nil && c.CheckSignatureFrom(c) == nil {
		k.serving = !o.Now().Before(c.NotAfter)
	}
	if c, err := pki.First(texts[4]); err == nil && o.Rotation != nil {
		k.given = c.CheckSignatureFrom(o.Rotation.Old) == nil && !o.Rotation.Signed(c)
	}
	inside, file, err := kubeadm.ClientCertificateOf(k.conf)
	switch {
	case k.conf == nil:
		k.confBad = "absent"
	case err != nil:
		k.confBad = err.Error()
	case file == "" && o.reason(inside, inside, false) == "":
		if texts[2] == nil {
			return k, nil // it starts with that one, and asks for its own
		}
	case file != pki.KubeletClientPath:
		k.confBad = "has a client certificate of its own that is of no use"
	}
	k.client = o.reason(texts[2], texts[2], true)
	return k, nil
}

// reason says why a client certificate is of no use; "" where it is.
func (o KubeletOptions) reason(cert, key []byte, pair bool) string {
	if len(cert) == 0 {
		return "absent"
	}
	c, err := pki.First(cert)
	if err != nil {
		return err.Error()
	}
	if !o.Now().Before(c.NotAfter) {
		return "ended on " + c.NotAfter.UTC().Format(time.DateOnly)
	}
	if o.Rotation != nil && !o.Rotation.Signed(c) {
		return "signed by the old CA"
	}
	if pair {
		if _, err := tls.X509KeyPair(cert, key); err != nil {
			return "does not belong to its key"
		}
	}
	return ""
}

func (o KubeletOptions) repair(ctx context.Context, h host.Host) error {
	k, err := o.look(ctx, h)
	if err != nil {
		return err
	}
	if k.client != "" || k.confBad != "" || k.serving || k.given {
		if err := restartKubelet.Ask(ctx, h); err != nil {
			return err
		}
	}
	if k.client != "" || k.confBad != "" {
		if err := o.replace(ctx, h, k); err != nil {
			return err
		}
	}
	if k.serving {
		for _, p := range []string{ownKey, ownCert} { // the certificate last: it says what is to be done
			if err := h.Remove(ctx, p); err != nil {
				return err
			}
		}
	}
	if k.given {
		if err := h.Remove(ctx, givenCert); err != nil {
			return err
		}
	}
	return restartKubelet.Do(ctx, h)
}

// replace puts a new certificate where the kubelet keeps its own, in its own form, so
// that it renews it later as it would any other.
func (o KubeletOptions) replace(ctx context.Context, h host.Host, k kubelet) error {
	conf, err := o.Sign(ctx, o.Node.Name)
	if err != nil {
		return fmt.Errorf("sign a client certificate for the kubelet of %s: %w", o.Node.Name, err)
	}
	if k.client != "" {
		pair, err := kubeadm.ClientPairOf(conf)
		if err != nil {
			return err
		}
		f := host.Bytes(pki.KubeletDir+"/kubelet-client-"+o.Now().UTC().Format("2006-01-02-15-04-05")+".pem", 0o600, pair)
		f.Secret = true
		if _, err := h.Put(ctx, f); err != nil {
			return err
		}
		if _, err := h.Run(ctx, host.Command("ln", "-sfn", f.Path, pki.KubeletClientPath)); err != nil {
			return err
		}
	}
	if k.confBad == "" {
		return nil
	}
	server := kubeadm.Server(o.Inventory)
	if o.Node.ControlPlane {
		server = "https://" + net.JoinHostPort(o.Node.IP, strconv.Itoa(inventory.APIServerPort))
	}
	if was, err := kubeadm.ServerOf(k.conf); err == nil && was != "" {
		server = was
	}
	if o.Rotation != nil && k.conf != nil {
		conf = k.conf // kubeadm's trusts the new CA alone
	}
	next, err := kubeadm.WithClientFile(conf, pki.KubeletClientPath, server)
	if err != nil {
		return err
	}
	f := host.Bytes(pki.KubeletConfPath, 0o600, next)
	f.Secret = true
	_, err = h.Put(ctx, f)
	return err
}

// Signer signs client certificates of kubelets on a control plane, one at a time.
type Signer struct {
	Inventory *inventory.Inventory
	Node      inventory.Node
	Dial      func(context.Context) (host.Host, error)
	mu        sync.Mutex
}

// Sign returns a kubeconfig for the kubelet of a node.
func (s *Signer) Sign(ctx context.Context, node string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, err := s.Dial(ctx)
	if err != nil {
		return nil, err
	}
	conf, err := kubeadm.Certificate(s.Inventory, s.Node)
	if err != nil {
		return nil, err
	}
	if _, err := h.Put(ctx, host.Bytes(kubeadm.CertConfigPath, 0o600, conf)); err != nil {
		return nil, err
	}
	out, err := kubeadmrun.Output(ctx, h, "kubeconfig", "user", "--org", "system:nodes", "--client-name", "system:node:"+node, "--config", kubeadm.CertConfigPath)
	if err != nil {
		return nil, err
	}
	return out, h.Remove(ctx, kubeadm.CertConfigPath)
}
