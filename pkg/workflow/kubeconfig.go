package workflow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
)

// Kubeconfig is the administrator's kubeconfig and where it came from.
type Kubeconfig struct {
	Data []byte
	From string // node, or path of the copy
	// Unreached says why it is the copy that was kept by the last create, and
	// not what a control plane has now. Nil where it is not.
	Unreached error
}

// FetchKubeconfig reads the kubeconfig from a control plane, or the copy that
// the last create kept where none answers.
func FetchKubeconfig(ctx context.Context, o Options) (*Kubeconfig, error) {
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	out := &Kubeconfig{}
	err = errors.Join(s.throughControlPlane(ctx, func(r host.Reader) error {
		data, err := r.ReadFile(ctx, kube.AdminConf())
		if errors.Is(err, fs.ErrNotExist) {
			return noCluster(o)
		}
		if err != nil {
			return err
		}
		out.From = r.Name()
		out.Data, err = s.outside(data, r.Name())
		return err
	})...)
	if err == nil || ctx.Err() != nil {
		return out, err
	}
	kept, readErr := os.ReadFile(s.dir.Kubeconfig())
	if errors.Is(readErr, fs.ErrNotExist) {
		return nil, err
	}
	if readErr != nil {
		return nil, errors.Join(err, fmt.Errorf("read the copy that was kept: %w", readErr))
	}
	return &Kubeconfig{Data: kept, From: s.dir.Kubeconfig(), Unreached: err}, nil
}

// outside is a kubeconfig of a control plane as it is good for elsewhere: where the
// endpoint is on the node itself, it leads to that control plane.
func (s *Session) outside(kubeconfig []byte, node string) ([]byte, error) {
	n, ok := s.inv.Node(node)
	if !ok || s.inv.OutsideEndpoint(n) == s.inv.Endpoint() {
		return kubeconfig, nil
	}
	return kube.WithServer(kubeconfig, s.inv.OutsideEndpoint(n))
}

// noCluster says that there is nothing yet, and how to make it.
func noCluster(o Options) error {
	return fault.New(fault.Unhealthy, "make it with: kocli create -f CLUSTER.yaml --bundle FILE",
		fmt.Errorf("cluster %s: %w", o.Inventory.Name, kube.ErrNoCluster))
}
