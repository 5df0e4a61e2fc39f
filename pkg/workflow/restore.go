package workflow

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/google/renameio/v2"

	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/pki"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/steps/restore"
)

// RestoreOptions say which backup a cluster is made anew from.
type RestoreOptions struct {
	Which WhichBackup
	// IKnow restores over a cluster that is healthy.
	IKnow bool
	// Confirm is asked before anything is changed; nil means yes.
	Confirm func(question string) error
}

// Restore makes the hosts of the YAML be the cluster of a backup: all its control
// planes, on the hosts that had them or on others.
func Restore(ctx context.Context, o Options, ro RestoreOptions) (*Result, error) {
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	res := s.result(len(s.inv.Nodes))
	rs, phases, err := s.planRestore(ctx, ro)
	if err != nil {
		return res, err
	}
	p, err := s.compile(phases, res)
	if err != nil {
		return res, err
	}
	if ro.Confirm != nil && !rs.begun {
		q := fmt.Sprintf("Restore cluster %s as it was on %s onto %s? What etcd holds there now is put aside.",
			s.inv.Name, rs.created.Local().Format("2006-01-02 15:04:05"), strings.Join(inventory.Names(s.inv.ControlPlanes()), ", "))
		if err := ro.Confirm(q); err != nil {
			return res, err
		}
	}
	if err := errors.Join(s.remember(nil), rs.begin()); err != nil {
		return res, err
	}
	if err := s.run(ctx, p, res); err != nil {
		return res, err
	}
	s.tellStrangers(ctx, rs.cluster)
	if res.Kubeconfig, err = s.keepKubeconfig(ctx, rs.cluster.Seed); err != nil {
		return res, err
	}
	return res, os.Remove(s.dir.Restore())
}

// PlanRestore shows what Restore would do, and changes nothing on the hosts.
func PlanRestore(ctx context.Context, o Options, ro RestoreOptions) (*Preview, error) {
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	_, phases, err := s.planRestore(ctx, ro)
	if err != nil {
		return nil, err
	}
	p, err := plan.Compile(phases, plan.Options{Only: o.Only, Skip: o.Skip, Now: o.Clock.Now})
	if err != nil {
		return nil, err
	}
	changes, err := p.Preview(ctx, s.hosts)
	return &Preview{Changes: changes, Nodes: p.Nodes()}, err
}

// planRestore proves the backup, looks at the hosts, and refuses what would do harm.
func (s *Session) planRestore(ctx context.Context, ro RestoreOptions) (*restoring, []plan.Phase, error) {
	ids, err := backup.Identities(ro.Which.Identity)
	if err != nil {
		return nil, nil, err
	}
	b, err := s.archive(ctx, ro.Which, ids)
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(s.fits(b.contents), s.sameEndpoint(b.contents)); err != nil {
		return nil, nil, err
	}
	rs, err := s.restoring(ctx, b, ro.IKnow)
	if err != nil {
		return nil, nil, err
	}
	phases, err := rs.phases()
	return rs, phases, err
}

// restoreRecord is a restore that has begun. It stands in the operator's folder until
// the restore has come to its end: the same command goes on with it then, and after
// that the same backup onto the same hosts is another restore.
type restoreRecord struct {
	ID      string    `json:"id"`
	Backup  string    `json:"backupSHA256"`
	Planes  []string  `json:"controlPlanes"` // "NAME ADDRESS"
	Started time.Time `json:"started"`
}

// restoreRecord returns the restore of a backup onto the hosts of the YAML that an
// earlier run has begun, or a new one.
func (s *Session) restoreRecord(sum string) (restoreRecord, error) {
	want := restoreRecord{Backup: sum, Started: s.o.Clock.Now().UTC()}
	for _, n := range s.inv.ControlPlanes() {
		want.Planes = append(want.Planes, n.Name+" "+n.IP)
	}
	var old restoreRecord
	data, err := os.ReadFile(s.dir.Restore())
	if err == nil {
		err = json.Unmarshal(data, &old)
	}
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return want, fault.New(fault.Failure, "move the file away: the restore begins anew then", fmt.Errorf("read %s: %w", s.dir.Restore(), err))
	case err == nil && old.ID != "" && old.Backup == sum && slices.Equal(old.Planes, want.Planes):
		return old, nil
	}
	want.ID = restore.NewID(sum+" "+rand.Text(), s.inv.ControlPlanes())
	return want, nil
}

// begin keeps the record of the restore.
func (rs *restoring) begin() error {
	data, err := json.MarshalIndent(rs.record, "", "  ")
	if err != nil {
		return err
	}
	return rs.dir.Write(rs.dir.Restore(), append(data, '\n'))
}

// localBackup is a backup on this machine that was read to its end.
type localBackup struct {
	path     string
	sum      string // sha256 of the file
	ids      []age.Identity
	contents *backup.Contents
}

// archive brings a backup to this machine, as it is: encrypted where it is. It is
// read twice, and by every control plane. It is proved before it is used.
func (s *Session) archive(ctx context.Context, which WhichBackup, ids []age.Identity) (*localBackup, error) {
	f, err := findBackup(ctx, s.o, which)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.close() }() // only read
	b := &localBackup{path: f.name, ids: ids}
	if _, err := os.Stat(f.name); err != nil {
		if b.path, err = s.fetch(ctx, f); err != nil {
			return nil, err
		}
	}
	r, err := os.Open(b.path)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	b.contents, err = backup.Read(ctx, io.TeeReader(r, h), ids, nil)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, &fault.Error{Op: "read " + f.name, Err: err}
	}
	b.sum = hex.EncodeToString(h.Sum(nil))
	if err := f.trust.Check(b.contents.Signer); err != nil {
		return nil, err
	}
	return b, ours(s.o, b.contents)
}

// fetch copies a backup from its target into the state folder.
func (s *Session) fetch(ctx context.Context, f *found) (string, error) {
	dst := filepath.Join(s.dir.Root(), "backups", f.name)
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return "", err
	}
	r, err := f.open(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }() // only read
	w, err := renameio.NewPendingFile(dst, renameio.WithPermissions(0o600))
	if err != nil {
		return "", err
	}
	defer func() { _ = w.Cleanup() }() // does nothing after it was renamed
	if _, err := io.Copy(w, r); err != nil {
		return "", fmt.Errorf("fetch %s: %w", f.name, err)
	}
	return dst, w.CloseAtomicallyReplace()
}

// fits refuses a backup that cannot make the cluster that the YAML describes.
func (s *Session) fits(c *backup.Contents) error {
	if missing := c.Missing(); len(missing) > 0 {
		return fault.New(fault.Backup, "kocli backup list shows the others", fmt.Errorf("it lacks %s", strings.Join(missing, ", ")))
	}
	minor := func(v string) string {
		if i := strings.LastIndex(v, "."); i > 0 {
			return v[:i]
		}
		return v
	}
	if minor(c.Kubernetes) != minor(s.inv.Version()) {
		return fault.New(fault.Usage, "set spec.kubernetes.version to "+c.Kubernetes+", and use its bundle",
			fmt.Errorf("the backup is of Kubernetes %s, and the YAML asks for %s: other versions may not read its data", c.Kubernetes, s.inv.Version()))
	}
	return s.sameEncryption(c)
}

// sameEncryption refuses a YAML whose API servers could not read the Secrets of the
// backup, or would write them with a key that nobody has made.
func (s *Session) sameEncryption(c *backup.Contents) error {
	const flag = "encryption-provider-config"
	conf, err := kubeadm.ClusterConfig(s.inv)
	if err != nil {
		return err
	}
	manifest, _ := c.File(kubeadm.APIServerManifestPath)
	was, is := bytes.Contains(manifest, []byte(flag)), bytes.Contains(conf, []byte(flag))
	if was == is {
		return nil
	}
	words := map[bool]string{true: "encrypted", false: "not encrypted"}
	return fault.New(fault.Usage, fmt.Sprintf("set spec.kubernetes.encryption.secrets to %t for the restore", was),
		fmt.Errorf("the backup is of a cluster whose Secrets were %s, and with the YAML they are %s", words[was], words[is]))
}

// sameEndpoint wants a bundle where the cluster is at another address than it was:
// kubelets and what runs in the cluster have to be told, which the phases of create
// do.
func (s *Session) sameEndpoint(c *backup.Contents) error {
	was := endpointOf(c)
	if s.bundle != nil || was == "" || was == s.inv.Endpoint() {
		return nil
	}
	return fault.New(fault.Usage, "give it the file that holds what is installed: --bundle FILE",
		fmt.Errorf("%w, and the API moves from %s to %s, which every node has to be told", errNoBundle, was, s.inv.Endpoint()))
}

// endpointOf is where the API was when the backup was made; empty where its YAML, of an
// older kocli, cannot be read.
func endpointOf(c *backup.Contents) string {
	old, err := config.Read("the YAML in the backup", bytes.NewReader(c.Small[backup.SpecEntry]))
	if err != nil {
		return ""
	}
	was, err := inventory.New(old)
	if err != nil {
		return ""
	}
	return was.Endpoint()
}

// snapshot is the snapshot of etcd as a file that hosts get.
func (b *localBackup) snapshot() *host.File {
	e, ok := b.contents.Entry(backup.SnapshotEntry)
	if !ok {
		return nil // Read refuses it
	}
	return &host.File{Size: e.Size, SHA256: e.SHA256, Open: func() (io.ReadCloser, error) {
		f, err := os.Open(b.path)
		if err != nil {
			return nil, err
		}
		return both{backup.Snapshot(f, b.ids), f}, nil
	}}
}

// both closes the file below a reader too.
type both struct {
	io.ReadCloser
	file io.Closer
}

func (b both) Close() error { return errors.Join(b.ReadCloser.Close(), b.file.Close()) }

// files are what all control planes share: CAs and keys, what kocli gives to the API
// servers, and files of the user's below /etc/kubernetes that the YAML's settings of
// the control plane name.
func (b *localBackup) files(inv *inventory.Inventory) ([]host.File, error) {
	conf, err := kubeadm.ClusterConfig(inv)
	if err != nil {
		return nil, err
	}
	ours := append(backup.Shared(), kubeadm.EncryptionConfigPath, kubeadm.AuditPolicyPath)
	var out []host.File
	add := func(p string, data []byte) {
		f := host.Bytes(p, 0o600, firstCA(p, data))
		f.Secret = true
		out = append(out, f)
	}
	for _, p := range ours {
		data, ok := b.contents.File(p)
		if !ok && p == kubeadm.AuditPolicyPath && bytes.Contains(conf, []byte(p)) { // asked for since
			if data, err = kubeadm.AuditPolicy(inv); err != nil {
				return nil, err
			}
			ok = true
		}
		if ok {
			add(p, data)
		}
	}
	for _, e := range b.contents.Files {
		p, ok := strings.CutPrefix(e.Name, backup.FilesPrefix)
		if !ok || !strings.HasPrefix(p, "/etc/kubernetes/") || path.Clean(p) != p || strings.HasPrefix(p, kubeadm.PKIDir+"/") || strings.HasPrefix(p, kubeadm.ManifestsDir+"/") || slices.Contains(ours, p) {
			continue
		}
		if data, ok := b.contents.File(p); ok && bytes.Contains(conf, []byte(p)) {
			add(p, data)
		}
	}
	return out, nil
}

// firstCA is the CA whose key is beside it, of a file that may be the bundle of a
// rotation: whatever else it has is to be trusted no more once all is made anew.
func firstCA(name string, data []byte) []byte {
	for _, a := range pki.Authorities() {
		if c, err := pki.First(data); name == a.CertPath && err == nil {
			return pki.Encode(c)
		}
	}
	return data
}

// restoring is one restore.
type restoring struct {
	*Session
	cluster  *Cluster
	id       string
	record   restoreRecord
	ca       []byte    // of the backup
	was      string    // where the API was when it was made
	created  time.Time // when the backup was made
	begun    bool      // an earlier run has restored data already
	files    []host.File
	snapshot *host.File
	members  *inventory.Inventory // with the control planes that etcd will have
}

// restoring looks at the hosts, and refuses what would do harm, before anything is
// changed.
func (s *Session) restoring(ctx context.Context, b *localBackup, iKnow bool) (*restoring, error) {
	record, err := s.restoreRecord(b.sum)
	if err != nil {
		return nil, err
	}
	files, err := b.files(s.inv)
	if err != nil {
		return nil, err
	}
	ca, _ := b.contents.File(kubeadm.CACertPath) // fits has seen to it
	rs := &restoring{Session: s, id: record.ID, record: record, ca: ca, was: endpointOf(b.contents), created: b.contents.Created, files: files, snapshot: b.snapshot(), members: s.inv}
	if err := rs.look(ctx, s.inv.ControlPlanes()); err != nil {
		return nil, err
	}
	if err := s.sameCA(ctx, b.contents); err != nil {
		return nil, err
	}
	return rs, rs.refuseHealthy(ctx, iKnow)
}

// look asks the hosts what they are, and how far an earlier run has come.
func (rs *restoring) look(ctx context.Context, planes []inventory.Node) error {
	if rs.bundle != nil {
		if err := rs.bundle.Verify(ctx, nil); err != nil {
			return err
		}
	}
	var err error
	rs.anew = true
	if rs.cluster, err = rs.examine(ctx); err != nil {
		return err
	}
	if rs.bundle == nil {
		for _, n := range rs.inv.Nodes {
			k := rs.cluster.Facts[n.Name].Kubernetes
			if n.ControlPlane && !slices.Contains(k, kubeletConf) && !slices.Contains(k, kubeadm.KubeletConfigPath) { // an earlier run may have taken the first away
				return fault.New(fault.Usage, "give it the file that holds what is installed: --bundle FILE", fmt.Errorf("%w, and %s may have nothing installed", errNoBundle, n.Name))
			}
		}
	}
	for _, n := range planes {
		r, err := rs.hosts.Look(ctx, n.Name)
		if err != nil {
			return err
		}
		done, err := restore.Restored(ctx, r, rs.id)
		if err != nil {
			return err
		}
		rs.begun = rs.begun || done
	}
	return nil
}

// refuseHealthy refuses to restore over a cluster that works, but for a restore that
// an earlier run has begun.
func (rs *restoring) refuseHealthy(ctx context.Context, iKnow bool) error {
	if iKnow || rs.begun {
		return nil
	}
	if n, ok := rs.answering(ctx, rs.inv.ControlPlanes()); ok {
		return fault.New(fault.Preflight, "if all that was written since the backup is to be lost, say so: --i-know",
			fmt.Errorf("cluster %s works: its API server on %s is ready", rs.inv.Name, n.Name))
	}
	if at := rs.worksAt(ctx); at != "" {
		return fault.New(fault.Preflight, "switch its control planes off first, or they and the restored ones are two clusters at one address; if you mean that, say so: --i-know",
			fmt.Errorf("cluster %s works, on control planes that the YAML does not name: its API is ready at %s", rs.inv.Name, at))
	}
	return ctx.Err()
}

// asking is how many workers are asked whether the cluster works elsewhere, beside the
// control planes.
const asking = 3

// worksAt returns where an API server of the cluster is ready, as hosts of the YAML see
// it: the cluster may go on on control planes that the YAML does not name.
func (rs *restoring) worksAt(ctx context.Context) string {
	workers := rs.inv.Workers()
	for _, n := range append(rs.inv.ControlPlanes(), workers[:min(asking, len(workers))]...) {
		r, err := rs.hosts.Look(ctx, n.Name)
		t, ok := r.(host.Tunnel)
		if err != nil || !ok {
			continue
		}
		for _, at := range slices.Compact([]string{rs.inv.Endpoint(), rs.was}) {
			if at == "" {
				continue
			}
			try, cancel := context.WithTimeout(ctx, reachTimeout)
			err := kube.ReadyAt(try, at, rs.ca, t.DialContext)
			cancel()
			if err == nil {
				return at
			}
		}
	}
	return ""
}

// sameCA refuses hosts that belong to another cluster.
func (s *Session) sameCA(ctx context.Context, c *backup.Contents) error {
	var errs []error
	for _, n := range s.inv.Nodes {
		r, err := s.hosts.Look(ctx, n.Name)
		if err != nil {
			return err
		}
		pem, err := r.ReadFile(ctx, kubeadm.CACertPath)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		ca, err := backup.Fingerprint(pem)
		if err != nil || ca == c.CA {
			continue // a damaged one is replaced
		}
		errs = append(errs, fault.New(fault.Backup, "if nothing of that cluster is needed, reset the host first: kocli reset "+n.Name,
			fmt.Errorf("%s belongs to another cluster than the backup: its CA is another one", n.Name)))
	}
	return errors.Join(errs...)
}

// options are those of the steps on one control plane.
func (rs *restoring) options(name string) restore.Options {
	n, _ := rs.members.Node(name)
	return restore.Options{Inventory: rs.members, Node: n, API: rs.cluster.through(name), ID: rs.id, Kocli: kocliPath(), Files: rs.files, Snapshot: rs.snapshot, Now: rs.o.Clock.Now}
}

// phases are those of Create, with the restore between what is installed and what
// needs a control plane.
func (rs *restoring) phases() ([]plan.Phase, error) {
	var base []plan.Phase
	installs := []string{"agent"}
	if rs.bundle != nil {
		var err error
		if base, err = rs.cluster.CreatePhases(); err != nil {
			return nil, err
		}
		installs = []string{"os", "images", "kubernetes", "loadbalancer"}
	} else {
		base = append([]plan.Phase{{Name: "agent", Nodes: inventory.Names(rs.members.ControlPlanes()), Steps: func(name string) ([]plan.Step, error) {
			n, _ := rs.members.Node(name)
			f, err := rs.cluster.kocli(n)
			return []plan.Step{kocliStep(f)}, err
		}}}, rs.cluster.upkeepPhases()...)
	}
	planes := inventory.Names(rs.members.ControlPlanes())
	ours := append(rs.restorePhases(planes, installs), rs.workersPhase(planes[0]))
	last := ours[len(ours)-1].Name
	for i := range base {
		switch base[i].Name {
		case "agent":
			base[i].HeadStart = nil // it waits for a phase that waits for this one
		case "control-plane":
			base[i].Needs = append(slices.Clone(base[i].Needs), last)
		}
	}
	// Phases stand in the order in which they need each other.
	at := slices.IndexFunc(base, func(p plan.Phase) bool { return p.Name == "control-plane" })
	if at < 0 {
		at = len(base)
	}
	return slices.Insert(base, at, ours...), nil
}

// restorePhases are the restore itself: data on all members at once, then etcd, then
// the API servers, then what writes to them. Before anything places pods, nodes are
// marked, and those of a backup that are no more are forgotten: they look well.
func (rs *restoring) restorePhases(planes, after []string) []plan.Phase {
	on := func(f func(restore.Options) []plan.Step) func(string) ([]plan.Step, error) {
		return func(name string) ([]plan.Step, error) { return f(rs.options(name)), nil }
	}
	out := []plan.Phase{
		{Name: "restore-stop", Follows: after, Nodes: planes, Steps: on(func(o restore.Options) []plan.Step { return []plan.Step{restore.Stop(o)} })},
		{Name: "restore-data", Needs: []string{"restore-stop"}, Nodes: planes, Steps: on(func(o restore.Options) []plan.Step {
			out := []plan.Step{restore.Data(o)}
			if len(o.Files) > 0 {
				out = append(out, restore.Files(o))
			}
			return append(out, restore.Credentials(o)...)
		})},
		{Name: "restore-etcd", Needs: []string{"restore-data"}, Nodes: planes, Steps: on(restore.Etcd)},
		{Name: "restore-quorum", Needs: []string{"restore-etcd"}, Nodes: planes[:1], Steps: on(func(o restore.Options) []plan.Step { return []plan.Step{restore.Quorum(o)} })},
		{Name: "restore-api", Needs: []string{"restore-quorum"}, Nodes: planes, Steps: on(restore.APIServer)},
		{Name: "restore-registered", Needs: []string{"restore-api"}, Nodes: planes, Steps: on(restore.Registered)},
	}
	last := "restore-registered"
	if rs.snapshot != nil {
		out = append(out, plan.Phase{Name: "restore-nodes", Needs: []string{last}, Nodes: planes[:1], Steps: on(rs.lostNodes)})
		last = "restore-nodes"
	}
	return append(out, plan.Phase{Name: "restore-controllers", Needs: []string{last}, Nodes: planes, Steps: on(restore.Controllers)})
}

// workersPhase sees to the workers that the backup may not know.
func (rs *restoring) workersPhase(plane string) plan.Phase {
	var joined []string
	for _, n := range rs.inv.Workers() {
		if slices.Contains(rs.cluster.Facts[n.Name].Kubernetes, kubeletConf) {
			joined = append(joined, n.Name)
		}
	}
	return plan.Phase{Name: "restore-workers", Needs: []string{"restore-controllers"}, Nodes: joined, Steps: func(name string) ([]plan.Step, error) {
		o := rs.options(name)
		o.API = rs.cluster.through(plane)
		return []plan.Step{restore.Returned(o, rs.bundle != nil)}, nil
	}}
}

// lostNodes forgets the workers of the YAML whose hosts are new: each joins again as
// the machine that it is now. Control planes that the YAML does not name go too.
func (rs *restoring) lostNodes(o restore.Options) []plan.Step {
	var out []plan.Step
	for _, n := range rs.inv.Workers() {
		if !slices.Contains(rs.cluster.Facts[n.Name].Kubernetes, kubeletConf) {
			out = append(out, restore.Forget(n.Name, o.API))
		}
	}
	return append(out, restore.Superseded(o))
}

// tellStrangers names the nodes that the restored cluster has and the YAML has not, and
// what the operator has to see to.
func (s *Session) tellStrangers(ctx context.Context, c *Cluster) {
	cl, err := c.API().Look(ctx)
	if err != nil {
		return // what the run did is not less for it
	}
	nodes, err := cl.Nodes(ctx)
	if err != nil {
		return // as above
	}
	for _, n := range nodes {
		if _, ok := s.inv.Node(n.Name); !ok {
			s.o.Observer.Event(plan.Event{Time: s.o.Clock.Now(), Kind: plan.Note, Node: n.Name, Message: n.Name + " is a node of the backup, and not in the YAML",
				Hint: fmt.Sprintf("if it is gone for good, free its pods: kocli scale -f %s --dead %s", s.o.SpecFile, n.Name)})
		}
	}
	if s.inv.Spec.Backup.Schedule != "" {
		s.o.Observer.Event(plan.Event{Time: s.o.Clock.Now(), Kind: plan.Note, Message: "control planes on new hosts make no backups by themselves yet", Hint: "kocli backup schedule -f " + s.o.SpecFile})
	}
}
