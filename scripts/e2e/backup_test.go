//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// backupUser has the YAML of the cluster that is backed up.
const backupUser = "backup"

// backupYAML is the cluster with these hosts, and where its backups go.
func backupYAML(t *testing.T, roles map[int]string) {
	t.Helper()
	haYAML(t, backupUser, "{mode: vip, address: "+vip(t)+"}", roles)
	backupTo(t, fmt.Sprintf("target: %q, retention: {keep: 3}, schedule: \"*-*-* *:*:00/20\", sftp: {keyFile: %q}", backups(t), env(t, "KOCLI_LAB_KEY")))
}

// backupTo says in the YAML, whose last line that is, where backups go.
func backupTo(t *testing.T, how string) {
	t.Helper()
	p := yaml(t, backupUser)
	text, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(privateKey(t) + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(text), "  backup: {")
	head += fmt.Sprintf("  backup: {recipients: [%s], %s}\n", strings.TrimSpace(string(public)), how)
	if err := os.WriteFile(p, []byte(head), 0o600); err != nil {
		t.Fatal(err)
	}
}

// made makes a backup and returns its name.
func made(t *testing.T, more ...string) string {
	t.Helper()
	var r struct{ Name string }
	if answer(t, &r, append([]string{"backup", "create"}, more...)...); r.Name == "" {
		t.Fatal("the backup has no name")
	}
	return r.Name
}

// answer decodes what kocli says at its end.
func answer(t *testing.T, v any, args ...string) {
	t.Helper()
	out := strings.TrimSpace(want(t, 0, backupUser, append(args, "-o", "json")...).out)
	if err := json.Unmarshal([]byte(out[strings.LastIndexByte(out, '\n')+1:]), v); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// backupsAt are the backups at a target, the newest first.
func backupsAt(t *testing.T, more ...string) []string {
	t.Helper()
	var l struct{ Backups []struct{ Name string } }
	answer(t, &l, append([]string{"backup", "list"}, more...)...)
	var names []string
	for _, b := range l.Backups {
		names = append(names, b.Name)
	}
	return names
}

// proved verifies the newest backup.
func proved(t *testing.T, more ...string) result {
	t.Helper()
	return want(t, 0, backupUser, append([]string{"backup", "verify", "--identity", privateKey(t) + ".key", "--max-age", "1h"}, more...)...)
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
	start := time.Now()
	name := made(t)
	figure(t, "backup.create.seconds", time.Since(start).Seconds())
	before40.revision = revision(t, "host1")
	kubectlAt(t, "host1", "-n kept create configmap too-late && kubectl --kubeconfig /etc/kubernetes/admin.conf -n kept label configmap too-late kept=yes")
	if got := backupsAt(t); !slices.Equal(got, []string{name}) {
		t.Errorf("listed are %v, not %s", got, name)
	}
	if r := want(t, 0, backupUser, "backup", "list"); strings.Contains(r.out, "not known here") {
		t.Errorf("the list:\n%s", r)
	}
	figure(t, "backup.verify.seconds", proved(t).took.Seconds())
	data, err := os.ReadFile(filepath.Join(backups(t), name))
	if err != nil || strings.Contains(string(data), "hidden-in-backups") || strings.Contains(string(data), "PRIVATE KEY") {
		t.Errorf("the archive is in the clear, or not there: %v", err)
	}
	// Others read it, with their own tools.
	if _, err := exec.LookPath("age"); err == nil {
		out, err := exec.Command("sh", "-c", `age -d -i "$1" "$2" | zstd -d | tar -t`, "sh", privateKey(t)+".key", filepath.Join(backups(t), name)).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "etcd/snapshot.db") {
			t.Errorf("age, zstd and tar: %v\n%s", err, out)
		}
	}
	refused(t, data)
	// A cluster that works is not restored over.
	if r := want(t, 3, backupUser, "backup", "restore", "--identity", privateKey(t)+".key", "--yes"); !strings.Contains(r.err, "--i-know") {
		t.Errorf("a restore over a cluster that works:\n%s", r)
	}
	overSFTP(t)
	if got := backupsAt(t); !slices.Equal(got, []string{name}) {
		t.Errorf("after all that was refused, listed are %v, not %s", got, name)
	}
}

// refused has archives that are not good be called so: by verify, and by restore, which
// reads them before it looks at a host. The exit code says whether it is the archive
// or the key.
func refused(t *testing.T, good []byte) {
	t.Helper()
	other := filepath.Join(env(t, "KOCLI_E2E_WORK"), "other-key")
	want(t, 0, "root", "backup", "keygen", "--out", other)
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	file := filepath.Join(env(t, "KOCLI_E2E_WORK"), "given.tar.zst.age")
	for _, tt := range []struct {
		what string
		data []byte
		key  string
		code int
		says string
	}{
		{"cut short", good[:len(good)-100], privateKey(t), 8, "damaged"},
		{"cut to its beginning", good[:300], privateKey(t), 8, ""},
		{"with a byte flipped", flipped, privateKey(t), 8, "damaged"},
		{"of somebody else", []byte("PK\x03\x04 is no backup of ours"), privateKey(t), 8, "not a backup of kocli's"},
		{"of a newer kocli", newer(t), privateKey(t), 8, "use kocli v99.0.0 or newer"},
		{"empty", nil, privateKey(t), 8, ""},
		{"for another key", good, other, 9, "--identity"},
	} {
		if err := os.WriteFile(file, tt.data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, verb := range []string{"verify", "restore"} {
			args := []string{"backup", verb, file, "--identity", tt.key + ".key"}
			if verb == "restore" {
				args = append(args, "--yes")
			}
			if r := want(t, tt.code, backupUser, args...); !strings.Contains(r.err, tt.says) {
				t.Errorf("%s of an archive %s does not say %q:\n%s", verb, tt.what, tt.says, r)
			}
		}
	}
	want(t, 9, backupUser, "backup", "verify") // without a key
}

// newer is an archive of a format that comes after this one.
func newer(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	head := []byte(`{"format":"kocli-backup","version":99,"cluster":"x","kocliVersion":"v99.0.0"}`)
	err1 := w.WriteHeader(&tar.Header{Name: "header.json", Mode: 0o600, Size: int64(len(head)), Typeflag: tar.TypeReg})
	_, err2 := w.Write(head)
	if err := errors.Join(err1, err2, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// overSFTP has a server of SSH keep a backup, and another one that has no room refuse
// it.
func overSFTP(t *testing.T) {
	t.Helper()
	at := "sftp://root@" + hostAddress(t, 4)
	name := made(t, "--to", at+"/srv/backups")
	if got := backupsAt(t, "--to", at+"/srv/backups"); !slices.Equal(got, []string{name}) {
		t.Errorf("the server has %v", got)
	}
	proved(t, "--to", at+"/srv/backups")
	sh(t, "host4", "mkdir -p /srv/full && mount -t tmpfs -o size=64k tmpfs /srv/full")
	if r := kocli(t, backupUser, "backup", "create", "--to", at+"/srv/full"); r.code == 0 || !strings.Contains(r.err, "make room") {
		t.Errorf("onto a server without room:\n%s", r)
	}
	if got := sh(t, "host4", "ls -A /srv/full; umount /srv/full; rm -rf /srv/full /srv/backups"); got != "" {
		t.Errorf("a backup that was given up leaves %s", got)
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

// A server of others that speaks S3, over TLS, which also goes down in mid-upload.
func Test44_backupsInABucket(t *testing.T) {
	text, err := os.ReadFile(yaml(t, backupUser))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile(yaml(t, backupUser), text, 0o600); err != nil {
			t.Error(err)
		}
	}()
	b := newBucket(t)
	at := func(address, secret string) {
		t.Helper()
		backupTo(t, fmt.Sprintf(`target: "s3://kocli/e2e", retention: {keep: 2}, s3: {endpoint: "https://%s", accessKey: "file:%s", secretKey: "file:%s", caFile: %q}`, address, b.file("access"), b.file(secret), b.file("tls.crt")))
	}
	at(b.address, "secret")
	var names []string
	for range 3 {
		names = append(names, made(t))
	}
	if got := backupsAt(t); !slices.Equal(got, []string{names[2], names[1]}) { // of three, two are kept
		t.Errorf("listed are %v, made were %v", got, names)
	}
	proved(t)
	want(t, 0, backupUser, "backup", "prune", "--keep", "1")
	last := []string{"e2e/" + names[2], "e2e/" + names[2] + ".json"}
	if got := b.objects(t); !slices.Equal(got, last) {
		t.Errorf("in the bucket are %v, not %v", got, last)
	}
	gives := func(what, says string) {
		t.Helper()
		r := kocli(t, backupUser, "backup", "create")
		if r.code == 0 || !strings.Contains(r.err, says) || strings.Contains(r.String(), "panic") {
			t.Errorf("%s: it does not say %q\n%s", what, says, r)
		}
		secret, err := os.ReadFile(b.file("secret"))
		if err != nil || strings.Contains(r.String(), string(secret)) {
			t.Errorf("%s: the secret is shown, %v", what, err)
		}
	}
	at(b.cutAfter(t, 100<<10), "secret")
	gives("a server that is killed in mid-upload", "earlier backups are as they were")
	b.kill()
	at(b.address, "secret")
	gives("a server that is down", "earlier backups are as they were")
	if r := kocli(t, backupUser, "backup", "list"); r.code == 0 || !strings.Contains(r.err, "connection refused") {
		t.Errorf("a list of a server that is down:\n%s", r)
	}
	b.start(t)
	if got := b.objects(t); !slices.Equal(got, last) {
		t.Errorf("after that, in the bucket are %v, not %v", got, last)
	}
	if got := backupsAt(t); !slices.Equal(got, names[2:]) {
		t.Errorf("after that, listed are %v", got)
	}
	proved(t)
	at(b.address, "wrong")
	gives("a wrong key", "spec.backup.s3")
	at(b.address, "secret")
	made(t)
	if got := backupsAt(t); len(got) != 2 {
		t.Errorf("in the end, listed are %v", got)
	}
}

// watching is a client that watches from before a disaster on, at a revision.
func watching(t *testing.T, host string, from int64) string {
	t.Helper()
	return kubectlAt(t, host, fmt.Sprintf(`get --raw '/api/v1/namespaces/kept/configmaps?watch=1&resourceVersion=%d&timeoutSeconds=10' 2>&1 || true`, from))
}

// toldToStartAnew fails where a client that watched before is told anything of the past.
func toldToStartAnew(t *testing.T, host string, from int64) {
	t.Helper()
	got := watching(t, host, from)
	if !strings.Contains(got, "410") && !strings.Contains(got, "too old") && !strings.Contains(got, "Expired") {
		t.Errorf("a watch from before is not told to start anew: %s", got)
	}
	for _, kind := range []string{"ADDED", "MODIFIED", "DELETED"} {
		if strings.Contains(got, `"type":"`+kind) {
			t.Errorf("a watch from before is told of the past: %s", got)
		}
	}
}

func Test42_allControlPlanesAreLostAndRestoredElsewhere(t *testing.T) {
	lost := revision(t, "host1") // what clients have seen, after the backup
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
	if now <= lost {
		t.Errorf("clients have seen revision %d, and it is %d", lost, now)
	}
	for _, from := range []int64{before40.revision, lost} {
		toldToStartAnew(t, "host5", from)
	}
	kubectlAt(t, "host5", "-n kept create configmap after")
	if later := revision(t, "host5"); later <= now {
		t.Errorf("a write has revision %d after %d", later, now)
	}
	// The nodes that are gone have given their pods back, and the worker has returned.
	deployed(t, "host5", 5*time.Minute)
	if got := nodeNames(t, "host5"); got != "host4 host5 host6 host7" {
		t.Errorf("nodes that are ready: %s", got)
	}
	if got := kubectlAt(t, "host5", "get nodes --no-headers | wc -l"); got != "4" {
		t.Errorf("nodes of control planes that are no more: %s", kubectlAt(t, "host5", "get nodes"))
	}
	for _, h := range []string{"host5", "host6", "host7"} { // as after init and join: the kubelet renews its own, and one host has the key to all
		if got := sh(t, h, "grep -c client-certificate-data /etc/kubernetes/kubelet.conf || true"); got != "0" {
			t.Errorf("the kubelet of %s has a certificate that ends in a year", h)
		}
		if got := kubectlAt(t, h, "get node "+h+" -o 'jsonpath={.spec.taints[*].key}'"); !strings.Contains(got, "node-role.kubernetes.io/control-plane") {
			t.Errorf("%s has the taints %q", h, got)
		}
	}
	if got := sh(t, "host6", "ls /etc/kubernetes/super-admin.conf 2>/dev/null || true"); got != "" {
		t.Error("a second control plane has super-admin.conf")
	}
	// The same backup again is another restore, and is refused again.
	if r := want(t, 3, backupUser, append(slices.Clone(restore), "--dry-run")...); !strings.Contains(r.err, "--i-know") {
		t.Errorf("a second restore:\n%s", r)
	}
	if e := lastLine(t, want(t, 0, backupUser, "create", "-o", "json").out); e.Changed != 0 {
		t.Errorf("not converged: %d changes", e.Changed)
	}
}

func Test43_oneSurvivorBecomesTheCluster(t *testing.T) {
	kubectlAt(t, "host7", "-n kept create configmap last-word --from-literal=n=1 && kubectl --kubeconfig /etc/kubernetes/admin.conf -n kept label configmap last-word kept=yes")
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
	now := revision(t, "host7")
	if now < was+1_000_000_000 {
		t.Errorf("the revision is %d, and was %d", now, was)
	}
	toldToStartAnew(t, "host7", was)
	kubectlAt(t, "host7", "-n kept create configmap after-recovery")
	if later := revision(t, "host7"); later <= now {
		t.Errorf("a write has revision %d after %d", later, now)
	}
	for i := 1; i <= 3; i++ {
		lab(t, "down-host", "e2e", fmt.Sprintf("host%d", i))
	}
	lab(t, "up", "e2e", "--hosts", strconv.Itoa(haHosts)) // which starts the two again
	lab(t, "kill", "e2e", "host5")
	lab(t, "kill", "e2e", "host6")
	backupYAML(t, map[int]string{7: "control-plane", 1: "control-plane", 2: "control-plane", 4: "worker"})
	want(t, 0, backupUser, "scale", "--dead", "host5,host6", "--yes")
	want(t, 0, backupUser, "status", "--wait", "5m")
	wantMembers(t, "host7", "host1", "host2", "host7")
	if got := nodeNames(t, "host7"); got != "host1 host2 host4 host7" {
		t.Errorf("nodes that are ready: %s", got)
	}
	deployed(t, "host7", 5*time.Minute)
	if got := objects(t, "host1"); got != objectsBefore {
		t.Errorf("objects through a new member are\n%s\nnot\n%s", got, objectsBefore)
	}
	want(t, 0, backupUser, "reset", "--yes")
}
