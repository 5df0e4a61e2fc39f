package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
)

// shared are the files that all control planes have in common: the CAs, the key
// that signs service account tokens, and what kocli gives to the API server.
func shared() []string {
	const pki = "/etc/kubernetes/pki/"
	return []string{
		pki + "ca.crt", pki + "ca.key", pki + "sa.key", pki + "sa.pub", pki + "front-proxy-ca.crt", pki + "front-proxy-ca.key",
		pki + "etcd/ca.crt", pki + "etcd/ca.key", kubeadm.AuditPolicyPath, kubeadm.EncryptionConfigPath,
	}
}

// Shared copies from the control plane that started the cluster what a further
// one needs before it joins. It goes over SSH and through kocli's memory, never
// through the cluster.
func Shared(seed func(ctx context.Context) (host.Reader, error)) plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		from, err := seed(ctx)
		if err != nil {
			return nil, err
		}
		want, err := digests(ctx, from)
		if err != nil {
			return nil, err
		}
		if len(want) == 0 {
			return []plan.Change{{Object: "certificates of the control plane", To: "copy", After: "controlplane/init"}}, nil
		}
		have, err := digests(ctx, r)
		if err != nil {
			return nil, err
		}
		const ca = "/etc/kubernetes/pki/ca.crt"
		if have[ca] != "" && have[ca] != want[ca] {
			return nil, fault.New(fault.Preflight, "if its data is not needed, reset it first; if it is the cluster that you mean, list it first in spec.hosts",
				fmt.Errorf("%s belongs to another cluster than %s: its CA is another one", r.Name(), from.Name()))
		}
		var out []plan.Change
		for _, p := range shared() {
			if w, ok := want[p]; ok && have[p] != w {
				out = append(out, plan.Change{Object: "file " + p, To: "copy from " + from.Name()})
			}
		}
		return out, nil
	}
	return converge.Func{
		Name:    "controlplane/certificates",
		CheckFn: check,
		ApplyFn: func(ctx context.Context, h host.Host) error {
			if todo, err := check(ctx, h); err != nil || len(todo) == 0 {
				return err // never over the certificates of another cluster
			}
			from, err := seed(ctx)
			if err != nil {
				return err
			}
			for _, p := range shared() {
				data, err := from.ReadFile(ctx, p)
				if errors.Is(err, fs.ErrNotExist) {
					continue // audit and encryption are optional
				}
				if err != nil {
					return err
				}
				f := host.Bytes(p, 0o600, data)
				f.Secret = true
				if _, err := h.Put(ctx, f); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// digests returns the sha256 of the shared files that a host has.
func digests(ctx context.Context, r host.Reader) (map[string]string, error) {
	var cmds []host.Cmd
	for _, p := range shared() {
		cmds = append(cmds, host.Command("sha256sum", "--", p))
	}
	outs, errs, err := converge.Asked(ctx, r, cmds...)
	if err != nil {
		return nil, err
	}
	have := map[string]string{}
	for i, p := range shared() {
		if errs[i] == nil {
			have[p] = outs[i].Text()
		}
	}
	return have, nil
}
