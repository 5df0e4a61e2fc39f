// Package reset takes a host back to what it was: kubeadm's own reset first,
// then the network rules that Kubernetes made, then everything that the ledger
// of the host says kocli changed. What is not ours stays.
package reset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/fanout"
	"github.com/kocli/kocli/pkg/host/ledger"
	"github.com/kocli/kocli/pkg/kubeadmrun"
	"github.com/kocli/kocli/pkg/plan"
)

// Steps returns the steps of a host, in order.
func Steps() []plan.Step {
	return []plan.Step{Address(), Kubeadm(), Network(), Runtime(), Undo()}
}

// Ours reports whether kocli installed the Kubernetes of a host.
func Ours(ctx context.Context, r host.Reader) (bool, error) {
	book, err := ledger.Read(ctx, r)
	return book.Has("/usr/bin/kubelet", ledger.FileAbsent, ledger.FileKept), err
}

// Runtime stops the containers of Kubernetes and containerd itself, and removes
// its data, unless there are containers of others.
func Runtime() plan.Step {
	check := func(ctx context.Context, r host.Reader) ([]plan.Change, error) {
		s, err := lookRuntime(ctx, r)
		if err != nil || !s.ours {
			return nil, err
		}
		if len(s.foreign) > 0 {
			if !s.images {
				return nil, nil
			}
			return []plan.Change{{Object: "containerd", From: "used by " + strings.Join(s.foreign, ", "), To: "stays; only the images of Kubernetes go"}}, nil
		}
		if !s.active && !s.data && !s.remains {
			return nil, nil
		}
		return []plan.Change{{Object: "containerd", To: "stop, remove its data", Disruptive: true}}, nil
	}
	return converge.Func{
		Name:    "reset/runtime",
		CheckFn: check,
		ApplyFn: func(ctx context.Context, h host.Host) error {
			if todo, err := check(ctx, h); err != nil || len(todo) == 0 {
				return err
			}
			// Only a containerd that runs can say whether others use it.
			if _, err := h.Run(ctx, host.Command("systemctl", "start", "containerd.service")); err != nil {
				return fmt.Errorf("ask containerd for containers of others: %w", err)
			}
			s, err := lookRuntime(ctx, h)
			if err != nil {
				return err
			}
			if s.mute != nil && s.data {
				return fmt.Errorf("containerd does not say whether others use it, so its data stays: %w", s.mute)
			}
			if len(s.foreign) > 0 {
				_, err := h.Run(ctx, host.Command("sh", "-c", dropImages))
				return err
			}
			c := host.Command("systemctl", "stop", "containerd.service")
			c.Timeout = 2 * time.Minute
			if _, err := h.Run(ctx, c); err != nil {
				return err
			}
			_, err = h.Run(ctx, host.Command("sh", "-c", sweep))
			return err
		},
	}
}

// dropImages removes the images of Kubernetes.
const dropImages = `/usr/local/bin/ctr -n k8s.io images ls -q | xargs -r /usr/local/bin/ctr -n k8s.io images rm --sync`

// sweep removes containerd's data and state. The folder itself may be a mount.
const sweep = `set -e
for m in $(awk '$2 ~ "^/run/containerd/" || $2 ~ "^/var/lib/containerd/" {print $2}' /proc/mounts | sort -r); do umount -l -- "$m" || :; done
for d in /var/lib/containerd /run/containerd; do [ ! -d "$d" ] || find "$d" -xdev -mindepth 1 -delete; done`

// runtimeState is what there is of containerd.
type runtimeState struct {
	ours    bool // kocli installed it
	active  bool
	data    bool
	remains bool     // of its processes, in /run
	images  bool     // of Kubernetes
	foreign []string // who uses it beside Kubernetes
	mute    error    // why it could not be asked
}

func lookRuntime(ctx context.Context, r host.Reader) (runtimeState, error) {
	book, err := ledger.Read(ctx, r)
	if err != nil {
		return runtimeState{}, err
	}
	s := runtimeState{ours: book.Has("/usr/local/bin/containerd", ledger.FileAbsent, ledger.FileKept)}
	if book.Has("/usr/local/bin/containerd", ledger.FileKept) {
		s.foreign = append(s.foreign, "the host from before kocli came")
	}
	outs, errs, err := converge.Asked(ctx, r,
		host.Command("systemctl", "is-active", "containerd.service"),
		host.Command("ls", "-A", "/var/lib/containerd"),
		host.Command("/usr/local/bin/ctr", "namespaces", "ls", "-q"),
		host.Command("/usr/local/bin/ctr", "-n", "k8s.io", "images", "ls", "-q"),
		host.Command("ls", "-A", "/run/containerd"))
	if err != nil {
		return s, err
	}
	s.active = errs[0] == nil
	s.data = errs[1] == nil && outs[1].Text() != ""
	s.remains = errs[4] == nil && outs[4].Text() != ""
	s.images = errs[3] == nil && outs[3].Text() != ""
	if s.mute = errs[2]; s.mute != nil {
		return s, nil
	}
	for _, ns := range strings.Fields(outs[2].Text()) {
		if ns == "k8s.io" {
			continue
		}
		held, errs, err := converge.Asked(ctx, r, host.Command("/usr/local/bin/ctr", "-n", ns, "containers", "ls", "-q"),
			host.Command("/usr/local/bin/ctr", "-n", ns, "images", "ls", "-q"))
		if err != nil {
			return s, err
		}
		if errors.Join(errs...) != nil || held[0].Text()+held[1].Text() != "" {
			s.foreign = append(s.foreign, "namespace "+ns)
		}
	}
	return s, nil
}

// runtimePaths belong to containerd: they stay while others use it.
func runtimePath(p string) bool {
	for _, prefix := range []string{"/usr/local/bin/containerd", "/usr/local/bin/ctr", "/usr/local/sbin/runc", "/etc/containerd/", "/etc/systemd/system/containerd.service"} {
		if strings.HasPrefix(p, prefix) {
			return true
		}
	}
	return false
}

// Undo goes through the ledger: services off, packages out, values and files
// back. The ledger itself goes last.
func Undo() plan.Step {
	return converge.Func{Name: "reset/undo", CheckFn: checkUndo, ApplyFn: undo}
}

func checkUndo(ctx context.Context, r host.Reader) ([]plan.Change, error) {
	book, err := ledger.Read(ctx, r)
	if err != nil || len(book) == 0 {
		return nil, err // nothing here is kocli's
	}
	s, err := lookRuntime(ctx, r)
	if err != nil {
		return nil, err
	}
	if len(s.foreign) > 0 && !undoable(book) {
		return nil, nil
	}
	return []plan.Change{
		{Object: "files that kocli made", From: fmt.Sprint(len(book.Of(ledger.FileAbsent))), To: "remove"},
		{Object: "files that kocli replaced", From: fmt.Sprint(len(book.Of(ledger.FileKept))), To: "restore"},
		{Object: "packages that kocli installed", From: fmt.Sprint(len(book.Of(ledger.Package))), To: "remove"},
	}, nil
}

// undoable reports whether a ledger holds more than the runtime's entries.
func undoable(book ledger.Book) bool {
	for _, e := range book {
		if !runtimePath(e.Name) && e.Name != "containerd.service" {
			return true
		}
	}
	return false
}

func undo(ctx context.Context, h host.Host) error {
	if todo, err := checkUndo(ctx, h); err != nil || len(todo) == 0 {
		return err
	}
	book, err := ledger.Read(ctx, h)
	if err != nil {
		return err
	}
	s, err := lookRuntime(ctx, h)
	if err != nil {
		return err
	}
	keep := len(s.foreign) > 0
	for _, e := range book.Of(ledger.Service) {
		if keep && e.Name == "containerd.service" || e.Value == "enabled" {
			continue // it is in use, or was enabled before kocli came
		}
		if _, err := h.Run(ctx, host.Command("systemctl", "disable", "--now", "--quiet", e.Name)); err != nil && !gone(err) {
			return err
		}
	}
	if err := undoPackages(ctx, h, book); err != nil {
		return err
	}
	if err := undoValues(ctx, h, book); err != nil {
		return err
	}
	if err := undoFiles(ctx, h, book, keep); err != nil {
		return err
	}
	if _, err := h.Run(ctx, host.Command("systemctl", "daemon-reload")); err != nil {
		return err
	}
	if keep {
		for _, dir := range []string{fanout.Root(), ledger.UpgradeDir(), kubeadmrun.Dir()} {
			if err := h.Remove(ctx, dir); err != nil {
				return err
			}
		}
		return keepRuntimeEntries(ctx, h, book)
	}
	_, err = h.Run(ctx, host.Command("sh", "-c", last, "kocli-last", ledger.Root()))
	return err
}

// last removes kocli's own folders, what flannel's pod installed, and folders
// that kocli made, when they are empty. The ledger is the last file to go.
const last = `cd /
rm -rf -- /etc/kubernetes/kocli /etc/kubernetes/tmp /var/log/pods /var/log/containers /var/log/kubernetes; rm -f -- /opt/cni/bin/flannel
rmdir -p --ignore-fail-on-non-empty -- /etc/containerd/certs.d/_default /opt/cni/bin /etc/cni/net.d /var/lib/cni/networks /var/lib/cni/results /etc/systemd/system/kubelet.service.d /etc/kubernetes/manifests /etc/kubernetes 2>/dev/null || :
rm -f /run/kocli-kubeadm.lock /etc/systemd/logind.conf.d/99-kubelet.conf
find "$1" -mindepth 1 -not -name ledger.jsonl -delete 2>/dev/null || :
rm -f -- "$1/ledger.jsonl"; rmdir -- "$1" 2>/dev/null || :`

// gone is the complaint of systemctl about a unit that is not there any more.
func gone(err error) bool {
	var x *host.ExitError
	return errors.As(err, &x) && (strings.Contains(string(x.Stderr), "does not exist") || strings.Contains(string(x.Stderr), "not loaded"))
}

func undoPackages(ctx context.Context, h host.Host, book ledger.Book) error {
	var names []string
	// A firewall that was put into service since would be emptied by its removal.
	_, errs, err := converge.Asked(ctx, h, host.Command("systemctl", "is-enabled", "nftables.service"))
	if err != nil {
		return err
	}
	for _, e := range book.Of(ledger.Package) {
		if e.Name == "nftables" && errs[0] == nil {
			plan.Say(ctx, "nftables.service is enabled: the package nftables stays")
			continue
		}
		names = append(names, e.Name)
	}
	if len(names) == 0 {
		return nil
	}
	c := host.Command(append([]string{"env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--purge"}, names...)...)
	c.Timeout = 10 * time.Minute
	_, err = h.Run(ctx, c)
	var x *host.ExitError
	if errors.As(err, &x) && strings.Contains(string(x.Stderr), "dependency problems") {
		// Something else was installed since that needs one of them: it stays.
		plan.Say(ctx, "some packages that kocli installed are needed by others now, and stay")
		return nil
	}
	return err
}

func undoValues(ctx context.Context, h host.Host, book ledger.Book) error {
	var errs []error
	run := func(argv ...string) {
		_, err := h.Run(ctx, host.Command(argv...))
		errs = append(errs, err)
	}
	for _, e := range book.Of(ledger.Sysctl) {
		if _, err := h.Stat(ctx, path.Join("/proc/sys", strings.ReplaceAll(e.Name, ".", "/"))); err == nil {
			run("sysctl", "-q", "-w", e.Name+"="+e.Value)
		}
	}
	swaps, err := h.ReadFile(ctx, "/proc/swaps")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range book.Of(ledger.Swap) {
		if !strings.Contains("\n"+string(swaps), "\n"+e.Name+" ") { // swapon refuses what is on already
			run("swapon", e.Name)
		}
	}
	for _, e := range book.Of(ledger.Hostname) {
		run("hostname", e.Value)
	}
	return errors.Join(errs...)
}

// undoFiles brings the files back in one round trip: names go in on stdin.
func undoFiles(ctx context.Context, h host.Host, book ledger.Book, keepRuntime bool) error {
	var in strings.Builder
	add := func(verb, name string) {
		if !(keepRuntime && runtimePath(name)) && !strings.ContainsAny(name, "\n") && path.IsAbs(name) && path.Clean(name) == name {
			in.WriteString(verb + " " + name + "\n")
		}
	}
	for _, e := range book.Of(ledger.FileAbsent) {
		add("remove", e.Name)
	}
	for _, e := range book.Of(ledger.FileKept) {
		if clusterPath(e.Name) {
			add("remove", e.Name) // what kocli found there was of the cluster that has ended
			continue
		}
		add("restore", e.Name)
	}
	c := host.Command("sh", "-c", restore, "kocli-restore", path.Join(ledger.Root(), "originals"))
	c.Stdin = strings.NewReader(in.String())
	_, err := h.Run(ctx, c)
	return err
}

// clusterPath reports whether a file is the cluster's own: kubeadm made it, kocli
// changed it since, and with the cluster it goes.
func clusterPath(p string) bool { return strings.HasPrefix(p, "/etc/kubernetes/") }

// restore reads "remove PATH" and "restore PATH" lines. What others added to
// /etc/hosts and /etc/fstab since stays: only our own lines are taken back.
const restore = `set -e
while read -r verb p; do
  case "$verb $p" in
  *" /etc/hosts"|*" /etc/fstab") [ -f "$p" ] || continue ;;
  esac
  case "$verb $p" in
  *" /etc/hosts") t=$(mktemp /etc/.kocli.XXXXXXXX); to=; if grep -q '^# kocli: .*end$' "$p"; then to=',/^# kocli: .*end$/'; fi
    sed "/^# kocli: .*begin\$/${to}d" "$p" >"$t"; chmod --reference="$p" "$t"; mv -fT -- "$t" "$p" ;;
  *" /etc/fstab") t=$(mktemp /etc/.kocli.XXXXXXXX); sed 's/^# kocli: //' "$p" >"$t"; chmod --reference="$p" "$t"; mv -fT -- "$t" "$p" ;;
  "restore "*) if [ -e "$1$p" ] || [ -L "$1$p" ]; then mkdir -p -- "${p%/*}"; cp -a -- "$1$p" "$p.kocli-restore"; mv -fT -- "$p.kocli-restore" "$p"; fi ;;
  "remove "*) rm -f -- "$p" ;;
  esac
done`

// keepRuntimeEntries leaves a ledger that still knows what belongs to containerd.
func keepRuntimeEntries(ctx context.Context, h host.Host, book ledger.Book) error {
	var keep []ledger.Entry
	for _, e := range book {
		if runtimePath(e.Name) || e.Name == "containerd.service" {
			keep = append(keep, e)
		}
	}
	lines, err := ledger.Lines(keep)
	if err != nil {
		return err
	}
	c := host.Command("sh", "-c", `umask 077; cat >"$1.new" && { sync -d -- "$1.new" 2>/dev/null || :; } && mv -fT -- "$1.new" "$1"`, "kocli-keep", ledger.Path())
	c.Stdin = bytes.NewReader(lines)
	_, err = h.Run(ctx, c)
	return err
}
