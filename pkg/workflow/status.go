package workflow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/state"
)

// ClusterStatus is how a cluster is now. Its JSON is stable.
type ClusterStatus struct {
	Cluster  string   `json:"cluster"`
	Healthy  bool     `json:"healthy"`
	Problems []string `json:"problems"` // in a line each; empty where it is healthy
	// Expiring are certificates of the control planes that have ended or will within
	// 30 days, in a line each. The cluster may be healthy all the same.
	Expiring  []string        `json:"expiring"`
	API       APIStatus       `json:"api"`
	Nodes     []NodeStatus    `json:"nodes"`
	Workloads []kube.Workload `json:"workloads"` // of the control plane and the pod network
	LastRun   *RunStatus      `json:"lastRun,omitempty"`
	Holder    *state.Holder   `json:"lock,omitempty"` // who works on it now
	// Backups are those that control planes make by themselves; nil where none are
	// scheduled. That one failed does not make the cluster unhealthy.
	Backups *ScheduledBackups `json:"backups,omitempty"`
}

// APIStatus is how the API server is.
type APIStatus struct {
	Endpoint string `json:"endpoint"` // host:port as the nodes use it
	Through  string `json:"through,omitempty"`
	Ready    bool   `json:"ready"`
	Version  string `json:"version,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// NodeStatus is how one node is.
type NodeStatus struct {
	Name          string   `json:"name"`
	Roles         []string `json:"roles"`
	Version       string   `json:"version,omitempty"` // of the kubelet
	Ready         bool     `json:"ready"`
	Unschedulable bool     `json:"unschedulable,omitempty"`
	Reason        string   `json:"reason,omitempty"`
	Listed        bool     `json:"listed"` // stands in the cluster YAML
}

// RunStatus is the last run of kocli from this machine.
type RunStatus struct {
	ID         string    `json:"id"`
	Log        string    `json:"log"`
	Kubernetes string    `json:"kubernetes,omitempty"` // version that was last asked for
	Updated    time.Time `json:"updated,omitzero"`     // when what is asked for last changed
}

// apiTimeout is how long a status waits for the API server.
const apiTimeout = 15 * time.Second

// Status looks at the cluster through a control plane. A cluster that is not
// healthy is no error; one that cannot be looked at is.
func Status(ctx context.Context, o Options) (*ClusterStatus, error) {
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	return s.status(ctx)
}

func (s *Session) status(ctx context.Context) (*ClusterStatus, error) {
	st := &ClusterStatus{Cluster: s.inv.Name, Problems: []string{}, Expiring: []string{}, Nodes: []NodeStatus{}, Workloads: []kube.Workload{}}
	st.API.Endpoint = s.inv.Endpoint()
	if err := s.history(st); err != nil {
		return nil, err
	}
	var last error // of the API, through a control plane that did answer
	errs := s.throughControlPlane(ctx, func(r host.Reader) error {
		err := s.survey(ctx, r, st)
		if err == nil {
			st.API.Through = r.Name()
		}
		if err == nil || errors.Is(err, kube.ErrNoCluster) {
			return err
		}
		last = err
		return fmt.Errorf("API server: %w", err)
	})
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case last == nil && len(errs) > 0:
		return nil, errors.Join(errs...)
	case len(errs) > 0:
		st.API.Reason = last.Error()
		for _, err := range errs {
			st.Problems = append(st.Problems, err.Error())
		}
	}
	st.Backups = s.scheduled(ctx)
	st.judge(s.inv)
	st.Expiring = append(st.Expiring, s.expiring(ctx)...)
	return st, nil
}

// WaitHealthy asks for the status every interval until the cluster is healthy
// or wait is over, and returns the last one. Hosts that do not answer may be
// rebooting: they are asked again.
func WaitHealthy(ctx context.Context, o Options, wait, interval time.Duration, each func(*ClusterStatus, error)) (*ClusterStatus, error) {
	end := o.Clock.Now().Add(wait)
	for {
		st, err := Status(ctx, o)
		if err == nil && st.Healthy || ctx.Err() != nil || !o.Clock.Now().Add(interval).Before(end) {
			return st, err
		}
		each(st, err)
		select {
		case <-ctx.Done():
			return st, ctx.Err()
		case <-time.After(interval):
		}
	}
}

// history fills in what this machine remembers.
func (s *Session) history(st *ClusterStatus) error {
	id, err := s.dir.LastRun()
	if err != nil {
		return fmt.Errorf("read the state folder: %w", err)
	}
	if st.Holder, err = s.dir.Holder(); err != nil {
		return fmt.Errorf("read the lock: %w", err)
	}
	if id == "" {
		return nil
	}
	st.LastRun = &RunStatus{ID: id, Log: s.dir.RunDir(id) + "/run.log"}
	r, err := s.dir.Load()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	st.LastRun.Kubernetes, st.LastRun.Updated = r.Kubernetes, r.Updated
	return err
}

// survey asks the API through one control plane.
func (s *Session) survey(ctx context.Context, r host.Reader, st *ClusterStatus) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	c, err := s.access.Look(ctx, r)
	if errors.Is(err, kube.ErrNoCluster) {
		return noCluster(s.o)
	}
	if err != nil {
		return err
	}
	if err := c.Ready(ctx); err != nil {
		return fmt.Errorf("not ready through %s: %w", r.Name(), err)
	}
	st.API.Ready = true
	if st.API.Version, err = c.Version(ctx); err != nil {
		return err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	st.Nodes = nodeStatus(s.inv, nodes)
	st.Workloads, err = c.Workloads(ctx, "kube-system", "kube-flannel")
	return err
}

// nodeStatus puts the nodes of the YAML first, then those that only the cluster
// knows.
func nodeStatus(inv *inventory.Inventory, nodes []corev1.Node) []NodeStatus {
	out := make([]NodeStatus, 0, len(inv.Nodes))
	for _, n := range inv.Nodes {
		i := slices.IndexFunc(nodes, func(k corev1.Node) bool { return k.Name == n.Name })
		if i < 0 {
			out = append(out, NodeStatus{Name: n.Name, Roles: wantedRoles(n), Reason: "has not joined the cluster", Listed: true})
			continue
		}
		out = append(out, oneNode(&nodes[i], true))
	}
	for i := range nodes {
		if _, ok := inv.Node(nodes[i].Name); !ok {
			out = append(out, oneNode(&nodes[i], false))
		}
	}
	return out
}

func oneNode(n *corev1.Node, listed bool) NodeStatus {
	st := NodeStatus{
		Name: n.Name, Roles: kube.NodeRoles(n), Version: n.Status.NodeInfo.KubeletVersion,
		Unschedulable: n.Spec.Unschedulable, Listed: listed,
	}
	ok, why := kube.NodeCondition(n)
	st.Ready = ok
	if !ok {
		st.Reason = why
	}
	if len(st.Roles) == 0 {
		st.Roles = []string{"worker"}
	}
	return st
}

func wantedRoles(n inventory.Node) []string {
	var out []string
	if n.ControlPlane {
		out = append(out, "control-plane")
	}
	if n.Worker {
		out = append(out, "worker")
	}
	return out
}

// judge lists what is not as it should be.
func (st *ClusterStatus) judge(inv *inventory.Inventory) {
	for _, n := range st.Nodes {
		if !n.Ready {
			st.Problems = append(st.Problems, fmt.Sprintf("node %s: %s", n.Name, n.Reason))
		}
	}
	for _, w := range st.Workloads {
		if !w.Ready() {
			st.Problems = append(st.Problems, fmt.Sprintf("%s %s/%s: %s", w.Kind, w.Namespace, w.Name, w.Reason))
		}
	}
	st.Healthy = len(st.Problems) == 0 && st.API.Ready && len(st.Nodes) >= len(inv.Nodes)
}
