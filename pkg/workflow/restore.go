package workflow

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/kubeadm"
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
