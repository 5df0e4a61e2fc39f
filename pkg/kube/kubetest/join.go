package kubetest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"

	"github.com/kocli/kocli/pkg/host/hosttest"
)

// joinPhases are the phases of kubeadm join since 1.36, in their order.
func joinPhases() []string {
	return []string{
		"preflight", "control-plane-prepare/download-certs", "control-plane-prepare/certs", "control-plane-prepare/kubeconfig",
		"control-plane-prepare/control-plane", "check-etcd", "kubelet-start", "etcd-join", "kubelet-wait-bootstrap",
		"control-plane-join/mark-control-plane", "wait-control-plane",
	}
}

const bootstrapConf = "/etc/kubernetes/bootstrap-kubelet.conf"

// join runs the phases of kubeadm join that are not skipped, as far as kocli can
// tell.
func (c *Cluster) join(m *hosttest.Machine, config string, skipped []string) hosttest.Reply {
	for _, s := range skipped {
		if !slices.Contains(joinPhases(), s) {
			return hosttest.Reply{Stderr: "error: invalid phase name: " + s, Code: 1}
		}
	}
	for _, phase := range joinPhases() {
		if slices.Contains(skipped, phase) {
			continue
		}
		if c.Phase != nil {
			c.Phase(m.Name(), phase)
		}
		effects, err := c.joinEffects(m, config, phase)
		if err != nil {
			return hosttest.Reply{Stderr: "error execution phase " + phase + ": " + err.Error(), Code: 1}
		}
		if !c.run(m, effects) {
			break
		}
	}
	return hosttest.Reply{}
}

// joinEffects is what a phase does on a host, and why it cannot.
func (c *Cluster) joinEffects(m *hosttest.Machine, config, phase string) ([]effect, error) {
	write := func(p, text string) effect { return func() { m.Write(p, 0o600, text) } }
	_, controlPlane := m.Read("/etc/kubernetes/pki/ca.key") // only a control plane is given one
	switch phase {
	case "control-plane-prepare/kubeconfig":
		if controlPlane {
			return []effect{c.certificate(m, c.remembered()), write(kubeconfigPath, c.conf())}, nil
		}
	case "control-plane-prepare/control-plane":
		if controlPlane {
			return []effect{func() { c.manifests(m, parse1(c.remembered()).KubernetesVersion) }}, nil
		}
	case "kubelet-start":
		if n := c.Get("nodes", "", m.Name()); n != nil {
			return nil, fmt.Errorf("a Node with name %q and status \"Ready\" already exists in the cluster", m.Name())
		}
		return []effect{
			write(bootstrapConf, config), func() { m.Write("/etc/kubernetes/pki/ca.crt", 0o644, "CA") },
			c.kubeletConfig(m),
		}, nil
	case "etcd-join":
		if controlPlane && !elsewhere(c.remembered()) {
			return c.etcdEffects(m, config)
		}
	case "kubelet-wait-bootstrap":
		return c.bootstrapEffects(m, controlPlane)
	case "control-plane-join/mark-control-plane":
		if controlPlane {
			return []effect{func() { c.AddControlPlane(m.Name()); c.kubeletOf(m) }}, nil
		}
	}
	return nil, nil
}

// bootstrapEffects is a kubelet that gets its credentials and registers its node.
// That of a control plane talks to the API server beside it, which needs etcd.
func (c *Cluster) bootstrapEffects(m *hosttest.Machine, controlPlane bool) ([]effect, error) {
	if _, ok := m.Read(kubeletPath); !ok {
		config, ok := m.Read(bootstrapConf)
		if !ok {
			return nil, fmt.Errorf("the kubelet has no credentials to start with")
		}
		if err := c.checkToken(config); err != "" {
			return nil, fmt.Errorf("failed while waiting for TLS bootstrap: %s", err)
		}
	}
	if _, ok := m.Read("/var/lib/etcd/member/db"); controlPlane && !ok && !elsewhere(c.remembered()) {
		return nil, fmt.Errorf("failed while waiting for TLS bootstrap: the API server of this host does not start without its etcd")
	}
	return []effect{
		func() { m.Write(kubeletPath, 0o600, c.conf()) },
		func() {
			if c.Get("nodes", "", m.Name()) == nil {
				c.AddNode(m.Name())
				c.kubeletOf(m)
			}
		},
		func() { m.Delete(bootstrapConf) },
	}, nil
}

const kubeletPath = "/etc/kubernetes/kubelet.conf"

// etcdEffects adds a learner, has the kubelet start it, and promotes it.
func (c *Cluster) etcdEffects(m *hosttest.Machine, config string) ([]effect, error) {
	url := "https://" + net.JoinHostPort(advertised(config), "2380")
	if other := c.Etcd.learner(url); other != "" {
		return nil, fmt.Errorf("etcdserver: too many learner members in cluster: %s", other)
	}
	return []effect{
		func() { c.Etcd.add(url) },
		func() { m.Write("/etc/kubernetes/manifests/etcd.yaml", 0o600, "etcd") },
		func() {
			m.Write("/var/lib/etcd/member/db", 0o600, "db")
			c.Etcd.change(url, func(e *EtcdMember) { e.Name, e.Started, e.ClientURLs = m.Name(), true, []string{url} })
		},
		func() { c.Etcd.change(url, func(e *EtcdMember) { e.Learner = false }) },
	}, nil
}

// advertised is the address of the API server in a JoinConfiguration.
func advertised(config string) string {
	var o struct {
		ControlPlane struct {
			LocalAPIEndpoint struct {
				AdvertiseAddress string `json:"advertiseAddress"`
			} `json:"localAPIEndpoint"`
		} `json:"controlPlane"`
	}
	if err := yaml.Unmarshal([]byte(config), &o); err != nil {
		return err.Error()
	}
	return o.ControlPlane.LocalAPIEndpoint.AdvertiseAddress
}

// EtcdMember is a member of the etcd in memory.
type EtcdMember struct {
	ID                   uint64
	Name                 string
	PeerURLs, ClientURLs []string
	Learner, Started     bool
}

// Etcd is an etcd in memory. Removing a member counts as a write.
type Etcd struct {
	// Sick is why etcd is not healthy; nil means that it is.
	Sick func() error

	wire    *hosttest.Wire
	mu      sync.Mutex
	members []EtcdMember
	last    uint64
}

// Put adds members, as a test's set-up.
func (e *Etcd) Put(m ...EtcdMember) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, o := range m {
		e.last++
		o.ID = e.last
		e.members = append(e.members, o)
	}
}

// Members lists the members.
func (e *Etcd) Members(ctx context.Context) ([]EtcdMember, error) {
	if e.wire.Lost() {
		return nil, hosttest.ErrCut
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.members), ctx.Err()
}

// Healthy returns what Sick says.
func (e *Etcd) Healthy(ctx context.Context) error {
	if e.wire.Lost() {
		return hosttest.ErrCut
	}
	if e.Sick != nil {
		return e.Sick()
	}
	return ctx.Err()
}

// Remove takes a member out.
func (e *Etcd) Remove(_ context.Context, id uint64) error {
	return e.wire.Do(fmt.Sprintf("remove etcd member %x", id), func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.members = slices.DeleteFunc(e.members, func(m EtcdMember) bool { return m.ID == id })
		return nil
	})
}

// State describes the members without their ids, which differ from run to run.
func (e *Etcd) State() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var lines []string
	for _, m := range e.members {
		m.ID = 0
		lines = append(lines, fmt.Sprintf("etcd %+v", m))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Join has a member added, started and promoted.
func (e *Etcd) Join(name, url string) {
	e.add(url)
	e.change(url, func(m *EtcdMember) { m.Name, m.Started, m.Learner, m.ClientURLs = name, true, false, []string{url} })
}

func (e *Etcd) add(url string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if slices.ContainsFunc(e.members, func(m EtcdMember) bool { return slices.Contains(m.PeerURLs, url) }) {
		return // kubeadm takes one that is there for its own
	}
	e.last++
	e.members = append(e.members, EtcdMember{ID: e.last, PeerURLs: []string{url}, Learner: true})
}

func (e *Etcd) change(url string, f func(*EtcdMember)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.members {
		if slices.Contains(e.members[i].PeerURLs, url) {
			f(&e.members[i])
		}
	}
}

// learner names a learner other than that at url.
func (e *Etcd) learner(url string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.members {
		if m.Learner && !slices.Contains(m.PeerURLs, url) {
			return m.PeerURLs[0]
		}
	}
	return ""
}
