package kubetest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/kocli/kocli/pkg/host/hosttest"
)

// StaticPods are kubeadm's static pods on a host in memory. Each reads its
// certificates when it starts, and only then, as the strictest of them do.
type StaticPods struct {
	m      *hosttest.Machine
	mu     sync.Mutex
	id     map[string]int
	told   map[string]string          // its manifest as it was when it was started
	loaded map[string]tls.Certificate // by port
	killed []string
}

// StartPods starts them, with what is in the files now, and makes them known to
// containerd's client on the machine.
func StartPods(m *hosttest.Machine) *StaticPods {
	p := &StaticPods{m: m, id: map[string]int{}, told: map[string]string{}, loaded: map[string]tls.Certificate{}}
	for _, name := range podNames() {
		p.start(name)
	}
	m.Install(p.ctr)
	return p
}

func podNames() []string {
	return []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
}

// manifest is the text of a pod's manifest; empty where a test has none.
func (p *StaticPods) manifest(name string) string {
	text, _ := p.m.Read("/etc/kubernetes/manifests/" + name + ".yaml")
	return text
}

// follow starts anew whose manifest has changed, as the kubelet does. The lock is held.
func (p *StaticPods) follow() {
	for _, name := range podNames() {
		if p.manifest(name) != p.told[name] {
			p.start(name)
		}
	}
}

// pid is the number of a pod's first process.
func pid(name string) int { return 100 + slices.Index(podNames(), name) }

// start reads what a pod serves. The lock is held.
func (p *StaticPods) start(name string) {
	p.id[name]++
	p.told[name] = p.manifest(name)
	argv := []string{name}
	for l := range strings.Lines(p.told[name]) {
		if flag, ok := strings.CutPrefix(strings.TrimSpace(l), "- --"); ok {
			argv = append(argv, "--"+flag)
		}
	}
	p.m.Write(fmt.Sprintf("/proc/%d/cmdline", pid(name)), 0o444, strings.Join(argv, "\x00")+"\x00")
	for port, of := range map[string][2]string{"6443": {"kube-apiserver", "apiserver"}, "2379": {"etcd", "etcd/server"}, "2380": {"etcd", "etcd/peer"}} {
		if of[0] != name {
			continue
		}
		cert, _ := p.m.Read("/etc/kubernetes/pki/" + of[1] + ".crt")
		key, _ := p.m.Read("/etc/kubernetes/pki/" + of[1] + ".key")
		if pair, err := tls.X509KeyPair([]byte(cert), []byte(key)); err == nil {
			p.loaded[port] = pair
		}
	}
}

// Killed lists the pods whose container was ended, in order.
func (p *StaticPods) Killed() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.killed)
}

// Serve has a port show another certificate than that of the file.
func (p *StaticPods) Serve(port string, pair tls.Certificate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loaded[port] = pair
}

// State says how often each pod was started.
func (p *StaticPods) State() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprint(p.id)
}

// Loaded is what a port shows.
func (p *StaticPods) Loaded(port string) (tls.Certificate, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pair, ok := p.loaded[port]
	return pair, ok
}

// Dial leads to what a pod serves.
func (p *StaticPods) Dial(_ context.Context, _, address string) (net.Conn, error) {
	if p.m.Lost() {
		return nil, hosttest.ErrCut
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	pair, ok := p.loaded[port]
	p.mu.Unlock()
	if !ok {
		return nil, errors.New("connection refused")
	}
	here, there := net.Pipe()
	go func() {
		_ = tls.Server(there, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}).Handshake() // the client judges
		_ = there.Close()
	}()
	return here, nil
}

// ctr is containerd's own client, as far as it is asked for containers of Kubernetes.
func (p *StaticPods) ctr(_ context.Context, _ *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
	if path.Base(argv[0]) != "ctr" {
		return hosttest.Reply{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.follow()
	line := strings.Join(argv[3:], " ")
	if line == "tasks ls" {
		out := "TASK PID STATUS\n"
		for _, n := range podNames() {
			out += fmt.Sprintf("%s-%d %d RUNNING\n", n, p.id[n], pid(n))
		}
		return hosttest.Reply{Stdout: out}, true
	}
	if _, name, ok := strings.Cut(line, `container.name"==`); ok {
		return hosttest.Reply{Stdout: fmt.Sprintf("%s-%d\n", name, p.id[name])}, true
	}
	id, ok := strings.CutPrefix(line, "tasks kill --signal SIGTERM ")
	if !ok {
		return hosttest.Reply{}, false
	}
	for _, n := range podNames() {
		if id == fmt.Sprintf("%s-%d", n, p.id[n]) {
			p.killed = append(p.killed, n)
			p.start(n)
			return hosttest.Reply{}, true
		}
	}
	return hosttest.Reply{Stderr: "ctr: task " + id + " not found", Code: 1}, true
}
