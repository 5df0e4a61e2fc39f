package workflow

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/etcd/datadir"
	"github.com/kocli/kocli/pkg/etcd/etcdtest"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube/kubetest"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/probe"
	"github.com/kocli/kocli/pkg/steps/restore"
)

// restoringOf is a restore onto hosts, of which fresh ones have nothing installed.
func restoringOf(s *Session, fresh ...string) *restoring {
	facts := map[string]probe.Facts{}
	for _, n := range s.inv.Nodes {
		f := probe.Facts{Arch: "amd64", Kubernetes: []string{kubeletConf}}
		if slices.Contains(fresh, n.Name) {
			f.Kubernetes = nil
		}
		facts[n.Name] = f
	}
	c := &Cluster{Inventory: s.inv, Seed: s.inv.Seed(), Facts: facts, Dialer: s.hosts, Access: s.access, Kocli: KocliBinary{Arch: "amd64", Path: os.Args[0]}, Clock: s.o.Clock,
		Payload: func(inventory.Node) payload.Payload { return payload.Payload{} }}
	f := host.Bytes("", 0o600, []byte("x"))
	return &restoring{Session: s, cluster: c, id: "id", members: s.inv, files: []host.File{host.Bytes(backup.PKI+"ca.crt", 0o600, nil)}, snapshot: &f}
}

// before reports whether phase a is complete before phase b begins, as far as the
// phases say.
func before(phases []plan.Phase, a, b string) bool {
	i := slices.IndexFunc(phases, func(p plan.Phase) bool { return p.Name == b })
	if i < 0 {
		return false
	}
	return slices.ContainsFunc(slices.Concat(phases[i].Needs, phases[i].Follows), func(n string) bool { return n == a || before(phases, a, n) })
}

func TestRestorePhases_standInTheirOrder(t *testing.T) {
	t.Parallel()
	for _, bundle := range []*archive.Bundle{nil, {}} {
		s := session(t, machines{})
		s.bundle = bundle
		rs := restoringOf(s, "worker-1")
		phases, err := rs.phases()
		if err != nil {
			t.Fatal(err)
		}
		order := []string{"agent", "restore-stop", "restore-data", "restore-etcd", "restore-quorum", "restore-api", "restore-registered", "restore-nodes", "restore-controllers", "restore-workers"}
		if bundle != nil {
			order = slices.Concat([]string{"agent", "images"}, order[1:], []string{"control-plane", "endpoint", "control-planes"})
		}
		for i := 1; i < len(order); i++ {
			if !before(phases, order[i-1], order[i]) {
				t.Errorf("with a bundle %t: %s does not wait for %s", bundle != nil, order[i], order[i-1])
			}
		}
		if bundle != nil && !before(phases, "restore-nodes", "workers") {
			t.Error("workers join before nodes that are gone are forgotten")
		}
		var names []string
		for _, p := range phases {
			for _, n := range slices.Concat(p.Needs, p.Follows) {
				if !slices.Contains(names, n) {
					t.Errorf("%s comes before %s, which it needs", p.Name, n)
				}
			}
			names = append(names, p.Name)
		}
		if steps := rs.lostNodes(rs.options("cp-1")); len(steps) != 2 || steps[0].ID() != "restore/forget-worker-1" {
			t.Errorf("forgotten are %v", steps)
		}
	}
}

func TestRestore_refusesAClusterThatWorks(t *testing.T) {
	t.Parallel()
	s := session(t, machines{"cp-1": answering(t, "cp-1")})
	rs := restoringOf(s)
	err := rs.refuseHealthy(t.Context(), false)
	if fault.CodeOf(err) != fault.Preflight || !strings.Contains(fault.HintOf(err), "--i-know") {
		t.Error(err)
	}
	if err := rs.refuseHealthy(t.Context(), true); err != nil {
		t.Errorf("with --i-know: %v", err)
	}
	rs.begun = true // an earlier run was killed when its API answered already
	if err := rs.refuseHealthy(t.Context(), false); err != nil {
		t.Errorf("a restore that has begun: %v", err)
	}
	if err := restoringOf(session(t, machines{"cp-1": hosttest.New("cp-1")})).refuseHealthy(t.Context(), false); err != nil {
		t.Errorf("where nothing answers: %v", err)
	}
}

// Two clusters would come of it: what cannot see the others is not what survived.
func TestRecover_refusesWhereAnotherControlPlaneWorks(t *testing.T) {
	t.Parallel()
	e := etcdtest.New(t)
	m := hosttest.New("cp-2", func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		return "x86_64\n", 0, argv[0] == "uname"
	})
	e.Install(m)
	m.OnDial(e.Dial)
	for i, n := range []string{"cp-1", "cp-2", "cp-3"} {
		e.Add(n, "10.0.0."+string(rune('1'+i)))
	}
	e.Down("10.0.0.1", true) // as cp-2 sees it
	e.Down("10.0.0.3", true)
	s := session(t, machines{"cp-2": m, "cp-1": answering(t, "cp-1")})
	s.binary, s.RunID = &KocliBinary{}, "run"
	if _, err := s.recovering(t.Context(), "cp-2"); fault.CodeOf(err) != fault.Preflight || !strings.Contains(err.Error(), "cp-1") || fault.HintOf(err) == "" {
		t.Error(err)
	}
}

// The same backup onto the same hosts goes on where it was interrupted, and is another
// restore once that has come to its end.
func TestRestoreRecord_livesUntilTheRestoreIsDone(t *testing.T) {
	t.Parallel()
	s := session(t, machines{})
	first, err := s.restoreRecord("sum")
	if err != nil {
		t.Fatal(err)
	}
	if err := (&restoring{Session: s, record: first}).begin(); err != nil {
		t.Fatal(err)
	}
	if again, err := s.restoreRecord("sum"); err != nil || again.ID != first.ID {
		t.Errorf("a restore that was interrupted: %v, %v", again, err)
	}
	if other, err := s.restoreRecord("another backup"); err != nil || other.ID == first.ID {
		t.Errorf("another backup: %v, %v", other, err)
	}
	moved := *s.inv
	moved.Nodes = slices.Clone(s.inv.Nodes)
	moved.Nodes[0].IP = "10.9.9.9"
	if other, err := (&Session{inv: &moved, dir: s.dir, o: s.o}).restoreRecord("sum"); err != nil || other.ID == first.ID {
		t.Errorf("other hosts: %v, %v", other, err)
	}
	if err := os.Remove(s.dir.Restore()); err != nil {
		t.Fatal(err)
	}
	if next, err := s.restoreRecord("sum"); err != nil || next.ID == first.ID {
		t.Errorf("once it was done: %v, %v", next, err)
	}
	if err := s.dir.Write(s.dir.Restore(), []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.restoreRecord("sum"); fault.HintOf(err) == "" {
		t.Errorf("a damaged record: %v", err)
	}
}

// The cluster goes on, on hosts that the YAML does not name: restored ones would be a
// second one at its address.
func TestRestore_refusesAClusterThatWorksElsewhere(t *testing.T) {
	t.Parallel()
	m := hosttest.New("cp-1")
	c := kubetest.NewCluster(m.Wire)
	t.Cleanup(c.Close)
	m.OnDial(c.Dial)
	rs := restoringOf(session(t, machines{"cp-1": m}))
	ca, err := kubeadm.CAOf([]byte(c.Kubeconfig()))
	if err != nil {
		t.Fatal(err)
	}
	rs.ca, rs.was = ca, "127.0.0.1:6443"
	if err := rs.refuseHealthy(t.Context(), false); fault.CodeOf(err) != fault.Preflight || !strings.Contains(err.Error(), "127.0.0.1:6443") || !strings.Contains(fault.HintOf(err), "--i-know") {
		t.Error(err)
	}
	if err := rs.refuseHealthy(t.Context(), true); err != nil {
		t.Errorf("with --i-know: %v", err)
	}
	rs.ca = etcdtest.New(t).Credentials().CA
	if err := rs.refuseHealthy(t.Context(), false); err != nil {
		t.Errorf("another cluster at that address: %v", err)
	}
}

// A backup that was made in truth, read as restore reads it.
func TestArchive_isProvedBeforeItIsUsed(t *testing.T) {
	t.Parallel()
	w := newBackupWorld(t)
	r, err := w.s.backup(t.Context(), BackupOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := backup.Identities(w.id)
	if err != nil {
		t.Fatal(err)
	}
	b, err := w.s.archive(t.Context(), WhichBackup{}, ids)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(w.s.dir.Root(), "backups", r.Name); b.path != want || b.sum != r.SHA256 {
		t.Errorf("it is at %s, not %s", b.path, want)
	}
	if st, err := os.Stat(b.path); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st, err)
	}
	m := hosttest.New("new")
	f := *b.snapshot()
	f.Path = "/var/lib/etcd/x"
	if _, err := m.Put(t.Context(), f); err != nil { // which holds it against its digest
		t.Error(err)
	}
	if files, err := b.files(w.s.inv); err != nil || len(files) != len(backup.Shared()) {
		t.Errorf("%d files are shared, %v", len(files), err)
	}
	audited := *w.s.inv
	audited.Spec.Kubernetes.Audit.Enabled = true
	if files, err := b.files(&audited); err != nil || files[len(files)-1].Path != kubeadm.AuditPolicyPath {
		t.Errorf("without the policy of an audit that is asked for since: %v", err)
	}
	encrypted := *w.s.inv
	encrypted.Spec.Kubernetes.Encryption.Secrets = true
	if err := (&Session{inv: &encrypted}).fits(b.contents); fault.CodeOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "to false") {
		t.Errorf("a key for Secrets that nobody has made: %v", err)
	}
	if err := w.s.fits(b.contents); err != nil {
		t.Error(err)
	}
	if err := w.s.sameCA(t.Context(), b.contents); err == nil || fault.CodeOf(err) != fault.Unreachable {
		t.Errorf("hosts that do not answer: %v", err)
	}
	if err := w.s.sameEndpoint(b.contents); err != nil {
		t.Errorf("at the address that it had: %v", err)
	}
	moved := *w.s.inv
	moved.Spec.ControlPlane.Endpoint.Address = "10.0.0.200"
	if err := (&Session{inv: &moved}).sameEndpoint(b.contents); fault.CodeOf(err) != fault.Usage || !strings.Contains(err.Error(), "10.0.0.200") {
		t.Errorf("at another address, without a bundle: %v", err)
	}
	for name, change := range map[string]func(){
		"the host is of another cluster": func() {
			other := etcdtest.New(t)
			m := hosttest.New("cp-1")
			other.Install(m)
			ca, _ := m.Read("/etc/kubernetes/pki/etcd/ca.crt")
			w.m.Write(kubeadm.CACertPath, 0o644, ca)
		},
		"the YAML asks for another Kubernetes": func() { w.s.inv.Spec.Kubernetes.Version = "v1.37.2" },
	} {
		t.Run(name, func(t *testing.T) {
			change()
			w.s.hosts = machines{"cp-1": w.m, "cp-2": hosttest.New("cp-2"), "cp-3": hosttest.New("cp-3"), "worker-1": hosttest.New("worker-1")}
			err1, err2 := w.s.sameCA(t.Context(), b.contents), w.s.fits(b.contents)
			if err1 == nil && err2 == nil {
				t.Error("nothing is refused")
			}
			for _, err := range []error{err1, err2} {
				if err != nil && fault.HintOf(err) == "" {
					t.Errorf("without a hint: %v", err)
				}
			}
		})
	}
}

func TestRecover_onlyWithoutAQuorum(t *testing.T) {
	t.Parallel()
	e := etcdtest.New(t)
	m := hosttest.New("cp-2", func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		return "x86_64\n", 0, argv[0] == "uname"
	})
	e.Install(m)
	m.OnDial(e.Dial)
	for i, n := range []string{"cp-1", "cp-2", "cp-3"} {
		e.Add(n, "10.0.0."+string(rune('1'+i)))
	}
	s := session(t, machines{"cp-2": m})
	s.binary, s.RunID = &KocliBinary{}, "run"
	e.Down("10.0.0.1", true)
	if _, err := s.recovering(t.Context(), "cp-2"); fault.CodeOf(err) != fault.Preflight || !strings.Contains(fault.HintOf(err), "--dead") {
		t.Errorf("with two of three: %v", err)
	}
	e.Down("10.0.0.3", true)
	rs, err := s.recovering(t.Context(), "cp-2")
	if err != nil || rs.begun || len(rs.members.ControlPlanes()) != 1 || len(rs.members.Workers()) != 1 || rs.snapshot != nil || rs.files != nil {
		t.Fatalf("%+v, %v", rs, err)
	}
	first := rs.id
	m.Write(kubeadm.RecoverPath, 0o600, first) // as a run that was killed left it
	s.RunID = "another run"
	if rs, err = s.recovering(t.Context(), "cp-2"); err != nil || rs.begun || rs.id != first {
		t.Errorf("a recovery that has replaced nothing yet: %+v, %v", rs, err)
	}
	e.Down("10.0.0.1", false)
	e.Down("10.0.0.3", false)
	if _, err := s.recovering(t.Context(), "cp-2"); fault.CodeOf(err) != fault.Preflight {
		t.Errorf("a recovery that has replaced nothing, and the quorum is back: %v", err)
	}
	m.Write(datadir.MarkerPath(restore.DataDir), 0o600, string(datadir.Marker(first)))
	if rs, err = s.recovering(t.Context(), "cp-2"); err != nil || !rs.begun || rs.id != first {
		t.Errorf("a recovery that has begun: %+v, %v", rs, err)
	}
	for _, bad := range []string{"worker-1", "nobody"} {
		if _, err := s.recovering(t.Context(), bad); fault.CodeOf(err) != fault.Usage {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if restore.NewID("run", rs.members.ControlPlanes()) != first {
		t.Error("the recovery has another name than its run gave it")
	}
}
