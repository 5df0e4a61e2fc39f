package workflow

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/addon"
	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/catalogue"
	"github.com/kocli/kocli/pkg/archive/delta"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/etcd"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/host/sshhost"
	"github.com/kocli/kocli/pkg/internal/lean"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kube"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/probe"
	"github.com/kocli/kocli/pkg/resolver"
	"github.com/kocli/kocli/pkg/state"
)

// Clock tells the time.
type Clock struct{ Now func() time.Time }

// Observer is told what happens in a run.
type Observer interface {
	Event(plan.Event)
	Command(host.Entry)
	LogTo(io.Writer)
	Nodes(names []string)
}

// Options are what every workflow needs from the command line.
type Options struct {
	Home      string
	Command   string // as typed, for the lock and the log
	Inventory *inventory.Inventory
	SpecFile  string // the cluster YAML, for hints
	SpecYAML  []byte
	Bundle    string              // path; empty where none is needed
	Keys      []archive.PublicKey // one of them has to have signed the bundle, where there are any
	SSH       sshhost.Options
	Secrets   *config.Secrets
	Observer  Observer
	Version   string // of kocli
	Ignore    []string
	Only      []string
	Skip      []string
	Clock     Clock
}

// Session is one run: connections, state, log.
type Session struct {
	o       Options
	start   time.Time
	inv     *inventory.Inventory
	hosts   fleet
	dir     *state.Dir
	access  *kube.Access
	bundle  *archive.Bundle
	closers []func() error
	RunID   string
	LogPath string

	binary *KocliBinary // in tests; nil means the running one

	ownResolver bool // a host needs kocli's resolv.conf
	// replaces says that what is on the hosts already does not count as room that is
	// taken: another version of it comes beside it.
	replaces bool
	// copies is what will be written beside the bundle's content, by node.
	copies map[string][]preflight.Space
	// addons are the names of those that the cluster has.
	addons []string
	// anew says that the cluster is restored: what takes hosts out of one does not work.
	anew bool
	// leaving are nodes that are not in the YAML any more and still have to be taken
	// out; the run can reach them.
	leaving []inventory.Node
}

// fleet is the hosts of a run: *Hosts, but in tests.
type fleet interface {
	plan.Dialer
	Include([]inventory.Node)
	Line(node string) fanout.Line
	Stats() map[string]Stats
	Close() error
}

// Open starts a run. A writing run takes the lock and keeps a log; one that only
// looks does neither.
func Open(ctx context.Context, o Options, writes bool) (*Session, error) {
	s := &Session{o: o, start: o.Clock.Now(), inv: o.Inventory, dir: state.Open(o.Home, o.Inventory.Name), access: kube.NewAccess()}
	known, err := catalogue.EmbeddedAddons()
	if err != nil {
		return nil, err
	}
	s.addons = addon.Enabled(&o.Inventory.Spec, known)
	o.Observer.Nodes(inventory.Names(o.Inventory.Nodes))
	if o.Bundle != "" {
		b, err := delta.Open(o.Bundle, o.Keys)
		if err != nil {
			return nil, err
		}
		s.bundle = b
		s.closers = append(s.closers, b.Close)
	}
	if writes {
		if err := s.begin(ctx); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	if n := len(o.Inventory.Nodes); n >= crowded {
		limit := crowdMemory + int64(n)*hostMemory
		if writes {
			limit += contentMemory
		}
		end := lean.Within(limit)
		s.closers = append(s.closers, func() error { end(); return nil })
	}
	s.hosts = NewHosts(o.Inventory, o.Secrets, o.SSH, o.Clock.Now, o.Observer.Command)
	s.closers = append(s.closers, s.hosts.Close)
	return s, nil
}

// From crowded hosts on, a run keeps its memory to crowdMemory and hostMemory a
// host, in bytes, and contentMemory for what is on its way to them: what so many
// answers leave behind is collected earlier. A host needs about two thirds of its
// share.
const (
	crowded       = 100
	crowdMemory   = 80 << 20
	contentMemory = 160 << 20
	hostMemory    = 240 << 10
)

// begin takes the lock and opens the run's log.
func (s *Session) begin(ctx context.Context) error {
	me := state.Holder{PID: os.Getpid(), Command: s.o.Command, Since: s.o.Clock.Now()}
	if u, err := user.Current(); err == nil {
		me.User = u.Username
	}
	me.Host, _ = os.Hostname() // only for the message
	release, err := s.dir.Lock(ctx, me)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, release)
	s.RunID = s.o.Clock.Now().UTC().Format("20060102T150405.000Z")
	log, err := s.dir.Journal(s.RunID, "run.log")
	if err != nil {
		return fmt.Errorf("open the run's log: %w", err)
	}
	s.LogPath = s.dir.RunDir(s.RunID) + "/run.log"
	s.o.Observer.LogTo(log)
	s.closers = append(s.closers, func() error { s.o.Observer.LogTo(nil); return log.Close() })
	return nil
}

// Close ends the run: connections first, the lock last.
func (s *Session) Close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// Stats counts what the run cost, by node.
func (s *Session) Stats() map[string]Stats { return s.hosts.Stats() }

// maxAnswers is how many hosts tell what they are at once: each answers with some
// hundred kilobytes, which are soon facts of a few.
const maxAnswers = 64

// Facts asks every host what it is, many at once. Hosts that do not answer are
// reported together.
func (s *Session) Facts(ctx context.Context) (map[string]probe.Facts, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[string]probe.Facts{}
	all := slices.Concat(s.inv.Nodes, s.leaving)
	errs := make([]error, len(all))
	slots := make(chan struct{}, maxAnswers)
	for i, n := range all {
		wg.Go(func() {
			r, err := s.hosts.Look(ctx, n.Name)
			if err != nil {
				errs[i] = s.orGone(n, err)
				return
			}
			slots <- struct{}{}
			defer func() { <-slots }()
			// What is asked for next travels in the same round trip; readers remember.
			var ahead sync.WaitGroup
			if n.ControlPlane {
				for _, p := range []string{kube.AdminConf(), apiServerManifest} {
					ahead.Go(func() { _, _ = r.ReadFile(ctx, p) }) // whoever needs it hears of an error
				}
			}
			var resolv string
			var resolvErr error
			ahead.Go(func() { resolv, resolvErr = resolver.KubeletPath(ctx, r) })
			f, err := probe.Gather(ctx, r, s.o.Clock.Now)
			ahead.Wait()
			if err := errors.Join(err, resolvErr); err != nil {
				errs[i] = &fault.Error{Op: "gather facts", Node: n.Name, Err: err}
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[n.Name] = f
			s.ownResolver = s.ownResolver || resolv == resolver.ManagedPath
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

// orGone adds to the error of a host that is part of the cluster and cannot be
// reached what to do where it is gone for good.
func (s *Session) orGone(n inventory.Node, err error) error {
	r, lerr := s.dir.Load()
	if lerr != nil || r.Spec == "" || fault.CodeOf(err) != fault.Unreachable {
		return err
	}
	old, lerr := config.Read("the YAML that was applied last", bytes.NewReader([]byte(r.Spec)))
	if lerr != nil || !slices.ContainsFunc(old.Spec.Hosts, func(h v1alpha1.Host) bool { return h.Name == n.Name }) {
		return err
	}
	gone := fmt.Sprintf("kocli node remove %s --dead, or kocli node replace", n.Name)
	if s.anew {
		gone = "take it out of " + s.o.SpecFile + ", and the cluster is restored without it"
	}
	return &fault.Error{Node: n.Name, Hint: fmt.Sprintf("%s; if it is gone for good: %s", fault.HintOf(err), gone), Err: err}
}

// cluster puts together what the phases are made from.
func (s *Session) cluster(ctx context.Context, facts map[string]probe.Facts) (*Cluster, error) {
	seed, err := s.seed(ctx, facts)
	if err != nil {
		return nil, err
	}
	k, err := ThisKocli()
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		Inventory: s.inv, SpecFile: s.o.SpecFile, Seed: seed, Secret: s.secret, Bundle: s.bundle, Facts: facts, Payload: func(n inventory.Node) payload.Payload { return s.payload(n, facts[n.Name]) },
		Dialer: s.hosts, Access: s.access, Kocli: k, OwnResolver: s.ownResolver, Clock: s.o.Clock, Line: s.hosts.Line,
		EtcdCredentials: sync.OnceValues(func() (etcd.Credentials, error) { return readCredentials(s.inv.ExternalEtcd()) }),
	}
	c.Registries = sync.OnceValues(func() (*Registries, error) { return s.registries(ctx, s.secret, s.LogPath != "") })
	c.wholeBundle = fmt.Sprintf("push the whole bundle instead: kocli bundle push NEW.tar -f %s; or make it here first: kocli bundle apply --base OLD.tar %s --to NEW.tar", s.o.SpecFile, s.o.Bundle)
	if s.bundle != nil && len(s.inv.Nodes) < contentFrom {
		var names []string
		for _, n := range s.inv.Nodes {
			names = append(names, n.Name)
		}
		c.Far = far(ctx, names, s.hosts.Line)
	}
	return c, nil
}

// secret resolves a reference of the cluster YAML.
func (s *Session) secret(ctx context.Context, ref v1alpha1.SecretRef, what string) (string, error) {
	v, err := s.o.Secrets.Resolve(ctx, ref, what)
	return v.Reveal(), err
}

func digestFile(path string) (string, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), n, err
}

// file is the running kocli as a file on a host.
func (k KocliBinary) file(dst string) host.File {
	return host.File{Path: dst, Mode: 0o755, Size: k.Size, SHA256: k.SHA256, Open: func() (io.ReadCloser, error) { return os.Open(k.Path) }}
}
