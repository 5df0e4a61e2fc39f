package certs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeedit"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
)

// RotateOptions are what the steps of a rotation of CAs need. What is done is read
// from the host: its files say how far each CA has come (pki.Stage), which only grows.
type RotateOptions struct {
	Inventory *inventory.Inventory
	Node      inventory.Node
	Rotations []pki.Rotation
	// Healthy says whether the cluster can do without one control plane, and is asked
	// until it does.
	Healthy func(context.Context) error
}

const restartForCA = kubeedit.Restart("restart-kubelet-ca")

// main is the rotation of the CA of Kubernetes itself.
func (o RotateOptions) main() (pki.Rotation, bool) {
	i := slices.IndexFunc(o.Rotations, pki.Rotation.Main)
	if i < 0 {
		return pki.Rotation{}, false
	}
	return o.Rotations[i], true
}

// here are the rotations that concern the node: a worker knows one CA.
func (o RotateOptions) here() []pki.Rotation {
	if o.Node.ControlPlane {
		return o.Rotations
	}
	return slices.DeleteFunc(slices.Clone(o.Rotations), func(r pki.Rotation) bool { return !r.Main() })
}

// stage reads how far a CA has come on a host.
func stage(ctx context.Context, r host.Reader, x pki.Rotation) (pki.Stage, error) {
	data, err := r.ReadFile(ctx, x.CA.CertPath)
	if err != nil {
		return pki.Before, err
	}
	s, err := x.Stage(data)
	if err != nil {
		return s, &fault.Error{Node: r.Name(), Code: fault.Preflight, Hint: "look at it: kocli certs list --wide; put the CA of the other control planes there, then run the same command again",
			Err: fmt.Errorf("%s: %w", x.CA.CertPath, err)}
	}
	return s, nil
}

// stages reads how far all CAs have come that concern the node.
func (o RotateOptions) stages(ctx context.Context, r host.Reader) ([]pki.Stage, error) {
	all := o.here()
	out, errs := make([]pki.Stage, len(all)), make([]error, len(all))
	var wg sync.WaitGroup
	for i, x := range all {
		wg.Go(func() { out[i], errs[i] = stage(ctx, r, x) })
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// exists reports whether there is something at a path.
func exists(ctx context.Context, r host.Reader, name string) (bool, error) {
	_, err := r.Stat(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// NewCA puts the new CAs beside the old ones on a control plane, and a copy of what the
// controller manager signs with until the new one does.
func NewCA(o RotateOptions) plan.Step {
	return converge.Func{
		Name: "certs/new-ca",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			var out []plan.Change
			for _, x := range o.here() {
				files, copied, err := beside(ctx, r, x)
				if err != nil {
					return nil, err
				}
				diffs, err := converge.Differences(ctx, r, files)
				if err != nil {
					return nil, err
				}
				if len(diffs) > 0 || !copied {
					out = append(out, plan.Change{Object: "CA " + x.CA.Name, From: "until " + x.Old.NotAfter.UTC().Format(time.DateOnly), To: "a new one beside it, until " + x.New.NotAfter.UTC().Format(time.DateOnly)})
				}
			}
			return out, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			for _, x := range o.here() {
				files, copied, err := beside(ctx, h, x)
				if err != nil {
					return err
				}
				if !copied {
					if err := install(ctx, h, x.CA.KeyPath, x.OldKeyPath()); err != nil {
						return err
					}
				}
				if err := converge.Put(ctx, h, files, 1); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// beside lists the files that a rotation needs on a control plane, the new CA last:
// with it they are complete. Where the old one is gone nothing is needed any more. It
// reports whether the key of the old one has been copied.
func beside(ctx context.Context, r host.Reader, x pki.Rotation) (files []host.File, copied bool, err error) {
	s, err := stage(ctx, r, x)
	if err != nil || s == pki.After {
		return nil, true, err
	}
	key := host.Bytes(x.NewKeyPath(), 0o600, x.Key)
	key.Secret = true
	files = []host.File{host.Bytes(x.OldPath(), 0o644, pki.Encode(x.Old))}
	copied = true
	if x.Main() {
		files = append(files, host.Bytes(x.BundlePath(), 0o644, x.Bundle(pki.Trusted)))
		if s < pki.Signing { // after that the old key is nowhere else
			if copied, err = sameContent(ctx, r, x.CA.KeyPath, x.OldKeyPath()); err != nil {
				return nil, false, err
			}
		}
	}
	return append(files, key, host.Bytes(x.NewPath(), 0o644, pki.Encode(x.New))), copied, nil
}

// sameContent compares two files on the host: keys need not leave it for that.
func sameContent(ctx context.Context, r host.Reader, a, b string) (bool, error) {
	outs, errs, err := converge.Asked(ctx, r, host.Command("sha256sum", "--", a), host.Command("sha256sum", "--", b))
	if err != nil || errs[0] != nil || errs[1] != nil {
		return false, err
	}
	one, two := bytes.Fields(outs[0].Stdout), bytes.Fields(outs[1].Stdout)
	return len(one) > 0 && len(two) > 0 && bytes.Equal(one[0], two[0]), nil
}

// install copies a file on the host, with mode and owner, and renames the copy into
// place. The ledger would keep what it replaces: a key that goes has to be gone.
func install(ctx context.Context, h host.Host, from, to string) error {
	if _, err := h.Run(ctx, host.Command("mkdir", "-p", "--", path.Dir(to))); err != nil {
		return err
	}
	next := to + ".next"
	if _, err := h.Run(ctx, host.Command("cp", "-a", "-T", from, next)); err != nil {
		return err
	}
	_, err := h.Run(ctx, host.Command("mv", "-T", next, to))
	return err
}

// conf is a kubeconfig whose CAs are not those that are wanted.
type conf struct {
	path, from string
	data       []byte
}

// kubeconfigs lists those of a node that trust something else than what a stage asks
// for: both CAs as long as the old one is trusted, the new one alone after that.
func (o RotateOptions) kubeconfigs(ctx context.Context, r host.Reader, x pki.Rotation, to pki.Stage) ([]conf, error) {
	paths := []string{pki.KubeletConfPath}
	if o.Node.ControlPlane {
		for _, m := range pki.AllManaged() {
			if m.Kubeconfig() {
				paths = append(paths, m.Path)
			}
		}
	}
	all, errs := make([]*conf, len(paths)), make([]error, len(paths))
	var wg sync.WaitGroup
	for i, p := range paths {
		wg.Go(func() {
			data, err := r.ReadFile(ctx, p)
			if errors.Is(err, fs.ErrNotExist) {
				return // super-admin.conf is where init ran
			}
			why := ""
			if err == nil {
				why, err = distrust(data, x, to)
			}
			if err != nil {
				errs[i] = fmt.Errorf("%s on %s: %w", p, r.Name(), err)
			} else if why != "" {
				all[i] = &conf{p, why, data}
			}
		})
	}
	wg.Wait()
	var out []conf
	for _, c := range all {
		if c != nil {
			out = append(out, *c)
		}
	}
	return out, errors.Join(errs...)
}

// distrust says what a kubeconfig trusts where that is not what it should be; "" where
// it is. One that names the CA's file has nothing of its own.
func distrust(kubeconfig []byte, x pki.Rotation, to pki.Stage) (string, error) {
	data, file, err := kubeadm.AuthorityOf(kubeconfig)
	if err != nil {
		return "", err
	}
	if len(data) == 0 && file == x.CA.CertPath {
		return "", nil
	}
	if len(data) == 0 {
		return "", fmt.Errorf("it trusts the CA in %q, which kocli does not know", file)
	}
	s, err := x.Stage(data)
	if err != nil {
		return "", err
	}
	if s == to || to != pki.After && (s == pki.Trusted || s == pki.Signing) {
		return "", nil
	}
	return "trusts " + s.String(), nil
}

// trust has the kubeconfigs trust what a stage asks for.
func (o RotateOptions) trust(ctx context.Context, h host.Host, all []conf, x pki.Rotation, to pki.Stage) error {
	for _, c := range all {
		next, err := kubeadm.WithAuthority(c.data, x.Bundle(to))
		if err != nil {
			return fmt.Errorf("%s: %w", c.path, err)
		}
		f := host.Bytes(c.path, 0o600, next)
		f.Secret = true
		if _, err := h.Put(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// bundles is the step that brings the CAs of a node to a stage at which keys do not
// change: to trust both, or the new one alone. Kubeconfigs go first, then what the
// controller manager is told, which takes no bundle as the CA that it signs with.
func (o RotateOptions) bundles(name string, to pki.Stage) plan.Step {
	return converge.Func{
		Name: name,
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			stages, err := o.stages(ctx, r)
			if err != nil {
				return nil, err
			}
			var out []plan.Change
			for i, x := range o.here() {
				if stages[i] < to {
					out = append(out, plan.Change{Object: "file " + x.CA.CertPath, From: stages[i].String(), To: to.String()})
				}
			}
			due, err := restartForCA.Due(ctx, r, "other CAs")
			if err != nil {
				return nil, err
			}
			x, ok := o.main()
			if !ok {
				return append(out, due...), nil
			}
			at := max(stages[0], to)
			confs, err := o.kubeconfigs(ctx, r, x, at)
			if err != nil {
				return nil, err
			}
			for _, c := range confs {
				out = append(out, plan.Change{Object: "file " + c.path, From: c.from, To: at.String()})
			}
			if at == to {
				signer, err := controllerDue(ctx, r, o, x, to)
				if err != nil {
					return nil, err
				}
				out = append(out, signer...)
			}
			if len(due) == 0 && (stages[0] < to || len(confs) > 0) {
				due = []plan.Change{{Object: "service kubelet.service", From: "runs with other CAs", To: "restart"}}
			}
			return append(out, due...), nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error { return o.bundle(ctx, h, to) },
	}
}

func (o RotateOptions) bundle(ctx context.Context, h host.Host, to pki.Stage) error {
	stages, err := o.stages(ctx, h)
	if err != nil {
		return err
	}
	x, main := o.main()
	if main {
		at := max(stages[0], to)
		confs, err := o.kubeconfigs(ctx, h, x, at)
		if err != nil {
			return err
		}
		if stages[0] < to || len(confs) > 0 {
			if err := restartForCA.Ask(ctx, h); err != nil {
				return err
			}
		}
		if err := o.trust(ctx, h, confs, x, at); err != nil {
			return err
		}
		if to == pki.Trusted && at == to { // before the file is a bundle
			if err := o.tellController(ctx, h, x, to); err != nil {
				return err
			}
		}
	}
	for i, x := range o.here() {
		if stages[i] < to {
			if _, err := h.Put(ctx, host.Bytes(x.CA.CertPath, 0o644, x.Bundle(to))); err != nil {
				return err
			}
		}
	}
	if main && to == pki.After { // once the file is none any more
		if err := o.tellController(ctx, h, x, to); err != nil {
			return err
		}
	}
	return restartForCA.Do(ctx, h)
}

// Trust has a node trust the new CAs beside the old ones.
func Trust(o RotateOptions) plan.Step { return o.bundles("certs/trust", pki.Trusted) }

// Remove has a node trust the new CAs alone.
func Remove(o RotateOptions) plan.Step { return o.bundles("certs/remove-ca", pki.After) }

// Clean removes what the rotation kept on a control plane, the key of the old CA among
// it. It is put aside in one rename first, so that half of it is not taken for one that
// has just begun.
func Clean() plan.Step {
	return converge.Func{
		Name: "certs/clean",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			var out []plan.Change
			for _, p := range []string{pki.RotationDir, pki.RotationDone} {
				there, err := exists(ctx, r, p)
				if err != nil {
					return nil, err
				}
				if there {
					out = append(out, plan.Change{Object: "folder " + p, From: "has the key of the old CA", To: "remove"})
				}
			}
			return out, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			there, err := exists(ctx, h, pki.RotationDir)
			if err != nil {
				return err
			}
			if there {
				if err := h.Remove(ctx, pki.RotationDone); err != nil { // of one before
					return err
				}
				if _, err := h.Run(ctx, host.Command("mv", "-T", pki.RotationDir, pki.RotationDone)); err != nil {
					return err
				}
			}
			if there, err = exists(ctx, h, pki.RotationDone); err != nil || !there {
				return err
			}
			return h.Remove(ctx, pki.RotationDone)
		},
	}
}

// recordPath has the containers that ran once the files of a stage were there, by stage
// and static pod: those that have to go.
const recordPath = pki.RotationDir + "/restarts.json"

type record map[string]map[string][]string

func readRecord(ctx context.Context, r host.Reader) (record, error) {
	out, err := readNote[record](ctx, r, recordPath)
	if out == nil {
		out = record{}
	}
	return out, err
}

// write is not for the ledger: the file goes with its folder.
func (x record) write(ctx context.Context, h host.Host) error {
	return writeNote(ctx, h, recordPath, x)
}
