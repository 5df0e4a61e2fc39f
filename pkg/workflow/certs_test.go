package workflow

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/pki"
)

// certified is a control plane whose kubeconfigs end in a week.
func certified(t *testing.T, name string) (*hosttest.Machine, *kubetest.Cluster, *kubetest.StaticPods) {
	t.Helper()
	m := hosttest.OS(hosttest.New(name))
	c := kubetest.NewCluster(m.Wire)
	t.Cleanup(c.Close)
	for _, n := range []string{"cp-1", "cp-2", "cp-3", "worker-1"} {
		c.AddNode(n)
		c.Put("namespaces", "", "kube-node-lease", kubetest.Object{})
		c.Put("leases", "kube-node-lease", n, kubetest.Object{"spec": kubetest.Object{"renewTime": time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")}})
	}
	soon := time.Now().AddDate(0, 0, 7)
	ca, key := kubetest.Issue("ca", time.Now().AddDate(9, 0, 0))
	m.Write(kubeadm.CACertPath, 0o644, ca)
	m.Write(pki.Dir+"/ca.key", 0o600, key)
	m.Write(apiServerManifest, 0o600, "x")
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig()) // has a token, which renewing takes away
	for _, conf := range []string{"scheduler.conf", "controller-manager.conf"} {
		cert, key := kubetest.Issue(conf, soon)
		m.Write("/etc/kubernetes/"+conf, 0o600, kubetest.WithClient(c.Kubeconfig(), cert, key))
	}
	client, key := kubetest.Issue("system:node:"+name, soon)
	m.Write(pki.KubeletClientPath, 0o600, client+key)
	conf, err := kubeadm.WithClientFile([]byte(c.Kubeconfig()), pki.KubeletClientPath, "https://10.0.0.100:6443")
	if err != nil {
		t.Fatal(err)
	}
	m.Write(pki.KubeletConfPath, 0o600, string(conf))
	m.Write("/etc/systemd/system/kubelet.service", 0o644, "[Service]\nExecStart=/usr/bin/kubelet\n")
	p := kubetest.StartPods(m)
	m.Install(c.Kubeadm(), func(_ context.Context, m *hosttest.Machine, argv []string, _ []byte) (hosttest.Reply, bool) {
		if argv[0] != "ln" {
			return hosttest.Reply{}, false
		}
		m.Link(argv[3], argv[2])
		return hosttest.Reply{}, true
	})
	m.OnDial(c.Dial)
	return m, c, p
}

func certSession(t *testing.T, hosts machines) *Session {
	t.Helper()
	s := session(t, hosts)
	s.o.Observer, s.o.SpecFile = quiet{}, "cluster.yaml"
	return s
}

func TestCertsRenew_oneAfterAnotherAndResumed(t *testing.T) {
	t.Parallel()
	hosts, pods := machines{}, map[string]*kubetest.StaticPods{}
	clusters := map[string]*kubetest.Cluster{}
	for _, n := range []string{"cp-1", "cp-2", "cp-3"} {
		hosts[n], clusters[n], pods[n] = certified(t, n)
	}
	s := certSession(t, hosts)
	co := CertsOptions{Names: []string{"scheduler.conf", "controller-manager.conf"}}
	restarts := func() (out []string) {
		for _, n := range []string{"cp-1", "cp-2", "cp-3"} {
			out = append(out, fmt.Sprint(len(pods[n].Killed())))
		}
		return out
	}
	confirmed := 0
	co.Confirm = func(p *Preview) error {
		confirmed++
		if len(p.Changes) != 3*4 {
			t.Errorf("the plan: %v", p.Changes)
		}
		return nil
	}
	// The second kubeadm of the run does not come to its end, on whichever host.
	for _, c := range clusters {
		c.HaltAfter(1)
	}
	first, err := s.certsRenew(t.Context(), co)
	if err == nil || first.Operation == "" || confirmed != 1 {
		t.Fatalf("%v, %+v", err, first)
	}
	if got := restarts(); fmt.Sprint(got) != "[0 0 0]" {
		t.Errorf("restarted before all was renewed: %v", got)
	}
	touched := 0
	for n, m := range hosts {
		if len(m.Log()) > 0 {
			touched++
		}
		clusters[n].HaltAfter(0)
		m.CutBefore(0)
	}
	if touched != 1 {
		t.Errorf("%d control planes were worked on at the same time", touched)
	}
	if _, err := s.certsRenew(t.Context(), CertsOptions{All: true}); fault.CodeOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "certs renew -f cluster.yaml controller-manager.conf scheduler.conf") {
		t.Errorf("another renewal in between: %v; %s", err, fault.HintOf(err))
	}
	co.Confirm = nil
	second, err := s.certsRenew(t.Context(), co)
	if err != nil || second.Operation != first.Operation {
		t.Fatalf("%v, %s after %s", err, second.Operation, first.Operation)
	}
	if got := restarts(); fmt.Sprint(got) != "[2 2 2]" {
		t.Errorf("restarts: %v", got)
	}
	renewals := 0
	for _, m := range hosts {
		for _, l := range m.Log() {
			if strings.Contains(l, "certs renew") {
				renewals++
			}
		}
	}
	if renewals != 7 { // one of them was cut off before it did anything
		t.Errorf("%d renewals of 6 certificates", renewals)
	}
	if len(second.Certificates) != 6 || slices.ContainsFunc(second.Certificates, func(e pki.Entry) bool { return e.Days < 360 }) {
		t.Errorf("%+v", second.Certificates)
	}
	third, err := s.certsRenew(t.Context(), co)
	if err != nil || third.Operation == first.Operation || third.Changed == 0 {
		t.Errorf("the next one: %v, %+v", err, third)
	}
}

func TestCertsRenew_refusesBeforeAnythingIsChanged(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		co     CertsOptions
		damage func(hosts machines)
		code   fault.Code
		want   string
		hint   string
	}{
		"no name":           {CertsOptions{}, nil, fault.Usage, "no certificate is named", "--all"},
		"a name of nothing": {CertsOptions{Names: []string{"api"}}, nil, fault.Usage, `"api"`, "apiserver-kubelet-client"},
		"a kubelet":         {CertsOptions{Names: []string{"kubelet.conf"}}, nil, fault.Usage, "by themselves", "kocli certs rescue"},
		"an API that is away": {CertsOptions{All: true}, func(h machines) {
			h["cp-2"].OnDial(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") })
		}, fault.Preflight, "API server of cp-2", "kocli certs rescue"},
		"an external CA":      {CertsOptions{All: true}, func(h machines) { h["cp-2"].Delete(pki.Dir + "/ca.key") }, fault.Preflight, "external", "generate-csr"},
		"a host that is away": {CertsOptions{All: true}, func(h machines) { delete(h, "cp-2") }, fault.Unreachable, "no route to host", ""},
		"nothing of a cluster": {CertsOptions{All: true}, func(h machines) {
			clear(h)
			h["cp-1"], h["cp-2"], h["cp-3"] = hosttest.New("cp-1"), hosttest.New("cp-2"), hosttest.New("cp-3")
		}, fault.Unhealthy, "no control plane", "kocli create"},
	} {
		t.Run(name, func(t *testing.T) {
			hosts := machines{}
			for _, n := range []string{"cp-1", "cp-2", "cp-3"} {
				var c *kubetest.Cluster
				hosts[n], c, _ = certified(t, n)
				cert, key := kubetest.Issue("admin", time.Now().AddDate(0, 0, 7))
				hosts[n].Write(kube.AdminConf(), 0o600, kubetest.WithClient(c.Kubeconfig(), cert, key))
			}
			if x.damage != nil {
				x.damage(hosts)
			}
			x.co.Confirm = func(*Preview) error { return errors.New("asked") }
			_, err := certSession(t, hosts).certsRenew(t.Context(), x.co)
			if err == nil || fault.CodeOf(err) != x.code || !strings.Contains(err.Error(), x.want) || !strings.Contains(fault.HintOf(err), x.hint) {
				t.Errorf("%d %v; %s", fault.CodeOf(err), err, fault.HintOf(err))
			}
			for n, m := range hosts {
				if len(m.Log()) > 0 {
					t.Errorf("%s was changed: %v", n, m.Log())
				}
			}
		})
	}
}

// The API is away on all hosts until their scheduler is started anew; a worker's
// kubelet was away when its certificate ended, another worker is switched off.
func TestCertsRescue(t *testing.T) {
	t.Parallel()
	hosts := machines{}
	var pods []*kubetest.StaticPods
	for _, n := range []string{"cp-1", "cp-2", "cp-3"} {
		m, c, p := certified(t, n)
		cert, key := kubetest.Issue("admin", time.Now().AddDate(0, 0, -1))
		m.Write(kube.AdminConf(), 0o600, kubetest.WithClient(c.Kubeconfig(), cert, key))
		m.OnDial(func(ctx context.Context, network, address string) (net.Conn, error) {
			if len(p.Killed()) == 0 {
				return nil, errors.New("connection refused")
			}
			return c.Dial(ctx, network, address)
		})
		hosts[n] = m
		pods = append(pods, p)
	}
	worker, _, _ := certified(t, "worker-1")
	worker.Delete(apiServerManifest)
	cert, key := kubetest.Issue("system:node:worker-1", time.Now().AddDate(0, 0, -1))
	worker.Write(pki.KubeletClientPath, 0o600, cert+key)
	hosts["worker-1"] = worker
	s := certSession(t, hosts)
	if _, err := s.certsRenew(t.Context(), CertsOptions{All: true}); fault.CodeOf(err) != fault.Preflight || !strings.Contains(fault.HintOf(err), "kocli certs rescue") {
		t.Errorf("renew: %v", err)
	}
	away := hosts["cp-3"]
	delete(hosts, "cp-3")
	res, err := s.certsRenew(t.Context(), CertsOptions{Rescue: true})
	if fault.CodeOf(err) != fault.Unreachable || fmt.Sprint(res.Skipped) != "[cp-3]" {
		t.Fatalf("%v, %+v", err, res)
	}
	for _, m := range []*hosttest.Machine{hosts["cp-1"], hosts["cp-2"]} {
		data, err := m.ReadFile(t.Context(), kube.AdminConf())
		if err == nil {
			data, _, err = kubeadm.ClientCertificateOf(data)
		}
		c, err2 := pki.First(data)
		if err != nil || err2 != nil || time.Until(c.NotAfter) < 0 {
			t.Errorf("admin.conf of %s: %v, %v", m.Name(), err, err2)
		}
	}
	text, err := worker.ReadFile(t.Context(), pki.KubeletClientPath)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := pki.First(text); err != nil || c.Subject.CommonName != "system:node:worker-1" || time.Until(c.NotAfter) < 0 {
		t.Errorf("the worker: %v, %v", c, err)
	}
	// It is back: the others answer, and are left alone.
	hosts["cp-3"] = away
	if _, err = s.certsRenew(t.Context(), CertsOptions{Rescue: true}); err != nil {
		t.Fatal(err)
	}
	for i, p := range pods {
		if got := fmt.Sprint(p.Killed()); got != "[kube-controller-manager kube-scheduler]" {
			t.Errorf("cp-%d: restarted %s", i+1, got)
		}
	}
	if res, err = s.certsRenew(t.Context(), CertsOptions{Rescue: true}); err != nil || res.Changed > 0 {
		t.Errorf("again: %v, %+v", err, res)
	}
}

func TestCertsList_endpointOnceAndProblemsInALine(t *testing.T) {
	t.Parallel()
	hosts := machines{}
	for _, n := range []string{"cp-1", "cp-2", "cp-3"} {
		hosts[n], _, _ = certified(t, n)
		file, _ := kubetest.Issue("apiserver", time.Now().AddDate(1, 0, 0))
		hosts[n].Write(pki.Dir+"/apiserver.crt", 0o644, file)
	}
	rep, err := certSession(t, hosts).certsList(t.Context())
	if fault.CodeOf(err) != fault.Unreachable { // worker-1
		t.Errorf("%v", err)
	}
	endpoints := 0
	for _, e := range rep.Certificates {
		if e.Name == pki.EndpointName {
			endpoints++
		}
	}
	all := strings.Join(rep.Problems, "\n")
	if endpoints != 1 || !strings.Contains(all, "scheduler.conf on cp-1 ends in 6 days") ||
		!strings.Contains(all, "apiserver on cp-2: what is served at 127.0.0.1:6443 is not what the file has") || !strings.Contains(all, "is that of no API server of this cluster") {
		t.Errorf("%d endpoints, %s", endpoints, all)
	}
}

func TestStatus_warnsOfCertificatesAMonthAhead(t *testing.T) {
	t.Parallel()
	hosts := machines{}
	for _, n := range []string{"cp-1", "cp-2", "cp-3"} {
		hosts[n], _, _ = certified(t, n)
	}
	st, err := certSession(t, hosts).status(t.Context())
	if err != nil || len(st.Expiring) != 9 || !strings.Contains(st.Expiring[0], " on cp-1 ends in 6 days") {
		t.Errorf("%v, %v", err, st.Expiring)
	}
}
