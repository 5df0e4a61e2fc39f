package workflow

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
	"github.com/kocli/kocli/pkg/config"
	"github.com/kocli/kocli/pkg/host"
	"github.com/kocli/kocli/pkg/host/hosttest/sshtest"
	"github.com/kocli/kocli/pkg/host/sshhost"
	"github.com/kocli/kocli/pkg/inventory"
	"github.com/kocli/kocli/pkg/plan"
)

// quiet observes nothing.
type quiet struct{}

func (quiet) Event(plan.Event)   {}
func (quiet) Command(host.Entry) {}
func (quiet) LogTo(io.Writer)    {}
func (quiet) Nodes([]string)     {}

// BenchmarkFactsOf100Hosts measures what kocli spends on connecting to a
// hundred hosts, asking them for their facts, and judging these.
func BenchmarkFactsOf100Hosts(b *testing.B) {
	hostKey := sshtest.Signer(b)
	key, keyFile := sshtest.KeyFile(b)
	replay := sshtest.NewReplay()
	inv := &inventory.Inventory{Name: "bench"}
	inv.Spec.Kubernetes.Version = "v1.36.3"
	inv.Spec.Network.PodCIDR, inv.Spec.Network.ServiceCIDR = "10.244.0.0/16", "10.96.0.0/16"
	for i := range 100 {
		inv.Nodes = append(inv.Nodes, inventory.Node{
			Name: fmt.Sprintf("node-%d", i), Address: "127.0.0.1", IP: fmt.Sprintf("10.1.0.%d", i+1), ControlPlane: i == 0, Worker: true,
			SSH: inventory.SSH{User: "root", KeyFile: keyFile, Port: replay.Start(b, hostKey, key.PublicKey())},
		})
	}
	inv.Spec.ControlPlane.Endpoint.Mode = v1alpha1.EndpointNone
	o := Options{
		Home: b.TempDir(), Inventory: inv, Secrets: &config.Secrets{}, Observer: quiet{}, Clock: Clock{Now: time.Now},
		SSH: sshhost.Options{Keys: &sshhost.KnownHosts{
			File: filepath.Join(b.TempDir(), "known_hosts"), Accept: func(string, ssh.PublicKey) bool { return true },
		}},
	}
	for b.Loop() {
		s, err := Open(context.Background(), o, false)
		if err != nil {
			b.Fatal(err)
		}
		facts, err := s.Facts(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		if len(facts) != 100 {
			b.Fatalf("%d facts", len(facts))
		}
		if _, err := s.Preflight(context.Background(), facts); err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
