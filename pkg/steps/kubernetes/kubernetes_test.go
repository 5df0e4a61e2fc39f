package kubernetes_test

import (
	"testing"

	"github.com/kocli/kocli/pkg/archive"
	"github.com/kocli/kocli/pkg/archive/archivetest"
	"github.com/kocli/kocli/pkg/host/hosttest"
	"github.com/kocli/kocli/pkg/payload"
	"github.com/kocli/kocli/pkg/plan/plantest"
	"github.com/kocli/kocli/pkg/steps/kubernetes"
)

func TestSteps_converge(t *testing.T) {
	b, err := archive.Open(archivetest.Write(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	for _, controlPlane := range []bool{true, false} {
		steps, err := kubernetes.Steps(payload.For(b, payload.Target{Kubernetes: archivetest.Kubernetes, Arch: archivetest.Arch, ControlPlane: controlPlane}))
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range steps {
			t.Run(s.ID(), func(t *testing.T) {
				plantest.Converges(t, func() plantest.World {
					m := hosttest.OS(hosttest.New("n"))
					for _, before := range steps[:i] {
						if err := before.Apply(t.Context(), m); err != nil {
							t.Fatal(err)
						}
					}
					m.CutBefore(0)
					return plantest.World{Step: s, Host: m}
				})
			})
		}
		m := hosttest.OS(hosttest.New("n"))
		if err := steps[0].Apply(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if _, ok := m.Read("/usr/bin/kubectl"); ok != controlPlane {
			t.Errorf("control plane %t: kubectl is there: %t", controlPlane, ok)
		}
	}
}
