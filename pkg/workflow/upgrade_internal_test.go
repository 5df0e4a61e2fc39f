package workflow

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/upgrade"
)

func atVersion(name, version string, plane bool) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if plane {
		n.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
	}
	n.Status.NodeInfo.KubeletVersion = version
	return n
}

func TestUpgrading_comparesTheClusterWithTheYAML(t *testing.T) {
	t.Parallel()
	const v = "v1.36.3"
	all := []corev1.Node{atVersion("cp-1", v, true), atVersion("cp-2", v, true), atVersion("cp-3", v, true), atVersion("worker-1", "v1.35.4", false)}
	servers := map[string]string{"cp-1": "v1.37.2", "cp-2": v, "cp-3": v}
	for name, c := range map[string]struct {
		nodes   []corev1.Node
		servers map[string]string
		want    string // part of the error
		code    fault.Code
	}{
		"all are there":                       {all, servers, "", fault.OK},
		"a worker of somebody else":           {append(all[:4:4], atVersion("x", v, false)), servers, "", fault.OK},
		"a control plane of somebody else":    {append(all[:4:4], atVersion("x", v, true)), servers, "x is a control plane of the cluster and not in the YAML", fault.Preflight},
		"a node that has not joined":          {all[:3], servers, "worker-1: in the YAML, and not in the cluster", fault.Preflight},
		"a control plane without API server":  {all, map[string]string{"cp-1": v, "cp-2": v}, "no API server on cp-3", fault.Unhealthy},
		"control planes that have not joined": {all[:2], servers, "cp-3, worker-1: in the YAML", fault.Preflight},
	} {
		s := session(t, machines{})
		u := &upgrading{Session: s, base: s.inv}
		found := upgrade.Found{APIServers: map[string]string{}, Kubelets: map[string]string{}}
		err := u.compare(c.nodes, c.servers, found)
		if c.code == fault.OK && (err != nil || found.APIServers["cp-1"] != "v1.37.2" || found.Kubelets["worker-1"] != "v1.35.4" || len(found.Kubelets) != 4) {
			t.Errorf("%s: %v, %+v", name, err, found)
		}
		if c.code != fault.OK && (fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) || fault.HintOf(err) == "") {
			t.Errorf("%s: %v, hint %q", name, err, fault.HintOf(err))
		}
	}
}

// expiring is a certificate in PEM.
func expiring(t *testing.T, at time.Time) string {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: at}
	der, err := x509.CreateCertificate(rand.Reader, form, form, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestUpgrading_readsCertificatesOfEveryControlPlane(t *testing.T) {
	t.Parallel()
	at := time.Date(2027, 1, 2, 0, 0, 0, 0, time.UTC)
	hosts := machines{}
	for _, n := range []string{"cp-1", "cp-2", "cp-3"} {
		hosts[n] = hosttest.New(n)
		hosts[n].Write("/etc/kubernetes/pki/ca.crt", 0o644, expiring(t, at))
		hosts[n].Write("/etc/kubernetes/pki/apiserver.crt", 0o644, expiring(t, at.Add(time.Hour)))
	}
	s := session(t, hosts)
	u := &upgrading{Session: s, base: s.inv}
	got, err := u.certificates(t.Context())
	if err != nil || len(got) != 6 || got[0].CA || !got[1].CA || !got[1].Expires.Equal(at) || got[5].Node != "cp-3" {
		t.Errorf("%+v, %v", got, err)
	}
	hosts["cp-2"].Write("/etc/kubernetes/pki/ca.crt", 0o644, "damaged")
	if _, err := u.certificates(t.Context()); err == nil || !strings.Contains(err.Error(), "/etc/kubernetes/pki/ca.crt on cp-2: there is no certificate in it") {
		t.Errorf("%v", err)
	}
}

// Budgets matter on nodes that will be drained, and nowhere else.
func TestUpgrading_budgetsOfNodesThatWillBeDrained(t *testing.T) {
	t.Parallel()
	m := hosttest.New("cp-1")
	c := kubetest.NewCluster(m.Wire)
	defer c.Close()
	m.OnDial(c.Dial)
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	ready := []any{kubetest.Object{"type": "Ready", "status": "True"}}
	for name, version := range map[string]string{"cp-1": "v1.37.2", "worker-1": "v1.36.3", "x": "v1.36.3"} {
		c.Put("nodes", "", name, kubetest.Object{"status": kubetest.Object{"conditions": ready, "nodeInfo": kubetest.Object{"kubeletVersion": version}}})
		c.Put("pods", "default", "web-"+name, kubetest.Object{
			"metadata": kubetest.Object{"labels": kubetest.Object{"app": "web"}}, "spec": kubetest.Object{"nodeName": name}, "status": kubetest.Object{"phase": "Running"},
		})
	}
	// One that goes with its node is not evicted.
	c.Put("pods", "default", "agent", kubetest.Object{
		"metadata": kubetest.Object{"labels": kubetest.Object{"app": "web"}, "ownerReferences": []any{kubetest.Object{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "u", "controller": true}}},
		"spec":     kubetest.Object{"nodeName": "worker-1"}, "status": kubetest.Object{"phase": "Running"},
	})
	c.Put("poddisruptionbudgets", "default", "web", kubetest.Object{
		"spec": kubetest.Object{"selector": kubetest.Object{"matchLabels": kubetest.Object{"app": "web"}}}, "status": kubetest.Object{"disruptionsAllowed": 0},
	})
	s := session(t, machines{"cp-1": m})
	s.inv = s.inv.At("v1.37.2")
	u := &upgrading{Session: s, base: s.inv}
	client, err := s.access.Look(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	var got upgrade.State
	err, pods := u.nodesAndPods(t.Context(), client, &got)
	if err != nil || pods != nil || len(got.Nodes) != 3 || len(got.Held) != 1 || got.Held[0].Node != "worker-1" || !strings.Contains(got.Held[0].Reason, "pod default/web-worker-1 is held by PodDisruptionBudget web") {
		t.Errorf("%+v, %v", got, err)
	}
	if !slices.Equal(got.Bare, []string{"default/web-worker-1 on worker-1"}) {
		t.Errorf("%v", got.Bare)
	}
}

// An upgrade that was interrupted before any version changed was begun all the same.
func TestUpgrading_seesThatAnUpgradeWasInterrupted(t *testing.T) {
	t.Parallel()
	hosts := machines{}
	for _, n := range []string{"cp-1", "cp-2", "cp-3", "worker-1"} {
		hosts[n] = hosttest.New(n)
	}
	s := session(t, hosts)
	u := &upgrading{Session: s, base: s.inv}
	if begun, err := u.begun(t.Context()); begun || err != nil {
		t.Errorf("%t, %v", begun, err)
	}
	hosts["cp-2"].Write(kubeadm.UpgradeConfigPath, 0o600, "")
	if begun, err := u.begun(t.Context()); !begun || err != nil || u.unfinished != "cp-2" {
		t.Errorf("%t, %v, %q", begun, err, u.unfinished)
	}
}

// What create and scale would do in the middle of an upgrade is the upgrade's to do.
func TestSameCluster_refusesTheMiddleOfAnUpgrade(t *testing.T) {
	t.Parallel()
	m := answering(t, "cp-1")
	s := session(t, machines{"cp-1": m})
	if err := s.sameKubelets(t.Context(), m); err != nil {
		t.Error(err)
	}
	m = hosttest.New("cp-1")
	c := kubetest.NewCluster(m.Wire)
	defer c.Close()
	m.OnDial(c.Dial)
	m.Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	s = session(t, machines{"cp-1": m})
	for name, v := range map[string]string{"cp-1": "v1.36.3", "worker-1": "v1.35.4", "x": "v1.34.4"} {
		c.Put("nodes", "", name, kubetest.Object{"status": kubetest.Object{"nodeInfo": kubetest.Object{"kubeletVersion": v}}})
	}
	err := s.sameKubelets(t.Context(), m)
	if fault.CodeOf(err) != fault.Usage || !strings.Contains(err.Error(), "on worker-1 (v1.35.4)") || strings.Contains(err.Error(), "x (") || !strings.Contains(fault.HintOf(err), "kocli upgrade -f") {
		t.Errorf("%v, hint %q", err, fault.HintOf(err))
	}
}

func TestRefused_namesAllFindings(t *testing.T) {
	t.Parallel()
	one := []preflight.Finding{{Check: "a", Level: preflight.Error, Fix: "do this"}, {Check: "b", Level: preflight.Warning}}
	if err := refused(preflight.Refusal(one), one); fault.HintOf(err) != "do this" || fault.CodeOf(err) != fault.Preflight {
		t.Errorf("%v, %q", err, fault.HintOf(err))
	}
	two := append(one, preflight.Finding{Check: "c", Level: preflight.Error})
	if err := refused(preflight.Refusal(two), two); !strings.Contains(fault.HintOf(err), "--dry-run") || fault.CodeOf(err) != fault.Preflight {
		t.Errorf("%v, %q", err, fault.HintOf(err))
	}
}

// A gate that cannot see what it judges is refused by its name, and the others report.
func TestUpgrading_allGatesReport(t *testing.T) {
	t.Parallel()
	hosts := machines{}
	for _, n := range []string{"cp-1", "cp-2", "cp-3", "worker-1"} {
		hosts[n] = hosttest.New(n)
	}
	c := kubetest.NewCluster(hosts["cp-1"].Wire)
	defer c.Close()
	hosts["cp-1"].OnDial(c.Dial)
	hosts["cp-1"].Write(kube.AdminConf(), 0o600, c.Kubeconfig())
	hosts["cp-2"].Write("/etc/kubernetes/pki/ca.crt", 0o644, "damaged")
	hosts["worker-1"].Write(kubeadm.KubeletFlagsPath, 0o644, "KUBELET_KUBEADM_ARGS=\"--node-ip=10.0.0.4\"\n")
	hosts["worker-1"].Write(kubeadm.KubeletExtraPath, 0o644, "KUBELET_EXTRA_ARGS='--v=4 --log-cadvisor-usage=true'\n")
	c.Put("nodes", "", "worker-1", kubetest.Object{"status": kubetest.Object{"conditions": []any{kubetest.Object{"type": "Ready", "status": "False", "message": "its disk is full"}}}})
	s := session(t, hosts)
	s.inv = s.inv.At("v1.37.2")
	b, err := archive.Open(archivetest.WriteRelease(t, "v1.37.2"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	s.bundle = b
	seed, _ := s.inv.Node("cp-1")
	u := &upgrading{Session: s, base: s.inv, seed: seed}
	got, err := u.gates(t.Context(), &Cluster{Inventory: s.inv, Seed: seed, Dialer: s.hosts, Access: s.access}, upgrade.Hop{From: "v1.36.3", To: "v1.37.2"})
	text := fmt.Sprintf("%+v", got)
	if err != nil || !strings.Contains(text, "its disk is full") || !strings.Contains(text, "Check:certificates-valid") || !strings.Contains(text, "cannot be judged: /etc/kubernetes/pki/ca.crt on cp-2") || !strings.Contains(text, "its kubelet is started with --log-cadvisor-usage") {
		t.Errorf("%s, %v", text, err)
	}
}

// A node that kocli took out of service and has not given back is work that is left.
func TestUpgrading_seesANodeThatWasNotGivenBack(t *testing.T) {
	t.Parallel()
	const v = "v1.37.2"
	all := []corev1.Node{atVersion("cp-1", v, true), atVersion("cp-2", v, true), atVersion("cp-3", v, true), atVersion("worker-1", v, false)}
	servers := map[string]string{"cp-1": v, "cp-2": v, "cp-3": v}
	for _, held := range []bool{false, true} {
		s := session(t, machines{})
		u := &upgrading{Session: s, base: s.inv}
		if held {
			all[3].Annotations, all[3].Spec.Unschedulable = map[string]string{kube.Cordoned: "upgrade to " + v}, true
		}
		if err := u.compare(all, servers, upgrade.Found{APIServers: map[string]string{}, Kubelets: map[string]string{}}); err != nil || u.held != held {
			t.Errorf("%v, %t", err, u.held)
		}
	}
}

// Room is asked for the copies of etcd's data before they are made.
func TestUpgrading_reckonsWithCopiesOfEtcd(t *testing.T) {
	t.Parallel()
	hosts := machines{}
	for _, n := range []string{"cp-1", "cp-2", "cp-3"} {
		hosts[n] = hosttest.New(n)
	}
	hosts["cp-2"].Write(kubeadm.EtcdDataPath, 0o600, strings.Repeat("x", 4096))
	s := session(t, hosts)
	u := &upgrading{Session: s, base: s.inv}
	for _, begun := range []bool{false, true} {
		got, err := u.etcdCopies(t.Context(), upgrade.Hop{Begun: begun})
		if err != nil || len(got) != map[bool]int{false: 1, true: 0}[begun] {
			t.Errorf("begun %t: %v, %v", begun, got, err)
		}
		if want := []preflight.Space{{Path: "/var/lib/kocli/upgrade", Bytes: 4096}, {Path: "/etc/kubernetes/tmp", Bytes: 4096 + etcdLogs}}; !begun && !slices.Equal(got["cp-2"], want) {
			t.Errorf("%v", got)
		}
	}
	hosts["cp-3"].Cut()
	if _, err := u.etcdCopies(t.Context(), upgrade.Hop{}); fault.CodeOf(err) != fault.Unreachable {
		t.Errorf("%v", err)
	}
}
