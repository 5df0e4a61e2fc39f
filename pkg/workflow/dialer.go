// Package workflow puts steps together into what the commands do: create,
// reset, status. It is the only place that knows all of the rooms below.
package workflow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/host/sink"
	"github.com/kocli/kocli/pkg/host/sshhost"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/plan"
)

// Hosts is the dialer of a run: one SSH connection a host, shared by readers
// and writers, made when it is first needed.
type Hosts struct {
	inv     *inventory.Inventory
	secrets *config.Secrets
	options sshhost.Options
	now     func() time.Time
	record  func(host.Entry)
	logins  chan struct{} // has room for maxLogins
	further chan struct{} // has room for maxFurther

	mu    sync.Mutex
	conns map[string]*connection
	more  []inventory.Node
}

// connection is one host, and how steps see it.
type connection struct {
	once   sync.Once
	err    error
	raw    *sshhost.Host
	reader *host.Batch
	host   *sink.Host

	further spent // by connections besides raw
}

var _ plan.Dialer = (*Hosts)(nil)

// NewHosts returns the dialer of an inventory. record is told of every command.
func NewHosts(inv *inventory.Inventory, secrets *config.Secrets, o sshhost.Options, now func() time.Time, record func(host.Entry)) *Hosts {
	return &Hosts{inv: inv, secrets: secrets, options: o, now: now, record: record, conns: map[string]*connection{}, logins: make(chan struct{}, maxLogins), further: make(chan struct{}, maxFurther)}
}

// Include makes nodes reachable that are not in the inventory any more.
func (d *Hosts) Include(nodes []inventory.Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.more = append(d.more, nodes...)
}

// node finds a node by name.
func (d *Hosts) node(name string) (inventory.Node, bool) {
	if n, ok := d.inv.Node(name); ok {
		return n, true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.more, func(n inventory.Node) bool { return n.Name == name })
	if i < 0 {
		return inventory.Node{}, false
	}
	return d.more[i], true
}

// Look returns a reader that collects questions into round trips.
func (d *Hosts) Look(ctx context.Context, node string) (host.Reader, error) {
	c, err := d.connect(ctx, node)
	if err != nil {
		return nil, err
	}
	return c.reader, nil
}

// Dial returns a host that keeps a ledger of what it changes.
func (d *Hosts) Dial(ctx context.Context, node string) (host.Host, error) {
	c, err := d.connect(ctx, node)
	if err != nil {
		return nil, err
	}
	return c.host, nil
}

func (d *Hosts) connect(ctx context.Context, node string) (*connection, error) {
	d.mu.Lock()
	c := d.conns[node]
	if c == nil {
		c = &connection{}
		d.conns[node] = c
	}
	d.mu.Unlock()
	c.once.Do(func() { c.err = d.open(ctx, node, c) })
	return c, c.err
}

func (d *Hosts) open(ctx context.Context, node string, c *connection) error {
	n, ok := d.node(node)
	if !ok {
		return fmt.Errorf("no host is called %s", node)
	}
	t, err := d.target(ctx, n)
	if err != nil {
		return err
	}
	if c.raw, err = d.dial(ctx, t); err != nil {
		return err
	}
	full := host.Record(c.raw, d.now, d.record)
	c.reader = host.NewBatch(node, full, 0)
	c.host = sink.Wrap(ledger.Wrap(full), c.reader, kocliPath())
	return nil
}

// maxLogins is how many hosts are logged in to at once. A login has to end within
// seconds, which those of many hundreds at once, that share a processor or a
// bastion, do not.
const maxLogins = 64

// dial logs in to a host, when there is room for it.
func (d *Hosts) dial(ctx context.Context, t sshhost.Target) (*sshhost.Host, error) {
	select {
	case d.logins <- struct{}{}:
		defer func() { <-d.logins }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return sshhost.Dial(ctx, t, d.options)
}

// target resolves how to log in to a node. Secrets are asked for here and
// nowhere else.
func (d *Hosts) target(ctx context.Context, n inventory.Node) (sshhost.Target, error) {
	t := sshhost.Target{Name: n.Name, Address: n.Address, Port: n.SSH.Port}
	var err error
	t.Login, err = d.login(ctx, n.SSH.User, n.SSH.KeyFile, n.SSH.Agent, n)
	if err != nil {
		return t, err
	}
	if b := n.SSH.Bastion; b != nil {
		via := sshhost.Target{Name: "bastion " + b.Address, Address: b.Address, Port: b.Port}
		bn := inventory.Node{Name: "bastion", SSH: inventory.SSH{Passphrase: b.Passphrase, Password: b.Password}}
		if via.Login, err = d.login(ctx, b.User, b.KeyFile, b.Agent, bn); err != nil {
			return t, err
		}
		t.Bastion = &via
	}
	return t, nil
}

func (d *Hosts) login(ctx context.Context, user, keyFile string, useAgent bool, n inventory.Node) (sshhost.Login, error) {
	l := sshhost.Login{User: user, Agent: useAgent, AgentSocket: os.Getenv("SSH_AUTH_SOCK")}
	if keyFile != "" {
		p, err := config.ExpandPath(keyFile)
		if err != nil {
			return l, err
		}
		l.KeyFile = p
	}
	pass, err1 := d.secrets.Resolve(ctx, n.SSH.Passphrase, "passphrase of "+keyFile)
	word, err2 := d.secrets.Resolve(ctx, n.SSH.Password, "SSH password of "+user)
	sudo, err3 := d.secrets.Resolve(ctx, n.SSH.SudoPassword, "sudo password of "+user)
	l.Passphrase, l.Password = pass.Reveal(), word.Reveal()
	if user != "root" {
		l.SudoPassword = sudo.Reveal()
	}
	return l, errors.Join(err1, err2, err3)
}

// Stats counts what a run cost, by node.
type Stats struct {
	RoundTrips int64 `json:"roundTrips"`
	BytesSent  int64 `json:"bytesSent"`
}

// Stats returns the counts so far.
func (d *Hosts) Stats() map[string]Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]Stats{}
	for n, c := range d.conns {
		if c.raw != nil {
			out[n] = Stats{c.raw.Trips() + c.further.trips.Load(), c.raw.Sent() + c.further.sent.Load()}
		}
	}
	return out
}

// Close ends all connections.
func (d *Hosts) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, c := range d.conns {
		if c.raw != nil {
			errs = append(errs, c.raw.Close())
		}
	}
	return errors.Join(errs...)
}

// KnownHosts is the file that holds accepted host keys, and the user's own.
func KnownHosts(home string) (file string, more []string) {
	if u, err := os.UserHomeDir(); err == nil {
		more = append(more, filepath.Join(u, ".ssh", "known_hosts"))
	}
	return filepath.Join(home, "known_hosts"), more
}
