package osprep

import (
	"context"

	"github.com/kocli/kocli/pkg/converge"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/plan"
)

// Kocli puts kocli's own binary on a host, for checks that run there.
func Kocli(file host.File) plan.Step {
	return converge.Files{Name: "osprep/kocli", List: func(context.Context, host.Reader) ([]host.File, error) {
		return []host.File{file}, nil
	}}
}
