package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/probe"
)

// Election is what the steps of a run know of who holds the virtual IP: whether
// that may still change, because keepalived was changed or started in it, and whose
// turn it is to be without keepalived or haproxy for a moment.
type Election struct {
	open atomic.Bool
	turn sync.Mutex
}

// turn is what control planes take that share an address: while one starts a
// program anew, the others' have to be there.
func (o Options) turn() sync.Locker {
	if o.Election == nil || !o.virtual() {
		return nil
	}
	return &o.Election.turn
}

// begin says that the address may move now. It may be called on nil.
func (e *Election) begin() {
	if e != nil {
		e.open.Store(true)
	}
}

// HolderOptions are what Holder needs.
type HolderOptions struct {
	Inventory *inventory.Inventory
	// Planes are the control planes that may hold the address.
	Planes []inventory.Node
	// Look reaches a control plane.
	Look     func(ctx context.Context, node string) (host.Reader, error)
	Election *Election
}

// The times of an election. A control plane takes an address that it does not hear
// of for 3.6 s; before that its scripts have to have succeeded.
const (
	settleTime = 5 * time.Second        // for which one has to hold it alone
	splitTime  = 12 * time.Second       // for which more than one may
	vacantTime = 60 * time.Second       // for which none may: kubelet and haproxy may be starting
	lookTime   = 500 * time.Millisecond // between two looks
)

// joinedPath is on every node that has joined: where it is missing, its keepalived
// is started in this run.
const joinedPath = "/etc/kubernetes/kubelet.conf"

// Holder proves that exactly one control plane holds the virtual IP. Where nothing
// was changed one look is enough, which costs no round trip of its own; otherwise
// it watches until nobody else can want the address any more. It writes nothing.
func Holder(o HolderOptions) plan.Step {
	if o.Election == nil {
		o.Election = &Election{}
	}
	return converge.Func{Name: "loadbalancer/holder", CheckFn: o.check, ApplyFn: func(ctx context.Context, _ host.Host) error { return o.watch(ctx) }}
}

func (o HolderOptions) address() string { return o.Inventory.Spec.ControlPlane.Endpoint.Address }

func (o HolderOptions) check(ctx context.Context, _ host.Reader) ([]plan.Change, error) {
	change := plan.Change{Object: "virtual IP " + o.address(), To: "held by one control plane"}
	holders, joined, err := o.look(ctx)
	if err != nil {
		return nil, err
	}
	if !joined {
		o.Election.begin()
	}
	if o.Election.open.Load() {
		return []plan.Change{change}, nil
	}
	if len(holders) == 1 {
		return nil, nil
	}
	change.From = "held by " + people(holders, "nobody")
	return []plan.Change{change}, nil
}

// look returns who holds the address, and whether all have joined.
func (o HolderOptions) look(ctx context.Context) (holders []string, joined bool, err error) {
	vip, err := netip.ParseAddr(o.address())
	if err != nil {
		return nil, false, err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	joined = true
	for _, n := range o.Planes {
		wg.Go(func() {
			held, in, err := holds(ctx, o.Look, n.Name, vip)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
			joined = joined && in
			if held {
				holders = append(holders, n.Name)
			}
		})
	}
	wg.Wait()
	slices.Sort(holders)
	return holders, joined, errors.Join(errs...)
}

// holds asks what other steps of the node ask as well, all at once.
func holds(ctx context.Context, look func(context.Context, string) (host.Reader, error), node string, vip netip.Addr) (held, joined bool, err error) {
	r, err := look(ctx, node)
	if err != nil {
		return false, false, err
	}
	there := make(chan error, 1)
	go func() {
		_, err := r.Stat(ctx, joinedPath)
		there <- err
	}()
	links, err := r.Query(ctx, probe.InterfacesCommand())
	missing := <-there
	var x *host.ExitError
	if err != nil && !errors.As(err, &x) {
		return false, false, err
	}
	if missing != nil && !errors.Is(missing, fs.ErrNotExist) {
		return false, false, missing
	}
	_, held = probe.InterfaceOf(probe.ParseInterfaces(string(links.Stdout)), vip)
	return held, missing == nil, nil
}

// watch waits until one control plane has held the address alone for settleTime.
func (o HolderOptions) watch(ctx context.Context) error {
	var last []string
	var same, waited time.Duration
	for ; ; waited += lookTime {
		holders, err := o.fresh(ctx)
		if err != nil {
			return err
		}
		if same += lookTime; waited == 0 || !slices.Equal(holders, last) {
			same = 0
		}
		last = holders
		switch {
		case len(holders) == 1 && same >= settleTime:
			o.Election.open.Store(false)
			return nil
		case len(holders) > 1 && same >= splitTime:
			return o.split(holders)
		case len(holders) == 0 && same >= vacantTime:
			return o.vacant(ctx)
		case waited >= 2*vacantTime:
			return o.restless(holders)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookTime):
		}
	}
}

// fresh looks past what readers remember.
func (o HolderOptions) fresh(ctx context.Context) ([]string, error) {
	for _, n := range o.Planes {
		r, err := o.Look(ctx, n.Name)
		if err != nil {
			return nil, err
		}
		plan.Forget(r)
	}
	holders, _, err := o.look(ctx)
	return holders, err
}

// split says that control planes do not hear each other.
func (o HolderOptions) split(holders []string) error {
	hint := "let multicast to 224.0.0.18 and IP protocol 112 through between the control planes, or set spec.controlPlane.endpoint.vrrp.unicast: true; then run the same command again"
	how := "IP protocol 112 to 224.0.0.18"
	if unicast(o.Inventory) {
		hint = "let IP protocol 112 through between the control planes; then run the same command again"
		how = "IP protocol 112 from one to the other"
	}
	return fault.New(fault.Failure, hint, fmt.Errorf("%s hold the virtual IP %s at the same time: VRRP (%s) is filtered between them, so that each takes itself for the only one",
		people(holders, ""), o.address(), how))
}

// restless says that the address does not stay anywhere.
func (o HolderOptions) restless(holders []string) error {
	return fault.New(fault.Failure, "see why: "+logCommand(o.Planes[0].Name, kubeadm.KeepalivedPod)+"; then run the same command again",
		fmt.Errorf("the virtual IP %s keeps moving between the control planes; it was last held by %s", o.address(), people(holders, "nobody")))
}

// logLines is how much of a log an error quotes.
const logLines = "3"

// vacant says that nobody holds the address, with what keepalived has to say.
func (o HolderOptions) vacant(ctx context.Context) error {
	said := make([]string, len(o.Planes))
	var wg sync.WaitGroup
	for i, n := range o.Planes {
		wg.Go(func() { said[i] = n.Name + ": " + o.lastWords(ctx, n.Name) })
	}
	wg.Wait()
	return fault.New(fault.Failure, "see more: "+logCommand(o.Planes[0].Name, kubeadm.KeepalivedPod)+"; then run the same command again",
		fmt.Errorf("no control plane holds the virtual IP %s; keepalived says last on %s", o.address(), strings.Join(said, "; on ")))
}

// lastWords returns the end of keepalived's log on a control plane.
func (o HolderOptions) lastWords(ctx context.Context, node string) string {
	r, err := o.Look(ctx, node)
	if err != nil {
		return err.Error()
	}
	logs, err := r.Query(ctx, host.Command("find", "/var/log/pods", "-path", "*_"+kubeadm.KeepalivedPod+"-*/"+kubeadm.KeepalivedPod+"/*.log"))
	files := strings.Fields(logs.Text())
	if err != nil || len(files) == 0 {
		return "nothing: it was not started"
	}
	slices.Sort(files)
	out, err := r.Query(ctx, host.Command("tail", "-n", logLines, "--", files[len(files)-1]))
	if err != nil || out.Text() == "" {
		return "nothing"
	}
	return strings.Join(strings.Split(out.Text(), "\n"), " | ")
}

// people lists names as a sentence does.
func people(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	rest, last := names[:len(names)-1], names[len(names)-1]
	if len(rest) == 0 {
		return last
	}
	return strings.Join(rest, ", ") + " and " + last
}
