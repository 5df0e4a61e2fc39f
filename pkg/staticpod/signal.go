// Package staticpod handles kocli's own static pods on a host: it signals what runs
// in them, through containerd, and gives back the virtual IP that one of them holds.
// It knows nothing of how they are configured.
package staticpod

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
)

func ctr(args ...string) host.Cmd {
	return host.Command(append([]string{"/usr/local/bin/ctr", "-n", "k8s.io"}, args...)...)
}

// Running returns the IDs of the running containers of a name in kube-system. One
// that the kubelet starts anew is another container. Where containerd does not run,
// there are none.
func Running(ctx context.Context, r host.Reader, container string) ([]string, error) {
	tasks, err := running(ctx, r, container)
	return slices.Sorted(maps.Keys(tasks)), err
}

// running returns the running containers of a name, and the number of their first
// process.
func running(ctx context.Context, r host.Reader, container string) (map[string]string, error) {
	outs, errs, err := converge.Asked(ctx, r,
		ctr("containers", "ls", "-q", `labels."io.kubernetes.pod.namespace"==kube-system,labels."io.kubernetes.container.name"==`+container),
		ctr("tasks", "ls"))
	if err != nil || errs[0] != nil || errs[1] != nil {
		return nil, err
	}
	ids := strings.Fields(outs[0].Text())
	out := map[string]string{}
	for l := range strings.Lines(outs[1].Text()) {
		f := strings.Fields(l) // TASK PID STATUS
		if len(f) == 3 && f[2] == "RUNNING" && slices.Contains(ids, f[0]) {
			out[f[0]] = f[1]
		}
	}
	return out, nil
}

// Signal sends a signal to the first process of each running container of a name
// in Kubernetes, and returns how many there were. Where containerd does not run,
// there are none.
func Signal(ctx context.Context, h host.Host, container, signal string) (int, error) {
	ids, err := Running(ctx, h, container)
	if err != nil {
		return 0, err
	}
	return kill(ctx, h, signal, ids)
}

// kill sends a signal to those of the containers that run, and returns how many did.
func kill(ctx context.Context, h host.Host, signal string, ids []string) (int, error) {
	n := 0
	for _, id := range ids {
		_, err := h.Run(ctx, ctr("tasks", "kill", "--signal", signal, id))
		var x *host.ExitError
		if errors.As(err, &x) && strings.Contains(string(x.Stderr), "not found") {
			continue // it has ended
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
