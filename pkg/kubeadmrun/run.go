// Package kubeadmrun runs kubeadm on a host, for the steps that start a cluster
// and those that join it. What kubeadm is told is package kubeadm's.
package kubeadmrun

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
)

// PutPatch writes what this node's kubelet has different from the others'.
func PutPatch(ctx context.Context, h host.Host, n inventory.Node, o kubeadm.NodeOptions) error {
	patch, err := kubeadm.KubeletPatch(n, o)
	if err != nil || patch == nil {
		return err
	}
	_, err = h.Put(ctx, host.Bytes(kubeadm.KubeletPatchPath, 0o600, patch))
	return err
}

// Leftover reports whether a configuration that holds a token is still on a
// host: the run that wrote it was cut off before it could remove it. It asks at
// once, and answers when called, so that the question travels with others.
func Leftover(ctx context.Context, r host.Reader, config string) func() (bool, error) {
	type answer struct {
		there bool
		err   error
	}
	ch := make(chan answer, 1)
	go func() {
		_, err := r.Stat(ctx, config)
		if errors.Is(err, fs.ErrNotExist) {
			ch <- answer{}
			return
		}
		ch <- answer{err == nil, err}
	}()
	return func() (bool, error) {
		a := <-ch
		return a.there, a.err
	}
}

// LeftoverChange says that a configuration is to be removed.
func LeftoverChange(config string) plan.Change {
	return plan.Change{Object: "file " + config, To: "remove: it holds a token"}
}

// Run runs kubeadm on a host. A lock keeps a second one waiting for a first
// that an earlier, killed kocli left running.
func Run(ctx context.Context, h host.Host, args ...string) error {
	_, err := Output(ctx, h, args...)
	return err
}

// Output is Run for a command that prints what it makes. That may be a secret: it is
// in no error.
func Output(ctx context.Context, h host.Host, args ...string) ([]byte, error) {
	c := host.Command(append(locked(), args...)...)
	c.Timeout = 20 * time.Minute
	out, err := h.Run(ctx, c)
	var x *host.ExitError
	if errors.As(err, &x) {
		return nil, explain(args, string(out.Stderr)+"\n"+string(out.Stdout), err)
	}
	return out.Stdout, err
}

// locked is kubeadm, behind the lock.
func locked() []string {
	return []string{"flock", "--no-fork", "-w", "600", "/run/kocli-kubeadm.lock", "/usr/bin/kubeadm"}
}

// explain has the error of a kubeadm that did not succeed begin with what it said.
func explain(args []string, said string, err error) error {
	if why := kubeadmError(said); why != "" {
		return fmt.Errorf("kubeadm %s: %s: %w", args[0], why, err)
	}
	return fmt.Errorf("kubeadm %s: %w", args[0], err)
}

// Said returns what kubeadm itself said in an error of Run: the lines that name
// what is wrong. Empty where it said nothing.
func Said(err error) string {
	var x *host.ExitError
	if !errors.As(err, &x) {
		return ""
	}
	return kubeadmError(string(x.Stderr))
}

// kubeadmError picks the lines that say what is wrong out of kubeadm's output.
func kubeadmError(text string) string {
	var out []string
	for _, l := range strings.Split(text, "\n") {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, "[ERROR ") || strings.HasPrefix(l, "error execution phase") || strings.HasPrefix(l, "error:") {
			out = append(out, l)
		}
	}
	return strings.Join(out, "; ")
}

// LeftByControlPlane are kubeadm's preflight checks that find what an earlier,
// interrupted init or join of a control plane left. kubeadm goes over all of it
// without harm: certificates and kubeconfigs that exist are used, manifests are
// written again.
func LeftByControlPlane() []string {
	out := []string{"DirAvailable--var-lib-etcd"}
	for _, f := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"} {
		out = append(out, "FileAvailable--etc-kubernetes-manifests-"+f+".yaml")
	}
	for _, p := range []string{"6443", "10259", "10257", "10250", "2379", "2380"} {
		out = append(out, "Port-"+p)
	}
	return out
}
