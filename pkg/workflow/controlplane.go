package workflow

import (
	"context"
	"errors"
	"slices"

	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/kube"
)

// throughControlPlane calls f with one control plane after the other until it
// succeeds. Where none does, all errors are returned, but not what those say
// that have not joined: that there is no control plane yet is known only once
// every one of them says so.
func (s *Session) throughControlPlane(ctx context.Context, f func(host.Reader) error) []error {
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
	told := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return errors.Is(err, kube.ErrNoCluster) })
	if len(told) == 0 {
		return errs[:min(1, len(errs))]
	}
	return told
}
