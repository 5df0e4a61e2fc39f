package workflow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/plan"
)

// hooks returns a function that runs commands of the user's around the work on a node,
// one after another; nil where there are none.
func (c *Cluster) hooks(list []v1alpha1.Hook, n inventory.Node, from string) func(context.Context, host.Host) error {
	if len(list) == 0 {
		return nil
	}
	env := []string{"KOCLI_CLUSTER=" + c.Inventory.Name, "KOCLI_NODE=" + n.Name, "KOCLI_FROM=" + from, "KOCLI_TO=" + c.Inventory.Version()}
	return func(ctx context.Context, h host.Host) error {
		for _, k := range list {
			plan.Say(ctx, fmt.Sprintf("%s: hook %s", n.Name, host.Quote(k.Command...)))
			if err := runHook(ctx, h, k, env); err != nil {
				return fault.New(fault.Failure, "mend the command, or change spec.hooks; then run the same command again", fmt.Errorf("hook %s: %w", host.Quote(k.Command...), err))
			}
		}
		return nil
	}
}

// runHook runs one command, on the host or here.
func runHook(ctx context.Context, h host.Host, k v1alpha1.Hook, env []string) error {
	limit := k.Timeout.Value()
	if k.On == v1alpha1.HookOnHost {
		cmd := host.Command(append(append([]string{"env"}, env...), k.Command...)...)
		cmd.Timeout = limit
		_, err := h.Run(ctx, cmd)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.Command[0], k.Command[1:]...) //nolint:gosec // the operator's own command
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = hookGrace
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("no end after %s", limit)
	}
	if last := lastLine(string(out)); last != "" {
		return fmt.Errorf("%w: %s", err, last)
	}
	return err
}

// hookGrace is how long what a hook has started may keep its output open once it has
// been ended.
const hookGrace = 5 * time.Second

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
