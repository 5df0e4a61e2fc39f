package workflow

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
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

// sockets are those of a host that has a few programs and many connections. Those
// of this machine are of all the hosts that run on it.
func sockets() string {
	var b strings.Builder
	b.WriteString("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n")
	for i := range 520 {
		state, remote := "01", "0A010001:192B"
		if i < 20 {
			state, remote = "0A", "00000000:0000"
		}
		fmt.Fprintf(&b, "%4d: 00000000:%04X %s %s 00000000:00000000 00:00000000 00000000     0        0 %d 1 0000000000000000 100 0 0 10 0\n", i, 0x8000+i, remote, state, 1000+i)
	}
	return b.String()
}

// crowdEnv asks for the hosts of a benchmark, and nothing else: how many.
const crowdEnv = "KOCLI_BENCH_CROWD"

// crowd runs a cluster of many hosts, each with an SSH server of its own, and an
// API that knows all but the last of them. It returns the cluster YAML.
func crowd(b *testing.B, n int) string {
	b.Helper()
	hostKey := sshtest.Signer(b)
	key, keyFile := sshtest.KeyFile(b)
	api := kubetest.NewCluster(&hosttest.Wire{})
	b.Cleanup(api.Close)
	below := []string{"/etc/kubernetes", "/var/lib/kubelet", "/var/lib/etcd", "/proc/net/tcp"}
	joined := func(files map[string]string) *sshtest.Replay {
		r := sshtest.NewReplay()
		r.Root, r.Below, r.Functions = b.TempDir(), below, programs
		r.Dial = func(address string) (net.Conn, error) {
			if _, port, _ := net.SplitHostPort(address); port != "6443" {
				return nil, nil
			}
			return api.Dial(context.Background(), "tcp", address)
		}
		files["/proc/net/tcp"] = sockets()
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
	conf := strings.Replace(api.Kubeconfig(), "127.0.0.1", "10.1.0.1", 1)
	seed := joined(map[string]string{
		"/etc/kubernetes/admin.conf": conf, "/etc/kubernetes/kubelet.conf": conf, "/etc/kubernetes/pki/ca.crt": "CA", "/etc/kubernetes/pki/ca.key": "KEY",
	})
	worker := joined(map[string]string{"/etc/kubernetes/kubelet.conf": conf, "/etc/kubernetes/pki/ca.crt": "CA", "/var/lib/kubelet/config.yaml": "x"})
	fresh := joined(map[string]string{})
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
	api.Put("configmaps", "kube-public", "cluster-info", kubetest.Object{"data": kubetest.Object{"kubeconfig": conf}})
	return `
apiVersion: kocli.io/v1alpha1
kind: Cluster
metadata: {name: bench}
spec:
  kubernetes: {version: v1.36.3}
  network: {podCIDR: 10.128.0.0/9}
  ssh: {user: root, keyFile: ` + keyFile + `}
  hosts:
` + hosts.String()
}

// elsewhere runs a benchmark's hosts in a process of their own until the
// benchmark ends, so that what this one costs is kocli's alone.
func elsewhere(b *testing.B, n int) Options {
	b.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	c := exec.CommandContext(b.Context(), os.Args[0], "-test.run", "^$", "-test.bench", "^"+b.Name()+"$", "-test.benchtime", "1x")
	c.Env, c.ExtraFiles, c.Stderr = append(os.Environ(), crowdEnv+"="+strconv.Itoa(n)), []*os.File{w}, os.Stderr
	stdin, err := c.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = stdin.Close(), c.Wait() })
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	told, err := io.ReadAll(r)
	if err != nil {
		b.Fatal(err)
	}
	bundle, text, _ := strings.Cut(string(told), "\n")
	cfg, err := config.Read("bench", strings.NewReader(text))
	if err != nil {
		b.Fatal(err)
	}
	inv, err := inventory.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	return Options{
		Home: b.TempDir(), Inventory: inv, Secrets: &config.Secrets{}, Observer: quiet{}, Clock: Clock{Now: time.Now}, Bundle: bundle,
		SSH: sshhost.Options{Keys: &sshhost.KnownHosts{
			File: filepath.Join(b.TempDir(), "known_hosts"), Accept: func(string, ssh.PublicKey) bool { return true },
		}},
	}
}

// serveCrowd is the other process of elsewhere: the path of a bundle and the YAML go
// to a pipe, and the hosts are there until stdin ends.
func serveCrowd(b *testing.B) bool {
	n, err := strconv.Atoi(os.Getenv(crowdEnv))
	if err != nil {
		return false
	}
	w := os.NewFile(3, "yaml")
	if _, err := w.WriteString(archivetest.Write(b) + "\n" + crowd(b, n)); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return true
}

// BenchmarkPlanOf500Hosts measures what kocli spends on the plan of one more host
// for a cluster of 500: the hosts are asked over SSH, and the API over HTTPS
// through it. Hosts and API are in another process; time, processor time and the
// peak of resident memory are those of the one that plans. The hosts have joined,
// but have nothing installed, so that the plan is longer than a real one.
func BenchmarkPlanOf500Hosts(b *testing.B) {
	if serveCrowd(b) {
		return
	}
	o := elsewhere(b, 501)
	before := cpu(b)
	for b.Loop() {
		changes, err := planned(b.Context(), o)
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
	b.ReportMetric((cpu(b)-before).Seconds()/float64(b.N), "cpu-s/op")
	b.ReportMetric(peakMiB(b), "MiB-peak")
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peakMiB is the most memory of this process that was resident at a time.
func peakMiB(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Maxrss) / 1024
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
