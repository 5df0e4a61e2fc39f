package reset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/plan"
)

// traces finds what kubeadm and a kubelet leave, whatever part of it: a reset
// that was cut off is gone on with as long as any of it is there. A volume's
// lost+found is nobody's.
func traces() host.Cmd {
	argv := []string{"find", "/etc/kubernetes", "/var/lib/kubelet", "/var/lib/etcd", "-maxdepth", "2", "-not", "-name", "lost+found", "("}
	for _, f := range []string{"admin", "super-admin", "kubelet", "bootstrap-kubelet", "controller-manager", "scheduler"} {
		argv = append(argv, "-path", "/etc/kubernetes/"+f+".conf", "-o")
	}
	return host.Command(append(argv, "-path", "/etc/kubernetes/manifests/*.yaml", "-o", "-path", "/etc/kubernetes/pki", "-o", "-path", "/etc/kubernetes/tmp",
		"-o", "-path", "/var/lib/kubelet/*", "-o", "-path", "/var/lib/etcd/member", ")")...)
}

// Kubeadm runs kubeadm reset where kubeadm has been at work.
func Kubeadm() plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		outs, _, err := converge.Asked(ctx, r, traces())
		if err != nil || outs[0].Text() == "" {
			return nil, err
		}
		ours, err := Ours(ctx, r)
		if err != nil {
			return nil, err
		}
		if !ours {
			return nil, fault.New(fault.Preflight, "take the host out of the cluster YAML, or remove that Kubernetes with the tool that installed it",
				fmt.Errorf("%s has a Kubernetes that kocli did not install: it is left alone", r.Name()))
		}
		found := strings.Split(outs[0].Text(), "\n")
		return []plan.Change{{Object: "kubeadm reset", From: fmt.Sprintf("%d files and folders, %s among them", len(found), found[0]), To: "node leaves, its pods and data are removed", Disruptive: true}}, nil
	}
	return converge.Func{
		Name:    "reset/kubeadm",
		CheckFn: check,
		ApplyFn: func(ctx context.Context, h host.Host) error {
			if todo, err := check(ctx, h); err != nil || len(todo) == 0 {
				return err
			}
			if _, err := h.Stat(ctx, "/usr/bin/kubeadm"); errors.Is(err, fs.ErrNotExist) {
				return errors.New("there is a control plane or kubelet here, and no kubeadm to remove it with")
			}
			// containerd has to run for kubeadm to stop the pods.
			if _, err := h.Run(ctx, host.Command("systemctl", "start", "containerd.service")); err != nil {
				return err
			}
			if err := kubeadmrun.Run(ctx, h, "reset", "--force", "--cri-socket", kubeadm.CRISocket); err != nil {
				return err
			}
			if _, err := h.Run(ctx, host.Command("systemctl", "stop", "kubelet.service")); err != nil {
				return err
			}
			// kubeadm leaves these where a mount or a killed run was in its way.
			_, err := h.Run(ctx, host.Command("find", "/etc/kubernetes", "/var/lib/kubelet", "/var/lib/etcd", "-mindepth", "1", "-xdev",
				"-not", "-path", kubeadm.ConfigDir, "-not", "-path", kubeadm.ConfigDir+"/*", "-not", "-name", "lost+found", "-delete"))
			var x *host.ExitError
			if errors.As(err, &x) {
				return nil // what is left is said by the check
			}
			return err
		},
	}
}
