package certs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/staticpod"
)

// controllerManager signs for kubelets, and tells pods which CA to trust. It takes no
// bundle as the CA that it signs with.
const (
	controllerManager         = "kube-controller-manager"
	ControllerManagerManifest = kubeadm.ManifestsDir + "/" + controllerManager + ".yaml"
)

// ControllerFlags are the flags of the controller manager that lead to the CA, as they
// are at a stage. Before and after a rotation they are kubeadm's own.
func ControllerFlags(x pki.Rotation, s pki.Stage) map[string]string {
	const cert, key, root = "cluster-signing-cert-file", "cluster-signing-key-file", "root-ca-file"
	switch s {
	case pki.Trusted:
		return map[string]string{cert: x.OldPath(), key: x.OldKeyPath(), root: x.BundlePath()}
	case pki.Signing:
		return map[string]string{cert: x.NewPath(), key: x.NewKeyPath(), root: x.BundlePath()}
	}
	return map[string]string{cert: x.CA.CertPath, key: x.CA.KeyPath, root: x.CA.CertPath}
}

// controllerManifest returns the manifest of the controller manager as it is and as it
// should be; nil on a node that has none.
func controllerManifest(ctx context.Context, r host.Reader, x pki.Rotation, to pki.Stage) (have, want []byte, err error) {
	have, err = r.ReadFile(ctx, ControllerManagerManifest)
	if err == nil {
		want, err = staticpod.WithFlags(have, ControllerFlags(x, to))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s on %s: %w", ControllerManagerManifest, r.Name(), err)
	}
	return have, want, nil
}

// controllerDue says what is to be done with the controller manager of a control plane.
func controllerDue(ctx context.Context, r host.Reader, o RotateOptions, x pki.Rotation, to pki.Stage) ([]plan.Change, error) {
	if !o.Node.ControlPlane {
		return nil, nil
	}
	have, want, err := controllerManifest(ctx, r, x, to)
	if err != nil {
		return nil, err
	}
	c := plan.Change{Object: "static pod " + controllerManager, From: "has other CAs", To: map[pki.Stage]string{
		pki.Trusted: "sign with the old CA, hand out both", pki.Signing: "sign with the new CA, hand out both", pki.After: "as kubeadm has it",
	}[to], Disruptive: true}
	if string(have) != string(want) {
		return []plan.Change{c}, nil
	}
	runs, err := staticpod.RunsWith(ctx, r, controllerManager, ControllerFlags(x, to))
	if err != nil || runs {
		return nil, err
	}
	c.From, c.To = "runs with older flags", "restart"
	return []plan.Change{c}, nil
}

// tellController changes the manifest of a control plane's controller manager, which
// the kubelet starts it anew for, and waits until it runs so.
func (o RotateOptions) tellController(ctx context.Context, h host.Host, x pki.Rotation, to pki.Stage) error {
	if !o.Node.ControlPlane {
		return nil
	}
	have, want, err := controllerManifest(ctx, h, x, to)
	if err != nil {
		return err
	}
	if string(have) != string(want) {
		if _, err := h.Put(ctx, host.Bytes(ControllerManagerManifest, 0o600, want)); err != nil {
			return err
		}
	}
	wait, cancel := context.WithTimeout(ctx, provedTime)
	defer cancel()
	err = kube.Poll(wait, time.Second, func(ctx context.Context) error {
		runs, err := staticpod.RunsWith(ctx, h, controllerManager, ControllerFlags(x, to))
		if err == nil && !runs {
			err = fmt.Errorf("%s on %s does not run with the flags of its manifest yet", controllerManager, h.Name())
		}
		return err
	})
	if err != nil {
		return o.hint(err)
	}
	return nil
}

func (o RotateOptions) hint(err error) error { return Options{Node: o.Node}.hint(err) }

// leaf is a certificate that the new CA has not signed.
type leaf struct {
	pki.Managed
	by pki.Rotation
}

// leaves lists the certificates of a control plane that are left to be signed by the
// new CAs. Those that a node does not have are left out.
func (o RotateOptions) leaves(ctx context.Context, r host.Reader) ([]leaf, error) {
	if !o.Node.ControlPlane {
		return nil, nil
	}
	var out []leaf
	want := pki.AllManaged()
	all, err := readAll(ctx, r, want)
	if err != nil {
		return nil, err
	}
	for i, m := range want {
		x, ok := m.Rotating(o.Rotations)
		if ok && all[i] != nil && !x.Signed(all[i]) {
			out = append(out, leaf{m, x})
		}
	}
	return out, nil
}

// Sign has a control plane sign with the new CAs, and every certificate of kubeadm's
// there be signed by them. Whoever serves or uses them is not restarted yet but for the
// controller manager, which signs for kubelets.
func Sign(o RotateOptions) plan.Step {
	return converge.Func{
		Name: "certs/sign",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			leftover := kubeadmrun.Leftover(ctx, r, kubeadm.CertConfigPath)
			stages, err1 := o.stages(ctx, r)
			left, err2 := o.leaves(ctx, r)
			there, err3 := leftover()
			if err := errors.Join(err1, err2, err3); err != nil {
				return nil, err
			}
			var out []plan.Change
			for i, x := range o.here() {
				if stages[i] < pki.Signing {
					out = append(out, plan.Change{Object: "CA " + x.CA.Name, From: "the old one signs", To: "the new one signs"})
				}
			}
			for _, l := range left {
				out = append(out, plan.Change{Object: "certificate " + l.Name, From: "signed by the old CA", To: "signed by the new one"})
			}
			if there && len(left) == 0 {
				out = append(out, plan.Change{Object: "file " + kubeadm.CertConfigPath, From: "left by a run that was cut off", To: "absent"})
			}
			x, ok := o.main()
			if !ok || stages[0] == pki.After {
				return out, nil
			}
			confs, err := o.kubeconfigs(ctx, r, x, pki.Signing)
			if err != nil {
				return nil, err
			}
			if stages[0] == pki.Signing { // before, Trust answers for them
				for _, c := range confs {
					out = append(out, plan.Change{Object: "file " + c.path, From: c.from, To: pki.Signing.String()})
				}
			}
			due, err := controllerDue(ctx, r, o, x, pki.Signing)
			return append(out, due...), err
		},
		ApplyFn: func(ctx context.Context, h host.Host) error { return o.signAll(ctx, h) },
	}
}

func (o RotateOptions) signAll(ctx context.Context, h host.Host) error {
	stages, err := o.stages(ctx, h)
	if err != nil {
		return err
	}
	for i, x := range o.here() {
		if stages[i] >= pki.Signing {
			continue
		}
		if err := install(ctx, h, x.NewKeyPath(), x.CA.KeyPath); err != nil {
			return err
		}
		if _, err := h.Put(ctx, host.Bytes(x.CA.CertPath, 0o644, x.Bundle(pki.Signing))); err != nil {
			return err
		}
	}
	if err := o.signLeaves(ctx, h); err != nil {
		return err
	}
	x, ok := o.main()
	if !ok || stages[0] == pki.After {
		return nil
	}
	confs, err := o.kubeconfigs(ctx, h, x, pki.Signing) // kubeadm has them trust the first CA alone
	if err != nil {
		return err
	}
	if err := o.trust(ctx, h, confs, x, pki.Signing); err != nil {
		return err
	}
	return o.tellController(ctx, h, x, pki.Signing)
}

// signLeaves has kubeadm renew what is left, one by one: it signs with the first CA of
// the file.
func (o RotateOptions) signLeaves(ctx context.Context, h host.Host) error {
	left, err := o.leaves(ctx, h)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		conf, err := kubeadm.Certificate(o.Inventory, o.Node)
		if err != nil {
			return err
		}
		if _, err := h.Put(ctx, host.Bytes(kubeadm.CertConfigPath, 0o600, conf)); err != nil {
			return err
		}
	}
	for _, l := range left {
		if err := kubeadmrun.Run(ctx, h, "certs", "renew", l.Name, "--config", kubeadm.CertConfigPath); err != nil {
			return fault.New(fault.Failure, fmt.Sprintf("see what is there: kocli certs list; then run the same command again: it goes on with %s on %s", l.Name, h.Name()), err)
		}
		now, err := readCert(ctx, h, l.Managed)
		if err != nil {
			return err
		}
		if now == nil || !l.by.Signed(now) { // kubeadm says so in its output only
			return fault.New(fault.Failure, fmt.Sprintf("see why: kocli exec %s --root -- kubeadm certs check-expiration", h.Name()), fmt.Errorf("kubeadm has not had the new CA sign %s", l.Name))
		}
	}
	there, err := kubeadmrun.Leftover(ctx, h, kubeadm.CertConfigPath)()
	if err != nil || !there {
		return err
	}
	return h.Remove(ctx, kubeadm.CertConfigPath)
}

// Round is one round of restarts on a control plane: whoever reads CAs and certificates
// when it starts is started anew once the files have come to a stage.
func Round(o RotateOptions, name string, at pki.Stage) plan.Step {
	pods := o.pods()
	return converge.Func{
		Name: name,
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			rec, done, err := o.round(ctx, r, at)
			if err != nil || done {
				return nil, err
			}
			var out []plan.Change
			for _, pod := range pods {
				there, err := exists(ctx, r, kubeadm.ManifestsDir+"/"+pod+".yaml")
				if err != nil {
					return nil, err
				}
				if !there {
					continue
				}
				ended := false
				if rec != nil {
					if ended, err = staticpod.Replaced(ctx, r, pod, rec[pod]); err != nil {
						return nil, err
					}
				}
				if !ended {
					out = append(out, plan.Change{Object: "static pod " + pod, From: "runs with other CAs and certificates", To: "restart", Disruptive: true})
				}
			}
			return out, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error { return o.restart(ctx, h, at, pods) },
	}
}

// pods lists who reads CAs and certificates when it starts, and only then, in the
// order in which they are restarted. The controller manager is started anew by its
// manifest.
func (o RotateOptions) pods() []string {
	uses := map[string]bool{}
	for _, x := range o.Rotations {
		switch {
		case x.Main():
			uses["kube-apiserver"], uses["kube-scheduler"] = true, true
		case x.CA.Name == "etcd-ca":
			uses["etcd"], uses["kube-apiserver"] = true, true
		default:
			uses["kube-apiserver"] = true
		}
	}
	var out []string
	for _, pod := range []string{"etcd", "kube-apiserver", "kube-scheduler"} {
		if uses[pod] {
			out = append(out, pod)
		}
	}
	return out
}

// round returns the containers that ran when the files had come to a stage; nil where
// nobody has looked yet. A round is done where a later one has begun, or the rotation
// has come to its end.
func (o RotateOptions) round(ctx context.Context, r host.Reader, at pki.Stage) (containers map[string][]string, done bool, err error) {
	stages, err := o.stages(ctx, r)
	if err != nil {
		return nil, false, err
	}
	later, ended := len(stages) > 0, len(stages) > 0
	for _, s := range stages {
		later, ended = later && s > at, ended && s == pki.After
	}
	if later {
		return nil, true, nil
	}
	if ended {
		there, err := exists(ctx, r, pki.RotationDir)
		if err != nil || !there {
			return nil, true, err
		}
	}
	rec, err := readRecord(ctx, r)
	if err != nil {
		return nil, false, err
	}
	return rec[at.String()], false, nil
}

func (o RotateOptions) restart(ctx context.Context, h host.Host, at pki.Stage, pods []string) error {
	old, done, err := o.round(ctx, h, at)
	if err != nil || done {
		return err
	}
	if old == nil {
		if old, err = o.note(ctx, h, at, pods); err != nil {
			return err
		}
	}
	restarted := false
	for _, pod := range pods {
		there, err := exists(ctx, h, kubeadm.ManifestsDir+"/"+pod+".yaml")
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		ended, err := staticpod.Replaced(ctx, h, pod, old[pod])
		if err != nil {
			return err
		}
		if ended {
			continue
		}
		if err := o.well(ctx, "before "+pod+" is restarted"); err != nil {
			return err
		}
		if err := staticpod.Restart(ctx, h, pod, old[pod]); err != nil {
			return o.hint(err)
		}
		restarted = true
	}
	if !restarted {
		return nil
	}
	return o.well(ctx, "after the restarts")
}

// note writes down which containers run.
func (o RotateOptions) note(ctx context.Context, h host.Host, at pki.Stage, pods []string) (map[string][]string, error) {
	rec, err := readRecord(ctx, h)
	if err != nil {
		return nil, err
	}
	now := map[string][]string{}
	for _, pod := range pods {
		if now[pod], err = staticpod.Running(ctx, h, pod); err != nil {
			return nil, err
		}
	}
	rec[at.String()] = now
	return now, rec.write(ctx, h)
}

func (o RotateOptions) well(ctx context.Context, when string) error {
	return Options{Node: o.Node, Healthy: o.Healthy}.healthy(ctx, when)
}

// missing reports whether err says that there is no file.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
