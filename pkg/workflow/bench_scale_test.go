package workflow

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/host/hosttest/sshtest"
	"github.com/kocli/kocli/pkg/host/sshhost"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/plan"
)

// programs say that every service runs, and not which ports of this machine are in
// use: all hosts listen on one of them.
const programs = "ss() { :; }\nsystemctl() { printf 'ActiveState=active\\nUnitFileState=enabled\\nMainPID=0\\nNeedDaemonReload=no\\nSubState=running\\nResult=success\\n'; }\n"

// crowd is a cluster of many hosts, each with an SSH server of its own, and an
// API that knows all but the last of them.
func crowd(b *testing.B, n int) Options {
	b.Helper()
	hostKey := sshtest.Signer(b)
	key, keyFile := sshtest.KeyFile(b)
	api := kubetest.NewCluster(&hosttest.Wire{})
	b.Cleanup(api.Close)
	below := []string{"/etc/kubernetes", "/var/lib/kubelet", "/var/lib/etcd"}
	joined := func(files map[string]string) *sshtest.Replay {
		r := sshtest.NewReplay()
		r.Root, r.Below, r.Functions = b.TempDir(), below, programs
		r.Dial = func(address string) (net.Conn, error) {
			if _, port, _ := net.SplitHostPort(address); port != "6443" {
				return nil, nil
			}
			return api.Dial(context.Background(), "tcp", address)
		}
		for name, text := range files {
			p := filepath.Join(r.Root, name)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				b.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
				b.Fatal(err)
			}
		}
		return r
	}
	seed := joined(map[string]string{
		"/etc/kubernetes/admin.conf": api.Kubeconfig(), "/etc/kubernetes/kubelet.conf": api.Kubeconfig(), "/etc/kubernetes/pki/ca.crt": "CA", "/etc/kubernetes/pki/ca.key": "KEY",
	})
	worker := joined(map[string]string{"/etc/kubernetes/kubelet.conf": api.Kubeconfig(), "/etc/kubernetes/pki/ca.crt": "CA", "/var/lib/kubelet/config.yaml": "x"})
	fresh := joined(nil)
	var hosts strings.Builder
	for i := range n {
		r, roles := worker, ""
		switch i {
		case 0:
			r, roles = seed, ", roles: [control-plane]"
			api.AddControlPlane("node-0")
		case n - 1:
			r = fresh
		default:
			api.AddNode(fmt.Sprintf("node-%d", i))
		}
		fmt.Fprintf(&hosts, "    - {name: node-%d, address: 127.0.0.1, privateAddress: 10.1.%d.%d, labels: {rack: r%d}, ssh: {port: %d}%s}\n",
			i, i/250, i%250+1, i%20, r.Start(b, hostKey, key.PublicKey()), roles)
	}
	for _, name := range []string{"kubeadm-config", "kube-proxy", "coredns"} {
		api.Put("configmaps", "kube-system", name, kubetest.Object{"data": kubetest.Object{"Corefile": kubetest.Corefile}})
	}
	api.Put("configmaps", "kube-public", "cluster-info", kubetest.Object{"data": kubetest.Object{"kubeconfig": api.Kubeconfig()}})
	c, err := config.Read("bench", strings.NewReader(`
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: bench}
spec:
  kubernetes: {version: v1.36.3}
  network: {podCIDR: 10.128.0.0/9}
  ssh: {user: root, keyFile: `+keyFile+`}
  hosts:
`+hosts.String()))
	if err != nil {
		b.Fatal(err)
	}
	inv, err := inventory.New(c)
	if err != nil {
		b.Fatal(err)
	}
	return Options{
		Home: b.TempDir(), Inventory: inv, Secrets: &config.Secrets{}, Observer: quiet{}, Clock: Clock{Now: time.Now}, Bundle: archivetest.Write(b),
		SSH: sshhost.Options{Keys: &sshhost.KnownHosts{
			File: filepath.Join(b.TempDir(), "known_hosts"), Accept: func(string, ssh.PublicKey) bool { return true },
		}},
	}
}

// BenchmarkPlanOf500Hosts measures what kocli spends on the plan of one more host
// for a cluster of 500: the hosts are asked over SSH, and the API over HTTPS
// through it. The servers are in the same process, so that time and memory are
// kocli's and theirs; only what was there before is not counted.
func BenchmarkPlanOf500Hosts(b *testing.B) {
	o := crowd(b, 501)
	base := heap()
	var peak atomic.Uint64
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				if h := live(); h > peak.Load() {
					peak.Store(h)
				}
			}
		}
	}()
	for b.Loop() {
		changes, err := planned(context.Background(), o)
		if err != nil {
			b.Fatal(err)
		}
		var joins []string
		for _, c := range changes {
			if strings.HasPrefix(c.Object, "kubeadm join") {
				joins = append(joins, c.To)
			}
		}
		if len(joins) != 1 || joins[0] != "node node-500" {
			b.Fatalf("the plan has %d joins: %v", len(joins), joins[:min(3, len(joins))])
		}
	}
	b.ReportMetric(float64(max(peak.Load(), base)-base)/(1<<20), "MiB-peak")
}

// heap is what is in use once all else has been collected.
func heap() uint64 {
	runtime.GC()
	return live()
}

func live() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// planned is Plan, but for the refusals of preflight: these hosts are all the same
// machine.
func planned(ctx context.Context, o Options) ([]plan.Change, error) {
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	facts, err := s.Facts(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := s.Preflight(ctx, facts); err != nil {
		return nil, err
	}
	c, err := s.cluster(ctx, facts)
	if err != nil {
		return nil, err
	}
	phases, err := c.CreatePhases()
	if err != nil {
		return nil, err
	}
	p, err := plan.Compile(phases, plan.Options{Now: o.Clock.Now})
	if err != nil {
		return nil, err
	}
	return p.Preview(ctx, s.hosts)
}
