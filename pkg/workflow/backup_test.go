package workflow

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/etcd/etcdtest"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/kubeadm"
)

// backupWorld is a cluster whose first control plane has a real etcd.
type backupWorld struct {
	s    *Session
	m    *hosttest.Machine
	to   string // a folder
	id   string // file of the private key
	etcd *etcdtest.Real
}

func newBackupWorld(t *testing.T) backupWorld {
	t.Helper()
	r := etcdtest.NewReal(t, t.TempDir(), "cp-1", "http://127.0.0.1:2380")
	if _, err := r.Client(t).Put(t.Context(), "/registry/x", "y"); err != nil {
		t.Fatal(err)
	}
	m := hosttest.OS(hosttest.New("cp-1"))
	r.Install(m)
	m.Handle(func(_ *hosttest.Machine, argv []string, _ []byte) (string, int, bool) {
		return "x86_64\n", 0, argv[0] == "uname"
	})
	ca, _ := m.Read("/etc/kubernetes/pki/etcd/ca.crt")
	for _, p := range backup.Shared() {
		m.Write(p, 0o600, ca)
	}
	m.Write(kubeadm.APIServerManifestPath, 0o600, "pod")
	m.Write(kubeadm.EtcdManifestPath, 0o600, "pod")
	s := session(t, machines{"cp-1": m})
	s.o.Observer, s.o.Secrets, s.o.SpecYAML, s.o.SpecFile, s.o.Home = quiet{}, &config.Secrets{}, []byte(applied("")), "cluster.yaml", filepath.Dir(filepath.Dir(s.dir.Root()))
	s.start = time.Now()
	s.binary = &KocliBinary{}
	w := backupWorld{s: s, m: m, to: filepath.Join(t.TempDir(), "backups"), id: filepath.Join(t.TempDir(), "id"), etcd: r}
	public, err := backup.GenerateIdentity(w.id, w.id+".pub")
	if err != nil {
		t.Fatal(err)
	}
	s.inv.Spec.Backup = v1alpha1.Backup{Target: w.to, Recipients: []string{public}}
	return w
}

// withKocli has kocli run on the host: the same code, in this process.
func (w backupWorld) withKocli(t *testing.T) {
	t.Helper()
	w.s.binary = &KocliBinary{Path: os.Args[0], Arch: "amd64", SHA256: strings.Repeat("0", 64)}
	sum, size, err := digestFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	w.s.binary.SHA256, w.s.binary.Size = sum, size
	w.m.Attach(func(ctx context.Context, m *hosttest.Machine, c host.Cmd) (hosttest.Reply, bool) {
		if len(c.Argv) < 3 || c.Argv[0] != kocliPath() || c.Argv[2] != "backup" {
			return hosttest.Reply{}, false
		}
		var rq backup.Request
		if err := json.NewDecoder(c.Stdin).Decode(&rq); err != nil {
			return hosttest.Reply{Stderr: err.Error(), Code: 2}, true
		}
		o, err := rq.Options()
		if err != nil {
			return hosttest.Reply{Stderr: err.Error(), Code: 2}, true
		}
		out := backup.Sender{W: c.Stdout}
		r, err := backup.Write(ctx, out, m, o)
		if err == nil {
			err = out.End(r)
		}
		if err != nil {
			return hosttest.Reply{Stderr: "error: " + err.Error(), Code: int(fault.CodeOf(err))}, true
		}
		return hosttest.Reply{}, true
	})
}

func TestBackup_isMadeOnTheHostOrThroughTheTunnelAndProved(t *testing.T) {
	t.Parallel()
	for _, there := range []bool{true, false} {
		w := newBackupWorld(t)
		if there {
			w.withKocli(t)
		}
		r, err := w.s.backup(t.Context(), BackupOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if r.Keys != 1 || r.Node != "cp-1" || !r.Encrypted || r.Target != w.to {
			t.Errorf("%+v", r)
		}
		if _, ok := w.m.Read(kocliPath()); ok != there {
			t.Errorf("kocli is on the host: %t", ok)
		}
		l, err := ListBackups(t.Context(), w.s.o, "", nil, false)
		if err != nil || len(l.Backups) != 1 || !l.Backups[0].Trusted || l.Backups[0].Name != r.Name || len(l.Notes) > 0 {
			t.Errorf("%+v, %v", l, err)
		}
		d, err := VerifyBackup(t.Context(), w.s.o, WhichBackup{Identity: w.id}, time.Hour, t.TempDir())
		if err != nil || d.Keys != 1 || d.Restored.Keys != 1 || len(d.Missing) > 0 || d.Name != r.Name {
			t.Errorf("%+v, %v", d, err)
		}
		for _, l := range w.m.Log() {
			if strings.Contains(l, "PRIVATE") || strings.Contains(l, "AGE-SECRET") {
				t.Errorf("a key is in %s", l)
			}
		}
	}
}

func TestVerifyBackup_refusals(t *testing.T) {
	t.Parallel()
	w := newBackupWorld(t)
	r, err := w.s.backup(t.Context(), BackupOptions{})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(w.to, r.Name)
	elsewhere := w.s.o
	elsewhere.Home = t.TempDir()
	other := *w.s.inv
	other.Name = "other"
	foreign := w.s.o
	foreign.Inventory = &other
	scratch := t.TempDir()
	for name, tt := range map[string]struct {
		o      Options
		which  WhichBackup
		maxAge time.Duration
		code   fault.Code
		want   string
	}{
		"good":                              {w.s.o, WhichBackup{Name: file, Identity: w.id}, 0, fault.OK, ""},
		"without the private key":           {w.s.o, WhichBackup{}, 0, fault.BackupKey, "no key was given"},
		"too old":                           {w.s.o, WhichBackup{Identity: w.id}, time.Nanosecond, fault.Backup, "old"},
		"on a machine without the key":      {elsewhere, WhichBackup{Identity: w.id}, 0, fault.BackupKey, "signed by " + r.Signer},
		"there, with the ID of the key":     {elsewhere, WhichBackup{Identity: w.id, Accept: r.Signer}, 0, fault.OK, ""},
		"of another cluster":                {foreign, WhichBackup{Name: file, Identity: w.id, Accept: r.Signer}, 0, fault.Backup, "it is a backup of cluster c"},
		"of a name that is not there":       {w.s.o, WhichBackup{Name: "x.tar.zst.age", Identity: w.id}, 0, fault.Backup, "no complete backup"},
		"of a file that is not there":       {w.s.o, WhichBackup{Name: "/nowhere/x", Identity: w.id}, 0, fault.Backup, "does not exist"},
		"without a place for restored data": {w.s.o, WhichBackup{Identity: w.id}, 0, fault.Usage, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := scratch
			if tt.code == fault.Usage {
				dir = "/nowhere"
			}
			_, err := VerifyBackup(t.Context(), tt.o, tt.which, tt.maxAge, dir)
			if fault.CodeOf(err) != tt.code || err != nil && (!strings.Contains(err.Error(), tt.want) || fault.HintOf(err) == "") {
				t.Errorf("code %d: %v", fault.CodeOf(err), err)
			}
		})
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("restored data is left: %v, %v", left, err)
	}
}

func TestBackup_keepsTheLastOneWhenSomethingFails(t *testing.T) {
	t.Parallel()
	w := newBackupWorld(t)
	first, err := w.s.backup(t.Context(), BackupOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.s.start = w.s.start.Add(time.Hour)
	// The disk of the target is full.
	link := filepath.Join(w.to, ".partial-"+backup.Name(backup.Header{Cluster: "c", Node: "cp-1", Created: w.s.start}, true))
	if err := os.Symlink("/dev/full", link); err != nil {
		t.Fatal(err)
	}
	for _, there := range []bool{false, true} {
		if there {
			w.withKocli(t)
		}
		_, err = w.s.backup(t.Context(), BackupOptions{})
		if err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(fault.HintOf(err), "make room") {
			t.Errorf("on the host %t: %v; %s", there, err, fault.HintOf(err))
		}
		if there {
			break
		}
		if err := os.Symlink("/dev/full", link); err != nil {
			t.Fatal(err)
		}
	}
	// etcd ends.
	w.etcd.Stop()
	if _, err = w.s.backup(t.Context(), BackupOptions{}); err == nil || fault.HintOf(err) == "" {
		t.Errorf("%v; %s", err, fault.HintOf(err))
	}
	l, err := ListBackups(t.Context(), w.s.o, "", nil, false)
	if err != nil || len(l.Backups) != 1 || l.Backups[0].Name != first.Name {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestBackup_prunesAsTheYAMLSays(t *testing.T) {
	t.Parallel()
	w := newBackupWorld(t)
	w.s.inv.Spec.Backup.Retention.Keep = 1
	first, err := w.s.backup(t.Context(), BackupOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.s.start = w.s.start.Add(time.Hour)
	second, err := w.s.backup(t.Context(), BackupOptions{})
	if err != nil || len(second.Pruned) != 1 || second.Pruned[0] != first.Name {
		t.Errorf("%+v, %v", second, err)
	}
}

func TestBackup_isNotPlainByMistake(t *testing.T) {
	t.Parallel()
	w := newBackupWorld(t)
	w.s.inv.Spec.Backup.Recipients = nil
	if _, err := w.s.backup(t.Context(), BackupOptions{}); fault.CodeOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "--plain") {
		t.Error(err)
	}
	if _, err := w.s.backup(t.Context(), BackupOptions{Plain: true, Recipients: []string{"age1x"}}); fault.CodeOf(err) != fault.Usage {
		t.Error(err)
	}
	r, err := w.s.backup(t.Context(), BackupOptions{Plain: true})
	if err != nil || r.Encrypted || strings.HasSuffix(r.Name, ".age") {
		t.Errorf("%+v, %v", r, err)
	}
}
