package workflow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/backup"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/probe"
	"github.com/kocli/kocli/pkg/steps/osprep"
)

// BackupOptions say where a backup goes, and whom it is encrypted for.
type BackupOptions struct {
	To         string // empty: spec.backup.target
	Recipients []string
	Plain      bool
}

// BackupResult is a backup that was made. Its JSON is stable.
type BackupResult struct {
	backup.Receipt
	Target   string        `json:"target"`
	Signer   string        `json:"signer"`
	Duration time.Duration `json:"durationNs"`
	Pruned   []string      `json:"pruned,omitempty"`
	Log      string        `json:"log,omitempty"`
}

// Backup makes a backup of a cluster: on the control plane whose etcd has least to
// do, so that what travels is compressed and encrypted there.
func Backup(ctx context.Context, o Options, b BackupOptions) (*BackupResult, error) {
	if o.Inventory.ExternalEtcd() != nil {
		return nil, fault.New(fault.Usage, "back it up where it is, with etcdctl snapshot save", errors.New("the cluster's data is in an etcd that kocli does not run"))
	}
	s, err := Open(ctx, o, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // what matters has been synced before
	return s.backup(ctx, b)
}

func (s *Session) backup(ctx context.Context, b BackupOptions) (*BackupResult, error) {
	res := &BackupResult{Log: s.LogPath}
	to, plain, err := recipients(s.o, b.Recipients, b.Plain)
	if err != nil {
		return res, err
	}
	key, err := signingKey(s.dir)
	if err != nil {
		return res, err
	}
	store, err := OpenBackups(ctx, s.o, b.To, nil, "")
	if err != nil {
		return res, err
	}
	defer func() { _ = store.Close() }() // nothing is pending
	res.Target, res.Signer = store.String(), key.Public().ID()
	n, err := s.backupNode(ctx)
	if err != nil {
		return res, err
	}
	rq, err := s.request(n, key, to, plain)
	if err != nil {
		return res, err
	}
	header := backup.Header{Cluster: rq.Cluster, Node: n.Name, Created: rq.Created}
	res.Receipt, err = store.Save(ctx, backup.Name(header, len(to) > 0), key, func(w io.Writer) (backup.Receipt, error) { return s.takeBackup(ctx, n, rq, w) })
	res.Duration = s.o.Clock.Now().Sub(s.start)
	if err != nil {
		return res, err
	}
	if b.To == "" {
		res.Pruned, err = store.prune(ctx, s.o, false)
	}
	return res, err
}

// request asks a node for a backup.
func (s *Session) request(n inventory.Node, key archive.PrivateKey, to []string, plain bool) (backup.Request, error) {
	pem, err := os.ReadFile(s.dir.Secret(backupKey) + ".key")
	if err != nil {
		return backup.Request{}, err
	}
	if k, err := archive.ParsePrivateKey(pem); err != nil || k.Public().ID() != key.Public().ID() {
		return backup.Request{}, errors.Join(errors.New("the signing key changed"), err)
	}
	record, err := s.dir.Load()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return backup.Request{}, err
	}
	state, err := json.Marshal(record)
	if err != nil {
		return backup.Request{}, err
	}
	return backup.Request{
		Cluster: s.inv.Name, Node: n.Name, Kocli: s.o.Version, Kubernetes: s.inv.Version(), Created: s.start.UTC().Truncate(time.Second),
		Recipients: to, Plain: plain, Key: string(pem), Spec: s.o.SpecYAML, State: state,
	}, nil
}

// backupNode is the control plane that a backup is made of: that of a healthy
// follower of etcd.
func (s *Session) backupNode(ctx context.Context) (inventory.Node, error) {
	var found inventory.Node
	errs := s.throughControlPlane(ctx, func(r host.Reader) error {
		v, err := etcd.Look(ctx, r)
		if errors.Is(err, etcd.ErrNone) {
			return noCluster(s.o)
		}
		if err != nil {
			return err
		}
		m, err := v.Follower(ctx)
		if err != nil {
			return fault.New(fault.Unhealthy, "bring back enough control planes for a quorum: kocli status; with one left for good: kocli recover", err)
		}
		n, ok := s.inv.Node(m.Name)
		if !ok { // a member that the YAML does not name: the one that was asked will do
			n, _ = s.inv.Node(r.Name())
		}
		found = n
		return nil
	})
	if found.Name != "" {
		return found, nil
	}
	return found, errors.Join(errs...)
}

// takeBackup has kocli on the host make the backup. Where kocli does not run there,
// it is made here, through the tunnel: the same archive, with more on the wire.
func (s *Session) takeBackup(ctx context.Context, n inventory.Node, rq backup.Request, w io.Writer) (backup.Receipt, error) {
	there, err := s.bringKocli(ctx, n)
	if err != nil {
		return backup.Receipt{}, err
	}
	s.note(n.Name, "takes a snapshot of etcd")
	if there {
		h, err := s.hosts.Dial(ctx, n.Name)
		if err != nil {
			return backup.Receipt{}, err
		}
		return takeOn(ctx, h, rq, w)
	}
	o, err := rq.Options()
	if err != nil {
		return backup.Receipt{}, err
	}
	r, err := s.hosts.Look(ctx, n.Name)
	if err != nil {
		return backup.Receipt{}, err
	}
	return backup.Write(ctx, w, r, o)
}

func (s *Session) note(node, message string) {
	s.o.Observer.Event(plan.Event{Time: s.o.Clock.Now(), Kind: plan.Note, Node: node, Message: node + " " + message})
}

// bringKocli puts this kocli on a host of the same platform.
func (s *Session) bringKocli(ctx context.Context, n inventory.Node) (bool, error) {
	k, err := s.kocli()
	if err != nil {
		return false, err
	}
	r, err := s.hosts.Look(ctx, n.Name)
	if err != nil {
		return false, err
	}
	out, err := r.Query(ctx, host.Command("uname", "-m"))
	if err != nil || k.Arch == "" || k.Arch != probe.Arch(out.Text()) {
		return false, err
	}
	h, err := s.hosts.Dial(ctx, n.Name)
	if err != nil {
		return false, err
	}
	return true, osprep.Kocli(k.file(kocliPath())).Apply(ctx, h)
}

// kocli is the running binary; another in tests.
func (s *Session) kocli() (KocliBinary, error) {
	if s.binary != nil {
		return *s.binary, nil
	}
	return ThisKocli()
}

// takeOn has kocli on a host make a backup, and passes it on to w.
func takeOn(ctx context.Context, h host.Host, rq backup.Request, w io.Writer) (backup.Receipt, error) {
	doc, err := json.Marshal(rq)
	if err != nil {
		return backup.Receipt{}, err
	}
	in := &backup.Receiver{W: w}
	c := host.Command(kocliPath(), "node", "backup", "--protocol", backup.Protocol)
	c.Stdin, c.Stdout = bytes.NewReader(doc), in
	_, err = h.Run(ctx, c)
	if in.Err != nil {
		return backup.Receipt{}, in.Err // of where it goes, not of the host
	}
	var x *host.ExitError
	if errors.As(err, &x) {
		code := fault.Code(x.Code)
		if code != fault.Unhealthy && code != fault.Usage {
			code = fault.Failure
		}
		return backup.Receipt{}, &fault.Error{Op: "make a backup", Node: h.Name(), Code: code, Hint: "see how etcd is: kocli status; then run the same command again", Err: fmt.Errorf("%s: %w", lastWords(x), err)}
	}
	if err != nil {
		return backup.Receipt{}, err
	}
	return in.Receipt()
}

// lastWords is the first line that a kocli on a host said of its error.
func lastWords(x *host.ExitError) string {
	for l := range bytes.Lines(x.Stderr) {
		if l = bytes.TrimSpace(l); len(l) > 0 {
			return string(bytes.TrimPrefix(l, []byte("error: ")))
		}
	}
	return "it says nothing"
}

// prune removes the backups that the YAML keeps no longer.
func (b *Backups) prune(ctx context.Context, o Options, dry bool) ([]string, error) {
	spec := o.Inventory.Spec.Backup.Retention
	gone, err := b.Prune(ctx, o.Inventory.Name, backup.Retention{Keep: spec.Keep, MaxAge: spec.MaxAge.Value()}, b.Trust, o.Clock.Now(), dry)
	out := []string{}
	for _, r := range gone {
		out = append(out, r.Name)
	}
	return out, err
}
