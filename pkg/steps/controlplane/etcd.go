package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/staticpod"
)

// apiServer is the name of the API server's container.
const apiServer = "kube-apiserver"

// restartTime is how long an API server is given to end, start and be ready. It
// lets requests end first, for up to a minute.
const restartTime = 5 * time.Minute

// EtcdClient has a control plane have what its API server needs as a client of an
// etcd outside the cluster. The API server reads certificate and key again for each
// connection that it opens; the CA only when it starts, so that a new one has it
// restarted. o.API has to lead to this control plane.
func EtcdClient(o Options, credentials func() (etcd.Credentials, error)) plan.Step {
	e := etcdClient{o, credentials}
	return converge.Func{Name: "controlplane/etcd-client", CheckFn: e.check, ApplyFn: e.apply}
}

type etcdClient struct {
	o           Options
	credentials func() (etcd.Credentials, error)
}

// files returns what a client needs, the CA last: whoever has the new one has the
// pair that goes with it.
func (e etcdClient) files() ([]host.File, error) {
	c, err := e.credentials()
	if err != nil {
		return nil, err
	}
	key := host.Bytes(kubeadm.EtcdKeyPath, 0o600, c.Key)
	key.Secret = true
	return []host.File{key, host.Bytes(kubeadm.EtcdCertPath, 0o644, c.Cert), host.Bytes(kubeadm.EtcdCAPath, 0o644, c.CA)}, nil
}

// state is what a control plane has.
type state struct {
	made    bool // has an API server
	renewed bool // it trusts another CA than it should
	restart bool // it has not been restarted since that changed
}

func (e etcdClient) look(ctx context.Context, r host.Reader, ca []byte) (state, error) {
	paths := []string{kubeadm.APIServerManifestPath, kubeadm.RestartAPIServerPath, kubeadm.EtcdManifestPath}
	there := make([]bool, len(paths))
	errs := make([]error, len(paths))
	done := make(chan struct{})
	for i, p := range paths {
		go func() {
			defer func() { done <- struct{}{} }()
			_, err := r.Stat(ctx, p)
			if there[i] = err == nil; !errors.Is(err, fs.ErrNotExist) {
				errs[i] = err
			}
		}()
	}
	have, err := r.ReadFile(ctx, kubeadm.EtcdCAPath)
	for range paths {
		<-done
	}
	if errors.Is(err, fs.ErrNotExist) {
		have, err = ca, nil // one that was never there is read by nobody
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return state{}, err
	}
	if there[2] {
		return state{}, fault.New(fault.Preflight, "take spec.etcd.external out of the YAML, or make a new cluster",
			fmt.Errorf("%s has a member of etcd: a cluster with members on its control planes cannot be moved to an external etcd", r.Name()))
	}
	return state{made: there[0], renewed: !bytes.Equal(have, ca), restart: there[1]}, nil
}

func (e etcdClient) check(ctx context.Context, r host.Reader) ([]plan.Change, error) {
	files, err := e.files()
	if err != nil {
		return nil, err
	}
	c, err := e.credentials()
	if err != nil {
		return nil, err
	}
	type answer struct {
		s   state
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		s, err := e.look(ctx, r, c.CA)
		ch <- answer{s, err}
	}()
	out, err := converge.Differences(ctx, r, files)
	a := <-ch
	if err := errors.Join(err, a.err); err != nil {
		return nil, err
	}
	if a.s.restart || a.s.made && a.s.renewed {
		out = append(out, plan.Change{Object: apiServer, From: "running with an older CA of etcd", To: "restart", Disruptive: true})
	}
	return out, nil
}

func (e etcdClient) apply(ctx context.Context, h host.Host) error {
	files, err := e.files()
	if err != nil {
		return err
	}
	c, err := e.credentials()
	if err != nil {
		return err
	}
	s, err := e.look(ctx, h, c.CA)
	if err != nil {
		return err
	}
	if s.made && s.renewed && !s.restart {
		if _, err := h.Put(ctx, host.Bytes(kubeadm.RestartAPIServerPath, 0o600, nil)); err != nil {
			return err
		}
		s.restart = true
	}
	if err := converge.Put(ctx, h, files, 1); err != nil || !s.restart {
		return err
	}
	if s.made {
		if err := e.restart(ctx, h); err != nil {
			return err
		}
	}
	return h.Remove(ctx, kubeadm.RestartAPIServerPath)
}

// restart ends the API server, which lets its requests end, and waits until the
// kubelet has started another one that is ready.
func (e etcdClient) restart(ctx context.Context, h host.Host) error {
	before, err := staticpod.Running(ctx, h, apiServer)
	if err != nil {
		return err
	}
	if _, err := staticpod.Signal(ctx, h, apiServer, "SIGTERM"); err != nil {
		return fmt.Errorf("restart the API server: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, restartTime)
	defer cancel()
	err = kube.Poll(wait, time.Second, func(ctx context.Context) error {
		now, err := staticpod.Running(ctx, h, apiServer)
		if err != nil {
			return err
		}
		if len(now) == 0 || slices.ContainsFunc(now, func(id string) bool { return slices.Contains(before, id) }) {
			return errors.New("the kubelet has not started it anew")
		}
		c, err := e.o.API.Dial(ctx)
		if err != nil {
			return err
		}
		return c.Ready(ctx)
	})
	if err != nil {
		return fault.New(fault.Failure, fmt.Sprintf("see why: kocli exec %s --root -- sh -c 'tail -n 20 /var/log/pods/kube-system_%s-*/*/*.log'; then run the same command again", h.Name(), apiServer),
			fmt.Errorf("the API server of %s is not back within %s: %w", h.Name(), restartTime, err))
	}
	return nil
}
