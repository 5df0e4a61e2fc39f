package kubeadmrun

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/plan"
)

// Unit is the transient unit of systemd in which Detached runs kubeadm, on every host
// the same: one at a time.
const Unit = "kocli-kubeadm.service"

// Dir holds what a run in Unit leaves, readable by root alone: what it was asked for,
// what kubeadm says and, once it has ended, its exit status. Whoever takes the result
// removes it.
func Dir() string { return path.Join(ledger.Root(), "kubeadm") }

// ErrGoesOn says that kocli no longer waits for a kubeadm that works on, on its host, or
// may: nothing that it works at may be touched.
var ErrGoesOn = errors.New("kubeadm goes on on the host")

// ErrNotStarted says that systemd did not start kubeadm: nothing has been done.
var ErrNotStarted = errors.New("kubeadm was not started")

// detachedTime is how long kocli waits for a kubeadm in Unit: for one before it, which
// holds the lock, and for each static pod that is replaced kubeadm has minutes.
const detachedTime = 30 * time.Minute

// The pauses between two looks at Unit get longer, from the first to the last.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 3 * time.Second
)

// unitScript is what runs in Unit: "$1" is Dir, "$2" the job, and the rest the command.
// The status gets its name last, so that it is there as a whole or not at all. It holds
// no dollar sign with a brace, which systemd would replace.
const unitScript = `umask 077; d=$1 job=$2; shift 2; rm -rf -- "$d"; mkdir -p -- "$d" || exit 1
echo "$job" >"$d/job"; (umask 022; exec "$@") >"$d/log" 2>&1; echo $? >"$d/status.new"; mv -T -- "$d/status.new" "$d/status"`

// unitCommand starts a job in Unit. systemd lets go of the unit when it has ended,
// however it did, so that the next one may have its name.
func unitCommand(job string, args []string) host.Cmd {
	argv := []string{"systemd-run", "--quiet", "--collect", "--unit=" + Unit, "--description=kubeadm, run by kocli",
		"--setenv=LC_ALL=C", "--setenv=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"--", "/bin/sh", "-c", unitScript, "kocli-kubeadm", Dir(), job}
	return host.Command(slices.Concat(argv, locked(), args)...)
}

// Detached runs kubeadm like Run, and apart from the connection: when kocli ends, or
// the connection does, kubeadm goes on, and the error is an ErrGoesOn. The next call
// for the same job, on whatever run of kocli, waits for it and takes its result. What
// it says goes to the log of the run as it comes. Names and arguments are in the host's
// list of processes: no secrets.
func Detached(ctx context.Context, h host.Host, name string, args ...string) error {
	job := name + ": kubeadm " + host.Quote(args...)
	end, err := wait(ctx, h, false)
	if err != nil {
		return err
	}
	if end.job == job && end.verdict() {
		plan.Say(ctx, fmt.Sprintf("kubeadm of an earlier run has come to its end meanwhile (exit status %d)", end.status))
	} else {
		if _, err := h.Run(ctx, unitCommand(job, args)); err != nil { // it does not wait
			var x *host.ExitError
			if errors.As(err, &x) {
				return fault.New(fault.Failure, fmt.Sprintf("see why: kocli exec %s --root -- systemctl status %s; then run the same command again", h.Name(), Unit), fmt.Errorf("%w: %w", ErrNotStarted, err))
			}
			return goesOn(ctx, h, "may be at work", err)
		}
		if end, err = wait(ctx, h, true); err != nil {
			return err
		}
	}
	return errors.Join(end.err(job, args), h.Remove(ctx, Dir()))
}

// Wait waits for a kubeadm that an earlier run left at work in Unit; at once where
// there is none. Its result is left for Detached.
func Wait(ctx context.Context, h host.Host) error {
	_, err := wait(ctx, h, false)
	return err
}

// Forget waits like Wait, and removes what was left: nobody needs the result any more.
func Forget(ctx context.Context, h host.Host) error {
	e, err := wait(ctx, h, false)
	if err != nil || e == (ended{}) {
		return err
	}
	return h.Remove(ctx, Dir())
}

// ended is what a job left in Dir. The zero value is nothing.
type ended struct {
	job    string
	done   bool // it has a status
	status int
	log    string
}

// verdict reports whether kubeadm itself came to an end. One that was killed, as when
// its host was shut down, has not said anything.
func (e ended) verdict() bool { return e.done && e.status <= 128 }

// err is how the job ended.
func (e ended) err(job string, args []string) error {
	if e.job != job || !e.done {
		return fmt.Errorf("kubeadm %s: it was killed, or its host was, before it had come to an end", args[0])
	}
	if e.status == 0 {
		return nil
	}
	return explain(args, e.log, &host.ExitError{Cmd: "kubeadm " + host.Quote(args...), Code: e.status, Stderr: []byte(e.log)})
}

// wait waits until nothing runs in Unit, and returns what the last one there left.
// ours says that this run has started it.
func wait(ctx context.Context, h host.Host, ours bool) (ended, error) {
	limit, cancel := context.WithTimeoutCause(ctx, detachedTime, fmt.Errorf("no end after %s", detachedTime))
	defer cancel()
	said := 0
	for pause, runs := firstPause, ours; ; pause = min(2*pause, lastPause) {
		active, err := active(limit, h)
		switch {
		case err == nil:
		case runs && ctx.Err() != nil:
			return ended{}, goesOn(ctx, h, "goes on", err)
		case !runs && (ctx.Err() != nil || fault.CodeOf(err) == fault.Unreachable):
			return ended{}, err
		default:
			return ended{}, goesOn(ctx, h, "may be at work", err)
		}
		if !active {
			e, err := left(ctx, h)
			if runs {
				tell(ctx, e.log, said)
			}
			return e, err
		}
		if !runs {
			plan.Say(ctx, "kubeadm of an earlier run is still at work on the host: waiting for it")
			runs = true
		}
		if log, err := read(limit, h, "log"); err == nil {
			said = tell(ctx, log, said)
		}
		select {
		case <-limit.Done():
			return ended{}, goesOn(ctx, h, "goes on", context.Cause(limit))
		case <-time.After(pause):
		}
	}
}

// active reports whether something runs in Unit.
func active(ctx context.Context, r host.Reader) (bool, error) {
	out, err := r.Query(ctx, host.Command("systemctl", "show", "-p", "ActiveState", Unit))
	if err != nil {
		return false, err
	}
	for _, l := range strings.Split(string(out.Stdout), "\n") {
		if state, ok := strings.CutPrefix(strings.TrimSpace(l), "ActiveState="); ok {
			return state != "inactive" && state != "failed", nil
		}
	}
	return false, fmt.Errorf("systemd on %s does not say in which state %s is", r.Name(), Unit)
}

// left reads Dir.
func left(ctx context.Context, h host.Reader) (ended, error) {
	job, err1 := read(ctx, h, "job")
	status, err2 := read(ctx, h, "status")
	log, err3 := read(ctx, h, "log")
	if err := errors.Join(err1, err2, err3); err != nil {
		return ended{}, err
	}
	e := ended{job: strings.TrimSuffix(job, "\n"), log: log}
	n, err := strconv.Atoi(strings.TrimSpace(status))
	if e.done = err == nil && n >= 0; e.done {
		e.status = n
	}
	return e, nil
}

// read reads a file of Dir; "" where there is none.
func read(ctx context.Context, r host.Reader, name string) (string, error) {
	data, err := r.ReadFile(ctx, path.Join(Dir(), name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(data), err
}

// tell puts the whole lines of a log from a byte on into the log of the run, and
// returns how far it has come.
func tell(ctx context.Context, log string, from int) int {
	if from > len(log) {
		from = 0 // of another job
	}
	end := strings.LastIndexByte(log, '\n') + 1
	if end <= from {
		return from
	}
	for _, l := range strings.Split(strings.TrimSuffix(log[from:end], "\n"), "\n") {
		if strings.TrimSpace(l) != "" {
			plan.Output(ctx, l)
		}
	}
	return end
}

// goesOn says that kubeadm goes on without kocli, on the screen too.
func goesOn(ctx context.Context, h host.Reader, what string, cause error) error {
	plan.Say(ctx, fmt.Sprintf("kubeadm %s on the host; the same command joins it", what))
	return &fault.Error{
		Hint: fmt.Sprintf("kubeadm %s on %s: run the same command again, it waits for its end and goes on from there. To see what it does: kocli exec %s --root -- tail -n 20 %s/log", what, h.Name(), h.Name(), Dir()),
		Err:  fmt.Errorf("%w: %w", ErrGoesOn, cause),
	}
}
