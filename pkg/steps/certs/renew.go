// Package certs renews the certificates of a cluster that runs, or that does not any
// more: those that kubeadm manages on control planes, and the kubelets' own where
// they could not renew them in time. What there is to look at is package pki's.
package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
)

// Options are what the steps need.
type Options struct {
	Inventory *inventory.Inventory
	Node      inventory.Node
	// Operation names one renewal, however often it is begun anew: within it, no
	// certificate is renewed twice.
	Operation string
	Want      []pki.Managed
	// Healthy says whether the cluster can do without one control plane, and is asked
	// until it does; nil where the cluster is down already.
	Healthy func(context.Context) error
	Now     func() time.Time
}

// MarkPath remembers on a control plane what an operation found: clocks decide
// nothing, since kubeadm dates certificates back. It stays, as a record of the last
// operation, until the next one.
const MarkPath = kubeadm.ConfigDir + "/certs-renewal.json"

// mark is the content of MarkPath.
type mark struct {
	Operation string `json:"operation"`
	// Before has the digests of the certificates as they were, by name.
	Before map[string]string `json:"before"`
	// Containers ran when all files had been renewed, by static pod; nil until then.
	Containers map[string][]string `json:"containers"`
}

// readMark returns the mark of an operation, empty where it has left none yet.
func readMark(ctx context.Context, r host.Reader, operation string) (mark, error) {
	m, err := readNote[mark](ctx, r, MarkPath)
	if err != nil || m.Operation != operation {
		return mark{}, err
	}
	return m, nil
}

func (m mark) write(ctx context.Context, h host.Host) error { return writeNote(ctx, h, MarkPath, m) }

// found is a certificate that is on a node.
type found struct {
	pki.Managed
	*pki.Facts
}

// look reads the certificates that are wanted; those that a node does not have are
// left out, such as super-admin.conf where init did not run.
func look(ctx context.Context, r host.Reader, want []pki.Managed) ([]found, error) {
	all, err := readAll(ctx, r, want)
	var out []found
	for i, c := range all {
		if c != nil {
			out = append(out, found{want[i], pki.FactsOf(c)})
		}
	}
	return out, err
}

// readAll reads certificates at once; nil where there is no such file.
func readAll(ctx context.Context, r host.Reader, want []pki.Managed) ([]*x509.Certificate, error) {
	all, errs := make([]*x509.Certificate, len(want)), make([]error, len(want))
	var wg sync.WaitGroup
	for i, m := range want {
		wg.Go(func() {
			var err error
			if all[i], err = readCert(ctx, r, m); err != nil {
				errs[i] = fmt.Errorf("%s on %s: %w", m.Path, r.Name(), err)
			}
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

// read returns nil where there is no such file.
func read(ctx context.Context, r host.Reader, m pki.Managed) (*pki.Facts, error) {
	c, err := readCert(ctx, r, m)
	if err != nil || c == nil {
		return nil, err
	}
	return pki.FactsOf(c), nil
}

// readCert returns nil where there is no such file.
func readCert(ctx context.Context, r host.Reader, m pki.Managed) (*x509.Certificate, error) {
	data, err := r.ReadFile(ctx, m.Path)
	if missing(err) {
		return nil, nil
	}
	if err == nil && m.Kubeconfig() {
		data, _, err = kubeadm.ClientCertificateOf(data)
	}
	if err != nil {
		return nil, err
	}
	return pki.First(data)
}

// left are the certificates that the operation has not renewed yet.
func (m mark) left(all []found) []found {
	if m.Operation == "" {
		return all
	}
	var out []found
	for _, f := range all {
		if m.Before[f.Name] == f.SHA256 {
			out = append(out, f)
		}
	}
	return out
}

// Files has kubeadm renew the certificates of a control plane, one by one.
func Files(o Options) plan.Step {
	return converge.Func{
		Name: "certs/renew",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			leftover := kubeadmrun.Leftover(ctx, r, kubeadm.CertConfigPath)
			signing := make(chan error, 1)
			go func() { signing <- Signable(ctx, r, o.Want, o.Now()) }()
			m, err1 := readMark(ctx, r, o.Operation)
			all, err2 := look(ctx, r, o.Want)
			err3 := <-signing
			there, err4 := leftover()
			if err := errors.Join(err1, err2, err3, err4); err != nil {
				return nil, err
			}
			var out []plan.Change
			for _, f := range m.left(all) {
				out = append(out, plan.Change{Object: "certificate " + f.Name, From: "until " + f.NotAfter.Format(time.DateOnly), To: "renew"})
			}
			if there && len(out) == 0 {
				out = append(out, plan.Change{Object: "file " + kubeadm.CertConfigPath, From: "left by a run that was cut off", To: "absent"})
			}
			return out, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error { return renew(ctx, h, o) },
	}
}

func renew(ctx context.Context, h host.Host, o Options) error {
	m, err := readMark(ctx, h, o.Operation)
	if err != nil {
		return err
	}
	all, err := look(ctx, h, o.Want)
	if err != nil {
		return err
	}
	todo := m.left(all)
	if len(todo) > 0 {
		if err := Signable(ctx, h, o.Want, o.Now()); err != nil {
			return err
		}
		if m.Operation == "" {
			m = mark{Operation: o.Operation, Before: map[string]string{}}
			for _, f := range all {
				m.Before[f.Name] = f.SHA256
			}
			if err := m.write(ctx, h); err != nil {
				return err
			}
		}
		conf, err := kubeadm.Certificate(o.Inventory, o.Node)
		if err != nil {
			return err
		}
		if _, err := h.Put(ctx, host.Bytes(kubeadm.CertConfigPath, 0o600, conf)); err != nil {
			return err
		}
	}
	for _, f := range todo {
		if err := kubeadmrun.Run(ctx, h, "certs", "renew", f.Name, "--config", kubeadm.CertConfigPath); err != nil {
			return fault.New(fault.Failure, fmt.Sprintf("see what is there: kocli certs list; then run the same command again: it goes on with %s on %s", f.Name, h.Name()), err)
		}
		now, err := read(ctx, h, f.Managed)
		if err != nil {
			return err
		}
		if now == nil || now.SHA256 == f.SHA256 { // kubeadm says so in its output only
			return fault.New(fault.Failure, fmt.Sprintf("see why: kocli exec %s --root -- kubeadm certs check-expiration", h.Name()), fmt.Errorf("kubeadm has not renewed %s", f.Name))
		}
	}
	there, err := kubeadmrun.Leftover(ctx, h, kubeadm.CertConfigPath)()
	if err == nil && there {
		err = h.Remove(ctx, kubeadm.CertConfigPath)
	}
	if err != nil || m.Operation == "" {
		return err
	}
	_, err = m.record(ctx, h, o.Want) // before anybody else restarts them
	return err
}

// Signable refuses what kubeadm could not sign on a node: the key of a CA is not
// there, or the CA itself has ended.
func Signable(ctx context.Context, r host.Reader, want []pki.Managed, now time.Time) error {
	all, err := look(ctx, r, want)
	if err != nil {
		return err
	}
	by := map[pki.CA][]string{}
	var order []pki.CA
	for _, f := range all {
		if by[f.Managed.CA] == nil {
			order = append(order, f.Managed.CA)
		}
		by[f.Managed.CA] = append(by[f.Managed.CA], f.Name)
	}
	errs := make([]error, len(order))
	var wg sync.WaitGroup
	for i, ca := range order {
		wg.Go(func() { errs[i] = signs(ctx, r, ca, by[ca], now) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func signs(ctx context.Context, r host.Reader, ca pki.CA, names []string, now time.Time) error {
	type answer struct{ err error }
	key := make(chan answer, 1)
	go func() {
		_, err := r.Stat(ctx, ca.KeyPath)
		key <- answer{err}
	}()
	data, err := r.ReadFile(ctx, ca.CertPath)
	missing := (<-key).err
	if errors.Is(missing, fs.ErrNotExist) {
		return &fault.Error{Node: r.Name(), Code: fault.Preflight, Hint: fmt.Sprintf("on %s: kubeadm certs generate-csr --cert-dir /root/csr --kubeconfig-dir /root/csr; have the CA that signed %s sign them, put the certificates with their keys in place, and restart the static pods; kocli certs list shows the result",
			r.Name(), ca.CertPath),
			Err: fmt.Errorf("%s is not there, so the CA is an external one and kubeadm cannot sign %s", ca.KeyPath, strings.Join(names, ", "))}
	}
	if err := errors.Join(missing, err); err != nil {
		return err
	}
	c, err := pki.First(data)
	if err != nil {
		return fmt.Errorf("%s on %s: %w", ca.CertPath, r.Name(), err)
	}
	if !now.Before(c.NotAfter) {
		return &fault.Error{Node: r.Name(), Code: fault.Preflight, Hint: `replace the CA first, as in "Manual Rotation of CA Certificates" of kubernetes.io`,
			Err: fmt.Errorf("the CA %s has ended on %s: nothing that it signs would be trusted", ca.CertPath, c.NotAfter.UTC().Format(time.DateOnly))}
	}
	return nil
}
