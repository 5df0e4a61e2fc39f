package workflow

import (
	"context"
	"errors"

	"github.com/kocli/kocli/pkg/preflight"
	"github.com/kocli/kocli/pkg/probe"
)

// CheckHosts makes the preflight checks and changes nothing. Hosts that do not
// answer are an error; the findings about the others are returned with it. What
// a bundle has to hold is checked where one is given, and of a delta, that hosts
// have the rest.
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
	if err == nil && lost == nil && preflight.Refusal(found) == nil {
		err = s.leadsThere(ctx, facts)
	}
	return found, errors.Join(lost, err)
}

// leadsThere refuses a delta that does not lead to what the hosts need.
func (s *Session) leadsThere(ctx context.Context, facts map[string]probe.Facts) error {
	if s.bundle == nil {
		return nil
	}
	if _, ok := s.bundle.Delta(); !ok {
		return nil
	}
	c, err := s.cluster(ctx, facts)
	if err != nil {
		return err
	}
	return c.complete(ctx)
}
