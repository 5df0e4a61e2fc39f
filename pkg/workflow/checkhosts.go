package workflow

import (
	"context"
	"errors"

	"github.com/kocli/kocli/pkg/preflight"
)

// CheckHosts makes the preflight checks and changes nothing. Hosts that do not
// answer are an error; the findings about the others are returned with it. What
// a bundle has to hold is checked where one is given.
func CheckHosts(ctx context.Context, o Options) ([]preflight.Finding, error) {
	s, err := Open(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	facts, lost := s.Facts(ctx)
	if len(facts) == 0 {
		return nil, lost
	}
	found, err := s.Preflight(ctx, facts)
	return found, errors.Join(lost, err)
}
