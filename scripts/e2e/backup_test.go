//go:build e2e && long

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// backupUser has the YAML of the cluster that is backed up.
const backupUser = "backup"

// backupYAML is the cluster with these hosts, and where its backups go.
func backupYAML(t *testing.T, roles map[int]string) {
	t.Helper()
	haYAML(t, backupUser, "{mode: vip, address: "+vip(t)+"}", roles)
	p := yaml(t, backupUser)
	text, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(privateKey(t) + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	more := fmt.Sprintf("  backup: {target: %q, recipients: [%s], retention: {keep: 3}, schedule: \"*-*-* *:*:00/20\"}\n", backups(t), strings.TrimSpace(string(public)))
	if err := os.WriteFile(p, append(text, more...), 0o600); err != nil {
		t.Fatal(err)
	}
}

func backups(t *testing.T) string { return filepath.Join(env(t, "KOCLI_E2E_WORK"), "backups") }

// privateKey is the name of the key pair, without its ending.
func privateKey(t *testing.T) string { return filepath.Join(env(t, "KOCLI_E2E_WORK"), "backup-key") }

// revision is that of the cluster now.
func revision(t *testing.T, host string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(kubectlAt(t, host, `get --raw '/api/v1/configmaps?limit=1' | sed 's/.*"metadata":{"resourceVersion":"\([0-9]*\)".*/\1/;q'`)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// before40 is what was true when the backup was made.
var before40 struct {
	revision int64
	objects  string
}

// objects names what a user made, with its content.
func objects(t *testing.T, host string) string {
	t.Helper()
	return kubectlAt(t, host, `get configmaps,secrets -n kept -l kept=yes -o 'jsonpath={range .items[*]}{.kind}/{.metadata.name}={.data}{"\n"}{end}'`)
}

const kept = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: kept}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      tolerations: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]
      containers: [{name: p, image: "registry.k8s.io/pause:3.10.2"}]
`

// deployed waits until the Deployment runs, on nodes that are there.
func deployed(t *testing.T, host string, within time.Duration) {
	t.Helper()
	kubectlAt(t, host, fmt.Sprintf("-n kept rollout status deployment/web --timeout=%ds", int(within.Seconds())))
}

func Test40_aBackupIsMadeListedAndProved(t *testing.T) {
	allHosts(t)
	want(t, 0, "root", "backup", "keygen", "--out", privateKey(t))
	backupYAML(t, map[int]string{1: "control-plane", 2: "control-plane", 3: "control-plane", 4: "worker"})
	want(t, 0, backupUser, "create")
	want(t, 0, backupUser, "status", "--wait", "3m")
	kubectlAt(t, "host1", "create namespace kept")
	for i := range 20 {
		kubectlAt(t, "host1", fmt.Sprintf("-n kept create configmap c%d --from-literal=n=%d && kubectl --kubeconfig /etc/kubernetes/admin.conf -n kept label configmap c%d kept=yes", i, i, i))
	}
	kubectlAt(t, "host1", "-n kept create secret generic s --from-literal=p=hidden-in-backups && kubectl --kubeconfig /etc/kubernetes/admin.conf -n kept label secret s kept=yes")
	sh(t, "host1", "cat >/tmp/kept.yaml <<'X'\n"+kept+"X\nkubectl --kubeconfig /etc/kubernetes/admin.conf apply -f /tmp/kept.yaml")
	deployed(t, "host1", 3*time.Minute)
	before40.objects = objects(t, "host1")
	r := want(t, 0, backupUser, "backup", "create", "-o", "json")
	figure(t, "backup.create.seconds", r.took.Seconds())
	before40.revision = revision(t, "host1")
	r = want(t, 0, backupUser, "backup", "list")
	if strings.Count(r.out, ".tar.zst.age") != 1 || strings.Contains(r.out, "not known here") {
		t.Errorf("the list:\n%s", r)
	}
	r = want(t, 0, backupUser, "backup", "verify", "--identity", privateKey(t)+".key", "--max-age", "1h")
	figure(t, "backup.verify.seconds", r.took.Seconds())
	want(t, 9, backupUser, "backup", "verify")
	files, err := filepath.Glob(filepath.Join(backups(t), "*.age"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil || strings.Contains(string(data), "hidden-in-backups") || strings.Contains(string(data), "PRIVATE KEY") {
		t.Errorf("the archive is in the clear, or not there: %v", err)
	}
	// Others read it, with their own tools.
	if _, err := exec.LookPath("age"); err == nil {
		out, err := exec.Command("sh", "-c", `age -d -i "$1" "$2" | zstd -d | tar -t`, "sh", privateKey(t)+".key", files[0]).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "etcd/snapshot.db") {
			t.Errorf("age, zstd and tar: %v\n%s", err, out)
		}
	}
	// What is damaged is said to be, and the good one stays.
	broken := filepath.Join(env(t, "KOCLI_E2E_WORK"), "broken.tar.zst.age")
	if err := os.WriteFile(broken, data[:len(data)-100], 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, 8, backupUser, "backup", "verify", broken, "--identity", privateKey(t)+".key")
	// A cluster that works is not restored over.
	if r := want(t, 3, backupUser, "backup", "restore", "--identity", privateKey(t)+".key", "--yes"); !strings.Contains(r.err, "--i-know") {
		t.Errorf("a restore over a cluster that works:\n%s", r)
	}
}

func Test41_controlPlanesMakeBackupsByThemselves(t *testing.T) {
	p := yaml(t, backupUser)
	text, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	// A folder of the control planes themselves, while this machine stands aside.
	if err := os.WriteFile(p, []byte(strings.Replace(string(text), backups(t), "/var/backups/kocli", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, 0, backupUser, "backup", "schedule")
	if e := lastLine(t, want(t, 0, backupUser, "backup", "schedule", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
	end := time.Now().Add(3 * time.Minute)
	for sh(t, "host1", "ls /var/backups/kocli/*.json 2>/dev/null | wc -l") == "0" {
		if time.Now().After(end) {
			t.Fatalf("no backup came: %s", sh(t, "host1", "systemctl status kocli-backup.service kocli-backup.timer --no-pager || true"))
		}
		time.Sleep(5 * time.Second)
	}
	if r := want(t, 0, backupUser, "status"); !strings.Contains(r.out, "last good one") {
		t.Errorf("the status:\n%s", r)
	}
	// The disk is full when the timer fires.
	sh(t, "host1", "rm -rf /var/backups/kocli.good && cp -a /var/backups/kocli /var/backups/kocli.good && mkdir -p /var/backups/kocli && mount -t tmpfs -o size=16k tmpfs /var/backups/kocli")
	end = time.Now().Add(3 * time.Minute) // systemd gathers timers for up to a minute
	for {
		r := want(t, 0, backupUser, "status")
		if strings.Contains(r.out, "the backup of host1") && strings.Contains(r.out, "no space left") {
			break
		}
		if time.Now().After(end) {
			t.Errorf("a full disk:\n%s", r)
			break
		}
		time.Sleep(10 * time.Second)
	}
	sh(t, "host1", "umount /var/backups/kocli")
	if sh(t, "host1", "ls /var/backups/kocli/*.json | wc -l") == "0" {
		t.Error("the last good backup is gone")
	}
	want(t, 0, backupUser, "backup", "schedule", "--off")
	if got := sh(t, "host1", "systemctl list-timers --all --no-legend | grep -c kocli || true"); got != "0" {
		t.Errorf("%s timers are left", got)
	}
	if err := os.WriteFile(p, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func Test42_allControlPlanesAreLostAndRestoredElsewhere(t *testing.T) {
	for i := 1; i <= 3; i++ {
		lab(t, "kill", "e2e", fmt.Sprintf("host%d", i))
	}
	backupYAML(t, map[int]string{5: "control-plane", 6: "control-plane", 7: "control-plane", 4: "worker"})
	restore := []string{"backup", "restore", "--identity", privateKey(t) + ".key", "--yes"}
	// Killed in the middle, twice, and typed again.
	for _, phase := range []string{"restore-data", "restore-api"} {
		code := signalAt(t, backupUser, syscall.SIGKILL, func(e event) bool { return e.Phase == phase && e.Kind != "" && strings.Contains(e.Step, "restore/") }, restore...)
		if code != -1 {
			t.Fatalf("killed in %s: exit %d", phase, code)
		}
	}
	r := want(t, 0, backupUser, restore...)
	figure(t, "restore.3-members.seconds", r.took.Seconds())
	want(t, 0, backupUser, "status", "--wait", "6m")
	wantMembers(t, "host5", "host5", "host6", "host7")
	if got := objects(t, "host5"); got != before40.objects {
		t.Errorf("objects are\n%s\nnot\n%s", got, before40.objects)
	}
	now := revision(t, "host5")
	if now < before40.revision+1_000_000_000 {
		t.Errorf("the revision is %d, and was %d", now, before40.revision)
	}
	// A client that watched before is told to start anew, and nothing of the past.
	watch := kubectlAt(t, "host5", fmt.Sprintf(`get --raw '/api/v1/configmaps?watch=1&resourceVersion=%d&timeoutSeconds=10' 2>&1 || true`, before40.revision))
	if !strings.Contains(watch, "410") && !strings.Contains(watch, "too old") && !strings.Contains(watch, "Expired") {
		t.Errorf("a watch from before the restore: %s", watch)
	}
	kubectlAt(t, "host5", "-n kept create configmap after")
	if later := revision(t, "host5"); later <= now {
		t.Errorf("a write has revision %d after %d", later, now)
	}
	// The nodes that are gone give their pods back.
	want(t, 0, backupUser, "scale", "--dead", "host1,host2,host3", "--yes")
	deployed(t, "host5", 5*time.Minute)
	if e := lastLine(t, want(t, 0, backupUser, "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
}

func Test43_oneSurvivorBecomesTheCluster(t *testing.T) {
	objectsBefore, was := objects(t, "host7"), revision(t, "host7")
	if r := want(t, 3, backupUser, "recover", "--from", "host7", "--yes"); !strings.Contains(r.err, "quorum") {
		t.Errorf("with a quorum:\n%s", r)
	}
	lab(t, "kill", "e2e", "host5")
	lab(t, "kill", "e2e", "host6")
	time.Sleep(20 * time.Second)
	r := want(t, 0, backupUser, "recover", "--from", "host7", "--yes")
	figure(t, "recover.seconds", r.took.Seconds())
	wantMembers(t, "host7", "host7")
	if got := objects(t, "host7"); got != objectsBefore {
		t.Errorf("objects are\n%s\nnot\n%s", got, objectsBefore)
	}
	if now := revision(t, "host7"); now < was+1_000_000_000 {
		t.Errorf("the revision is %d, and was %d", now, was)
	}
	for i := 1; i <= 3; i++ {
		lab(t, "down-host", "e2e", fmt.Sprintf("host%d", i))
	}
	lab(t, "up", "e2e", "--hosts", strconv.Itoa(haHosts))
	backupYAML(t, map[int]string{7: "control-plane", 1: "control-plane", 2: "control-plane", 4: "worker"})
	want(t, 0, backupUser, "scale", "--dead", "host5,host6", "--yes")
	want(t, 0, backupUser, "status", "--wait", "5m")
	wantMembers(t, "host7", "host1", "host2", "host7")
	deployed(t, "host7", 5*time.Minute)
	want(t, 0, backupUser, "reset", "--yes")
}
