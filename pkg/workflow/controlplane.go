package workflow

import (
	"context"
	"errors"

	"github.com/kocli/kocli/pkg/host"
)

// throughControlPlane calls f with one control plane after the other until it
// succeeds. Where none does, all errors are returned.
func (s *Session) throughControlPlane(ctx context.Context, f func(host.Reader) error) error {
	var errs []error
	for _, n := range s.inv.ControlPlanes() {
		r, err := s.hosts.Look(ctx, n.Name)
		if err == nil {
			err = f(r)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}
