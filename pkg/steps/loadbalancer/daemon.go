package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/kubeadm"
	"github.com/kocli/kocli/pkg/plan"
	"github.com/kocli/kocli/pkg/staticpod"
)

// daemon is a program in a static pod that loads its configuration again on a
// signal, and shows on the host which one it has loaded.
type daemon struct {
	name, program string // of the step; as it is shown
	pod, signal   string
	reload        string // what a reload costs
	// want returns the files, and the fingerprint of a daemon that has loaded them.
	want func(ctx context.Context, r host.Reader) ([]host.File, string, error)
	// loaded lists the fingerprints of those that run. Nil where none can tell, and
	// the kubelet starts the pod anew instead.
	loaded func(ctx context.Context, r host.Reader) ([]string, error)
	// turn is taken where one that runs is started anew. Nil where the others' do not
	// stand in for it meanwhile.
	turn sync.Locker
	// settles is how long one that was started anew needs until it can stand in for
	// the others.
	settles time.Duration
}

// running is what a daemon does.
type running int

const (
	asleep  running = iota // nothing runs, and no kubelet that would start it
	absent                 // a kubelet runs, and the daemon does not
	current                // it has loaded what it should
	old                    // it has loaded something else
)

func (d daemon) check(ctx context.Context, r host.Reader) ([]plan.Change, error) {
	files, fingerprint, err := d.want(ctx, r)
	if err != nil {
		return nil, err
	}
	if d.loaded == nil {
		return converge.Differences(ctx, r, files)
	}
	type answer struct {
		is  running
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		is, err := d.look(ctx, r, fingerprint)
		ch <- answer{is, err}
	}()
	out, err := converge.Differences(ctx, r, files)
	a := <-ch
	if err := errors.Join(err, a.err); err != nil {
		return nil, err
	}
	switch a.is {
	case old:
		out = append(out, plan.Change{Object: d.program, From: "running with an older configuration", To: d.reload})
	case absent:
		out = append(out, plan.Change{Object: d.program, From: "not running", To: "started by the kubelet"})
	case asleep, current:
	}
	return out, nil
}

func (d daemon) look(ctx context.Context, r host.Reader, fingerprint string) (running, error) {
	kubelet := make(chan error, 1)
	go func() {
		_, err := r.Query(ctx, host.Command("systemctl", "is-active", "kubelet.service"))
		kubelet <- err
	}()
	loaded, err := d.loaded(ctx, r)
	down := <-kubelet
	if err != nil {
		return asleep, err
	}
	var x *host.ExitError
	if down != nil && !errors.As(down, &x) {
		return asleep, down
	}
	switch {
	case slices.Contains(loaded, fingerprint):
		return current, nil
	case len(loaded) > 0:
		return old, nil
	case down == nil:
		return absent, nil
	}
	return asleep, nil
}

// The time that a daemon is given to load a configuration and a kubelet to start
// a static pod whose image is there, after which the daemon is told again, and between
// two looks.
const (
	startTime = 90 * time.Second
	againTime = 3 * time.Second
	loadPoll  = 100 * time.Millisecond
)

func (d daemon) apply(ctx context.Context, h host.Host) error {
	files, fingerprint, err := d.want(ctx, h)
	if err != nil {
		return err
	}
	anew, err := changed(ctx, h, files)
	if err != nil {
		return err
	}
	var was []string
	if anew {
		if was, err = staticpod.Running(ctx, h, d.pod); err != nil {
			return err
		}
	}
	if len(was) > 0 && d.turn != nil {
		d.turn.Lock()
		defer d.turn.Unlock()
	}
	if err := converge.Put(ctx, h, files, 1); err != nil {
		return err
	}
	if len(was) > 0 {
		if err := d.restarted(ctx, h, was); err != nil {
			return err
		}
	}
	if d.loaded == nil {
		return nil
	}
	is, err := d.look(ctx, h, fingerprint)
	if err != nil || is == current || is == asleep {
		return err
	}
	// A pod that changed itself is started anew by the kubelet meanwhile.
	for i := range startTime / loadPoll {
		// A signal that arrives while the daemon still starts is lost on it.
		if is == old && i%(againTime/loadPoll) == 0 {
			if _, err := staticpod.Signal(ctx, h, d.pod, d.signal); err != nil {
				return fmt.Errorf("reload %s: %w", d.program, err)
			}
		}
		if is, err = d.look(ctx, h, fingerprint); err != nil || is == current || is == asleep {
			return err
		}
		if err := pause(ctx, loadPoll); err != nil {
			return err
		}
	}
	return d.stuck(h.Name(), is)
}

// changed reports whether the manifest among the files is another one on the host.
func changed(ctx context.Context, r host.Reader, files []host.File) (bool, error) {
	for _, f := range files {
		if path.Dir(f.Path) != kubeadm.ManifestsDir {
			continue
		}
		d, err := ledger.Differs(ctx, r, f)
		return d == "content", err
	}
	return false, nil
}

// restarted waits until the kubelet has started the pod anew, whose containers were
// those. Where no kubelet runs there is nothing to wait for.
func (d daemon) restarted(ctx context.Context, r host.Reader, were []string) error {
	for range startTime / loadPoll {
		done, err := staticpod.Replaced(ctx, r, d.pod, were)
		if err != nil {
			return err
		}
		if done {
			return pause(ctx, d.settles)
		}
		_, err = r.Query(ctx, host.Command("systemctl", "is-active", "kubelet.service"))
		var x *host.ExitError
		if errors.As(err, &x) {
			return nil
		}
		if err := errors.Join(err, pause(ctx, loadPoll)); err != nil {
			return err
		}
	}
	return d.stuck(r.Name(), absent)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// stuck says that a daemon does not do what it was told.
func (d daemon) stuck(node string, is running) error {
	what := "has not loaded its new configuration"
	if is == absent {
		what = "was not started by the kubelet"
	}
	return fault.New(fault.Failure,
		fmt.Sprintf("see why: %s; then run the same command again", logCommand(node, d.pod)),
		fmt.Errorf("%s on %s %s within %s", d.program, node, what, startTime))
}

// logCommand shows the end of a static pod's log, also where no API answers.
func logCommand(node, pod string) string {
	return fmt.Sprintf("kocli exec %s --root -- sh -c 'tail -n 20 /var/log/pods/kube-system_%s-*/*/*.log'", node, pod)
}
