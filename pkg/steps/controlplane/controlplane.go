// Package controlplane starts a cluster: files that the API server reads, and
// kubeadm init, which may be repeated after any interruption.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/resolver"
)

// Options are what the steps of a control plane need.
type Options struct {
	Inventory *inventory.Inventory
	Node      inventory.Node
	API       kube.API
}

// Steps returns the steps of the control plane that starts the cluster.
func Steps(o Options) []plan.Step {
	steps := []plan.Step{}
	if o.Inventory.Spec.Kubernetes.Audit.Enabled {
		steps = append(steps, audit(o))
	}
	if o.Inventory.Spec.Kubernetes.Encryption.Secrets {
		steps = append(steps, encryption())
	}
	return append(steps, initStep(o))
}

// audit writes the audit policy.
func audit(o Options) plan.Step {
	return converge.Files{Name: "controlplane/audit", List: func(context.Context, host.Reader) ([]host.File, error) {
		policy, err := kubeadm.AuditPolicy(o.Inventory)
		if err != nil {
			return nil, err
		}
		return []host.File{host.Bytes(kubeadm.AuditPolicyPath, 0o600, policy)}, nil
	}}
}

// encryption writes a configuration with a new key, once: a key that is there
// is never replaced, because what it encrypted would be lost.
func encryption() plan.Step {
	return converge.Func{
		Name: "controlplane/encryption",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			_, err := r.Stat(ctx, kubeadm.EncryptionConfigPath)
			if errors.Is(err, fs.ErrNotExist) {
				return []plan.Change{{Object: "file " + kubeadm.EncryptionConfigPath, To: "create, with a new key"}}, nil
			}
			return nil, err
		},
		ApplyFn: func(ctx context.Context, h host.Host) error {
			if _, err := h.Stat(ctx, kubeadm.EncryptionConfigPath); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			config, err := kubeadm.EncryptionConfig(kubeadm.NewEncryptionKey())
			if err != nil {
				return err
			}
			f := host.Bytes(kubeadm.EncryptionConfigPath, 0o600, config)
			f.Secret = true
			_, err = h.Put(ctx, f)
			return err
		},
	}
}

// progress is how far a control plane has come.
type progress int

const (
	fresh    progress = iota // kubeadm init has not begun
	begun                    // something of it is there
	silent                   // there is an API server, and it does not answer
	complete                 // the last thing that init does is there
)

// look finds out how far kubeadm init has come. The node object, kubeadm's own
// configuration and the two add-ons are what its last phases make.
func look(ctx context.Context, r host.Reader, o Options) (progress, error) {
	type answer struct {
		c   *kube.Client
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		c, err := o.API.Look(ctx)
		ch <- answer{c, err}
	}()
	_, err := r.Stat(ctx, "/etc/kubernetes/pki/ca.key")
	a := <-ch
	if errors.Is(a.err, kube.ErrNoCluster) {
		if errors.Is(err, fs.ErrNotExist) {
			return fresh, nil
		}
		return begun, err
	}
	if a.err != nil {
		return begun, a.err
	}
	n, err := a.c.Node(ctx, o.Node.Name)
	if err != nil {
		return silent, nil //nolint:nilerr // an API that does not answer is a state, not a failed look
	}
	config, err1 := a.c.ConfigMap(ctx, "kube-system", "kubeadm-config")
	info, err2 := a.c.ConfigMap(ctx, "kube-public", "cluster-info")
	proxy, err3 := a.c.ConfigMap(ctx, "kube-system", "kube-proxy")
	dns, err4 := a.c.ConfigMap(ctx, "kube-system", "coredns")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return silent, nil //nolint:nilerr // as above
	}
	if n == nil || config == nil || info == nil || proxy == nil || dns == nil {
		return begun, nil
	}
	return complete, nil
}

// lookOurs is look for a control plane whose init kocli has seen to its end: the
// configuration of init is the last thing to go. What is missing of it since has
// been taken away on purpose, and is not brought back.
func lookOurs(ctx context.Context, r host.Reader, o Options) (p progress, unfinished bool, err error) {
	leftover := kubeadmrun.Leftover(ctx, r, kubeadm.InitConfigPath)
	p, err = look(ctx, r, o)
	unfinished, err2 := leftover()
	if err = errors.Join(err, err2); err != nil || p != begun || unfinished {
		return p, unfinished, err
	}
	c, err := o.API.Look(ctx)
	if err != nil {
		return p, false, nil //nolint:nilerr // no admin.conf: initialise says what that means
	}
	if n, err := c.Node(ctx, o.Node.Name); err == nil && n != nil {
		p = complete
	}
	return p, false, nil
}

// apiWait is how long a control plane that was there before is given to answer,
// for instance after a reboot, before kubeadm init goes over it.
const apiWait = 90 * time.Second

func initStep(o Options) plan.Step {
	return converge.Func{
		Name: "controlplane/init",
		CheckFn: func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
			p, there, err := lookOurs(ctx, r, o)
			if err != nil {
				return nil, err
			}
			if p == complete {
				if there {
					return []plan.Change{kubeadmrun.LeftoverChange(kubeadm.InitConfigPath)}, nil
				}
				return nil, nil
			}
			return []plan.Change{{
				Object: "kubeadm init " + o.Inventory.Version(),
				From:   map[progress]string{begun: "begun, not complete", silent: "the API server does not answer"}[p],
				To:     "control plane at " + o.Inventory.Endpoint(),
			}}, nil
		},
		ApplyFn: func(ctx context.Context, h host.Host) error { return initialise(ctx, h, o) },
	}
}

func initialise(ctx context.Context, h host.Host, o Options) error {
	p, unfinished, err := lookOurs(ctx, h, o)
	if err != nil {
		return err
	}
	if p == silent {
		wait, cancel := context.WithTimeout(ctx, apiWait)
		defer cancel()
		_ = kube.Poll(wait, time.Second, func(ctx context.Context) error { // a time-out is answered below
			if p, unfinished, err = lookOurs(ctx, h, o); err == nil && p == silent {
				err = errors.New("silent")
			}
			return err
		})
	}
	if p == complete {
		return removeConfig(ctx, h)
	}
	if p != fresh && !unfinished {
		return fault.New(fault.Failure, fmt.Sprintf("see why it does not answer: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager", h.Name()),
			fmt.Errorf("%s has a control plane that was complete and does not answer: kubeadm init would go over it, so it is left alone", h.Name()))
	}
	resolv, err := resolver.KubeletPath(ctx, h)
	if err != nil {
		return err
	}
	node := kubeadm.NodeOptions{ResolvConf: resolv}
	config, err := kubeadm.Init(o.Inventory, o.Node, kubeadm.InitOptions{NodeOptions: node, Token: kube.NewToken()})
	if err != nil {
		return err
	}
	if err := kubeadmrun.PutPatch(ctx, h, o.Node, node); err != nil {
		return err
	}
	f := host.Bytes(kubeadm.InitConfigPath, 0o600, config)
	f.Secret = true
	if _, err := h.Put(ctx, f); err != nil {
		return err
	}
	argv := []string{"init", "--config", kubeadm.InitConfigPath, "--skip-token-print"}
	if p != fresh {
		argv = append(argv, "--ignore-preflight-errors="+strings.Join(kubeadmrun.LeftByControlPlane(), ","))
	}
	if err := kubeadmrun.Run(ctx, h, argv...); err != nil {
		return fault.New(fault.Failure, fmt.Sprintf("see why: kocli exec %s --root -- journalctl -u kubelet -n 50 --no-pager; then run the same command again: kubeadm init goes on", h.Name()), err)
	}
	return h.Remove(ctx, kubeadm.InitConfigPath) // it holds the token
}

// removeConfig removes the configuration that an interrupted run left.
func removeConfig(ctx context.Context, h host.Host) error {
	there, err := kubeadmrun.Leftover(ctx, h, kubeadm.InitConfigPath)()
	if err != nil || !there {
		return err
	}
	return h.Remove(ctx, kubeadm.InitConfigPath)
}
