package workflow

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kocli/kocli/pkg/fault"
	"github.com/kocli/kocli/pkg/host"
)

// ExecResult is what a command did on one host. Its JSON is stable.
type ExecResult struct {
	Node     string        `json:"node"`
	ExitCode int           `json:"exitCode"` // -1 where the command did not run to its end
	Stdout   string        `json:"stdout"`
	Stderr   string        `json:"stderr"`
	Duration time.Duration `json:"durationNs"`
	Err      error         `json:"-"` // why it did not run to its end
}

// Exec runs a command on nodes, all at once. each is told of every host as it
// ends, never concurrently. A host that cannot be reached is an error; an exit
// status is not.
func Exec(ctx context.Context, o Options, nodes []string, c host.Cmd, each func(ExecResult)) ([]ExecResult, error) {
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := make([]ExecResult, len(nodes))
	for i, n := range nodes {
		wg.Go(func() {
			r := s.exec(ctx, n, c)
			mu.Lock()
			defer mu.Unlock()
			out[i] = r
			each(r)
		})
	}
	wg.Wait()
	errs := make([]error, len(out))
	for i, r := range out {
		errs[i] = r.Err
	}
	return out, errors.Join(errs...)
}

func (s *Session) exec(ctx context.Context, node string, c host.Cmd) ExecResult {
	res := ExecResult{Node: node, ExitCode: -1}
	h, err := s.hosts.Dial(ctx, node)
	if err != nil {
		res.Err = err
		return res
	}
	start := s.o.Clock.Now()
	out, err := h.Run(ctx, c)
	res.Duration, res.Stdout, res.Stderr = s.o.Clock.Now().Sub(start), string(out.Stdout), string(out.Stderr)
	var exit *host.ExitError
	switch {
	case err == nil:
		res.ExitCode = 0
	case errors.As(err, &exit):
		res.ExitCode = exit.Code
	default:
		res.Err = &fault.Error{Op: "exec", Node: node, Err: err}
	}
	return res
}
